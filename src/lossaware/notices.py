"""LGA's log messages and warnings. They only use values on the host, without waiting for the device."""

import logging
import math
import warnings

import torch.distributed as dist

from lossaware.errors import GateWarning
from lossaware.law_state import LawState

logger = logging.getLogger("lossaware")

ENOUGH_STEPS = 100
"""Shorter runs are trials, without a warning."""


class BackoffNotice:
    """Logs each back-off of gamma2, on the first rank only.

    Args:
        factor: The factor on gamma2 so far.
    """

    def __init__(self, factor: float = 1.0) -> None:
        self._factor = factor

    def look(self, state: LawState, gamma2: float) -> None:
        """Log a message if gamma2 is lower than at the last call.

        Args:
            state: The state of the law, as plain numbers.
            gamma2: The present gamma2.
        """
        if state.gamma2_factor < self._factor and _is_first_rank():
            logger.info(
                "gamma2 backed off to %.3g at step %d: the mean loss of status %d, %.6g, was above the one before",
                *(gamma2, state.steps, state.statuses, state.mean),
            )
        self._factor = state.gamma2_factor


class StatusNotice:
    """Logs a warning at the end if a run of some length never had a complete status."""

    def __init__(self, steps_per_epoch: int) -> None:
        self._steps_per_epoch = steps_per_epoch
        self.steps: float = 0
        """Number of steps with a loss, incremented by the caller."""

    def set_epoch(self, steps_per_epoch: int) -> None:
        """Call when the length of an epoch changes."""
        if self.steps >= self._steps_per_epoch:
            self.steps = math.inf  # a status was complete
        self._steps_per_epoch = steps_per_epoch

    def load(self, state: LawState) -> None:
        """Continue from a loaded state of plain numbers."""
        self.steps = math.inf if state.statuses else int(state.steps)

    def close(self) -> None:
        """Call when LGA is detached or no longer used."""
        if ENOUGH_STEPS <= self.steps < self._steps_per_epoch and _is_first_rank():
            logger.warning(
                "LGA made %d steps, but steps_per_epoch=%d, so no status was ever complete: the lower bound stayed 0 "
                "and gamma2 could not back off; set steps_per_epoch to the optimizer steps of one epoch "
                "(len(loader), divided by the number of batches that are accumulated)",
                *(self.steps, self._steps_per_epoch),
            )


class GateNotice:
    """Warns once if the gate does not open (Eq. 4), because no loss is both above L by eps and at most U.

    Args:
        eps: The gap between loss and lower bound from which the gate is open.
        upper_bound: The upper bound in use, for the message.
    """

    def __init__(self, eps: float, upper_bound: object) -> None:
        self._eps = eps
        self._remedy = (
            "the gate can open again only when L has fallen"
            if getattr(upper_bound, "limits_mean", False)
            else 'LGA(..., upper_bound="running") is for losses whose first value is not typical'
        )
        self._opened: float = 0.0  # steps with an open gate, at the last call
        self.done = False

    def look(self, state: LawState) -> None:
        """Warn if needed; call it after a complete status, or after some steps.

        Args:
            state: The present state, as plain numbers.
        """
        opened, self._opened = state.opened - self._opened, state.opened
        if state.steps == state.nonfinite:
            if state.steps >= ENOUGH_STEPS:
                self._warn(f"none of {int(state.steps)} losses was finite, so LGA has made no correction")
            return
        lower, upper = float(state.origin + state.lower), float(state.upper)
        room, remedy = upper - lower, self._remedy
        if upper <= 0 and state.loss <= 0:
            reason = "the losses are not above 0"
        elif not (room > 0 and room >= self._eps):
            reason = "later losses were higher than the first"
            if room > 0 and max(state.loss, state.mean) <= upper:
                reason = f"the bounds are less than eps = {self._eps:g} apart"
                remedy = "LGA(..., eps=0) opens it for any loss between them"
            elif room == 0 and max(state.loss, state.mean) <= upper:
                reason = "the losses did not fall below the first"
        elif opened == 0 and state.mean > upper:
            reason = f"their mean, {state.mean:.6g}, was above the first one"
        else:
            return
        self._warn(
            f"LGA makes no correction at step {int(state.steps)}, since no loss opens the gate: {reason}; the lower "
            f"bound is L = {lower:.6g}, the upper bound U = {upper:.6g}; {remedy}"
        )

    def _warn(self, message: str) -> None:
        self.done = True
        if _is_first_rank():
            warnings.warn(message, GateWarning, stacklevel=8)


class PushNotice:
    """Warns once, with the reason, after `ENOUGH_STEPS` steps in a row without a push."""

    def __init__(self) -> None:
        self._idle = 0
        self._done = False

    def step(self, reason: str) -> None:
        """Call at each step with a loss.

        Args:
            reason: The reason why the step had no push; empty if it had one.
        """
        self._idle = self._idle + 1 if reason else 0
        if self._idle >= ENOUGH_STEPS and not self._done:
            self._done = True
            if _is_first_rank():
                message = f"LGA has made no correction in {self._idle} steps: in the last of them {reason}"
                warnings.warn(message, GateWarning, stacklevel=7)


def _is_first_rank() -> bool:
    return not (dist.is_available() and dist.is_initialized()) or dist.get_rank() == 0
