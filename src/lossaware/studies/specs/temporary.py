"""Temporary folders. Those of killed processes are removed when the next one is created."""

import contextlib
import os
import re
import shutil
import stat
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

_MARK, _CONTENT = "made-by-lossaware", "d"  # short names, because paths of sockets must be short
_PATIENCE = 5.0
"""Seconds for which removal is repeated, while ending processes still write to the folder."""


@contextlib.contextmanager
def temporary_folder(purpose: str, within: Path | None = None) -> Iterator[Path]:
    """A private folder of this process, removed at the end. Other users cannot read it.

    A killed process cannot remove its folder. But its lock on the folder ends with the process, so that the folders of
    killed processes can be recognised and removed first.

    Args:
        purpose: A word for its name.
        within: The parent folder; None is the system's folder for temporary files.
    """
    within = Path(tempfile.gettempdir()) if within is None else within
    prefix = f"lossaware-{purpose}-"
    if sys.platform == "win32":  # folders cannot be locked
        with tempfile.TemporaryDirectory(prefix=prefix, dir=within, ignore_cleanup_errors=True) as folder:
            yield Path(folder)
        return
    _clear(within, prefix)
    own, lock = _make(within, prefix)
    try:
        content = own / _CONTENT  # the outer folder stays private if a program opens this one to all
        content.mkdir()
        yield content
    finally:
        _remove(own, time.monotonic() + _PATIENCE)
        os.close(lock)


def _make(within: Path, prefix: str) -> tuple[Path, int]:
    """A new folder, and the lock on it."""
    while True:
        folder = Path(tempfile.mkdtemp(prefix=prefix, dir=within))
        lock = _locked(folder)
        if lock is not None:
            with contextlib.suppress(OSError):
                (folder / _MARK).touch()
                return folder, lock
            os.close(lock)
        # Another process removed it before it was locked, as if its owner had been killed.


def _clear(within: Path, prefix: str) -> None:
    """Remove the folders of ended processes, but not those of other users or programs."""
    for folder in within.glob(f"{prefix}*"):
        if not re.fullmatch(re.escape(prefix) + r"[a-z0-9_]{8}", folder.name):
            continue
        with contextlib.suppress(OSError):
            if (lock := _locked(folder)) is not None:
                try:
                    if (folder / _MARK).is_file():
                        _remove(folder, time.monotonic())
                    else:
                        folder.rmdir()  # its process was killed before it wrote the mark; foreign folders are not empty
                finally:
                    os.close(lock)


def _locked(folder: Path) -> int | None:
    """A lock on a folder of this user; None if another process holds it, or the folder was replaced."""
    import fcntl

    try:
        lock = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    except OSError:
        return None
    try:
        status = os.fstat(lock)
        if status.st_uid == os.getuid() and stat.S_ISDIR(status.st_mode):
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.path.samestat(status, folder.lstat()):
                return lock
    except OSError:
        pass
    os.close(lock)
    return None


def _remove(folder: Path, deadline: float) -> None:
    while True:
        shutil.rmtree(folder / _CONTENT, ignore_errors=True)
        if not (folder / _CONTENT).exists():
            shutil.rmtree(folder, ignore_errors=True)  # the mark goes last
        if not folder.exists() or time.monotonic() > deadline:
            return
        time.sleep(0.1)
