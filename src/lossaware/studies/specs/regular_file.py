"""Reading a whole file that may be anything: a device, a pipe, larger than the memory."""

import os
import stat
from pathlib import Path

from lossaware.errors import UsageError

MAX_BYTES = 1 << 30
"""The largest data file that is read. The largest of the paper's data sets has 148 MB."""
MAX_TEXT = 1 << 24
"""The largest file of settings that is read, in bytes."""
MALFORMED = (ValueError, TypeError, LookupError, AttributeError, RecursionError, OverflowError)
"""What may be raised where JSON or CSV is taken apart that was not written by this package."""
_KINDS = (
    (stat.S_ISDIR, "a folder"),
    (stat.S_ISFIFO, "a pipe"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
)


def read_regular(path: Path, size: int | None = None, *, at_most: int = MAX_BYTES) -> bytes:
    """All bytes of a regular file. A link to one is followed, as data sets are often linked to where there is space.

    Args:
        path: The file.
        size: How many bytes it must have; None takes any number up to ``at_most``.
        at_most: The largest size.

    Raises:
        UsageError: It is missing, of another kind, of another size, too large, or cannot be read.
    """
    try:
        # Looked at before it is opened: opening a pipe may wait, and opening a device may do something.
        check_regular(path, path.stat().st_mode)
        # Should it have changed since, opening still does not wait.
        with open(path, "rb", opener=lambda name, flags: os.open(name, flags | getattr(os, "O_NONBLOCK", 0))) as file:
            status = os.fstat(file.fileno())
            check_regular(path, status.st_mode)
            if size is not None and status.st_size != size:
                short = "; cut short?" if status.st_size < size else ""
                raise UsageError(f"{path}: {status.st_size} bytes; {size} are expected{short}")
            if status.st_size > at_most:
                raise UsageError(f"{path}: {status.st_size} bytes; at most {at_most} are read")
            content = file.read(status.st_size + 1)
    except FileNotFoundError:
        what = "a link to a missing file" if path.is_symlink() else "there is no such file"
        raise UsageError(f"{path}: {what}") from None
    except (OSError, ValueError) as error:  # the latter for a zero byte in the name
        raise UsageError(f"{path}: cannot be read ({getattr(error, 'strerror', None) or error})") from None
    if len(content) != status.st_size:
        raise UsageError(f"{path}: it changed while it was read")
    return content


def read_text(path: Path, *, at_most: int = MAX_BYTES) -> str:
    """All text of a regular file in UTF-8; see `read_regular`.

    Raises:
        UsageError: See `read_regular`; or its bytes are not text.
    """
    try:
        return read_regular(path, at_most=at_most).decode()
    except UnicodeDecodeError as error:
        raise UsageError(f"{path}: this is not text in UTF-8 ({error.reason} at byte {error.start})") from None


def check_regular(path: Path, mode: int) -> None:
    """Refuse whatever is not a regular file.

    Args:
        path: The file, for the message.
        mode: Its mode, as `os.stat` gives it.

    Raises:
        UsageError: It is a folder, a pipe, a socket or a device.
    """
    if not stat.S_ISREG(mode):
        kind = next((name for is_kind, name in _KINDS if is_kind(mode)), "of another kind")
        raise UsageError(f"{path}: this is {kind}; a regular file is expected")
