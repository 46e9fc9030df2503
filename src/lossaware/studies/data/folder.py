"""Where data lies: one clear line where it does not."""

from pathlib import Path

from lossaware.errors import UsageError
from lossaware.studies.data.files import DataFiles


def require(folder: Path | None, place: str, task: str, source: str) -> DataFiles:
    """The files in ``folder/place``, which must be a folder.

    Args:
        folder: What the user named, or None.
        place: Where in it the task looks.
        task: The task's name, for messages.
        source: How one comes by the data, for messages.

    Raises:
        UsageError: No folder was named, there is nothing at that place, or its manifest is damaged.
    """
    if folder is None:
        raise UsageError(f"task {task!r} needs --data DIR, with {place} in DIR; {source}")
    path = folder / place
    if not path.is_dir():
        raise UsageError(f"there is no folder {path}, which task {task!r} reads; {source}")
    return DataFiles(path, place)


def downloadable(name: str) -> str:
    """How one comes by a public data set."""
    return f"`lossaware data get {name} --data DIR` downloads it"
