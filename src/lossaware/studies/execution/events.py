"""What engines tell while runs execute, and what an engine is."""

from collections.abc import Generator, Sequence
from dataclasses import dataclass
from typing import Protocol

from lossaware.studies.specs.data_folder import DataSource, FilesRead
from lossaware.studies.specs.run_spec import EpochRecord, RunSpec
from lossaware.studies.training.checkpoint import Checkpoints


@dataclass(frozen=True)
class RunStarted:
    """A process has the run. Comes a second time where the first process died."""

    spec: RunSpec


@dataclass(frozen=True)
class DataRead:
    """The run has its data, from these files; comes only where it read any."""

    spec: RunSpec
    files: tuple[FilesRead, ...]


@dataclass(frozen=True)
class Length:
    """How many epochs an open-ended run will have, as it says itself."""

    spec: RunSpec
    epochs: int


@dataclass(frozen=True)
class Progress:
    """The run is within an epoch: ``step`` of ``steps`` are done, the last with ``loss``. Both count from 1."""

    spec: RunSpec
    epoch: int
    step: int
    steps: int
    loss: float


@dataclass(frozen=True)
class EpochDone:
    """An epoch is over."""

    spec: RunSpec
    record: EpochRecord


@dataclass(frozen=True)
class RunDone:
    """The last epoch is over, which is the ``epochs``-th."""

    spec: RunSpec
    epochs: int = 0


@dataclass(frozen=True)
class RunFailed:
    """The run ended early, for the reason in ``message``, one line."""

    spec: RunSpec
    message: str


@dataclass(frozen=True)
class RunNote:
    """Something about the run that is worth a line.

    ``epochs`` of them are taken from its checkpoint; all are told by `EpochDone`, as though they were done anew.
    """

    spec: RunSpec
    message: str
    epochs: int = 0


Event = RunStarted | DataRead | Length | Progress | EpochDone | RunDone | RunFailed | RunNote


class Engine(Protocol):
    """Executes runs and tells what happens, in whatever order it happens."""

    @property
    def jobs(self) -> int | None:
        """How many runs at a time; None where that shows only later."""

    def execute(
        self, specs: Sequence[RunSpec], data_folder: DataSource, checkpoints: Checkpoints | None = None
    ) -> Generator[Event, None, None]:
        """Executes each run, once. A run that fails is an event; the others go on.

        Closing the generator, which Ctrl-C does as well, stops all runs.

        Args:
            specs: The runs.
            data_folder: Folder of the data, for tasks that need one.
            checkpoints: Where runs keep what they need to go on in the middle, and go on from; None keeps nothing.
        """
