"""Runs that need not be computed, as another one has all their numbers already."""

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


def adopt_equal(specs: Iterable[RunSpec], results: Results, store: Store) -> int:
    """Take into a store those runs whose numbers a complete one has already, bit for bit.

    - A run is the beginning of one that differs from it by more epochs alone, for nothing in a run knows how many there
      will be. A scheduler that has a length has it among its options, which then differ as well.
    - A run under ReduceLROnPlateau whose learning rate never falls is the run without a scheduler. Whether the rate
      falls follows from the training losses alone, and until it does, those are the same.

    As in `study_exchange.adopt`, runs of a user's own task are not taken.

    Args:
        specs: Runs that can be carried out.
        results: Where the others are looked for.
        store: Takes what it misses.

    Returns:
        How many were taken.
    """
    kinds = defaultdict(list)
    for spec in results.specs():
        kinds[_of_any_length(spec)].append(spec)
    taken = 0
    for spec in store.missing(specs):
        for other in _candidates(spec, kinds):
            try:
                records = results.records(other)
            except UsageError:  # it is damaged, which is said when it is asked for itself
                continue
            if len(records) == other.epochs and _tells(other, records, spec):
                store.adopt(spec, records[: spec.epochs], results.environment(other))
                taken += 1
                break
    return taken


def _of_any_length(spec: RunSpec) -> RunSpec:
    """What runs have in common that differ by their epochs alone."""
    return replace(spec, epochs=1)


def _candidates(spec: RunSpec, kinds: Mapping[RunSpec, Sequence[RunSpec]]) -> Iterator[RunSpec]:
    """Runs at least as long that may begin with all numbers of this one."""
    if spec.own_code:
        return
    alike = [spec]
    if spec.scheduler == ReduceLROnPlateau.__name__:
        alike.append(replace(spec, scheduler=None, scheduler_options=()))
    for kind in map(_of_any_length, alike):
        yield from (other for other in kinds.get(kind, ()) if other.epochs >= spec.epochs)


def _tells(other: RunSpec, records: Sequence[EpochRecord], spec: RunSpec) -> bool:
    """Whether the first records of a candidate are those of the run."""
    return other.scheduler == spec.scheduler or _keeps_the_rate(spec, records[: spec.epochs])


def _keeps_the_rate(spec: RunSpec, records: Sequence[EpochRecord]) -> bool:
    """Whether the scheduler, which is given these epochs, lets the learning rate alone before the last begins."""
    optimizer = SGD([torch.zeros(1)], lr=spec.lr)
    scheduler = make_scheduler(spec, optimizer)
    assert isinstance(scheduler, ReduceLROnPlateau)
    for record in records[:-1]:
        scheduler.step(record.train["loss"])
    return bool(optimizer.param_groups[0]["lr"] == spec.lr)
