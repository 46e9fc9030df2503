"""Runs that ended without having learned anything: a mean over seeds says little where some of them did."""

from collections.abc import Sequence

from lossaware.studies.specs.run_spec import EpochRecord, RunSpec
from lossaware.studies.specs.tasks import classes

MARGIN = 1.5
"""A run counts as untrained up to this multiple of the accuracy of guessing."""


def is_untrained(spec: RunSpec, records: Sequence[EpochRecord]) -> bool:
    """Whether a finished run's last training accuracy is that of guessing.

    Only built-in tasks with equally frequent classes are judged; runs of all others are never untrained.

    Args:
        spec: The run.
        records: Its epochs.
    """
    count = classes(spec.task)
    if count is None or len(records) < spec.epochs:
        return False
    return records[-1].train.get("accuracy", 1.0) <= MARGIN / count
