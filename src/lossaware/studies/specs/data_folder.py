"""The user's data folder, and the files that a task reads from it."""

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
        verify: Whether files must match their known checksums.
    """

    path: Path
    verify: bool = True


DataSource = DataFolder | Path | None
"""The source of data. A path is a folder whose files are verified; None is for tasks that do not read files."""


@dataclass(frozen=True)
class FilesRead:
    """The files of a data set that were read.

    Attributes:
        place: The data set's folder, such as ``MNIST/raw``.
        verified: Whether all files match their known checksums.
        verdict: Description of the verification.
        content: SHA-256 of the output of ``sha256sum`` for the files, 64 hexadecimal digits.
    """

    place: str
    verified: bool
    verdict: str
    content: str

    def __str__(self) -> str:
        return f"{self.place}: {self.verdict}; content {self.content[:16]}"


class ReadsFiles(Protocol):
    """A reader of the files of a data set."""

    def summary(self) -> FilesRead:
        """The files read so far."""


class Reading:
    """The data sets that a task reads while it loads its data.

    Attributes:
        verify: See `DataFolder`.
        opened: The data sets opened so far.
    """

    def __init__(self, verify: bool) -> None:
        self.verify = verify
        self.opened: list[ReadsFiles] = []

    @property
    def files(self) -> tuple[FilesRead, ...]:
        """The files read so far."""
        return tuple(opened.summary() for opened in self.opened)


_current: ContextVar[Reading | None] = ContextVar("reading", default=None)


def current_reading() -> Reading:
    """The innermost `reading`; outside of any, one that verifies."""
    return _current.get() or Reading(verify=True)


@contextmanager
def reading(source: DataSource = None) -> Iterator[Reading]:
    """A context that lists the opened data sets and verifies them if ``source`` requires it."""
    token = _current.set(Reading(source.verify if isinstance(source, DataFolder) else True))
    try:
        yield current_reading()
    finally:
        _current.reset(token)


def path_of(source: DataSource) -> Path | None:
    """The path of the folder."""
    return source.path if isinstance(source, DataFolder) else source
