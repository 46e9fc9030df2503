"""The baseline of a comparison in JAX: an optimizer that takes the loss like `lossaware.optax.loss_aware`."""

from typing import Any

import lossaware.optax as ours  # first: it says what to install
from lossaware.jax_state import LossAwareState, PyTree, fresh_state, widest_float

import jax.numpy as jnp  # isort: skip
import optax  # isort: skip


def baseline(base: optax.GradientTransformation, **settings: Any) -> optax.GradientTransformationExtraArgs:
    """Replaces `lossaware.optax.loss_aware` in a run without it: the same calls, and the base's own updates.

    `lossaware.optax.status` has the number of steps and the last loss; gamma2 is 0 and the gate is closed.

    Args:
        base: Any optax optimizer.
        settings: The settings of `lossaware.optax.loss_aware`, which are checked but have no effect.

    Raises:
        ValueError: See `lossaware.optax.loss_aware`.
        TypeError: See `lossaware.optax.loss_aware`.
    """
    ours.loss_aware(base, **settings)
    inner = optax.with_extra_args_support(base)

    def init(params: PyTree) -> LossAwareState:
        zero = jnp.zeros((), widest_float())
        return LossAwareState(fresh_state(), zero, inner.init(params), zero)

    def update(
        updates: PyTree, state: LossAwareState, params: PyTree = None, *, value: Any = None, **extra_args: Any
    ) -> tuple[PyTree, LossAwareState]:
        loss = ours.read_loss(value)
        stepped, base_state = inner.update(updates, state.base, params, value=loss, **extra_args)
        law = state.law
        law = law._replace(
            loss=jnp.where(jnp.isfinite(loss), loss, law.loss).astype(law.loss.dtype),
            steps=law.steps + jnp.ones((), law.steps.dtype),
            nonfinite=law.nonfinite + (~jnp.isfinite(loss)).astype(law.nonfinite.dtype),
        )
        return stepped, state._replace(law=law, base=base_state)

    return optax.GradientTransformationExtraArgs(init, update)
