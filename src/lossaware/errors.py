"""Errors and warnings for users."""


class UsageError(Exception):
    """Wrong input: one line that names the thing, its value and the allowed values.

    The command line prints the line without traceback and exits with code 2. A notebook shows the line alone, too.
    """

    def _render_traceback_(self) -> list[str]:
        return [f"{type(self).__name__}: {self}"]


class Note(UserWarning):
    """Information for the user in one line, which the command line prints unchanged."""


class GateWarning(UserWarning):
    """LGA makes no correction, since no loss opens the gate (Eq. 4)."""
