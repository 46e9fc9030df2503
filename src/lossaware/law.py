"""The scalar law of LGA: a loss updates the bounds, the gate (Eq. 4) and gamma2 (Algorithm 1, lines 7-9).

This module does not depend on parameters, gradients or an array library; see `lossaware.law_state`.
"""

import math
from dataclasses import dataclass

from lossaware.gamma2 import Gamma2Rule
from lossaware.law_state import HOST, LawState, Ops, Scalar
from lossaware.lower_bounds import LowerBound
from lossaware.upper_bounds import FirstLoss, UpperBound


@dataclass(frozen=True)
class Law:
    """The update of the state by a loss.

    Args:
        steps_per_status: Number of finite losses per status, at least 1. 1 is Algorithm 1 read literally; the number of
            batches per epoch is the reading nearest to the paper.
        lower_bound: Update of L by the statuses.
        eps: The gap below which the gate is closed (Eq. 4).
        rule: The rule for gamma2.
        upper_bound: The loss above which the gate is closed (Eq. 4).
    """

    steps_per_status: int
    lower_bound: LowerBound
    eps: float
    rule: Gamma2Rule
    upper_bound: UpperBound = FirstLoss()  # noqa: RUF009  # it is frozen

    def advance(self, state: LawState, loss: Scalar, ops: Ops = HOST) -> LawState:
        """The state after a step with this loss; its ``omega`` is the Omega of the step.

        A loss that is NaN or infinite closes the gate and is counted; nothing else changes.
        """
        if ops is HOST and not math.isfinite(loss):
            return state._replace(omega=0.0, steps=state.steps + 1, nonfinite=state.nonfinite + 1)

        # Counters determine which values exist, so that NaNs are not read.
        finite_losses = state.steps - state.nonfinite + 1
        upper, origin, level, spread = self.upper_bound.update(state, loss, finite_losses, ops)
        limits = self.upper_bound.limits_mean
        counted = _limited(loss, origin, upper, ops) if limits else loss
        total, count = state.total + counted, state.count + 1
        complete = count >= self.steps_per_status
        mean = total / count
        # Welford's recurrence: no difference of large sums.
        deviation, pairs = count * counted - total, count * ops.where(count > 1, count - 1, 1.0)
        scatter = state.scatter + deviation * deviation / pairs
        error = scatter / pairs
        if limits:  # by the present range: the first losses of a status may have been limited by a wider one
            mean = _limited(mean, origin, upper, ops)

        if ops is HOST and not complete:  # the same, without unused computations
            factor, lower = state.gamma2_factor, state.lower
        else:
            # Algorithm 1, lines 7-9.
            changed = self.rule.update_factor(state, mean, error, ops)
            factor = ops.where(complete & (state.statuses > 0), changed, state.gamma2_factor)
            bound = self.lower_bound.update(state.lower, mean - origin, state.statuses + 1)
            lower = ops.where(complete, bound, state.lower)

        # Eq. 4.
        gap = loss - origin - lower
        opened = (gap >= self.eps) & (loss <= upper)
        moved = LawState(
            loss=loss,
            upper=upper,
            lower=lower,
            omega=ops.where(opened, gap, 0.0),
            gamma2_factor=factor,
            mean=ops.where(complete, mean, state.mean),
            total=ops.where(complete, 0.0, total),
            count=ops.where(complete, 0.0, count),
            statuses=state.statuses + complete,
            opened=state.opened + opened,
            steps=state.steps + 1,
            nonfinite=state.nonfinite,
            scatter=ops.where(complete, 0.0, scatter),
            error=ops.where(complete, error, state.error),
            origin=origin,
            level=level,
            spread=spread,
        )
        if ops is HOST:  # the loss is finite
            return moved
        stayed = state._replace(omega=0.0, steps=state.steps + 1, nonfinite=state.nonfinite + 1)
        finite = ops.isfinite(loss)
        return LawState(*(ops.where(finite, new, old) for new, old in zip(moved, stayed, strict=True)))


def _limited(value: Scalar, low: Scalar, high: Scalar, ops: Ops) -> Scalar:
    """The value, clipped to the range."""
    return ops.where(value > high, high, ops.where(value < low, low, value))
