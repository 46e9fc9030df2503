"""LGA for JAX: the same law as `lossaware.LGA`, as an optax transformation around any optax optimizer.

Gradients and the loss are passed by optax's convention, ``update(grads, state, params, value=loss)``. The state is a
pytree of arrays, so jit, scan, sharding and checkpoints work as for any other optimizer.
"""

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TypedDict, Unpack, overload

from lossaware.extras import how_to_install
from lossaware.gamma2 import SMALLEST_SCALE, Gamma2Rule
from lossaware.law_state import LawState, Status, summarize
from lossaware.lower_bounds import LowerBound
from lossaware.settings import make_settings
from lossaware.upper_bounds import UpperBound

try:
    import jax
    import jax.numpy as jnp
    import optax
except ModuleNotFoundError as error:
    if (error.name or "").partition(".")[0] not in ("jax", "jaxlib", "optax"):
        raise
    raise ImportError(f"lossaware.optax needs {error.name}: {how_to_install('jax')}") from None

from lossaware.jax_state import LossAwareState, WithoutNaN, fresh_state, wide, widest_float

if TYPE_CHECKING:
    from lossaware.agreement import Agreement  # which imports torch

__all__ = ["LossAwareState", "MultiStepsState", "apply_updates_stochastically", "loss_aware", "multi_steps", "status"]

PyTree = Any

_LACKING_BITS = {jnp.dtype(jnp.bfloat16): 16, jnp.dtype(jnp.float16): 13}
"""Mantissa bits of float32 that the type does not have."""


class OtherSettings(TypedDict, total=False):
    """The settings of `loss_aware` but ``steps_per_epoch`` and ``gamma2``, for type checkers."""

    eps: float | None
    xi: float | None
    lower_bound: str | LowerBound | None
    upper_bound: str | UpperBound
    backoff: float
    zero_gradient: str | None
    axis_name: Any


@overload
def loss_aware(
    base: optax.GradientTransformation,
    *,
    steps_per_epoch: int,
    gamma2: float | str | Gamma2Rule = 1e-8,
    **settings: Unpack[OtherSettings],
) -> optax.GradientTransformationExtraArgs: ...


@overload
def loss_aware(
    base: optax.GradientTransformation,
    *,
    gamma2: "Literal['agreement'] | Agreement",
    **settings: Unpack[OtherSettings],
) -> optax.GradientTransformationExtraArgs: ...


