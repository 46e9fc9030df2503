"""Atomic writing of files, and removal of our own files only."""

import contextlib
import os
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from lossaware.errors import UsageError


def umask() -> int:
    """The umask of this process. Temporary files have fewer permissions than others."""
    mask = os.umask(0o077)
    os.umask(mask)
    return mask


def check_writable(folder: Path) -> None:
    """Check before any computation that the folder can be written to; it is created if missing.

    Raises:
        UsageError: It cannot be written to.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except FileExistsError:
        raise UsageError(f"cannot write to {folder}: it is a file, not a folder") from None
    except OSError as error:
        raise UsageError(f"cannot write to {folder}: {error.strerror or error}") from None


def write_atomic(path: Path, content: str | bytes) -> None:
    """Create or replace a file atomically: a reader sees either the old or the new content.

    Args:
        path: The file; its folder is created if missing. A link is replaced, not followed.
        content: Text is written as UTF-8, with unchanged line endings.

    Raises:
        UsageError: The folder cannot be written to, or the disk is full; an old file is unchanged.
    """
    try:
        whole = content.encode() if isinstance(content, str) else content
    except UnicodeEncodeError as error:  # half of a surrogate pair, as JSON may have one
        raise UsageError(f"{path}: cannot be written (a text in it is not valid: {error.reason})") from None
    with atomic_file(path) as file:
        file.write(whole)


@contextlib.contextmanager
def atomic_file(path: Path) -> Iterator[BinaryIO]:
    """A temporary file for writing, renamed to ``path`` at the end; see `write_atomic`."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, partial = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}-")
        try:
            with os.fdopen(handle, "w+b") as file:
                yield file
                file.flush()
                # First the content, then the name: after a power failure either the old or the new file is complete.
                os.fsync(file.fileno())
            os.chmod(partial, 0o666 & ~umask())
            os.replace(partial, path)
        except BaseException:
            Path(partial).unlink(missing_ok=True)
            raise
        sync_folder(path.parent)
    except OSError as error:
        raise UsageError(f"{path}: cannot be written ({error.strerror or error})") from None


def sync_folder(folder: Path) -> None:
    """Write the folder's entries to disk, if the system supports it."""
    with contextlib.suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def remove_own(path: Path, start: bytes) -> bool:
    """Remove a file that this package wrote, also a partial one. Links and other files are not removed.

    Args:
        path: The file.
        start: The bytes with which all files of its kind begin.

    Returns:
        Whether it was removed.
    """
    try:
        if not stat.S_ISREG(path.lstat().st_mode):
            return False
        with open(path, "rb", opener=lambda name, flags: os.open(name, flags | _NO_LINK)) as file:
            head = file.read(len(start))
        if not start.startswith(head):
            return False
        path.unlink()
    except OSError:  # a leftover file does no harm
        return False
    return True


_NO_LINK = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
