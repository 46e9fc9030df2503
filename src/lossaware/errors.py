"""The one error that a user causes and can mend."""


class UsageError(Exception):
    """Wrong input: one line that names the thing, its value and what is allowed.

    The command line prints the line and exits with code 2; no traceback.
    """
