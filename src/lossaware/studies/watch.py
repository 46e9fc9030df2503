"""Carrying out runs while someone watches: progress, logs, and what is said after Ctrl-C."""

from collections.abc import Sequence
from contextlib import ExitStack, closing
from pathlib import Path

from rich.console import Console

from lossaware.studies.engine import Engine, carry_out
from lossaware.studies.progress import RunProgress
from lossaware.studies.spec import RunSpec
from lossaware.studies.store import Store


class Stopped(KeyboardInterrupt):
    """Ctrl-C, with what is to be said then."""


def carry_out_watched(
    specs: Sequence[RunSpec],
    store: Store,
    engine: Engine,
    *,
    data: Path | None,
    console: Console,
    tensorboard: Path | None = None,
) -> Sequence[tuple[RunSpec, str]]:
    """Execute those of ``specs`` that the store misses, and show how far it is.

    Args:
        specs: The runs.
        store: Where they are kept.
        engine: Where they execute.
        data: Folder of the data, for tasks that need one.
        console: Where progress is shown.
        tensorboard: Folder for logs that TensorBoard reads, of all runs, those already there included; None for none.

    Returns:
        The runs that failed, with the reasons.

    Raises:
        UsageError: Logs are asked for and TensorBoard is not installed.
        Stopped: Ctrl-C. What is finished is in the store.
    """
    missing = store.missing(specs)
    with ExitStack() as stack:
        log = None
        if tensorboard is not None:
            from lossaware.studies.tensorboard import EpochLog

            log = stack.enter_context(EpochLog(tensorboard))
            for spec in dict.fromkeys(specs):
                if spec not in missing:
                    for record in store.records(spec):
                        log.write(spec, record)
        if not missing:
            return []
        events = stack.enter_context(closing(carry_out(missing, store, engine, data)))
        if log is not None:
            events = stack.enter_context(closing(log.follow(events)))
        there = len(specs) - len(missing)
        progress = stack.enter_context(RunProgress(missing, there=there, jobs=engine.jobs, console=console))
        try:
            progress.watch(events)
        except KeyboardInterrupt:
            kept = len(specs) - len(store.missing(specs))
            raise Stopped(
                f"stopped; {kept} of {len(specs)} runs are finished and kept in {store.path}. "
                "The same command goes on from there."
            ) from None
        return progress.failures
