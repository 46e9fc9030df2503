"""Explanations of verdicts: the interval, the number of additional seeds, and the tests."""

import math
from collections.abc import Callable, Sequence

from lossaware.studies.analysis.comparisons import Comparison
from lossaware.studies.analysis.outlook import MOST, POWER, Outlook
from lossaware.studies.analysis.statistics import FEW, FEWEST, LEVEL, Summary

Show = Callable[[float], str]


def explanation(it: Comparison, outlook: Outlook, show: Callable[[Summary], Show]) -> str:
    """The continuation of a sentence that begins with the verdict; empty if there is nothing to add.

    Args:
        it: The comparison.
        outlook: Its outlook.
        show: Formats a number in the units of a mean, with its sign.
    """
    interval, word = outlook.interval, it.verdict.word
    if word == "failed":
        return it.verdict.reason
    if it.count < FEWEST and word == "too few seeds to tell":
        return f"run {FEW} seeds or more" if it.count else ""
    if interval is None:
        if it.result.lost_with or it.result.lost_without:
            return "if a run has no finite score, only the order of the two scores counts"
        return "both runs have exactly the same score for each seed" if it.result.identical else ""
    write = show(interval)
    parts = []
    if word in ("helps", "hurts"):
        if not outlook.is_within_margin:
            return ""
    elif interval.is_wider_than(it.metric.scale / it.metric.factor):
        parts.append(f"the seeds differ by {write(interval.least)} to {write(interval.most)}")
    else:
        parts.append(f"the interval reaches from {write(interval.low)} to {write(interval.high)}")
        if word == "no difference shown" and outlook.excludes_zero:
            parts[-1] += f", but {_reason_against_verdict(it, outlook)}"
    if outlook.is_within_margin:
        assert outlook.margin is not None
        parts.append(f"the whole interval lies within the margin of ±{write(outlook.margin).lstrip('+')}")
    elif outlook.more_seeds is not None:
        parts.append(f"{_count(outlook.more_seeds)} would tell")
    return "; ".join(parts)


def _reason_against_verdict(it: Comparison, outlook: Outlook) -> str:
    """The reason why there is no verdict, although the interval excludes 0."""
    if outlook.p > LEVEL:
        return f"p = {outlook.p:.3f} after Holm's correction for {outlook.comparisons} comparisons"
    return f"the sign-flip test does not confirm it (p = {it.result.flip_p:.3f})"


def _count(seeds: float) -> str:
    if math.isinf(seeds):
        return f"more than {MOST} more seeds"
    return f"about {seeds:.0f} more seed{'s' * (seeds != 1)}"


def tests_behind(compared: Sequence[Comparison]) -> list[str]:
    """The tests behind the verdicts of a table, one sentence per test."""
    counts = [it.count for it in compared if it.count >= FEWEST]
    if not counts:
        return [f"Fewer than {FEWEST} seeds cannot show a difference."]
    holm = ""
    if len(compared) > 1:
        holm = ", with Holm's correction over the rows of a table (an interval without 0 may not be enough)"
    test = f"Verdicts rest on the paired t-test{holm}"
    one_way = f"all seeds must have the same direction, because no sign test with fewer than {FEW} can be significant"
    if max(counts) < FEW:
        parts = [f"{test}, and {one_way}."]
    elif min(counts) < FEW:
        parts = [f"{test}. With {FEW} seeds or more, an exact sign-flip test must confirm it; with fewer, {one_way}."]
    else:
        parts = [f"{test}, checked by an exact sign-flip test."]
    if any(it.result.lost_with or it.result.lost_without for it in compared):
        parts.append("A run without a finite score counts as the worse one, and the exact sign test decides.")
    return parts


def estimate_behind(outlooks: Sequence[Outlook]) -> list[str]:
    """The meaning of more seeds, if a row mentions them."""
    if all(it.more_seeds is None or it.is_within_margin for it in outlooks):
        return []
    chance = f"with a probability of {100 * POWER:.0f} %"
    return [f"More seeds: the number with which a difference of the observed size gets a verdict {chance}."]
