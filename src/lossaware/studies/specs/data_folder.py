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


DataSource = DataFolder | Path | None
"""Where data is read from. A path is a folder whose files are verified; None is for tasks that read no files."""


@dataclass(frozen=True)
class FilesRead:
    """The files of a data set that were read.

    Attributes:
        place: The data set's folder, such as ``MNIST/raw``.
        verified: Whether all files have the checksums that are known of them.
        verdict: Whether, and against what, they were verified, in words.
        content: SHA-256 of what ``sha256sum`` prints of the files, 64 hexadecimal digits.
    """

    place: str
    verified: bool
    verdict: str
    content: str

    def __str__(self) -> str:
        return f"{self.place}: {self.verdict}; content {self.content[:16]}"


class ReadsFiles(Protocol):
    """Reads the files of a data set."""

    def summary(self) -> FilesRead:
        """The files that were read so far."""


class Reading:
    """Data sets that are read while a task loads its data.

    Attributes:
        verify: See `DataFolder`.
        opened: The data sets so far.
    """

    def __init__(self, verify: bool) -> None:
        self.verify = verify
        self.opened: list[ReadsFiles] = []

    @property
    def files(self) -> tuple[FilesRead, ...]:
        """The files that were read so far."""
        return tuple(opened.summary() for opened in self.opened)


_current: ContextVar[Reading | None] = ContextVar("reading", default=None)


def current_reading() -> Reading:
    """The innermost `reading`; outside of all, one that verifies."""
    return _current.get() or Reading(verify=True)


@contextmanager
def reading(source: DataSource = None) -> Iterator[Reading]:
    """While it lasts, data sets that are opened are verified as ``source`` says, and are listed."""
    token = _current.set(Reading(source.verify if isinstance(source, DataFolder) else True))
    try:
        yield current_reading()
    finally:
        _current.reset(token)


def path_of(source: DataSource) -> Path | None:
    """The folder itself."""
    return source.path if isinstance(source, DataFolder) else source
