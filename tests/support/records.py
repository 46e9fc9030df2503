"""Records of runs, for bitwise comparisons."""

import dataclasses
import json
from collections.abc import Iterable

from lossaware.studies.specs.run_spec import EpochRecord


def exact(records: Iterable[EpochRecord]) -> list[str]:
    """All records of a run except its time, one line per epoch; NaN equals NaN."""
    return [json.dumps(dataclasses.asdict(dataclasses.replace(record, seconds=0.0))) for record in records]
