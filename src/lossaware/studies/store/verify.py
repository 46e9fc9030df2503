"""Verification of a folder of results."""

from dataclasses import dataclass, field
from pathlib import Path

from lossaware.errors import UsageError
from lossaware.studies.store.database import Store
from lossaware.studies.store.exported import Exported
from lossaware.studies.store.folder import Folder


@dataclass
class Verified:
    """Result of the verification of a folder.

    Attributes:
        runs: Number of runs.
        epochs: Number of epochs.
        problems: Descriptions of changes, one line each.
    """

    runs: int = 0
    epochs: int = 0
    problems: list[str] = field(default_factory=list)


def verify(folder: Path) -> Verified:
    """Read and verify a folder of runs (``--out``) or of exported studies (``results``).

    Raises:
        UsageError: The folder does not exist, or has neither.
    """
    if not folder.is_dir():
        raise UsageError(f"there is no folder {folder}")
    result, runs = Verified(), Folder(folder)
    try:
        runs.all_launches()
        if runs.database.exists():
            with Store(runs.database, read_only=True) as store:
                result.problems += store.damage()
                result.runs, result.epochs = store.counts()
    except UsageError as error:
        result.problems.append(str(error))
    try:
        exported = Exported(folder)
    except UsageError as error:
        result.problems.append(str(error))
        return result
    if not (exported.names() or runs.database.exists()):
        raise UsageError(f"{folder} holds neither runs nor exported studies")
    for name in exported.names():
        try:
            epochs = exported.epochs(name)
        except UsageError as error:
            result.problems.append(str(error))
        else:
            result.runs += len(epochs)
            result.epochs += sum(map(len, epochs.values()))
    return result
