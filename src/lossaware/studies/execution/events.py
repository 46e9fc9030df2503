"""Events of runs, and the interface of engines."""

from collections.abc import Generator, Sequence
from dataclasses import dataclass
from typing import Protocol

from lossaware.studies.specs.data_folder import DataSource, FilesRead
from lossaware.studies.specs.run_spec import EpochRecord, RunSpec
from lossaware.studies.training.checkpoint import Checkpoints


@dataclass(frozen=True)
class RunStarted:
    """A process has started the run. Sent again if the first process died."""

    spec: RunSpec


@dataclass(frozen=True)
class DataRead:
    """The run has read its data from these files. Not sent by runs without files."""

    spec: RunSpec
    files: tuple[FilesRead, ...]


@dataclass(frozen=True)
class Length:
    """Number of epochs of an open-ended run, as the run reports it."""

    spec: RunSpec
    epochs: int


@dataclass(frozen=True)
class Progress:
    """Progress within an epoch: ``step`` of ``steps`` are done, the last with ``loss``. ``epoch`` counts from 1."""

    spec: RunSpec
    epoch: int
    step: int
    steps: int
    loss: float


@dataclass(frozen=True)
class EpochDone:
    """An epoch has finished."""

    spec: RunSpec
    record: EpochRecord


@dataclass(frozen=True)
class RunDone:
    """The run has finished, after ``epochs`` epochs."""

    spec: RunSpec
    epochs: int = 0


@dataclass(frozen=True)
class RunFailed:
    """The run failed; ``message`` is the reason in one line."""

    spec: RunSpec
    message: str


@dataclass(frozen=True)
class RunNote:
    """A message about the run.

    ``epochs`` is the number of epochs restored from its checkpoint. `EpochDone` is sent for these too.
    """

    spec: RunSpec
    message: str
    epochs: int = 0


Event = RunStarted | DataRead | Length | Progress | EpochDone | RunDone | RunFailed | RunNote


class Engine(Protocol):
    """Executes runs and yields their events, in the order in which they happen."""

    @property
    def jobs(self) -> int | None:
        """Number of concurrent runs; None if it is not known in advance."""

    def execute(
        self, specs: Sequence[RunSpec], data_folder: DataSource, checkpoints: Checkpoints | None = None
    ) -> Generator[Event, None, None]:
        """Execute each run once. A failed run is an event; the others continue.

        Closing the generator, as Ctrl-C does, stops all runs.

        Args:
            specs: The runs.
            data_folder: Folder of the data, for tasks that need it.
            checkpoints: The checkpoints from which runs continue and which they write; None for no checkpoints.
        """
