"""Runs that need not be computed, as another one has all their numbers already."""

from collections.abc import Iterable, Sequence
from dataclasses import replace

import torch
from torch.optim import SGD
from torch.optim.lr_scheduler import ReduceLROnPlateau

from lossaware.studies.run import make_scheduler
from lossaware.studies.spec import EpochRecord, RunSpec
from lossaware.studies.store import Store
from lossaware.studies.study_table import Results


def adopt_equal(specs: Iterable[RunSpec], results: Results, store: Store) -> int:
    """Take into a store those runs under ReduceLROnPlateau whose learning rate never falls.

    They are the runs without a scheduler, bit for bit. Whether a rate falls follows from the training losses alone, and
    until it does, those are the same. So a complete run without a scheduler tells it. As in `study_exchange.adopt`,
    runs of a user's own task are not taken.

    Args:
        specs: Runs that can be carried out.
        results: Where runs without a scheduler are looked for.
        store: Takes what it misses.

    Returns:
        How many were taken.
    """
    taken = 0
    for spec in store.missing(specs):
        if spec.scheduler != ReduceLROnPlateau.__name__ or ":" in spec.task:
            continue
        plain = replace(spec, scheduler=None, scheduler_options=())
        records = results.records(plain)
        if len(records) == spec.epochs and _keeps_the_rate(spec, records):
            store.adopt(spec, records, results.environment(plain))
            taken += 1
    return taken


def _keeps_the_rate(spec: RunSpec, records: Sequence[EpochRecord]) -> bool:
    """Whether the scheduler, which is given these epochs, lets the learning rate alone before the last begins."""
    optimizer = SGD([torch.zeros(1)], lr=spec.lr)
    scheduler = make_scheduler(spec, optimizer)
    assert isinstance(scheduler, ReduceLROnPlateau)
    for record in records[:-1]:
        scheduler.step(record.train["loss"])
    return bool(optimizer.param_groups[0]["lr"] == spec.lr)
