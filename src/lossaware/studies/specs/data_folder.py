"""The folder that the user names for data, and the files that a task reads from it."""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol


@dataclass(frozen=True)
class DataFolder:
    """A folder with data sets.

    Attributes:
        path: The folder.
        verify: Whether files must have the checksums that are known of them.
    """

    path: Path
    verify: bool = True


class ReadFiles(Protocol):
    """The files of a data set that were read."""

    @property
    def verdict(self) -> str:
        """Which files they are and whether they were verified, in one line."""


class Reading:
    """What is read from a data folder while a task loads its data.

    Attributes:
        verify: See `DataFolder`.
        files: The data sets that were read so far.
    """

    def __init__(self, verify: bool) -> None:
        self.verify = verify
        self.files: list[ReadFiles] = []

    @property
    def verdict(self) -> str:
        """Which files were read and whether they were verified; empty where none were."""
        return "; ".join(files.verdict for files in self.files)


_current: ContextVar[Reading | None] = ContextVar("reading", default=None)


def current_reading() -> Reading:
    """The reading under way; one that verifies where there is none."""
    return _current.get() or Reading(verify=True)


@contextmanager
def reading(verify: bool = True) -> Iterator[Reading]:
    """While it lasts, data sets that are opened count as read by it, and follow its ``verify``."""
    token = _current.set(Reading(verify))
    try:
        yield current_reading()
    finally:
        _current.reset(token)
