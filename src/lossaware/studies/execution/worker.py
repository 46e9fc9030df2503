"""One run in this process, reported event by event."""

from collections.abc import Callable

from lossaware.errors import UsageError
from lossaware.studies.execution.events import DataRead, EpochDone, Event, Progress, RunDone, RunFailed, RunNote
from lossaware.studies.specs.data_folder import DataSource
from lossaware.studies.specs.options import where
from lossaware.studies.specs.run_spec import RunSpec
from lossaware.studies.training.checkpoint import Checkpoints


def execute_run(
    spec: RunSpec, data_folder: DataSource, checkpoints: Checkpoints | None, tell: Callable[[Event], None]
) -> None:
    """Executes a run in this process, and tells each event but its start. Whatever it raises is told as well."""
    from torch import Tensor

    from lossaware.studies.specs.task import Data
    from lossaware.studies.training.run import run

    def progress(epoch: int, step: int, steps: int, loss: Tensor) -> None:
        tell(Progress(spec, epoch, step, steps, float(loss)))

    def note(message: str, epochs: int) -> None:
        tell(RunNote(spec, message, epochs))

    def data_read(data: Data) -> None:
        if data.files:
            tell(DataRead(spec, data.files))

    try:
        checkpoint = None if checkpoints is None else checkpoints.of(spec, note)
        for record in run(spec, data_folder, on_progress=progress, on_data=data_read, checkpoint=checkpoint):
            tell(EpochDone(spec, record))
        tell(RunDone(spec))
    except UsageError as error:
        tell(RunFailed(spec, str(error)))
    except BaseException as error:
        tell(RunFailed(spec, where(error)))
