"""Digests of results, by which changes are detected when results are read.

They detect accidents and mistakes, not intended changes, which can change the digests too.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence

from lossaware.studies.specs.run_spec import EpochRecord, RunSpec

DIGITS = 16
"""Hexadecimal digits of a digest, as many as a run's key has."""


def epoch_digest(spec: RunSpec, record: EpochRecord) -> str:
    """The digest of an epoch: of its run's key, which is a digest of the specification, and all its numbers."""
    numbers = (
        record.epoch,
        _floats(record.train),
        _floats(record.test),
        None if record.lga is None else _floats(record.lga),
        float(record.seconds),
    )
    return _digest(spec.key, json.dumps(numbers, sort_keys=True, separators=(",", ":")))


def run_digest(spec: RunSpec, epochs: Iterable[str]) -> str:
    """The digest of a run: of its key and the digests of all its epochs, in order."""
    return _digest(spec.key, *epochs)


def find_change(
    spec: RunSpec,
    records: Sequence[EpochRecord],
    epochs: Sequence[object] | None,
    run: object,
    *,
    complete: bool,
    digits: int = DIGITS,
) -> str:
    """Description of a change in a run; empty if it is unchanged.

    Args:
        spec: The run.
        records: Its epochs so far.
        epochs: Their digests from `epoch_digest`; None without digests.
        run: The digest of a complete run from `run_digest`; ignored if ``epochs`` is None.
        complete: Whether the run is marked as complete.
        digits: Number of digits of the digests in ``epochs``.
    """
    digests = [] if epochs is None else [epoch_digest(spec, record) for record in records]
    for place, record in enumerate(records, 1):
        if record.epoch != place:
            return f"epoch {place} of run {spec.key} is missing"
        if epochs is not None and epochs[place - 1] != digests[place - 1][:digits]:
            return f"epoch {place} of run {spec.key} has changed"
    is_short = complete and not spec.is_finished(len(records))
    if is_short or (spec.kind == "task" and len(records) > spec.epochs):
        marked = "is marked complete, and " if complete else ""
        return f"run {spec.key} {marked}has {len(records)} of {spec.epochs} epochs"
    if epochs is not None and run != (run_digest(spec, digests) if complete else None):
        return f"run {spec.key} has changed: its digest is {run}"
    return ""


def _digest(*parts: str) -> str:
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:DIGITS]


def _floats(measures: Mapping[str, float]) -> dict[str, float]:
    return {name: float(value) for name, value in measures.items()}
