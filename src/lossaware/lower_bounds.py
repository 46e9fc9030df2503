"""Lower bounds L: estimates of the reachable loss (Eq. 3, A.9).

Each is stateless and uses only operators, so that it runs on any kind of scalar.
"""

import math
from dataclasses import dataclass
from typing import Protocol

from lossaware.choices import choose
from lossaware.law_state import Scalar, log


class LowerBound(Protocol):
    """An estimate of the reachable loss, updated at each complete status.

    Any object with this method can be used. It must be stateless, and use only its arguments.
    """

    def update(self, lower: Scalar, loss: Scalar, count: Scalar) -> Scalar:
        """The new lower bound L_t.

        Args:
            lower: The bound so far, L_{t-1}; L_0 = 0.
            loss: Mean loss of the complete status.
            count: Complete statuses including this one, t >= 1.
        """


@dataclass(frozen=True)
class Progressive:
    """Eq. 3: L_t = w L_{t-1} + (1 - w) f_t with w = 1 / log(t + 10), so that later losses count for more.

    Args:
        log_base: Base of the logarithm, in (1, 11], so that w stays within (0, 1]. 10 is nearest to the paper's results
            (w_0 is then exactly 1, as L_0 = 0 requires); ``math.e`` is the natural logarithm.
    """

    log_base: float = 10.0

    def __post_init__(self) -> None:
        if not 1.0 < self.log_base <= 11.0:
            raise ValueError(f"log_base must be above 1 and at most 11: got {self.log_base!r}")

    def update(self, lower: Scalar, loss: Scalar, count: Scalar) -> Scalar:
        """See `LowerBound.update`."""
        weight = math.log(self.log_base) / log(count + 10)
        return weight * lower + (1 - weight) * loss


@dataclass(frozen=True)
class Average:
    """A.9, first variant: the mean of all statuses so far."""

    def update(self, lower: Scalar, loss: Scalar, count: Scalar) -> Scalar:
        """See `LowerBound.update`."""
        return lower + (loss - lower) / count


@dataclass(frozen=True)
class Momentum:
    """A.9, second variant: L_t = beta L_{t-1} + (1 - beta) f_t.

    Args:
        beta: Weight of the bound so far, in [0, 1]. The paper uses 0.9.
    """

    beta: float = 0.9

    def __post_init__(self) -> None:
        if not 0.0 <= self.beta <= 1.0:
            raise ValueError(f"beta must be between 0 and 1: got {self.beta!r}")

    def update(self, lower: Scalar, loss: Scalar, count: Scalar) -> Scalar:
        """See `LowerBound.update`."""
        return self.beta * lower + (1 - self.beta) * loss


@dataclass(frozen=True)
class Zero:
    """L_t = 0, for losses that can reach 0 but not fall below it."""

    def update(self, lower: Scalar, loss: Scalar, count: Scalar) -> Scalar:
        """See `LowerBound.update`."""
        return 0.0 * lower


LOWER_BOUNDS: dict[str, type[LowerBound]] = {
    "progressive": Progressive,
    "average": Average,
    "momentum": Momentum,
    "zero": Zero,
}
"""The lower bounds by name."""


def make_lower_bound(choice: str | LowerBound) -> LowerBound:
    """The lower bound of that name, or the object itself; see `choose`."""
    bound: LowerBound = choose("lower_bound", choice, LOWER_BOUNDS, "update(lower, loss, count)")
    return bound