def loss_aware(
    base: optax.GradientTransformation,
    *,
    steps_per_epoch: int | None = None,
    gamma2: float | str | Gamma2Rule = 1e-8,
    eps: float | None = None,
    xi: float | None = None,
    lower_bound: str | LowerBound | None = None,
    upper_bound: str | UpperBound = "first",
    backoff: float = 0.1,
    zero_gradient: str | None = None,
    axis_name: Any = None,
) -> optax.GradientTransformationExtraArgs:
    r"""Make an optimizer loss-aware (LGA).

    To the update :math:`u_t` of the base optimizer a correction along the sign of the gradient :math:`g_t` is added
    (Eq. 2), whose size follows the loss :math:`f_t`:

    .. math::
        x_{t+1} = x_t + u_t - \gamma_2 \frac{\Omega(f_t)}{\varphi(g_t)}

    where, with the lower bound :math:`L` and the first loss :math:`U` (Eq. 4 and Eq. 5, elementwise),

    .. math::
        \Omega(f) = \begin{cases} f - L & f - L \ge \varepsilon \wedge f \le U \\ 0 & \text{else,} \end{cases}
        \qquad
        \varphi(g) = \begin{cases} g + \xi & g \ge 0 \\ g - \xi & g < 0. \end{cases}

    :math:`L` is updated once per status, that is every ``steps_per_epoch`` steps, to a weighted mean in which later
    statuses count more (Eq. 3); :math:`\gamma_2` is multiplied by ``backoff`` when the mean loss rises (Algorithm 1).

    The loss of each step is passed to ``update`` by the keyword ``value``, as in `optax.contrib.momo`. The base gets
    it, averaged over devices, and all other extra arguments. A NaN or infinite loss does not count in a status and
    makes no correction. Updates keep the base's dtype; the correction is computed in float32 or wider.

    To clip gradients, clip them before: ``optax.chain(optax.clip(1.0), loss_aware(...))``. The base must return the
    whole update, including its learning rate. To freeze parameters, use `optax.multi_transform` or `optax.masked`
    around ``loss_aware``, not inside.

    Args:
        base: Any optax optimizer.
        steps_per_epoch: Steps per loss status, at least 1. The number of batches in an epoch is the reading nearest to
            the paper; 1 is Algorithm 1 read literally, which has hardly any effect on real data.
        gamma2: Size of the correction, at least 0. The paper uses 1e-8 for 10 classes, 1e-9 for 100, 1e-10 for 200.
            ``"auto"`` adapts it by itself, which goes beyond the paper; see `lossaware.AutoGamma2`. It needs one more
            array per parameter, a running mean of the gradients. ``"agreement"`` follows the agreement of gradients,
            bounds the base's update too, and does not need ``steps_per_epoch``; see `lossaware.agreement.Agreement`.
            For your own rule, see `lossaware.gamma2.Gamma2Rule`.
        eps: The gap between loss and lower bound from which the gate is open, at least 0 (Eq. 4). None means 0.1, or
            0 if gamma2 adapts by itself.
        xi: Stability constant of the correction, above 0 (Eq. 5). None means 0.01, or 1 if gamma2 adapts by itself.
        lower_bound: ``"progressive"`` (Eq. 3), ``"average"`` or ``"momentum"`` (A.9), ``"zero"``, or an object with
            the method `LowerBound.update`, which gets JAX scalars. None means progressive, or zero if gamma2 adapts by
            itself.
        upper_bound: The loss above which the gate is closed: ``"first"`` is the first finite loss (Eq. 4), or an object
            with the method of `lossaware.UpperBound`, which gets JAX scalars. ``"running"`` is for losses whose first
            value is not representative: 0, small, an outlier, or below 0; see `lossaware.RunningLevel`.
        backoff: Factor on gamma2 each time a status's mean loss is above the one before, in [0, 1] (Algorithm 1,
            lines 7-9). A gamma2 that adapts by itself has its own factors.
        zero_gradient: ``"push"`` moves elements whose gradient is exactly 0 downwards, as in Eq. 5; ``"rest"`` does not
            move them, for example padding rows and pruned weights. None means push, or rest if gamma2 adapts by itself;
            then this refers to the running mean of the gradients, which phi reads.
        axis_name: Mapped axis, or axes, over whose devices the loss is averaged, inside `jax.shard_map`, `jax.pmap` or
            `jax.vmap`. None if the loss is already that of the whole batch, as with plain `jax.jit`.

    Returns:
        A `optax.GradientTransformationExtraArgs`, whose state is a `LossAwareState`.

    Raises:
        ValueError: A hyperparameter is out of its range. Arrays, as from `optax.inject_hyperparams`, are not checked.

    Examples:
        >>> import jax, jax.numpy as jnp, optax
        >>> from lossaware.optax import loss_aware, status
        >>> def f(x): return jnp.sum(x ** 2)  # simple quadratic function
        >>> solver = loss_aware(optax.sgd(0.1), steps_per_epoch=10, gamma2=1e-3)
        >>> params = jnp.array([1., 2., 3.])
        >>> opt_state = solver.init(params)
        >>> for _ in range(3):
        ...     value, grad = jax.value_and_grad(f)(params)
        ...     updates, opt_state = solver.update(grad, opt_state, params, value=value)
        ...     params = optax.apply_updates(params, updates)
        ...     print(f'Objective function: {f(params):.3f}')
        Objective function: 8.927
        Objective function: 5.692
        Objective function: 3.629
        >>> status(opt_state).open_share
        1.0

    References:
        *Towards the Gradient Adjustment by Loss Status for Neural Network Optimization*, Eq. 2 to 5 and Algorithm 1
    """
    if not (hasattr(base, "init") and hasattr(base, "update")):
        raise TypeError(f"base must be an optax optimizer, for example optax.sgd(1e-3): got {type(base).__name__}")
    settings = make_settings(
        steps_per_epoch=steps_per_epoch,
        gamma2=gamma2,
        eps=eps,
        xi=xi,
        lower_bound=lower_bound,
        upper_bound=upper_bound,
        backoff=backoff,
        zero_gradient=zero_gradient,
        arrays=(jax.Array,),  # from optax.inject_hyperparams, maybe traced
        remedy_for_schedules="; for a schedule use optax.inject_hyperparams",
    )
    law, rule, xi, rest = settings.law, settings.rule, settings.xi, settings.zero_gradient == "rest"
    if (dtype := getattr(rule, "mean_dtype", None)) is not None:
        raise ValueError(f"mean_dtype is for torch, and must be left out in JAX: got {dtype!r}")
    inner = optax.with_extra_args_support(base)
    mean_over_devices: Callable[[Any, Any], jax.Array] = jax.lax.pmean

    def read(value: Any) -> jax.Array:
        loss = read_loss(value)
        return loss if axis_name is None else mean_over_devices(loss, axis_name)

    if rule.moves_base:
        from lossaware.optax_agreement import agreement_aware

        return agreement_aware(inner, settings, read)

    def init(params: PyTree) -> LossAwareState:
        scale = _scale_of(params) if rule.uses_scale else jnp.zeros((), widest_float())
        mean = jax.tree.map(lambda p: jnp.zeros_like(p, wide(p)), params) if rule.momentum else None
        law_state = fresh_state()
        return LossAwareState(law_state, reported(law_state, group_size(scale)), inner.init(params), scale, mean)

    def group_size(scale: jax.Array) -> Any:
        return rule.group_size(scale if rule.uses_scale else 1.0, xi)

    def reported(state: LawState, size: Any) -> jax.Array:
        return jnp.asarray(rule.gamma2(state, size, WithoutNaN), widest_float())

    def update(
        updates: PyTree, state: LossAwareState, params: PyTree = None, *, value: Any = None, **extra_args: Any
    ) -> tuple[PyTree, LossAwareState]:
        loss = read(value)
        moved = law.advance(state.law, loss, jnp)
        moved = LawState(*(new.astype(old.dtype) for new, old in zip(moved, state.law, strict=True)))
        size = group_size(state.scale)
        amount = jnp.asarray(size * rule.step_size(moved, jnp), widest_float())

        stepped, base_state = inner.update(updates, state.base, params, value=loss, **extra_args)
        mean, read_by_phi = state.mean, updates
        if rule.momentum:
            weight = 1 - rule.momentum
            earlier = jax.tree.map(lambda m: jnp.asarray(m, wide(m)), state.mean)  # 16 bits in older versions
            mean = read_by_phi = jax.tree.map(
                lambda m, g: jnp.where(amount != 0, m + weight * (g - m), m).astype(m.dtype), earlier, updates
            )
        corrected = jax.tree.map(lambda u, g: _corrected(u, g, amount, xi, rest), stepped, read_by_phi)
        gamma2_now = reported(moved, size).astype(state.gamma2.dtype)
        return corrected, LossAwareState(moved, gamma2_now, base_state, state.scale, mean)

    return optax.GradientTransformationExtraArgs(init, update)


