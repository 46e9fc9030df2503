"""TensorBoard logs of runs: one folder per run, one point per epoch."""

from collections.abc import Generator, Iterable
from pathlib import Path
from typing import Any

from lossaware.errors import UsageError
from lossaware.extras import how_to_install
from lossaware.studies.execution.events import EpochDone, Event
from lossaware.studies.execution.progress import describe_run
from lossaware.studies.specs.run_spec import EpochRecord, RunSpec


class EpochLog:
    """Writes the record of each epoch for TensorBoard; a context manager.

    Args:
        folder: Folder of the logs, with one folder per run, named after the run.

    Raises:
        UsageError: The package ``tensorboard`` is not installed.
    """

    def __init__(self, folder: Path) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            raise UsageError(f"--tensorboard needs the package tensorboard: {how_to_install('tensorboard')}") from None
        self._make: Any = SummaryWriter
        self._folder = folder
        self._writers: dict[RunSpec, Any] = {}

    def __enter__(self) -> "EpochLog":
        return self

    def __exit__(self, *_: object) -> None:
        for writer in self._writers.values():
            writer.close()

    def write(self, spec: RunSpec, record: EpochRecord) -> None:
        """One epoch: ``train/loss``, ``test/accuracy``, ``lga/gamma2`` and all other values of the record."""
        if spec not in self._writers:
            name = f"{spec.task} {describe_run(spec)} {spec.key}".replace("/", "-").replace(":", "-")
            # The run's log starts from the beginning: remove an earlier one.
            place = self._folder / name
            for old in place.glob("events.out.tfevents.*"):
                old.unlink()
            self._writers[spec] = self._make(str(place))
        writer = self._writers[spec]
        for group, values in (("train", record.train), ("test", record.test), ("lga", record.lga or {})):
            for key, value in values.items():
                writer.add_scalar(f"{group}/{key}", value, record.epoch)
        writer.flush()

    def follow(self, events: Iterable[Event]) -> Generator[Event, None, None]:
        """Yield the events, after writing the epochs among them."""
        for event in events:
            if isinstance(event, EpochDone):
                self.write(event.spec, event.record)
            yield event
