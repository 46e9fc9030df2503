"""Records of runs, to be compared to the bit."""

import dataclasses
import json
from collections.abc import Iterable

from lossaware.studies.specs.run_spec import EpochRecord


def exact(records: Iterable[EpochRecord]) -> list[str]:
    """All that a run recorded but its time, a line for each epoch; NaN is equal to NaN there."""
    return [json.dumps(dataclasses.asdict(dataclasses.replace(record, seconds=0.0))) for record in records]