def status(state: PyTree) -> Status:
    """The state of `loss_aware` as plain numbers; waits for the device.

    Args:
        state: The optimizer's state, which contains `loss_aware`'s at any depth; also a Flax NNX
            ``optimizer.opt_state``.

    Returns:
        The `lossaware.Status`. ``steps_without_loss`` is always 0, as the loss is required here.

    Raises:
        ValueError: The state does not have exactly one `LossAwareState`, or it has a leading axis of devices.
    """
    states = [part for part in jax.tree.leaves(state, is_leaf=_is_ours) if _is_ours(part)]
    if len(states) != 1:
        raise ValueError(
            f"the state must hold one state of loss_aware: got {len(states)}"
            + ("; pass the part that belongs to one of them" if states else "")
        )
    law, gamma2 = jax.device_get((LawState(*map(_value, states[0].law)), _value(states[0].gamma2)))
    if law.steps.ndim:
        raise ValueError(
            f"the state must be that of one replica: got scalars of shape {law.steps.shape}; "
            "pass jax.tree.map(lambda x: x[0], state)"
        )
    if law.steps == law.nonfinite:
        law = law._replace(loss=math.nan, upper=math.nan)
    state_of_ours: LossAwareState = states[0]
    return state_of_ours.summarized(summarize(law, float(gamma2), 0))


