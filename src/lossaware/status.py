"""The scalar law of LGA: lower bounds (Eq. 3, A.9), the gate (Eq. 4), and when gamma2 moves (Algorithm 1, lines 7-9).

Nothing here knows of parameters or gradients, nor of any array library: the same few lines run on Python floats, on
zero-dimensional torch tensors and on JAX scalars. What differs between them is passed in as `Ops`.
"""

import difflib
import math
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

from lossaware.gamma2 import Strategy

Scalar = Any
"""A Python float, a zero-dimensional float64 tensor, or a JAX scalar; one kind throughout a call."""


Ops = Any
"""What scalars do not bring along as operators: ``where(condition, yes, no)`` and ``isfinite(value)``.

``torch`` and ``jax.numpy`` serve as they are; `HOST` serves Python floats.
"""


class HOST:
    """`Ops` for Python floats."""

    isfinite = staticmethod(math.isfinite)

    @staticmethod
    def where(condition: bool, yes: float, no: float) -> float:
        """``yes`` where the condition holds, else ``no``."""
        return yes if condition else no


def log(value: Scalar) -> Scalar:
    """Natural logarithm of a scalar of any kind, for lower bounds that need one."""
    if isinstance(value, (int, float)):
        return math.log(value)
    if hasattr(value, "log"):  # a torch tensor
        return value.log()
    import jax.numpy

    return jax.numpy.log(jax.numpy.asarray(value, float))  # the widest type that is on; a count may be int32


class LowerBound(Protocol):
    """An estimate of the loss that can be reached, moved on by each complete status.

    Any object with this one method serves. It must be stateless: what it knows is in its arguments.
    """

    def update(self, lower: Scalar, loss: Scalar, count: Scalar) -> Scalar:
        """The new lower bound L_t.

        Args:
            lower: The bound so far, L_{t-1}; L_0 = 0.
            loss: Mean loss of the status that is now complete.
            count: Complete statuses including this one, t >= 1.
        """


