"""Upper bounds: the loss above which the gate is closed, U (Eq. 4).

As the lower bounds, each is stateless and runs on any kind of scalar. Unlike them, it is asked at each step.
"""

from dataclasses import dataclass
from typing import ClassVar, Protocol

from lossaware.choices import choose
from lossaware.law_state import LawState, Ops, Scalar

LossRange = tuple[Scalar, Scalar, Scalar, Scalar]
"""The fields ``upper``, ``origin``, ``level`` and ``spread`` of a `lossaware.law_state.LawState`, in this order."""


class UpperBound(Protocol):
    """The loss above which the gate is closed.

    Any object with the method and the attribute can be used. It must be stateless: what it needs to remember is in the
    state, where ``level`` and ``spread`` are free for its use.

    Attributes:
        limits_mean: Whether a status counts losses above U as U, so that a few outliers do not decide its mean. The
            paper counts them as they are.
    """

    limits_mean: ClassVar[bool]

    def update(self, state: LawState, loss: Scalar, count: Scalar, ops: Ops) -> LossRange:
        """The range after a step with a finite loss; its U applies to this step already.

        Args:
            state: The state before the step.
            loss: The loss of the step, finite. (For scalars on a device it may be NaN or infinite; the result is then
                dropped.)
            count: Finite losses including this one, at least 1. Before the first the state's fields are unknown.
            ops: ``where`` and ``isfinite`` for the kind of scalars.
        """


@dataclass(frozen=True)
class FirstLoss:
    """The paper's: U is the first finite loss."""

    limits_mean: ClassVar[bool] = False

    def update(self, state: LawState, loss: Scalar, count: Scalar, ops: Ops) -> LossRange:
        """See `UpperBound.update`."""
        return ops.where(count == 1, loss, state.upper), state.origin, state.level, state.spread


UPPER_BOUNDS: dict[str, type[UpperBound]] = {"first": FirstLoss}
"""The upper bounds that have a name."""


def make_upper_bound(choice: str | UpperBound) -> UpperBound:
    """The upper bound of that name, or the object itself; see `choose`."""
    bound: UpperBound = choose("upper_bound", choice, UPPER_BOUNDS, "update(state, loss, count, ops)")
    return bound