# Accumulation ---------------------------------------------------------------------------------------------------------


class MultiStepsState(NamedTuple):
    """State of `multi_steps`.

    Attributes:
        value: Mean loss of the micro-batches since the last update; shape ().
        multi_steps: The `optax.MultiStepsState`.
    """

    value: jax.Array
    multi_steps: Any


def multi_steps(
    opt: optax.GradientTransformation,
    every_k_schedule: int | Callable[[Any], Any],
    **kwargs: Any,
) -> optax.GradientTransformationExtraArgs:
    r"""Accumulate gradients over micro-batches, and their losses with them.

    `optax.MultiSteps` passes the mean of the gradients to the optimizer, but the extra arguments of the last
    micro-batch only. Here ``value`` is averaged too:

    .. math::
        f = \frac{1}{k} \sum_{i=1}^k f_i

    Args:
        opt: `loss_aware` or any other optimizer that takes ``value``.
        every_k_schedule: Micro-batches per update, or a function from the number of updates to it.
        **kwargs: Other arguments of `optax.MultiSteps`. Micro-batches skipped by ``should_skip_update_fn`` do not count
            in the mean.

    Returns:
        A `optax.GradientTransformationExtraArgs`, whose state is a `MultiStepsState`.

    Examples:
        >>> import jax.numpy as jnp, optax
        >>> from lossaware.optax import loss_aware, multi_steps, status
        >>> solver = multi_steps(loss_aware(optax.sgd(0.1), steps_per_epoch=10), every_k_schedule=2)
        >>> params = jnp.zeros(3)
        >>> opt_state = solver.init(params)
        >>> for value in (1.0, 2.0):
        ...     updates, opt_state = solver.update(jnp.ones(3), opt_state, params, value=value)
        >>> status(opt_state).loss
        1.5
    """
    inner = optax.MultiSteps(opt, every_k_schedule, **kwargs)

    def init(params: PyTree) -> MultiStepsState:
        return MultiStepsState(jnp.zeros((), widest_float()), inner.init(params))

    def update(
        updates: PyTree, state: MultiStepsState, params: PyTree = None, *, value: Any = None, **extra_args: Any
    ) -> tuple[PyTree, MultiStepsState]:
        loss, before = read_loss(value), state.multi_steps.mini_step
        # In the weighted form, so that a NaN only affects its own update.
        earlier = jnp.where(before == 0, 0.0, state.value * before)
        mean = ((earlier + loss) / (before + 1)).astype(state.value.dtype)
        out, after = inner.update(updates, state.multi_steps, params, value=mean, **extra_args)
        skipped = (after.mini_step == before) & (before > 0)
        return out, MultiStepsState(jnp.where(skipped, state.value, mean), after)

    return optax.GradientTransformationExtraArgs(init, update)


# Low precision --------------------------------------------------------------------------------------------------------


