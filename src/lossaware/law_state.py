"""The state of the scalar law, its kinds of scalars, and the `Status` that users read.

This module does not depend on an array library: the same law runs on Python floats, on zero-dimensional torch tensors
and on JAX scalars. Functions that are not operators are passed in as `Ops`.
"""

import math
from dataclasses import dataclass
from typing import Any, NamedTuple

Scalar = Any
"""A Python float, a zero-dimensional float64 tensor, or a JAX scalar; one kind throughout a call."""


Ops = Any
"""The functions ``where(condition, yes, no)`` and ``isfinite(value)`` for one kind of scalars.

``torch`` and ``jax.numpy`` have them; `HOST` has them for Python floats.
"""


class HOST:
    """`Ops` for Python floats."""

    isfinite = staticmethod(math.isfinite)

    @staticmethod
    def where(condition: bool, yes: float, no: float) -> float:
        """``yes`` if the condition holds, else ``no``."""
        return yes if condition else no


def log(value: Scalar) -> Scalar:
    """Natural logarithm of a scalar of any kind."""
    if isinstance(value, (int, float)):
        return math.log(value)
    if not hasattr(value, "at"):  # a torch tensor; older compilers of torch do not find its other attributes
        return value.log()
    import jax.numpy

    return jax.numpy.log(jax.numpy.asarray(value, float))  # the widest enabled type; a count may be int32


class LawState(NamedTuple):
    """The state of the law. All fields are scalars of one kind.

    Attributes:
        loss: The last finite loss, NaN before the first.
        upper: U, the upper bound; NaN before the first finite loss.
        lower: L, counted from ``origin``.
        omega: Omega of the last step with a loss.
        gamma2_factor: The factor on gamma2 so far; it starts at 1.
        mean: Mean loss of the last complete status, NaN before the first.
        total: Sum of the losses since the last complete status.
        count: Their number.
        statuses: Complete statuses, t of Eq. 3.
        opened: Steps with Omega above 0.
        steps: Steps with a loss.
        nonfinite: Steps with a NaN or infinite loss.
        scatter: Sum of the squared deviations of the losses since the last complete status from their mean.
        error: Variance of ``mean``, estimated from its losses.
        origin: The loss from which L starts, at most 0. The paper's is 0.
        level: Running mean of the losses, if the upper bound has one.
        spread: Running mean of their distance from ``level``, if the upper bound has one.
    """

    loss: Scalar = math.nan
    upper: Scalar = math.nan
    lower: Scalar = 0.0
    omega: Scalar = 0.0
    gamma2_factor: Scalar = 1.0
    mean: Scalar = math.nan
    total: Scalar = 0.0
    count: Scalar = 0.0
    statuses: Scalar = 0.0
    opened: Scalar = 0.0
    steps: Scalar = 0.0
    nonfinite: Scalar = 0.0
    scatter: Scalar = 0.0
    error: Scalar = 0.0
    origin: Scalar = 0.0
    level: Scalar = 0.0
    spread: Scalar = 0.0


@dataclass(frozen=True)
class Status:
    """The state of LGA as plain numbers.

    Attributes:
        loss: The last finite loss; NaN before the first.
        lower_bound: L, the estimate of the reachable loss (Eq. 3).
        upper_bound: U, the loss above which the gate is closed: the first finite one, unless another ``upper_bound``
            was chosen. NaN before the first finite loss.
        omega: Omega of the last step with a loss (Eq. 4); 0 if the gate was closed.
        gamma2: The present gamma2, after all back-offs.
        statuses: Number of complete statuses.
        open_share: Share of the steps with an open gate, in [0, 1].
        steps: Optimizer steps since LGA was attached, without those that a gradient scaler skipped.
        nonfinite_losses: Steps with a NaN or infinite loss; with several ranks, also steps without a loss on one rank.
        steps_without_loss: Other steps without a loss, which were exactly the base optimizer's.
    """

    loss: float
    lower_bound: float
    upper_bound: float
    omega: float
    gamma2: float
    statuses: int
    open_share: float
    steps: int
    nonfinite_losses: int
    steps_without_loss: int

    @property
    def gate(self) -> str:
        """Whether the gate was open at the last step with a finite loss, and if not, why (Eq. 4)."""
        if math.isnan(self.loss):
            return "no finite loss yet"
        if self.omega > 0:
            return "open"
        if self.loss > self.upper_bound:
            return "closed: the loss is above the upper bound"
        if self.loss < self.lower_bound:
            return "closed: the loss is below the lower bound"
        return "closed: the loss is within eps of the lower bound"


def summarize(state: LawState, gamma2: float, steps_without_loss: int) -> Status:
    """The `Status` of a state of plain numbers.

    Args:
        state: The state of the law.
        gamma2: gamma2 after all back-offs.
        steps_without_loss: Number of steps without a loss.
    """
    steps = int(state.steps) + steps_without_loss
    return Status(
        loss=float(state.loss),
        lower_bound=float(state.origin) + float(state.lower),
        upper_bound=float(state.upper),
        omega=float(state.omega),
        gamma2=gamma2,
        statuses=int(state.statuses),
        open_share=float(state.opened) / steps if steps else 0.0,
        steps=steps,
        nonfinite_losses=int(state.nonfinite),
        steps_without_loss=steps_without_loss,
    )
