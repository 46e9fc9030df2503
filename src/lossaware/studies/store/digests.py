"""Digests of what was measured, by which a changed number is found when it is read.

They are for accidents and mistakes: who changes numbers on purpose can change their digests too.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from lossaware.studies.specs.run_spec import EpochRecord, RunSpec

DIGITS = 16
"""Hexadecimal digits of a digest, as many as a run's key has."""


def epoch_digest(spec: RunSpec, record: EpochRecord) -> str:
    """The digest of an epoch: over its run's key, which is a digest of the specification, and all its numbers."""
    numbers = (
        record.epoch,
        _floats(record.train),
        _floats(record.test),
        None if record.lga is None else _floats(record.lga),
        float(record.seconds),
    )
    return _digest(spec.key, json.dumps(numbers, sort_keys=True, separators=(",", ":")))


def run_digest(spec: RunSpec, epochs: Iterable[str]) -> str:
    """The digest of a run: over its key and the digests of all its epochs, in order."""
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
    """What is wrong with a run, in words; empty where it is what was written.

    Args:
        spec: The run.
        records: Its epochs so far.
        epochs: The digest of each as `epoch_digest` gave it; None where there are none.
        run: The digest as `run_digest` gave it, which a complete run has; ignored where epochs have none.
        complete: Whether the run is said to have all its epochs.
        digits: How many of their digits ``epochs`` have.
    """
    digests = [] if epochs is None else [epoch_digest(spec, record) for record in records]
    for place, record in enumerate(records, 1):
        if record.epoch != place:
            return f"epoch {place} of run {spec.key} is missing"
        if epochs is not None and epochs[place - 1] != digests[place - 1][:digits]:
            return f"epoch {place} of run {spec.key} is not what was written"
    if not spec.is_open_ended and (len(records) > spec.epochs or (complete and len(records) < spec.epochs)):
        marked = "is marked complete, and " if complete else ""
        return f"run {spec.key} {marked}has {len(records)} of {spec.epochs} epochs"
    if epochs is not None and run != (run_digest(spec, digests) if complete else None):
        return f"run {spec.key} is not what was written: its digest is {run}"
    return ""


SEAL = "sha256"
"""The entry of a JSON object that has the digest of all its others."""


def sealed(content: Mapping[str, Any]) -> dict[str, Any]:
    """A JSON object with its seal."""
    return {**content, SEAL: _seal(content)}


def is_sealed(content: Mapping[str, Any]) -> bool:
    """Whether a JSON object is what was sealed."""
    return content.get(SEAL) == _seal(content)


def _seal(content: Mapping[str, Any]) -> str:
    plain = {name: value for name, value in content.items() if name != SEAL}
    text = json.dumps(plain, sort_keys=True, ensure_ascii=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def _digest(*parts: str) -> str:
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:DIGITS]


def _floats(measures: Mapping[str, float]) -> dict[str, float]:
    return {name: float(value) for name, value in measures.items()}
