"""Execution of one run in this process, with an event for each step of its progress."""

from collections.abc import Callable

from lossaware.errors import UsageError
from lossaware.studies.execution.events import DataRead, EpochDone, Event, Length, Progress, RunDone, RunFailed, RunNote
from lossaware.studies.specs.data_folder import DataSource
from lossaware.studies.specs.options import where
from lossaware.studies.specs.run_spec import RunSpec
from lossaware.studies.specs.temporary import temporary_folder
from lossaware.studies.specs.trial_function import TrialFunction
from lossaware.studies.training.checkpoint import Checkpoints


def execute_run(
    spec: RunSpec, data_folder: DataSource, checkpoints: Checkpoints | None, tell: Callable[[Event], None]
) -> None:
    """Execute a run in this process. Report all events except its start; exceptions are reported as failures."""
    if spec.kind == "function":
        execute_function(spec, data_folder, checkpoints, tell, threads=1)
        return

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
        epochs = 0
        for record in run(spec, data_folder, on_progress=progress, on_data=data_read, checkpoint=checkpoint):
            tell(EpochDone(spec, record))
            epochs = record.epoch
        tell(RunDone(spec, epochs))
    except UsageError as error:
        tell(RunFailed(spec, str(error)))
    except BaseException as error:
        tell(RunFailed(spec, where(error)))


def execute_function(
    spec: RunSpec,
    data_folder: DataSource,
    checkpoints: Checkpoints | None,
    tell: Callable[[Event], None],
    *,
    function: TrialFunction | None = None,
    threads: int | None = None,
) -> None:
    """Execute a run of a training function.

    Args:
        spec: See `execute_run`.
        data_folder: See `execute_run`.
        checkpoints: See `execute_run`; they have the run's own folder.
        tell: See `execute_run`.
        function: The function; None loads it from the specification.
        threads: Number of torch's threads; None does not change it.
    """
    from lossaware.studies.training.function import run_function
    from lossaware.studies.training.trial import Listener

    listener = Listener(
        epoch=lambda record: tell(EpochDone(spec, record)),
        length=lambda epochs: tell(Length(spec, epochs)),
        progress=lambda epoch, step, steps, loss: tell(Progress(spec, epoch, step, steps, loss)),
    )
    try:
        with temporary_folder("trial") as scratch:
            folder = scratch if checkpoints is None else checkpoints.folder_of(spec)
            epochs = run_function(spec, data_folder, listener, folder, function=function, threads=threads)
        tell(RunDone(spec, epochs))
    except UsageError as error:
        tell(RunFailed(spec, str(error)))
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        tell(RunFailed(spec, where(error)))
