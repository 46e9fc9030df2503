"""Temporary folders that a kill leaves behind only until the next one is made."""

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

_MARK, _CONTENT = "made-by-lossaware", "d"  # short names, for paths of sockets must be short
_PATIENCE = 5.0
"""Seconds in which processes that still end may write to a folder that is being removed."""


@contextlib.contextmanager
def temporary_folder(purpose: str, within: Path | None = None) -> Iterator[Path]:
    """A folder of this process alone, which is removed at the end. Other users cannot look into it.

    A process that is killed cannot remove its folder. It holds a lock on it, which ends with the process whatever
    happens to that; so those of killed processes are known, and are removed here first.

    Args:
        purpose: What it is for, a word; part of its name.
        within: The folder in which it is made; None takes the system's for temporary files.
    """
    within = Path(tempfile.gettempdir()) if within is None else within
    prefix = f"lossaware-{purpose}-"
    if sys.platform == "win32":  # where a folder cannot be locked
        with tempfile.TemporaryDirectory(prefix=prefix, dir=within, ignore_cleanup_errors=True) as folder:
            yield Path(folder)
        return
    _clear(within, prefix)
    own, lock = _make(within, prefix)
    try:
        content = own / _CONTENT  # whoever makes this one open to all opens nothing
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
        # Another process took it for one without an owner, as it was before it had the lock.


def _clear(within: Path, prefix: str) -> None:
    """Remove the folders of processes that are gone; nothing of other users, and nothing that was not made here."""
    for folder in within.glob(f"{prefix}*"):
        if not re.fullmatch(re.escape(prefix) + r"[a-z0-9_]{8}", folder.name):
            continue
        with contextlib.suppress(OSError):
            if (lock := _locked(folder)) is not None:
                try:
                    if (folder / _MARK).is_file():
                        _remove(folder, time.monotonic())
                    else:
                        folder.rmdir()  # it was killed before it made the mark; else it is not ours, and not empty
                finally:
                    os.close(lock)


def _locked(folder: Path) -> int | None:
    """A lock on a folder of this user; None where another process holds it, or it is something else by now."""
    import fcntl

    try:
        lock = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    except OSError:
        return None
    try:
        found = os.fstat(lock)
        if found.st_uid == os.getuid() and stat.S_ISDIR(found.st_mode):
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.path.samestat(found, folder.lstat()):
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
