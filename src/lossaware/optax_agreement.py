"""`lossaware.agreement.Agreement` in JAX: agreement, bound on the base's update, and push, as one transformation."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax

from lossaware.agreement import FEW_MEDIANS, Agreement, AgreementStatus
from lossaware.gamma2 import SMALLEST_SCALE
from lossaware.jax_state import LossAwareState, PyTree, WithoutNaN, fresh_state, wide, widest_float
from lossaware.law_state import LawState, Status
from lossaware.settings import Settings

Leaves = Sequence[jax.Array]


class AgreementState(LossAwareState):
    """State of `lossaware.optax.loss_aware` with this rule.

    ``scale`` is a dictionary: ``"tensors"`` has the scale of each leaf of the parameters. ``"reach"`` is the largest
    movement of a leaf by the base's last update, before it was bounded, as a share of its scale; 0 before the first.
    """

    __slots__ = ()

    def summarized(self, status: Status) -> Status:
        """See `LossAwareState.summarized`."""
        return AgreementStatus(**vars(status))


def agreement_aware(
    base: optax.GradientTransformationExtraArgs, settings: Settings, read: Callable[[Any], jax.Array]
) -> optax.GradientTransformationExtraArgs:
    """The base, wrapped with this rule.

    The learning rate is inside the base, so its update is reduced instead of the rate; and a schedule of the base does
    not anneal the push.

    Args:
        base: The base.
        settings: The settings, whose rule is an `Agreement`.
        read: Converts ``value`` to the loss of the step.

    Raises:
        ValueError: At ``init``, a parameter is complex.
    """
    rule, law = settings.rule, settings.law
    assert isinstance(rule, Agreement)

    def share_of(state: LawState) -> jax.Array:
        return jnp.asarray(rule.gamma2(state, 1.0, WithoutNaN), widest_float())

    def init(params: PyTree) -> AgreementState:
        leaves = jax.tree.leaves(params)
        if any(jnp.iscomplexobj(leaf) for leaf in leaves):
            raise ValueError("gamma2 'agreement' only supports real parameters in JAX: one is complex")
        scale = {"tensors": _scales(params), "reach": jnp.zeros((), widest_float())}
        mean = jax.tree.map(lambda p: jnp.zeros_like(p, wide(p)), params)
        return AgreementState(fresh_state(), share_of(fresh_state()), base.init(params), scale, mean)

    def update(
        updates: PyTree, state: AgreementState, params: PyTree = None, *, value: Any = None, **extra_args: Any
    ) -> tuple[PyTree, AgreementState]:
        loss, scales, reach = read(value), state.scale["tensors"], state.scale["reach"]
        gradients, structure = jax.tree.flatten(updates)
        means = [jnp.asarray(mean, wide(mean)) for mean in jax.tree.leaves(state.mean)]

        along, weight = _agreement(gradients, means, scales)
        finite = jnp.isfinite(weight)
        agreement = jnp.clip(jnp.where(weight > 0, along / jnp.where(weight > 0, weight, 1.0), 0.0), -1.0, 1.0)
        followed = rule.follow(state.law, jnp.where(finite, agreement, 0.0), jnp)
        before = _choose(finite, _as(followed, state.law), state.law)
        share = share_of(before)

        # If a gradient is not finite, the base gets zeros, and its result is dropped.
        passed = jax.tree.unflatten(structure, [jnp.where(finite, g, jnp.zeros_like(g)) for g in gradients])
        stepped, base_state = base.update(passed, state.base, params, value=loss, **extra_args)
        base_state = _choose(finite, base_state, state.base)
        steps = jax.tree.leaves(stepped)
        sizes = [_rms(u) for u in steps]
        furthest = jnp.max(jnp.stack([size / scale for size, scale in zip(sizes, scales, strict=True)]))
        known = jnp.where(reach > 0, reach, furthest)  # the first update is measured itself
        ratio = jnp.where(known > share, share / jnp.where(known > 0, known, 1.0), 1.0)

        moved = _as(law.advance(before, jnp.where(finite, loss, jnp.nan), jnp), state.law)
        pushes = finite & jnp.isfinite(loss)
        momentum = 1 - rule.momentum
        means = [
            jnp.where(pushes, m + momentum * (g - m), m).astype(m.dtype) for m, g in zip(means, gradients, strict=True)
        ]
        rests = [jnp.maximum(share * scale - ratio * size, 0.0) for size, scale in zip(sizes, scales, strict=True)]
        out = [
            _moved(u, g, m, jnp.where(finite, ratio, 0.0), jnp.where(pushes, amount, 0.0))
            for u, g, m, amount in zip(steps, gradients, means, rests, strict=True)
        ]
        largest = jnp.max(jnp.stack([amount / (share * scale) for amount, scale in zip(rests, scales, strict=True)]))
        omega = jnp.where(pushes, jnp.where(weight > 0, largest, 0.0), state.law.omega).astype(state.law.omega.dtype)
        opened = state.law.opened + (pushes & (omega > 0)).astype(state.law.opened.dtype)
        moved = moved._replace(omega=omega, opened=opened)
        new_reach = jnp.where(finite & jnp.isfinite(furthest) & (furthest > 0), furthest, reach)
        mean = jax.tree.unflatten(jax.tree.structure(state.mean), means)
        scale = {"tensors": scales, "reach": new_reach}
        return jax.tree.unflatten(structure, out), AgreementState(moved, share_of(moved), base_state, scale, mean)

    return optax.GradientTransformationExtraArgs(init, update)


def _agreement(gradients: Leaves, means: Leaves, scales: Leaves) -> tuple[jax.Array, jax.Array]:
    """Numerator and denominator of the agreement."""
    along = weight = jnp.zeros((), widest_float())
    for g, m, scale in zip(gradients, means, scales, strict=True):
        g = g.astype(widest_float())
        along += scale * jnp.sum(jnp.sign(m).astype(widest_float()) * g)
        weight += scale * jnp.sum(jnp.abs(g))
    return along, weight


def _moved(update: jax.Array, g: jax.Array, mean: jax.Array, ratio: jax.Array, amount: jax.Array) -> jax.Array:
    """The kept part of the base's update, with the push where there is a gradient; 0 where nothing may move."""
    kind = wide(update)
    bounded = jnp.where(ratio > 0, update.astype(kind) * ratio.astype(kind), 0)
    push = jnp.where((g != 0) & (amount > 0), amount.astype(kind) * jnp.sign(mean).astype(kind), 0)
    return (bounded - push).astype(update.dtype)


