"""Digests of runs: a chain over the specification and all epochs, from which a changed epoch can be told."""

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence

from lossaware.studies.specs.run_spec import EpochRecord, RunSpec

DIGITS = 16
"""Hexadecimal digits of a digest, as many as a run's key has. It is for accidents and mistakes, not for forgers."""


def next_digest(digest: str, record: EpochRecord) -> str:
    """The digest of a run up to an epoch.

    Args:
        digest: That of the epoch before; for the first epoch the run's key, which is a digest of its specification.
        record: The epoch.
    """
    plain = [
        record.epoch,
        _numbers(record.train),
        _numbers(record.test),
        None if record.lga is None else _numbers(record.lga),
        float(record.seconds),
    ]
    text = json.dumps(plain, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(f"{digest}\n{text}".encode()).hexdigest()[:DIGITS]


def digests(spec: RunSpec, records: Iterable[EpochRecord]) -> list[str]:
    """The digests of a run after each of its epochs; the last one is that of the run."""
    found = [spec.key]
    for record in records:
        found.append(next_digest(found[-1], record))
    return found[1:]


def changed_epoch(spec: RunSpec, records: Sequence[EpochRecord], stored: Sequence[str | None]) -> int | None:
    """The first epoch, counted from 1, that is not what its digest belongs to; None where all are.

    Args:
        spec: The run.
        records: Its epochs, in order.
        stored: Their digests.
    """
    for place, (digest, kept) in enumerate(zip(digests(spec, records), stored, strict=True), 1):
        if digest != kept or records[place - 1].epoch != place:
            return place
    return None


def _numbers(measures: Mapping[str, float]) -> dict[str, float]:
    return {name: float(value) for name, value in measures.items()}
