"""Runs in this process, one after another: for functions that only this process has, as in a notebook."""

from collections.abc import Sequence

from rich.console import Console

from lossaware.studies.execution.events import Event, RunStarted
from lossaware.studies.execution.progress import RunProgress
from lossaware.studies.execution.supervise import stopped, store_event
from lossaware.studies.execution.worker import execute_function
from lossaware.studies.specs.data_folder import DataSource
from lossaware.studies.specs.run_spec import RunSpec
from lossaware.studies.specs.trial_function import TrialFunction
from lossaware.studies.store.database import Store
from lossaware.studies.training.checkpoint import Checkpoints


def execute_in_process(
    specs: Sequence[RunSpec], store: Store, function: TrialFunction, *, data: DataSource, console: Console
) -> Sequence[tuple[RunSpec, str]]:
    """Call a training function, in this thread, for each run that the store does not have.

    Args:
        specs: The runs.
        store: The store of their results.
        function: The function.
        data: Folder of the data, which it may read.
        console: Output of progress.

    Returns:
        The runs that failed, with the reasons.

    Raises:
        Stopped: Ctrl-C. Finished epochs are in the store.
    """
    if not (missing := store.missing(specs)):
        return []
    checkpoints = Checkpoints(store.checkpoints)
    checkpoints.clear(store.complete_keys())
    with RunProgress(missing, finished=len(specs) - len(missing), jobs=1, console=console) as progress:

        def tell(event: Event) -> None:
            note = store_event(event, store, checkpoints)
            progress.handle(event)
            if note is not None:
                progress.handle(note)

        try:
            for spec in missing:
                tell(RunStarted(spec))
                execute_function(spec, data, checkpoints, tell, function=function)
        except KeyboardInterrupt:
            raise stopped(specs, store) from None
        finally:
            checkpoints.clear(store.complete_keys())
        return progress.failures
