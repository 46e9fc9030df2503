"""Whether everything in a folder of results is what was written."""

from dataclasses import dataclass, field
from pathlib import Path

from lossaware.errors import UsageError
from lossaware.studies.store.database import Store
from lossaware.studies.store.exported import Exported
from lossaware.studies.store.folder import Folder


@dataclass
class Verified:
    """What was found in a folder.

    Attributes:
        runs: How many runs.
        epochs: How many epochs.
        problems: What is not as it was written, a line each.
    """

    runs: int = 0
    epochs: int = 0
    problems: list[str] = field(default_factory=list)


def verify(folder: Path) -> Verified:
    """Read everything in a folder of runs (``--out``) or of exported studies (``results``).

    Raises:
        UsageError: There is no such folder, or it has neither.
    """
    if not folder.is_dir():
        raise UsageError(f"there is no folder {folder}")
    found, runs = Verified(), Folder(folder)
    try:
        runs.all_launches()
        if runs.database.exists():
            with Store(runs.database, read_only=True) as store:
                found.problems += store.damage()
                found.runs, found.epochs = store.counts()
    except UsageError as error:
        found.problems.append(str(error))
    try:
        exported = Exported(folder)
    except UsageError as error:
        found.problems.append(str(error))
        return found
    if not (exported.names() or runs.database.exists()):
        raise UsageError(f"{folder} holds neither runs nor exported studies")
    for name in exported.names():
        try:
            epochs = exported.epochs(name)
        except UsageError as error:
            found.problems.append(str(error))
        else:
            found.runs += len(epochs)
            found.epochs += sum(map(len, epochs.values()))
    return found
