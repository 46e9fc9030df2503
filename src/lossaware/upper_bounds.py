"""Upper bounds U: the loss above which the gate is closed (Eq. 4).

Like the lower bounds, each is stateless and runs on any kind of scalar. Unlike them, it is updated at each step.
"""

import math
from dataclasses import dataclass
from typing import ClassVar, Protocol

from lossaware.choices import choose
from lossaware.law_state import LawState, Ops, Scalar

LossRange = tuple[Scalar, Scalar, Scalar, Scalar]
"""The fields ``upper``, ``origin``, ``level`` and ``spread`` of a `lossaware.law_state.LawState`, in this order."""


class UpperBound(Protocol):
    """The loss above which the gate is closed.

    Any object with the method and the attribute can be used. It must be stateless: its memory is the state, where it
    can use ``level`` and ``spread``.

    Attributes:
        limits_mean: Whether a status clips its losses to the range from ``origin`` to U, so that a few outliers do not
            dominate its mean. The paper does not clip.
    """

    @property
    def limits_mean(self) -> bool: ...  # noqa: D102 - an attribute, of the class or of the object

    def update(self, state: LawState, loss: Scalar, count: Scalar, ops: Ops) -> LossRange:
        """The range after a step with a finite loss; its U already applies to this step.

        Args:
            state: The state before the step.
            loss: The loss of the step, finite. (For scalars on a device it may be NaN or infinite; the result is then
                dropped.)
            count: Finite losses including this one, at least 1. Before the first the state's fields are unknown.
            ops: ``where`` and ``isfinite`` for the kind of scalars.
        """


@dataclass(frozen=True)
class FirstLoss:
    """The paper's upper bound: U is the first finite loss."""

    limits_mean: ClassVar[bool] = False

    def update(self, state: LawState, loss: Scalar, count: Scalar, ops: Ops) -> LossRange:
        """See `UpperBound.update`."""
        return ops.where(count == 1, loss, state.upper), state.origin, state.level, state.spread


@dataclass(frozen=True)
class RunningLevel:
    """U is the highest level of the losses, for losses whose first value is not representative.

    The level is a running mean of the losses, and the spread a running mean of their distance from it. U is the level
    plus ``width`` spreads; after ``10 * memory`` losses it does not fall any more. So a first loss of 0, a small one,
    or a spike soon has no influence on U, and U follows a rising loss. A later spike is limited to a change of
    ``width`` spreads, and to U in the mean of its status.

    If the level is below 0, L starts from twice the lowest level instead of 0. Otherwise L would be above the losses,
    and the gate closed.

    U also follows a loss that rises because training diverges, where the first loss would close the gate.

    Args:
        width: Number of spreads between the level and U, at least 1. 4 mean distances are 3.2 standard deviations of a
            normal distribution.
        memory: Number of losses in the running means, at least 2.
    """

    limits_mean: ClassVar[bool] = True

    width: float = 4.0
    memory: int = 20

    def __post_init__(self) -> None:
        if not 1.0 <= self.width < math.inf:
            raise ValueError(f"width must be a finite number of at least 1: got {self.width!r}")
        if type(self.memory) is not int or self.memory < 2:
            raise ValueError(f"memory must be an integer of at least 2: got {self.memory!r}")

    def update(self, state: LawState, loss: Scalar, count: Scalar, ops: Ops) -> LossRange:
        """See `UpperBound.update`."""
        # At least a hundredth of the level: otherwise equal losses would forbid any change.
        least = 0.01 * abs(state.level)
        usual = self.width * ops.where(state.spread > least, state.spread, least)
        change = loss - state.level
        distance = abs(change)
        limited = ops.where((usual > 0) & (distance > usual), usual, distance)
        weight = ops.where(count < self.memory, 1.0 / count, 1.0 / self.memory)
        # A loss far below the first ones means that these were outliers.
        restarts = (count == 1) | ((count <= self.memory) & (change < -usual))
        level = ops.where(restarts, loss, state.level + weight * ops.where(change < 0, -limited, limited))
        spread = ops.where(restarts, 0.0, state.spread + weight * (limited - state.spread))

        settled = count > 10 * self.memory
        upper = level + self.width * spread
        upper = ops.where(settled & (state.upper > upper), state.upper, upper)
        origin = ops.where(level < 0, 2.0 * level, 0.0)
        origin = ops.where(settled & (state.origin < origin), state.origin, origin)
        return upper, origin, level, spread


UPPER_BOUNDS: dict[str, type[UpperBound]] = {"first": FirstLoss, "running": RunningLevel}
"""The upper bounds by name."""


def make_upper_bound(choice: str | UpperBound) -> UpperBound:
    """The upper bound of that name, or the object itself; see `choose`."""
    bound: UpperBound = choose("upper_bound", choice, UPPER_BOUNDS, "update(state, loss, count, ops)")
    if not isinstance(getattr(bound, "limits_mean", None), bool):
        raise ValueError(f"upper_bound must have the attribute limits_mean, True or False: got {bound!r}")
    return bound
