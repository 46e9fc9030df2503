"""The time for which a worker may be silent before it counts as hanging; the same for all engines."""

import time

from lossaware.studies.execution.events import EpochDone, Event

SILENCE = 600.0
"""Seconds of silence that are always allowed after a worker's first epoch."""
FIRST_SILENCE = 24 * 3600.0
"""Seconds of silence that are always allowed before its first epoch."""
MANY = 20
"""Multiple of a worker's longest silence that is allowed."""
LOOK_EVERY = 5.0
"""Maximum number of seconds between two checks of the workers by an engine."""


class Patience:
    """The allowed silence of a worker: a multiple of its longest one so far, and at least `SILENCE`.

    Only time in which the engine checks its workers counts. If this process was stopped (Ctrl-Z, a paused container),
    its workers were usually stopped too.
    """

    def __init__(self) -> None:
        self._last_look = time.monotonic()
        self._now = 0.0  # seconds in which the engine has checked its workers
        self._last_event = self._longest = 0.0
        self._has_epoch = False

    def note_event(self, event: Event) -> None:
        """Record an event of the worker."""
        self._look()
        self._longest = max(self._longest, self.silence)
        self._last_event = self._now
        self._has_epoch |= isinstance(event, EpochDone)

    @property
    def silence(self) -> float:
        """Seconds since the worker's last event."""
        return self._now - self._last_event

    def is_over(self) -> bool:
        """Whether the worker has been silent for too long. Call it at least every `LOOK_EVERY` seconds."""
        self._look()
        if self._has_epoch:
            return self.silence > max(SILENCE, MANY * self._longest)
        # Before the first epoch it is unknown how long a test takes, or how much a user's function does at a time.
        return self.silence > max(FIRST_SILENCE, MANY * self._last_event)

    def reason(self) -> str:
        """The reason for killing the worker."""
        return f"hanging: no event for {self.silence:.0f} s"

    def _look(self) -> None:
        now = time.monotonic()
        self._now += min(now - self._last_look, 2 * LOOK_EVERY)
        self._last_look = now
