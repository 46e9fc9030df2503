"""The error that a user causes and can correct, and the warnings that a user should see."""


class UsageError(Exception):
    """Wrong input: one line that names the thing, its value and what is allowed.

    The command line prints the line and exits with code 2; no traceback.
    """


class Note(UserWarning):
    """Something that a user should know, in one line, which the command line prints as it is."""


class GateWarning(UserWarning):
    """LGA makes no correction, as no loss opens the gate (Eq. 4)."""
