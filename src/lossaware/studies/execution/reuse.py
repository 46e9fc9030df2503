"""Runs that need not be computed, because another run has all their numbers."""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace

import torch
from torch.optim import SGD
from torch.optim.lr_scheduler import ReduceLROnPlateau

from lossaware.errors import UsageError
from lossaware.studies.specs.run_spec import EpochRecord, RunSpec
from lossaware.studies.store.database import Store
from lossaware.studies.store.results import Results
from lossaware.studies.training.scheduler import make_scheduler


def copy_equal_runs(specs: Iterable[RunSpec], results: Results, store: Store) -> int:
    """Copy into a store the runs that have the same numbers as a complete run, bit for bit.

    - A run is the beginning of a longer run that differs only in its epochs: a run does not depend on its number of
      epochs. A scheduler with a length has it in its options, which then differ too.
    - A run with ReduceLROnPlateau whose learning rate never falls equals the run without a scheduler. Whether the rate
      falls depends on the training losses only, and until then these are the same.

    As in `lossaware.studies.store.exported.copy_missing_runs`, runs of a user's own task are not copied.

    Args:
        specs: Runs that can be executed.
        results: The other runs.
        store: Receives the runs that it does not have.

    Returns:
        Number of copied runs.
    """
    kinds = defaultdict(list)
    for spec in results.specs():
        kinds[_of_any_length(spec)].append(spec)
    copied = 0
    for spec in store.missing(specs):
        for other in _candidates(spec, kinds):
            try:
                records = results.records(other)
            except UsageError:  # it is damaged; reported when it is read as a run of its own study
                continue
            if len(records) == other.epochs and _begins_with(other, records, spec):
                store.insert_run(spec, records[: spec.epochs], results.environment(other))
                copied += 1
                break
    return copied


def _of_any_length(spec: RunSpec) -> RunSpec:
    """The specification without its number of epochs, for comparison."""
    return replace(spec, epochs=1)


def _candidates(spec: RunSpec, kinds: Mapping[RunSpec, Sequence[RunSpec]]) -> Iterator[RunSpec]:
    """Runs, at least as long, that may begin with the numbers of this one."""
    if spec.own_code:
        return
    similar = [spec]
    if spec.scheduler == ReduceLROnPlateau.__name__:
        similar.append(replace(spec, scheduler=None, scheduler_options=()))
    for kind in map(_of_any_length, similar):
        yield from (other for other in kinds.get(kind, ()) if other.epochs >= spec.epochs)


def _begins_with(other: RunSpec, records: Sequence[EpochRecord], spec: RunSpec) -> bool:
    """Whether the first records of a candidate are those of the run."""
    return other.scheduler == spec.scheduler or _keeps_the_rate(spec, records[: spec.epochs])


def _keeps_the_rate(spec: RunSpec, records: Sequence[EpochRecord]) -> bool:
    """Whether the scheduler keeps the learning rate in all these epochs."""
    optimizer = SGD([torch.zeros(1)], lr=spec.lr)
    scheduler = make_scheduler(spec, optimizer)
    assert isinstance(scheduler, ReduceLROnPlateau)
    for record in records[:-1]:
        scheduler.step(record.train["loss"])
    return bool(optimizer.param_groups[0]["lr"] == spec.lr)
