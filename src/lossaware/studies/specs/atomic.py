"""Files that are written whole or not at all, and removing none but our own."""

import contextlib
import os
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from lossaware.errors import UsageError


def umask() -> int:
    """The permissions that new files of this process do not get. Temporary files get fewer than others."""
    mask = os.umask(0o077)
    os.umask(mask)
    return mask


def write_whole(path: Path, content: str | bytes) -> None:
    """Replace a file, or make it, so that whoever reads it sees all of the old content or all of the new.

    Args:
        path: The file; its folder is made where it is not there. A link is replaced, never written through.
        content: Text is written as UTF-8, its ends of line as they are.

    Raises:
        UsageError: The folder cannot be written to, or the disk is full; an old file is as it was.
    """
    with whole_file(path) as file:
        file.write(content.encode() if isinstance(content, str) else content)


@contextlib.contextmanager
def whole_file(path: Path) -> Iterator[BinaryIO]:
    """A file to write to, which takes its place when all is written; see `write_whole`."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, partial = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}-")
        try:
            with os.fdopen(handle, "w+b") as file:
                yield file
                file.flush()
                # First the content, then the name: a machine that loses its power has one or the other file, whole.
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
    """Have the names in a folder on disk, too. Where the system cannot do that, it does so by itself in time."""
    with contextlib.suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def remove_own(path: Path, start: bytes) -> bool:
    """Remove a file that this package wrote, or began to write; a link, or a file of anybody else, is left alone.

    Args:
        path: The file.
        start: What all files of its kind begin with.

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
    except OSError:  # a file too many loses nothing
        return False
    return True


_NO_LINK = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