def apply_updates_stochastically(params: PyTree, updates: PyTree, key: jax.Array) -> PyTree:
    """Apply updates to parameters of 16 bits without losing the small ones.

    A correction is usually far below half a unit in the last place of a bfloat16 or float16 parameter, so that
    `optax.apply_updates`, which rounds to nearest, would lose it. Here such parameters are rounded up or down at
    random, so that the mean is kept. Other dtypes are updated as by `optax.apply_updates`. Float16 numbers below 6.1e-5
    are finer than the noise, and rounded to nearest.

    Args:
        params: The parameters.
        updates: The updates, with the same structure and shapes.
        key: A random key, different in each step, the same on all devices with a replica.

    Returns:
        The updated parameters, with their dtypes.

    Examples:
        >>> import jax, jax.numpy as jnp
        >>> from lossaware.optax import apply_updates_stochastically
        >>> params, updates = jnp.ones(100_000, jnp.bfloat16), jnp.full(100_000, 1e-3)  # the next numbers: 2**-7 apart
        >>> moved = apply_updates_stochastically(params, updates, jax.random.key(0))
        >>> print(f'{moved.astype(jnp.float32).mean():.3f}')
        1.001
    """
    leaves, structure = jax.tree.flatten(params)
    keys = jax.tree.unflatten(structure, list(jax.random.split(key, len(leaves))))

    def apply(p: jax.Array, u: jax.Array, key: jax.Array) -> jax.Array:
        dtype = jnp.asarray(p).dtype
        if dtype not in _LACKING_BITS:
            return jnp.asarray(p + u).astype(dtype)
        return _round_stochastically(jnp.asarray(p, jnp.float32) + jnp.asarray(u, jnp.float32), dtype, key)

    return jax.tree.map(apply, params, updates, keys)


def _round_stochastically(values: jax.Array, dtype: Any, key: jax.Array) -> jax.Array:
    """Float32 values in a type of 16 bits, rounded up or down with the probability that keeps the mean."""
    lacking = _LACKING_BITS[dtype]
    noise = jax.random.bits(key, values.shape, jnp.uint32) >> (32 - lacking)
    bits = (jax.lax.bitcast_convert_type(values, jnp.uint32) + noise) >> lacking << lacking
    rounded = jax.lax.bitcast_convert_type(bits, jnp.float32)
    return jnp.where(jnp.isfinite(values), rounded, values).astype(dtype)


# Internals ------------------------------------------------------------------------------------------------------------


def _corrected(update: jax.Array, g: jax.Array, amount: jax.Array, xi: Any, rest: bool) -> jax.Array:
    """``update - amount / phi(g)``; the update itself, bit for bit, if the amount is 0."""
    if jnp.iscomplexobj(g):
        parts = (_corrected(u, part, amount, xi, rest) for u, part in ((update.real, g.real), (update.imag, g.imag)))
        return jax.lax.complex(*parts)
    update, kind = jnp.asarray(update), wide(g)
    g, xi = jnp.asarray(g, kind), jnp.asarray(xi, kind)
    push = amount.astype(kind) / jnp.where(g >= 0, g + xi, g - xi)  # Eq. 5
    moves = (amount != 0) & (g != 0) if rest else amount != 0
    return jnp.where(moves, (update - push).astype(update.dtype), update)


def _scale_of(params: PyTree) -> jax.Array:
    """Root mean square of all elements, at least `SMALLEST_SCALE`."""
    leaves = [jnp.asarray(leaf) for leaf in jax.tree.leaves(params)]
    total = sum(jnp.sum(jnp.square(jnp.abs(leaf).astype(widest_float()))) for leaf in leaves)
    count = sum(leaf.size for leaf in leaves)
    return jnp.maximum(jnp.sqrt(jnp.asarray(total, widest_float()) / max(count, 1)), SMALLEST_SCALE)


def read_loss(value: Any) -> jax.Array:
    """The loss as one number, of shape ()."""
    if value is None:
        raise ValueError(
            "loss_aware needs the loss of the step: call update(grads, state, params, value=loss) with the loss from "
            "jax.value_and_grad; if you do, a wrapper in between does not pass it on"
        )
    try:
        loss = jnp.asarray(value)
    except (TypeError, ValueError):
        raise TypeError(
            f"value must be one real number, the loss: got {type(value).__name__}; with has_aux=True, "
            "jax.value_and_grad gives (loss, aux)"
        ) from None
    if loss.size != 1 or jnp.iscomplexobj(loss):
        raise ValueError(
            f"value must be one real number, the loss: got shape {loss.shape} and {loss.dtype}; "
            "reduce it first, for example by loss.mean()"
        )
    return loss.reshape(()).astype(widest_float())


def _is_ours(part: Any) -> bool:
    return isinstance(part, LossAwareState)


def _value(leaf: Any) -> Any:
    """The array in a leaf of a state; Flax NNX wraps it in a Variable."""
    return leaf.get_value() if hasattr(leaf, "get_value") else leaf
