"""Detection of runs that did not learn anything. A mean over seeds with such runs is not meaningful."""

from collections.abc import Sequence

from lossaware.studies.specs.run_spec import EpochRecord, RunSpec
from lossaware.studies.specs.tasks import classes

MARGIN = 1.5
"""A run counts as untrained up to this multiple of the accuracy by chance."""


def is_untrained(spec: RunSpec, records: Sequence[EpochRecord]) -> bool:
    """Whether a finished run's last training accuracy is that of chance.

    Only runs of built-in tasks with equally frequent classes are judged; all others return False.

    Args:
        spec: The run.
        records: Its epochs.
    """
    count = classes(spec.task)
    if count is None or not spec.is_finished(len(records)):
        return False
    return records[-1].train.get("accuracy", 1.0) <= MARGIN / count
