"""The estimate of more seeds, compared with simulation; and the margin."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from lossaware.studies.analysis.comparisons import comparisons
from lossaware.studies.analysis.outlook import MOST, POWER, more_seeds, outlooks, power
from lossaware.studies.analysis.statistics import FEW, LEVEL, paired, summary, verdicts
from lossaware.studies.analysis.study_table import tabulate
from support.synthetic import BASE, compared, pair

differences = st.lists(st.integers(-40, 60).map(lambda k: k / 8), min_size=3, max_size=9)


def outlooks_of(*rows, margin=None, **settings):
    return outlooks(comparisons(tabulate(*compared(*rows, **settings))), margin)


# --- more seeds -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("n", "effect", "level"), [(6, 1.0, 0.05), (20, 0.5, 0.05), (12, 1.2, 0.0125)])
def test_power_is_how_often_the_t_test_is_significant(n, effect, level):
    samples = np.random.default_rng(0).normal(effect, 1.0, (20_000, n))
    p = stats.ttest_1samp(samples, 0.0, axis=1).pvalue
    share = np.mean((p <= level) & (samples.mean(axis=1) > 0))
    assert power(n, effect, level) == pytest.approx(share, abs=0.01)


def test_power_of_the_tables():
    """Cohen's tables have 0.80 for d = 0.5 and 34 pairs, and 0.5 of all verdicts at the critical effect."""
    assert power(34, 0.5) == pytest.approx(0.808, abs=1e-3)
    assert power(33, 0.5) < POWER
    assert power(6, 0.0) == pytest.approx(LEVEL / 2)
    assert power(6, 1e6) == 1.0


@given(differences, st.sampled_from([0.05, 0.0125]))
def test_it_is_the_smallest_number_with_the_power(values, level):
    observed = summary(values)
    more = more_seeds(observed, level=level)
    deviation = np.std(values, ddof=1)
    effect = abs(observed.mean) / deviation if deviation else math.inf
    if math.isinf(more):
        assert power(observed.n + MOST, effect, level) < POWER
        return
    assert more == int(more) >= 1
    n = observed.n + int(more)
    assert n >= FEW
    assert power(n, effect, level) >= POWER - 1e-9
    if n > max(FEW + 1, observed.n + 1):
        assert power(n - 1, effect, level) < POWER + 1e-9


@pytest.mark.parametrize(
    ("values", "seeds"), [([1.0, 1.6, 2.3], 6), ([0.5, 1.6, 0.2, 1.3], 7), ([0.8, 1.7, -0.1, 1.4], 8)]
)
def test_with_these_seeds_verdicts_are_as_frequent_as_it_says(values, seeds):
    """Experiments of the asked length, drawn with the difference and spread seen, and judged as a user's."""
    observed, deviation = summary(values), float(np.std(values, ddof=1))
    assert observed.n + more_seeds(observed) == seeds
    samples = np.random.default_rng(1).normal(observed.mean, deviation, (300, seeds))
    words = [verdicts([paired([0.0] * seeds, row.tolist())], higher_is_better=True)[0].word for row in samples]
    expected = power(seeds, observed.mean / deviation)
    assert max(POWER, expected) - 0.1 < words.count("helps") / len(words) < expected + 0.05
    assert words.count("hurts") == 0


def test_six_seeds_must_all_point_the_same_way():
    """The t-test alone needs six: 0.82. But in a sixth of such cases, one of six seeds has the other sign."""
    values = [0.0, 0.7, 0.55, 0.35, 0.8]
    effect = float(np.mean(values) / np.std(values, ddof=1))
    assert power(6, effect) > POWER > stats.norm.cdf(effect) ** 6
    assert more_seeds(summary(values)) == 2


def test_no_difference_at_all_needs_more_seeds_than_the_maximum():
    assert more_seeds(summary([1.0, -1.0, 2.0, -2.0])) == math.inf


def test_open_rows_are_corrected_for_each_other_alone():
    up = [b + 0.02 + 0.001 * i for i, b in enumerate(BASE)]
    open_ = pair(BASE, [b + 0.003 * (1 + 2 * (-1) ** i) for i, b in enumerate(BASE)])
    [single] = outlooks_of(open_)
    _, with_verdict = outlooks_of(pair(BASE, up), open_, lrs=(1e-4, 1e-3))
    first, second = outlooks_of(open_, open_, lrs=(1e-4, 1e-3))
    assert single.more_seeds == with_verdict.more_seeds
    assert first.more_seeds == second.more_seeds > single.more_seeds


def test_a_verdict_or_lost_runs_ask_for_no_seeds():
    up = [b + 0.02 + 0.001 * i for i, b in enumerate(BASE)]
    [outlook] = outlooks_of(pair(BASE, up))
    assert outlook.more_seeds is None
    [same] = outlooks_of(pair(BASE, BASE))
    assert (same.more_seeds, same.interval) == (None, None)
    [two] = outlooks_of(pair(BASE[:2], up[:2]))
    assert (two.more_seeds, two.interval) == (None, None)
    [lost] = outlooks_of(pair(BASE, [*up[:5], math.nan]))
    assert (lost.more_seeds, lost.interval) == (None, None)


# --- the margin -----------------------------------------------------------------------------------------------------


def test_the_whole_interval_must_be_within_the_margin():
    near = pair(BASE, [b + 0.003 * (-1) ** i for i, b in enumerate(BASE)])
    [it] = outlooks_of(near)
    half = it.interval.half_width
    assert not it.is_within_margin, "there is no margin"
    for margin, within in ((half * 0.99, False), (half * 1.01, True)):
        [it] = outlooks_of(near, margin=margin)
        assert it.is_within_margin is within


def test_it_is_two_one_sided_tests():
    """Within the margin is the same as both one-sided t-tests at 2.5 %."""
    rng = np.random.default_rng(2)
    decisions = set()
    for row in rng.normal(0.001, 0.004, (60, 6)):
        [it] = outlooks_of(pair(BASE, [b + d for b, d in zip(BASE, row, strict=True)]), margin=0.005)
        values = np.array(row)
        below = stats.ttest_1samp(values, 0.005, alternative="less").pvalue
        above = stats.ttest_1samp(values, -0.005, alternative="greater").pvalue
        assert it.is_within_margin is bool(max(below, above) <= LEVEL / 2)
        decisions.add(it.is_within_margin)
    assert decisions == {True, False}