@dataclass(frozen=True)
class Progressive:
    """Eq. 3: L_t = w L_{t-1} + (1 - w) f_t with w = 1 / log(t + 10), so that later losses count for more.

    Args:
        log_base: Base of the logarithm, in (1, 11], so that w stays within (0, 1]. 10 comes nearest to the paper's
            results (w_0 is then exactly 1, as L_0 = 0 asks); ``math.e`` is the natural logarithm.
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
    """A.9, first variant: the plain mean of all statuses so far."""

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
    """L_t = 0, for losses that can reach 0 and not fall below it: the whole loss counts."""

    def update(self, lower: Scalar, loss: Scalar, count: Scalar) -> Scalar:
        """See `LowerBound.update`."""
        return 0.0 * lower


LOWER_BOUNDS: dict[str, type[LowerBound]] = {
    "progressive": Progressive,
    "average": Average,
    "momentum": Momentum,
    "zero": Zero,
}
"""The lower bounds that have a name."""


def make_lower_bound(choice: "str | LowerBound") -> LowerBound:
    """The lower bound of that name, with its default arguments, or the object itself.

    Raises:
        ValueError: The name is unknown, or the object has no ``update``.
    """
    if isinstance(choice, str):
        if choice in LOWER_BOUNDS:
            return LOWER_BOUNDS[choice]()
        close = difflib.get_close_matches(choice, LOWER_BOUNDS, n=1)
        hint = f"; did you mean {close[0]!r}?" if close else ""
        raise ValueError(f"unknown lower_bound {choice!r}: known are {', '.join(LOWER_BOUNDS)}{hint}")
    if not callable(getattr(choice, "update", None)) or isinstance(choice, type):
        raise ValueError(
            f"lower_bound must be one of {', '.join(LOWER_BOUNDS)} or an object with update(lower, loss, count): "
            f"got {choice!r}"
        )
    return choice


class State(NamedTuple):
    """What the law remembers. All fields are scalars of one kind.

    Attributes:
        loss: The last finite loss, NaN before the first.
        upper: U, the first finite loss, NaN before it.
        lower: L.
        omega: Omega of the last step that had a loss.
        decay: What gamma2 has been multiplied by so far, from 1.
        mean: Mean loss of the last complete status, NaN before the first.
        total: Sum of the losses since the last complete status.
        count: Their number.
        statuses: Complete statuses, t of Eq. 3.
        opened: Steps with Omega above 0.
        steps: Steps with a loss.
        nonfinite: Those whose loss was NaN or infinite.
        scatter: Sum of the squared deviations of the losses since the last complete status from their mean.
        error: Variance of ``mean``, as the scatter of its losses shows it.
    """

    loss: Scalar = math.nan
    upper: Scalar = math.nan
    lower: Scalar = 0.0
    omega: Scalar = 0.0
    decay: Scalar = 1.0
    mean: Scalar = math.nan
    total: Scalar = 0.0
    count: Scalar = 0.0
    statuses: Scalar = 0.0
    opened: Scalar = 0.0
    steps: Scalar = 0.0
    nonfinite: Scalar = 0.0
    scatter: Scalar = 0.0
    error: Scalar = 0.0


@dataclass(frozen=True)
class Law:
    """How a loss moves the state.

    Args:
        steps_per_status: Finite losses that make a status, at least 1. 1 is Algorithm 1 to the letter; the number of
            batches in an epoch is the reading that comes nearest to the paper.
        lower_bound: How L follows the statuses.
        eps: The gap below which the gate is closed (Eq. 4).
        strategy: How gamma2 moves.
    """

    steps_per_status: int
    lower_bound: LowerBound
    eps: float
    strategy: Strategy

    def advance(self, state: State, loss: Scalar, ops: Ops = HOST) -> State:
        """The state after a step with this loss; its ``omega`` is the Omega of the step.

        A loss that is NaN or infinite closes the gate and is counted; nothing else changes.
        """
        if ops is HOST and not math.isfinite(loss):
            return state._replace(omega=0.0, steps=state.steps + 1, nonfinite=state.nonfinite + 1)

        # The first finite loss is the upper bound. Counters say what is known, so that no NaN is ever read.
        upper = ops.where(state.steps == state.nonfinite, loss, state.upper)
        total, count = state.total + loss, state.count + 1
        complete = count >= self.steps_per_status
        mean = total / count
        # Welford's recurrence: no difference of large sums.
        deviation, pairs = count * loss - total, count * ops.where(count > 1, count - 1, 1.0)
        scatter = state.scatter + deviation * deviation / pairs
        error = scatter / pairs

        if ops is HOST and not complete:  # the same, without what is computed in vain
            decay, lower = state.decay, state.lower
        else:
            # Algorithm 1, lines 7-9.
            moved_on = self.strategy.decay(state, mean, error, ops)
            decay = ops.where(complete & (state.statuses > 0), moved_on, state.decay)
            lower = ops.where(complete, self.lower_bound.update(state.lower, mean, state.statuses + 1), state.lower)

        # Eq. 4.
        gap = loss - lower
        opened = (gap >= self.eps) & (loss <= upper)
        moved = State(
            loss=loss,
            upper=upper,
            lower=lower,
            omega=ops.where(opened, gap, 0.0),
            decay=decay,
            mean=ops.where(complete, mean, state.mean),
            total=ops.where(complete, 0.0, total),
            count=ops.where(complete, 0.0, count),
            statuses=state.statuses + complete,
            opened=state.opened + opened,
            steps=state.steps + 1,
            nonfinite=state.nonfinite,
            scatter=ops.where(complete, 0.0, scatter),
            error=ops.where(complete, error, state.error),
        )
        if ops is HOST:  # the choice is made already
            return moved
        stayed = state._replace(omega=0.0, steps=state.steps + 1, nonfinite=state.nonfinite + 1)
        finite = ops.isfinite(loss)
        return State(*(ops.where(finite, new, old) for new, old in zip(moved, stayed, strict=True)))


@dataclass(frozen=True)
class Status:
    """What LGA is doing, as plain numbers.

    Attributes:
        loss: The last finite loss; NaN before the first.
        lower_bound: L, the estimate of the loss that can be reached (Eq. 3).
        upper_bound: U, the first finite loss; NaN before it.
        omega: Omega of the last step that had a loss (Eq. 4); 0 where the gate was closed.
        gamma2: gamma2 as it is now, after all back-offs.
        statuses: Complete statuses.
        open_share: Share of the steps whose gate was open, from 0 to 1.
        steps: Optimizer steps since LGA was attached. A step that a gradient scaler skipped is none.
        nonfinite_losses: Steps whose loss was NaN or infinite.
        steps_without_loss: Steps that got no loss, and so were exactly the base optimizer's.
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


def summarize(state: State, gamma2: float, steps_without_loss: int) -> Status:
    """The `Status` of a state of plain numbers."""
    steps = int(state.steps) + steps_without_loss
    return Status(
        loss=float(state.loss),
        lower_bound=float(state.lower),
        upper_bound=float(state.upper),
        omega=float(state.omega),
        gamma2=gamma2 * float(state.decay),
        statuses=int(state.statuses),
        open_share=float(state.opened) / steps if steps else 0.0,
        steps=steps,
        nonfinite_losses=int(state.nonfinite),
        steps_without_loss=steps_without_loss,
    )
