"""The state of LGA in JAX, a pytree of arrays, and the dtypes in it."""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from lossaware.law_state import LawState, Status

PyTree = Any

_COUNTERS = ("count", "statuses", "opened", "steps", "nonfinite")
"""Fields of the law's state that hold whole numbers; float32 would stop counting at 16.8 million."""


class LossAwareState(NamedTuple):
    """State of `loss_aware`.

    Attributes:
        law: What the law remembers, field by field of shape (): whole numbers are int32, the others float32, or
            float64 where ``jax_enable_x64`` is on. Losses that are not known yet are 0.
        gamma2: gamma2 at the last step, after all that moved it; shape ().
        base: State of the base optimizer.
        scale: Where the rule for gamma2 uses it, as ``"auto"`` does, the root mean square of the parameters at the
            start, else 0; shape ().
        mean: Where the rule has a momentum, the running mean of the gradients over the steps that pushed, in the shapes
            and dtypes of the parameters, but float32 where these have 16 bits; 0 before the first; else None.
    """

    law: LawState
    gamma2: jax.Array
    base: PyTree
    scale: Any
    mean: PyTree = None

    def summarized(self, status: Status) -> Status:
        """The status as the rule has it, from that of the law."""
        return status


class WithoutNaN:
    """JAX's operators, but 0 in place of what is not known, as ``jax_debug_nans`` would stop at a NaN."""

    isfinite = staticmethod(jnp.isfinite)

    @staticmethod
    def where(condition: Any, yes: Any, no: Any) -> jax.Array:
        """``yes`` where the condition holds, else ``no``."""
        yes, no = (0.0 if isinstance(value, float) and math.isnan(value) else value for value in (yes, no))
        return jnp.where(condition, yes, no)


def fresh_state() -> LawState:
    """The law's state before the first loss, without the NaNs that ``jax_debug_nans`` would stop at."""
    values = {name: 0.0 if math.isnan(value) else value for name, value in LawState()._asdict().items()}
    return LawState(**{n: jnp.asarray(v, jnp.int32 if n in _COUNTERS else widest_float()) for n, v in values.items()})


def wide(array: Any) -> Any:
    """The array's type, but float32 in place of types of 16 bits."""
    return jnp.promote_types(jnp.result_type(array), jnp.float32)


def widest_float() -> Any:
    """The widest floating-point type that is on."""
    return jnp.result_type(float)