def _scales(params: PyTree) -> list[jax.Array]:
    """The scale of each leaf; a vector has that of a matrix in the same dictionary, or of the matrix before it."""
    with_paths, _ = jax.tree_util.tree_flatten_with_path(params)
    paths = [path[:-1] if path and isinstance(path[-1], jax.tree_util.DictKey) else None for path, _ in with_paths]
    own = [_rms(leaf) for _, leaf in with_paths]
    are_matrices = [jnp.ndim(leaf) > 1 for _, leaf in with_paths]
    matrices = [size for size, is_matrix in zip(own, are_matrices, strict=True) if is_matrix]
    ordered = jnp.sort(jnp.stack(matrices or [jnp.max(jnp.stack(own))]))
    before = median = jnp.maximum(ordered[len(ordered) // 2], SMALLEST_SCALE)
    bounded = [jnp.maximum(size, median) for size in own]
    of_dictionary = {path: bounded[k] for k, path in enumerate(paths) if are_matrices[k] and path}
    scales = []
    for size, is_matrix, path in zip(bounded, are_matrices, paths, strict=True):
        if is_matrix:
            before = size
            scales.append(size)
        else:
            near = of_dictionary.get(path, before) if path else before
            scales.append(jnp.where(near < FEW_MEDIANS * median, near, median))
    return scales


def _rms(leaf: Any) -> jax.Array:
    values = jnp.asarray(leaf).astype(widest_float())
    return jnp.sqrt(jnp.sum(jnp.square(values)) / max(values.size, 1))


def _choose(condition: jax.Array, yes: Any, no: Any) -> Any:
    return jax.tree.map(lambda a, b: jnp.where(condition, a, b), yes, no)


def _as(new: LawState, old: LawState) -> LawState:
    return LawState(*(jnp.asarray(a).astype(b.dtype) for a, b in zip(new, old, strict=True)))
