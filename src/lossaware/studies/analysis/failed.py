"""Comparisons that could not be made, because runs failed."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace

from lossaware.studies.analysis.comparisons import Comparison
from lossaware.studies.analysis.statistics import Verdict
from lossaware.studies.specs.run_spec import RunSpec


def with_failures(compared: Sequence[Comparison], failures: Mapping[RunSpec, str]) -> list[Comparison]:
    """The comparisons; one without any seed in which both runs are finished has *failed*, if some of its runs did.

    Args:
        compared: All comparisons of a table.
        failures: Runs that failed, with the reason.
    """
    return [_failed(it, failures) if not it.seeds else it for it in compared]


def _failed(it: Comparison, failures: Mapping[RunSpec, str]) -> Comparison:
    specs = (*it.without.cell.specs, *it.with_lga.cell.specs)
    reasons = Counter(failures[spec] for spec in specs if spec in failures)
    if not reasons:
        return it
    (most, _), *others = reasons.most_common()
    also = f" ({len(others)} other reason{'s' * (len(others) != 1)})" if others else ""
    return replace(it, verdict=Verdict("failed", f"{reasons.total()} of {len(specs)} runs failed: {most}{also}"))
