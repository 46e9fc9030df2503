"""Safe reading of files that may be devices, pipes or larger than the memory."""

import os
import stat
from pathlib import Path

from lossaware.errors import UsageError

MAX_BYTES = 1 << 30
"""Maximum size of a data file in bytes. The largest of the paper's data sets has 148 MB."""
MAX_TEXT = 1 << 24
"""Maximum size of a file of source code in bytes."""
MAX_SETTINGS = 1 << 20
"""Maximum size of a TOML file in bytes."""
MALFORMED = (ValueError, TypeError, LookupError, AttributeError, RecursionError, OverflowError)
"""Exceptions that may be raised when foreign JSON or CSV is parsed."""
_KINDS = (
    (stat.S_ISDIR, "a folder"),
    (stat.S_ISFIFO, "a pipe"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
)


def read_regular(path: Path, size: int | None = None, *, at_most: int = MAX_BYTES) -> bytes:
    """All bytes of a regular file. Links to one are followed, as data sets are often linked to other disks.

    Args:
        path: The file.
        size: Required size in bytes; None allows any size up to ``at_most``.
        at_most: Maximum size in bytes.

    Raises:
        UsageError: It is missing, not a regular file, of another size, too large, or cannot be read.
    """
    try:
        # Check before opening: opening a pipe may block, and opening a device may have effects.
        check_regular(path, path.stat().st_mode)
        # Do not block even if the file has changed since then.
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
        reason = "a link to a missing file" if path.is_symlink() else "there is no such file"
        raise UsageError(f"{path}: {reason}") from None
    except (OSError, ValueError) as error:  # the latter for a zero byte in the name
        raise UsageError(f"{path}: cannot be read ({getattr(error, 'strerror', None) or error})") from None
    if len(content) != status.st_size:
        raise UsageError(f"{path}: it changed while it was read")
    return content


def sibling_file(path: Path, name: str) -> Path:
    """The file ``name`` in the folder of ``path``. The name is from the content of ``path``, which may be foreign.

    Raises:
        UsageError: The name refers to another folder.
    """
    if not name or name == ".." or Path(name).name != name:
        raise UsageError(f"{path}: {name!r} is not the name of a file in its folder")
    return path.parent / name


def read_text(path: Path, *, at_most: int = MAX_BYTES) -> str:
    """All text of a regular file in UTF-8; see `read_regular`.

    Raises:
        UsageError: See `read_regular`; or the bytes are not UTF-8.
    """
    try:
        return read_regular(path, at_most=at_most).decode()
    except UnicodeDecodeError as error:
        raise UsageError(f"{path}: this is not text in UTF-8 ({error.reason} at byte {error.start})") from None


def check_regular(path: Path, mode: int) -> None:
    """Check that a file is a regular file.

    Args:
        path: The file, for the message.
        mode: Its mode from `os.stat`.

    Raises:
        UsageError: It is a folder, a pipe, a socket or a device.
    """
    if not stat.S_ISREG(mode):
        kind = next((name for is_kind, name in _KINDS if is_kind(mode)), "of another kind")
        raise UsageError(f"{path}: this is {kind}; a regular file is expected")
