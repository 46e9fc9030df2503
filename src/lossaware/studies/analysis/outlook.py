"""Further statements on comparisons: the number of additional seeds for a verdict, and equivalence."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from scipy import stats

from lossaware.studies.analysis.comparisons import Comparison
from lossaware.studies.analysis.statistics import FEW, FEWEST, LEVEL, Paired, Summary, deciding_p, holm

POWER = 0.8
"""Probability of a verdict with the estimated number of seeds."""

MOST = 1000
"""Larger estimates of additional seeds are not shown as a number."""


@dataclass(frozen=True)
class Outlook:
    """Statements on a comparison besides its verdict.

    Attributes:
        interval: Mean of the differences and its interval; None if a score is not finite, there are fewer than
            `FEWEST` seeds, or both runs always have the same score.
        more_seeds: See `more_seeds`; None with a verdict, or without an interval.
        p: `deciding_p`, corrected for all comparisons of the table.
        comparisons: Number of these comparisons.
        margin: The largest irrelevant difference; None if it is not set.
    """

    interval: Summary | None
    more_seeds: float | None
    p: float
    comparisons: int
    margin: float | None

    @property
    def is_within_margin(self) -> bool:
        """Whether the whole interval lies within the margin: two one-sided t-tests, each at 2.5 %.

        The interval rule for TOST (Schuirmann, J. Pharmacokinet. Biopharm. 15, 1987), with the shown 95 % interval,
        although 90 % would suffice. There is no correction for several rows.
        """
        if self.interval is None or self.margin is None:
            return False
        return -self.margin <= self.interval.low and self.interval.high <= self.margin

    @property
    def excludes_zero(self) -> bool:
        """Whether 0 is outside of the interval. Only the correction or the sign-flip test then prevents a verdict."""
        return self.interval is not None and not self.interval.low <= 0.0 <= self.interval.high


def outlooks(compared: Sequence[Comparison], margin: float | None = None) -> list[Outlook]:
    """The outlooks of all comparisons of a table.

    Args:
        compared: All comparisons that are judged together.
        margin: The largest irrelevant difference, in units of the measured score.
    """
    ps = [
        deciding_p(it.result, higher_is_better=it.metric.higher_is_better) if it.count > 1 else math.nan
        for it in compared
    ]
    corrected = holm(ps)
    open_ones = [it.verdict.word in OPEN for it in compared]
    # Comparisons with a verdict keep it, so the others are only corrected for each other.
    together = sum(is_open and not math.isnan(p) for is_open, p in zip(open_ones, ps, strict=True))
    return [
        Outlook(
            interval := _interval(it.result),
            more_seeds(interval, level=LEVEL / max(1, together)) if interval and is_open else None,
            p,
            sum(not math.isnan(p) for p in ps),
            margin,
        )
        for it, is_open, p in zip(compared, open_ones, corrected, strict=True)
    ]


OPEN = ("no difference shown", "too few seeds to tell")
"""Verdicts that more seeds may change."""


def _interval(result: Paired) -> Summary | None:
    if result.lost_with or result.lost_without or result.identical or result.n < FEWEST:
        return None
    return result.difference


def more_seeds(difference: Summary, *, level: float = LEVEL) -> float:
    """Number of additional seeds for a verdict with probability `POWER`, if difference and spread are as observed.

    The smallest ``m`` for which the two-sided paired t-test over ``n + m`` seeds at this level has the power: with
    ``d = mean / deviation`` and ``N = n + m``, the probability that a noncentral t of ``N - 1`` degrees of freedom and
    noncentrality ``d * sqrt(N)`` exceeds the critical value (Cohen, Statistical Power Analysis for the Behavioral
    Sciences, 2nd ed. 1988, chapter 2). ``N`` is at least `FEW`, so that the sign-flip test can confirm it. With `FEW`
    seeds it does so only if all differences have the same sign, which has probability ``Phi(d)**FEW``. With more seeds
    it lowers the power by at most 6 points.

    Args:
        difference: At least `FEWEST` differences.
        level: Of the test: `LEVEL`, divided by the number of comparisons that are still open.

    Returns:
        At least 1; infinity for more than `MOST`.
    """
    n = difference.n
    deviation = difference.half_width * math.sqrt(n) / float(stats.t.ppf(1 - LEVEL / 2, n - 1))
    effect = abs(difference.mean) / deviation if deviation else math.inf
    first, last = max(n + 1, FEW), n + MOST

    def suffices(seeds: int) -> bool:
        one_way = float(stats.norm.cdf(effect)) ** seeds if seeds == FEW else 1.0
        return min(one_way, power(seeds, effect, level)) >= POWER

    if not suffices(last):
        return math.inf
    while first < last:  # power grows with the seeds
        middle = (first + last) // 2
        first, last = (first, middle) if suffices(middle) else (middle + 1, last)
    return first - n


def power(n: int, effect: float, level: float = LEVEL) -> float:
    """Probability that the two-sided one-sample t-test over ``n`` values is significant, in the direction of the mean.

    Args:
        n: Number of values.
        effect: Their true mean by their true deviation, at least 0.
        level: Of the test.
    """
    center = effect * math.sqrt(n)
    critical = float(stats.t.ppf(1 - level / 2, n - 1))
    if center > critical + 20:  # far beyond, where the distribution function loses its digits
        return 1.0
    return float(stats.nct.sf(critical, n - 1, center))
