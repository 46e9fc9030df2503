"""From the scores of a few seeds to a verdict in words: t-intervals, exact tests, Holm's correction."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy import stats

LEVEL = 0.05
"""Accepted probability of a false "helps" or "hurts", over all comparisons of a table together."""

FEW = 6
"""Minimum number of seeds for a significant sign test: 2 / 2**6 = 0.031, but 2 / 2**5 = 0.0625."""

FEWEST = 3
"""Minimum number of seeds for an interval, or a verdict other than "too few". Two would only rest on assumptions."""

Word = Literal["helps", "hurts", "no difference shown", "too few seeds to tell", "failed"]


@dataclass(frozen=True)
class Summary:
    """The mean of a few values, with its interval.

    Attributes:
        n: Number of finite values; the others are only counted in ``lost``.
        mean: Their mean; NaN without any.
        low: Lower end of the 95 % t-interval of the mean; NaN with fewer than `FEWEST` values.
        high: Its upper end.
        lost: Number of values that were not finite.
        least: The smallest value; NaN without any.
        most: The largest one.
    """

    n: int
    mean: float
    low: float
    high: float
    lost: int = 0
    least: float = math.nan
    most: float = math.nan

    @property
    def half_width(self) -> float:
        """Half the width of the interval; NaN with fewer than `FEWEST` values."""
        return (self.high - self.low) / 2

    def is_wider_than(self, scale: float) -> bool:
        """Whether the interval is wider than ``scale``, the largest possible difference. It is then not informative."""
        return self.high - self.low > scale


@dataclass(frozen=True)
class Paired:
    """Statistics of the differences of paired runs (with minus without, per seed).

    Attributes:
        difference: Mean of the differences over the seeds with two finite scores, and its 95 % t-interval.
        t_p: Two-sided p of the paired t-test; NaN if it is undefined: fewer than two pairs, or all differences
            equal.
        flip_p: Two-sided p of the exact sign-flip (permutation) test of the mean; 1 without any pair.
        up: Number of seeds in which the score with LGA is larger.
        down: Number of seeds in which it is smaller.
        lost_without: Number of seeds in which only the score without LGA is not finite.
        lost_with: Number of seeds in which only the score with LGA is not finite.
    """

    difference: Summary
    t_p: float
    flip_p: float
    up: int
    down: int
    lost_without: int = 0
    lost_with: int = 0

    @property
    def n(self) -> int:
        """Number of seeds with two finite scores."""
        return self.difference.n

    @property
    def identical(self) -> bool:
        """Whether both scores are exactly equal in every pair."""
        return self.n > 0 and self.up == self.down == self.lost_without == self.lost_with == 0


@dataclass(frozen=True)
class Verdict:
    """A verdict and its reason."""

    word: Word
    reason: str


def summary(values: Sequence[float]) -> Summary:
    """Mean and 95 % t-interval of the finite `values`."""
    finite = np.asarray([value for value in values if math.isfinite(value)], dtype=np.float64)
    n = len(finite)
    mean = float(finite.mean()) if n else math.nan
    half = math.nan
    if n >= FEWEST:
        half = float(stats.t.ppf(1 - LEVEL / 2, n - 1) * finite.std(ddof=1) / math.sqrt(n))
    least, most = (float(finite.min()), float(finite.max())) if n else (math.nan, math.nan)
    return Summary(n, mean, mean - half, mean + half, lost=len(values) - n, least=least, most=most)


def difference_half_width(measured: Summary, other_seeds: int) -> float:
    """Half the width of the 95 % t-interval of the difference of two means, of which one has no known spread.

    ``t * s * sqrt(1 / n + 1 / other_seeds)``: it assumes that the other mean comes from runs that spread as these do.

    Args:
        measured: The mean with a known spread.
        other_seeds: Number of runs behind the other mean, at least 1.

    Returns:
        In the units of the mean; NaN with fewer than `FEWEST` values.
    """
    return measured.half_width * math.sqrt(1 + measured.n / other_seeds)


def paired(without: Sequence[float], with_: Sequence[float]) -> Paired:
    """Compare two runs per seed: ``without[i]`` and ``with_[i]`` have the same seed.

    Pairs with a score that is not finite do not count in means, but are counted.

    Raises:
        ValueError: The two sequences have different lengths.
    """
    pairs = list(zip(without, with_, strict=True))
    finite = [(a, b) for a, b in pairs if math.isfinite(a) and math.isfinite(b)]
    differences = np.asarray([b - a for a, b in finite], dtype=np.float64)
    # Scores are float32 means: smaller differences, or a smaller spread, are rounding, by which t would divide.
    rounding = 1e-6 * max((max(abs(a), abs(b)) for a, b in finite), default=0.0)
    differences[np.abs(differences) <= rounding] = 0.0
    difference = summary(differences.tolist())
    spread = float(np.ptp(differences)) if len(differences) else 0.0
    t_p = float(stats.ttest_1samp(differences, 0.0).pvalue) if spread > rounding else math.nan
    return Paired(
        difference=difference,
        t_p=t_p,
        flip_p=sign_flip_p(differences),
        up=int((differences > 0).sum()),
        down=int((differences < 0).sum()),
        lost_without=sum(not math.isfinite(a) and math.isfinite(b) for a, b in pairs),
        lost_with=sum(math.isfinite(a) and not math.isfinite(b) for a, b in pairs),
    )


def sign_flip_p(differences: "Sequence[float] | np.ndarray") -> float:
    """Two-sided p of the mean, if each difference has either sign with equal probability.

    Exact up to 16 differences; beyond, from 65,536 random flips (always the same ones).
    """
    if len(differences) < 2:  # scipy needs two; with one, both flips are as extreme as the data
        return 1.0
    test = stats.permutation_test(
        (np.asarray(differences, dtype=np.float64),),
        np.mean,
        permutation_type="samples",
        vectorized=True,
        n_resamples=2**16,
        rng=0,
    )
    return float(test.pvalue)


def sign_p(ups: int, downs: int) -> float:
    """Two-sided p of the exact sign test, without ties. At least ``2 / 2**(ups + downs)``."""
    return float(stats.binomtest(ups, ups + downs).pvalue) if ups + downs else 1.0


def epoch_ratio(without: Sequence[float], with_: Sequence[float], *, higher_is_better: bool) -> float:
    """Epochs that LGA needs to reach the base's final score, divided by the base's epochs (Tables 3, 4, 9, 10).

    Args:
        without: The base's score after each epoch.
        with_: The score with LGA after each epoch.
        higher_is_better: Whether a larger score is better.

    Returns:
        In (0, 1]; 1 if LGA does not reach it, as in the paper; NaN if the base's final score is not finite.
        A ratio below 1 alone does not mean that LGA is faster: the base may have reached its final score early
        itself, see ``epoch_ratio(without, without)``.
    """
    if not without or not math.isfinite(without[-1]):
        return math.nan
    target = without[-1]
    for epoch, score in enumerate(with_[: len(without)], start=1):
        if score >= target if higher_is_better else score <= target:
            return epoch / len(without)
    return 1.0


def holm(ps: Sequence[float]) -> list[float]:
    """Correct p values for all comparisons by Holm's step-down method.

    NaN stays NaN and does not count as a comparison.
    """
    corrected = [math.nan] * len(ps)
    order = sorted((i for i, p in enumerate(ps) if not math.isnan(p)), key=lambda i: ps[i])
    largest = 0.0
    for rank, i in enumerate(order):
        largest = max(largest, min(1.0, (len(order) - rank) * ps[i]))
        corrected[i] = largest
    return corrected


def deciding_p(pairs: Paired, *, higher_is_better: bool) -> float:
    """Return the p value of a verdict, before correction.

    This is the paired t-test's. If all differences are equal, it is undefined and the sign-flip test is used. If a
    score is not finite, only the order of the two is known, so the sign test is used, and the lost run is the worse
    of its pair. NaN if nothing was compared, or both scores are equal in every seed.
    """
    if pairs.identical or pairs.n + pairs.lost_without + pairs.lost_with == 0:
        return math.nan
    if pairs.lost_without or pairs.lost_with:
        better, worse = better_and_worse(pairs, higher_is_better=higher_is_better)
        return sign_p(better, worse)
    return pairs.flip_p if math.isnan(pairs.t_p) else pairs.t_p


def verdicts(comparisons: Sequence[Paired], *, higher_is_better: bool) -> list[Verdict]:
    """Give a verdict for each comparison, with Holm's correction over all of them."""
    ps = [deciding_p(pairs, higher_is_better=higher_is_better) for pairs in comparisons]
    counted = sum(not math.isnan(p) for p in ps)
    return [
        verdict(pairs, higher_is_better=higher_is_better, corrected_p=corrected, comparisons=counted)
        for pairs, corrected in zip(comparisons, holm(ps), strict=True)
    ]


