"""The state of LGA in JAX, a pytree of arrays, and the dtypes in it."""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from lossaware.law_state import LawState, Status

PyTree = Any

_COUNTERS = ("count", "statuses", "opened", "steps", "nonfinite")
"""Integer fields of the law's state; float32 would stop counting at 16.8 million."""


class LossAwareState(NamedTuple):
    """State of `loss_aware`.

    Attributes:
        law: The state of the law, with fields of shape (): integers are int32, the others float32, or float64 with
            ``jax_enable_x64``. Losses that are not known yet are 0.
        gamma2: gamma2 at the last step, after all changes; shape ().
        base: State of the base optimizer.
        scale: If the rule for gamma2 uses it, as ``"auto"`` does, the root mean square of the parameters at the
            start, otherwise 0; shape ().
        mean: If the rule has a momentum, the running mean of the gradients over the steps with a push, with the shapes
            and dtypes of the parameters, but float32 for 16 bits; 0 before the first. Otherwise None.
    """

    law: LawState
    gamma2: jax.Array
    base: PyTree
    scale: Any
    mean: PyTree = None

    def summarized(self, status: Status) -> Status:
        """The rule's status, from that of the law."""
        return status


class WithoutNaN:
    """JAX's operators, but with 0 for unknown values, as ``jax_debug_nans`` would stop at a NaN."""

    isfinite = staticmethod(jnp.isfinite)

    @staticmethod
    def where(condition: Any, yes: Any, no: Any) -> jax.Array:
        """``yes`` if the condition holds, else ``no``."""
        yes, no = (0.0 if isinstance(value, float) and math.isnan(value) else value for value in (yes, no))
        return jnp.where(condition, yes, no)


def fresh_state() -> LawState:
    """The law's state before the first loss, without NaNs, at which ``jax_debug_nans`` would stop."""
    values = {name: 0.0 if math.isnan(value) else value for name, value in LawState()._asdict().items()}
    return LawState(**{n: jnp.asarray(v, jnp.int32 if n in _COUNTERS else widest_float()) for n, v in values.items()})


def wide(array: Any) -> Any:
    """The array's type, but float32 for types of 16 bits."""
    return jnp.promote_types(jnp.result_type(array), jnp.float32)


def widest_float() -> Any:
    """The widest enabled floating-point type."""
    return jnp.result_type(float)
