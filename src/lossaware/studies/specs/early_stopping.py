"""Early stopping: training ends when the score on the validation set no longer improves."""

import math
from collections.abc import Sequence

from lossaware.studies.specs.run_spec import VALIDATION, EpochRecord, RunSpec


def best_epoch(records: Sequence[EpochRecord], score: str, *, higher_is_better: bool) -> int:
    """The first epoch with the best score on the validation set; epoch 1 without any finite score.

    Args:
        records: The epochs of a run, from the first.
        score: Name of the score, without `VALIDATION`.
        higher_is_better: Whether a larger score is better.

    Returns:
        The number of the epoch, from 1.
    """
    sign = 1.0 if higher_is_better else -1.0
    scores = [sign * record.test.get(VALIDATION + score, math.nan) for record in records]
    return 1 + max(range(len(scores)), key=lambda place: scores[place] if math.isfinite(scores[place]) else -math.inf)


def is_at_end(spec: RunSpec, records: Sequence[EpochRecord], score: str, *, higher_is_better: bool) -> bool:
    """Whether a run ends after these epochs: it has all of them, or ``patience`` epochs without a better score."""
    if spec.patience is None or len(records) == spec.epochs:
        return len(records) == spec.epochs
    return best_epoch(records, score, higher_is_better=higher_is_better) + spec.patience <= len(records)


def counted(
    spec: RunSpec, records: Sequence[EpochRecord], score: str, *, higher_is_better: bool
) -> Sequence[EpochRecord]:
    """The epochs of a run up to the one with the score that counts.

    This is the last epoch, or with early stopping the best one on the validation set.
    """
    if spec.patience is None or not records:
        return records
    return records[: best_epoch(records, score, higher_is_better=higher_is_better)]