def verdict(pairs: Paired, *, higher_is_better: bool, corrected_p: float, comparisons: int = 1) -> Verdict:
    """Return the verdict of one comparison.

    "Helps" and "hurts" need at least `FEWEST` seeds, a corrected p of at most `LEVEL`, and a sign-flip p of at most
    `LEVEL` too or, with fewer than `FEW` seeds, the smallest possible one: all seeds have the same sign.

    Args:
        pairs: The comparison.
        higher_is_better: Whether a larger score is better.
        corrected_p: `deciding_p` after `holm`.
        comparisons: Number of corrected comparisons.
    """
    better, worse = better_and_worse(pairs, higher_is_better=higher_is_better)
    seeds = pairs.n + pairs.lost_without + pairs.lost_with
    if seeds == 0:
        return Verdict("too few seeds to tell", "No seed has a finite score to compare.")
    if seeds == 1:
        same = " Here both runs have exactly the same score." if pairs.identical else ""
        return Verdict(
            "too few seeds to tell", f"With one seed, a difference cannot be distinguished from chance.{same}"
        )
    if pairs.identical:
        return Verdict("no difference shown", f"Both runs have exactly the same score for each of {seeds} seeds.")

    lost = pairs.lost_without + pairs.lost_with
    own_p = deciding_p(pairs, higher_is_better=higher_is_better)
    test = "sign test" if lost else "sign-flip test" if math.isnan(pairs.t_p) else "paired t-test"
    evidence = f"{better} of {seeds} seeds better, {worse} worse; {test} {_p(own_p)}"
    if comparisons > 1:
        evidence += f", {_p(corrected_p)} after Holm's correction for {comparisons} comparisons"
    evidence += _lost(pairs) + "."
    one_way = seeds in (better, worse)
    significant = (
        seeds >= FEWEST and corrected_p <= LEVEL and (lost > 0 or pairs.flip_p <= max(LEVEL, 2.0 ** (1 - seeds) + 1e-9))
    )

    if significant:
        # With lost runs, the majority of the sign test determines the direction, otherwise the mean.
        up = better > worse if lost else (pairs.difference.mean > 0) == higher_is_better
        if seeds < FEW:
            evidence += (
                f" Few seeds ({seeds}): this rests on the t-test's assumption of normal differences, since with fewer "
                f"than {FEW} seeds no sign test can be significant."
            )
        return Verdict("helps" if up else "hurts", evidence)
    if seeds < FEWEST or (seeds < FEW and one_way):
        way = "both seeds have" if seeds == 2 else f"all {seeds} seeds have"
        agree = f"Although {way} the same direction, " if one_way else ""
        start = f"{agree}{seeds} seeds are too few to be sure: "
        return Verdict("too few seeds to tell", start[0].upper() + start[1:] + evidence)
    return Verdict("no difference shown", evidence)


def better_and_worse(pairs: Paired, *, higher_is_better: bool) -> tuple[int, int]:
    """Numbers of seeds in which LGA was better and worse; a lost run counts as the worse one of its pair."""
    better, worse = (pairs.up, pairs.down) if higher_is_better else (pairs.down, pairs.up)
    return better + pairs.lost_without, worse + pairs.lost_with


def _lost(pairs: Paired) -> str:
    """The counts of runs without finite score, for a reason."""
    lost = [f"{n} {arm}" for n, arm in ((pairs.lost_without, "without"), (pairs.lost_with, "with LGA")) if n]
    return f" (no finite score: {' and '.join(lost)})" if lost else ""


def _p(p: float) -> str:
    return "p < 0.001" if p < 0.001 else f"p = {p:.3f}" if p < 0.1 else f"p = {p:.2f}"
