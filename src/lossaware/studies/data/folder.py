"""Data folders, with a clear message if one is missing."""

from pathlib import Path

from lossaware.errors import UsageError
from lossaware.studies.data.files import DataFiles


def require(folder: Path | None, place: str, task: str, source: str) -> DataFiles:
    """The files in ``folder/place``, which must be a folder.

    Args:
        folder: The user's data folder, or None.
        place: The task's folder in it.
        task: The task's name, for messages.
        source: How to get the data, for messages.

    Raises:
        UsageError: ``folder`` is None, the task's folder does not exist, or its manifest is damaged.
    """
    if folder is None:
        raise UsageError(f"task {task!r} needs --data DIR, with {place} in DIR; {source}")
    path = folder / place
    if not path.is_dir():
        raise UsageError(f"there is no folder {path}, which task {task!r} reads; {source}")
    return DataFiles(path, place)


def downloadable(name: str) -> str:
    """The remedy for a missing public data set, for messages."""
    return f"`lossaware data get {name} --data DIR` downloads it"
