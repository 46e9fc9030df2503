"""Notes on a comparison besides its scores: missing and diverged runs, and whether LGA had any effect."""

import math
from collections.abc import Mapping, Sequence
from statistics import median

from lossaware.studies.analysis.comparisons import Comparison
from lossaware.studies.specs.formatting import number
from lossaware.studies.specs.run_spec import EpochRecord, RunSpec, Value
from lossaware.studies.store.results import Results

Records = Sequence[EpochRecord]

SMALL_REACH = 0.005
"""A `largest_push` below this is small compared with the weights of usual networks."""


TRY = "try --arms without,auto"
"""The suggestion if a fixed gamma2 could not move the weights."""


def notes(comparison: Comparison, results: Results, labels: tuple[str, str] = ("without", "with LGA")) -> list[str]:
    """Notes on a comparison, one sentence each.

    Args:
        comparison: Two cells.
        results: The store of their runs.
        labels: Names of the runs without LGA and of those with it.
    """
    sides = [
        (label, [results.records(spec) for spec in cell.specs])
        for label, cell in zip(labels, (comparison.without.cell, comparison.with_lga.cell), strict=True)
    ]
    sentences = []
    total = len(comparison.without.cell.specs)
    if failed := total - len(comparison.seeds):
        sentences.append(f"{failed} of {total} seeds left out: a run failed or is not finished.")
    for label, runs in sides:
        if diverged := sum(map(has_diverged, runs)):
            sentences.append(f"{diverged} of {total} runs {label} diverged: their loss is not finite.")
    return sentences + activity(sides[1][1], lga_of(comparison.with_lga.cell.specs))


def lga_of(specs: Sequence[RunSpec]) -> Mapping[str, Value]:
    """LGA's arguments in these runs, which differ only in the seed; empty without LGA."""
    return dict(specs[0].lga or ()) if specs else {}


def has_diverged(run: Records) -> bool:
    """Whether the last training loss of a run is not finite."""
    return bool(run) and not math.isfinite(run[-1].train.get("loss", 0.0))


def activity(runs: Sequence[Records], lga: Mapping[str, Value]) -> list[str]:
    """Notes on runs in which LGA was attached, but had little or no effect.

    Args:
        runs: Runs of several seeds.
        lga: LGA's arguments in all of them.
    """
    runs = [run for run in runs if run and run[-1].lga is not None]
    gamma2 = lga.get("gamma2")
    if not runs:
        return []
    if gamma2 == 0:
        return ["gamma2 is 0: LGA had no effect here."]
    last = [run[-1].lga or {} for run in runs]
    if all(status.get("open_share") == 0 for status in last):
        fixed = isinstance(gamma2, (int, float))
        return [f"The gate never opened: LGA had no effect here{f'; {TRY}' * fixed}."]
    if not isinstance(gamma2, (int, float)):
        return []
    sentences = []
    at_end = median(status.get("gamma2", gamma2) for status in last)
    if at_end <= gamma2 * 1e-2:
        sentences.append(
            f"Rising losses divided gamma2 down from {number(gamma2)} to {_about(at_end)} (median at the end)."
        )
    xi = lga.get("xi")
    reach = max(largest_push(run, gamma2, xi) for run in runs) if isinstance(xi, (int, float)) else math.nan
    if reach < SMALL_REACH:
        sentences.append(
            f"LGA alone could not change any weight by {SMALL_REACH:g} or more in the whole run; its effect grows "
            f"with gamma2 and with the number of steps: {TRY}."
        )
    return sentences


def largest_push(records: Records, gamma2: float, xi: float) -> float:
    """Upper bound of the distance by which LGA moved a parameter: the sum of gamma2 * U / xi over steps with open gate.

    Args:
        records: A run with LGA.
        gamma2: Its gamma2 at the start.
        xi: Its stability constant (Eq. 5).
    """
    reach, opened_before, strength = 0.0, 0.0, gamma2
    for record in records:
        status = record.lga or {}
        opened = status.get("open_share", 0.0) * status.get("steps", 0.0)
        reach += (opened - opened_before) * strength * status.get("upper_bound", math.nan) / xi
        opened_before, strength = opened, status.get("gamma2", strength)
    return reach


def _about(value: float) -> str:
    """The number to one digit."""
    return number(float(f"{value:.0e}"))
