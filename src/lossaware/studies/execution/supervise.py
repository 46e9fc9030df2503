"""Executing runs with progress, logs, and a message after Ctrl-C."""

import contextlib
from collections.abc import Generator, Iterable, Sequence
from contextlib import ExitStack, closing
from pathlib import Path

from rich.console import Console

from lossaware.studies.execution.events import (
    DataRead,
    Engine,
    EpochDone,
    Event,
    RunDone,
    RunFailed,
    RunNote,
    RunStarted,
)
from lossaware.studies.execution.progress import RunProgress
from lossaware.studies.specs.data_folder import DataSource
from lossaware.studies.specs.run_spec import RunSpec
from lossaware.studies.store.database import Store
from lossaware.studies.training.checkpoint import Checkpoints


class Stopped(KeyboardInterrupt):
    """Ctrl-C, with a message."""


def supervise(
    specs: Sequence[RunSpec],
    store: Store,
    engine: Engine,
    *,
    data: DataSource,
    console: Console,
    tensorboard: Path | None = None,
) -> Sequence[tuple[RunSpec, str]]:
    """Execute those of ``specs`` that the store does not have, and show progress.

    Args:
        specs: The runs.
        store: The store of their results.
        engine: The engine that executes them.
        data: Folder of the data, for tasks that need it.
        console: Output of progress.
        tensorboard: Folder of TensorBoard logs of all runs, also of those already finished; None for no logs.

    Returns:
        The runs that failed, with the reasons.

    Raises:
        UsageError: ``tensorboard`` is set but TensorBoard is not installed.
        Stopped: Ctrl-C. Finished epochs are in the store.
    """
    missing = store.missing(specs)
    with ExitStack() as stack:
        log = None
        if tensorboard is not None:
            from lossaware.studies.execution.tensorboard import EpochLog

            log = stack.enter_context(EpochLog(tensorboard))
            for spec in dict.fromkeys(specs):
                if spec not in missing:
                    for record in store.records(spec):
                        log.write(spec, record)
        if not missing:
            return []
        events = stack.enter_context(closing(execute_missing(missing, store, engine, data)))
        if log is not None:
            events = stack.enter_context(closing(log.follow(events)))
        finished = len(specs) - len(missing)
        progress = stack.enter_context(RunProgress(missing, finished=finished, jobs=engine.jobs, console=console))
        try:
            progress.watch(events)
        except KeyboardInterrupt as stop:
            raise stopped(specs, store, str(stop)) from None
        return progress.failures


def execute_missing(
    specs: Iterable[RunSpec], store: Store, engine: Engine, data_folder: DataSource
) -> Generator[Event, None, None]:
    """Execute those of ``specs`` that the store does not have, each from its checkpoint if it has one.

    The content of an event is stored before the event is yielded.
    """
    checkpoints = Checkpoints(store.checkpoints)
    checkpoints.clear(store.complete_keys())
    try:
        with contextlib.closing(engine.execute(store.missing(specs), data_folder, checkpoints)) as events:
            for event in events:
                note = store_event(event, store, checkpoints)
                yield event
                if note is not None:
                    yield note
    finally:
        checkpoints.clear(store.complete_keys())


def store_event(event: Event, store: Store, checkpoints: Checkpoints) -> RunNote | None:
    """Store the content of an event; returns a note if there is something to report."""
    match event:
        case RunStarted(spec):
            if damage := store.begin(spec):
                return RunNote(spec, f"{store.path}: {damage}; the run is computed again")
        case DataRead(spec, files):
            store.data_read(spec, files)
        case EpochDone(spec, record):
            store.record(spec, record)
        case RunDone(spec, epochs):
            if spec.is_open_ended:
                store.finish(spec, epochs)
            checkpoints.remove(spec)
        case RunFailed(spec, message):
            store.fail(spec, message)
    return None


def stopped(specs: Sequence[RunSpec], store: Store, why: str = "") -> Stopped:
    """The message after Ctrl-C, or after another interruption with the reason ``why``."""
    finished = len(specs) - len(store.missing(specs))
    return Stopped(
        f"{why or 'stopped'}; {finished} of {len(specs)} runs are finished and kept in {store.path}. "
        "Run the same command again to continue."
    )
