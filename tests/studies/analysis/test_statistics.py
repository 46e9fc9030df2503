"""Statistics against scipy, against enumeration by hand, and as properties."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from lossaware.studies.analysis.statistics import (
    FEW,
    FEWEST,
    LEVEL,
    deciding_p,
    difference_half_width,
    epoch_ratio,
    holm,
    paired,
    sign_flip_p,
    sign_p,
    summary,
    verdict,
    verdicts,
)

# Realistic scores: far apart or equal, never so close that float32 could not distinguish them.
scores = st.integers(-1000, 1000).map(lambda k: k / 8)
score_lists = st.lists(scores, min_size=2, max_size=9)
score_pairs = st.lists(st.tuples(scores, scores), min_size=1, max_size=9)
maybe_lost = st.one_of(scores, st.sampled_from([math.nan, math.inf, -math.inf]))


def judge(without: list[float], with_: list[float], higher_is_better: bool = True):
    [only] = verdicts([paired(without, with_)], higher_is_better=higher_is_better)
    return only


# --- summaries ------------------------------------------------------------------------------------------------------


@given(score_lists)
def test_interval_is_scipys(values):
    result = summary(values)
    want = stats.ttest_1samp(values, 0.0).confidence_interval(0.95) if np.ptp(values) else (values[0], values[0])
    assert result.mean == pytest.approx(np.mean(values))
    assert (result.least, result.most) == (min(values), max(values))
    if len(values) < FEWEST:
        assert math.isnan(result.low)
        assert math.isnan(result.high)
        return
    assert (result.low, result.high) == pytest.approx(tuple(want), abs=1e-9)
    assert result.low <= result.mean <= result.high or result.half_width == pytest.approx(0, abs=1e-9)


def test_known_interval():
    # t(0.975, 4) = 2.776445, sd = 1.581139, n = 5
    result = summary([1, 2, 3, 4, 5])
    assert (result.low, result.high) == pytest.approx((3 - 1.963243, 3 + 1.963243), abs=1e-5)
    assert result.half_width == pytest.approx(1.963243, abs=1e-5)


@pytest.mark.parametrize("other_seeds", [1, 5])
def test_interval_of_a_difference_of_two_means(other_seeds):
    values = [1, 2, 3, 4, 5]
    # t(0.975, 4) = 2.776445, sd = 1.581139
    want = 2.776445 * 1.581139 * math.sqrt(1 / 5 + 1 / other_seeds)
    assert difference_half_width(summary(values), other_seeds) == pytest.approx(want, rel=1e-6)


def test_interval_of_a_difference_misses_as_often_as_it_says():
    """Both means from one distribution: 5 % of the differences are outside, with the deviation of many seeds."""
    rng = np.random.default_rng(0)
    ours, theirs = rng.normal(size=(4000, 5)), rng.normal(size=(4000, 5)).mean(axis=1)
    sums = [summary(row) for row in ours.tolist()]
    outside = [abs(s.mean - other) > difference_half_width(s, 5) for s, other in zip(sums, theirs, strict=True)]
    misses = [abs(s.mean - other) > s.half_width for s, other in zip(sums, theirs, strict=True)]
    assert np.mean(outside) == pytest.approx(0.05, abs=0.01)
    assert np.mean(misses) > 0.1, "the interval of one mean alone forgets the spread of the other"


@pytest.mark.parametrize("values", [[7.5], [7.0, 8.0]])
def test_one_value_or_two_have_no_interval(values):
    result = summary(values)
    assert (result.n, result.mean, result.lost) == (len(values), 7.5, 0)
    assert math.isnan(result.low)
    assert math.isnan(result.high)


def test_no_value_has_no_mean():
    assert summary([]).n == 0
    assert math.isnan(summary([math.nan]).mean)
    assert summary([math.nan]).lost == 1


def test_values_that_are_not_finite_are_left_out_and_counted():
    assert summary([1.0, math.nan, 3.0, math.inf]).mean == 2.0
    assert summary([1.0, math.nan, 3.0, math.inf]).lost == 2


# --- paired differences ---------------------------------------------------------------------------------------------


@given(score_pairs)
def test_paired_t_is_scipys(pairs):
    without, with_ = map(list, zip(*pairs, strict=True))
    result = paired(without, with_)
    differences = np.subtract(with_, without)
    assert result.difference.mean == pytest.approx(differences.mean())
    assert (result.up, result.down) == ((differences > 0).sum(), (differences < 0).sum())
    if len(pairs) > 1 and np.ptp(differences):
        want = stats.ttest_rel(with_, without)
        assert result.t_p == pytest.approx(want.pvalue)
        interval = want.confidence_interval(0.95)
        if len(pairs) >= FEWEST:
            assert (result.difference.low, result.difference.high) == pytest.approx((interval.low, interval.high))
    else:
        assert math.isnan(result.t_p)


@given(st.lists(st.integers(-50, 50), min_size=1, max_size=8))
def test_sign_flip_is_the_enumeration(differences):
    observed = abs(sum(differences))
    flips = [abs(sum(map(math.prod, zip(s, differences, strict=True)))) for s in _signs(len(differences))]
    assert sign_flip_p(differences) == pytest.approx(np.mean([flip >= observed for flip in flips]))


def _signs(n: int):
    return itertools.product([-1, 1], repeat=n)


@pytest.mark.parametrize("n", range(2, 12))
def test_smallest_sign_flip_p(n):
    """If all seeds have the same sign, 2 of the 2**n flips are as extreme; below six seeds, never significant."""
    p = sign_flip_p(np.arange(1.0, n + 1))
    assert p == pytest.approx(2 / 2**n)
    assert (p <= LEVEL) == (n >= FEW)


def test_many_seeds_are_sampled_reproducibly():
    differences = np.random.default_rng(0).normal(0.3, 1.0, 40)
    assert sign_flip_p(differences) == sign_flip_p(differences)
    assert sign_flip_p(differences) == pytest.approx(stats.ttest_1samp(differences, 0).pvalue, abs=0.01)


def test_sign_test_is_exact():
    assert sign_p(6, 0) == pytest.approx(2 / 64)
    assert sign_p(5, 1) == pytest.approx(2 * 7 / 64)
    assert sign_p(3, 3) == 1.0
    assert sign_p(0, 0) == 1.0


@given(score_pairs)
def test_swapping_the_arms_mirrors(pairs):
    without, with_ = map(list, zip(*pairs, strict=True))
    one, other = paired(without, with_), paired(with_, without)
    assert one.difference.mean == pytest.approx(-other.difference.mean)
    assert (one.up, one.down) == (other.down, other.up)
    assert one.flip_p == pytest.approx(other.flip_p)
    mirrored = {"helps": "hurts", "hurts": "helps"}
    assert mirrored.get(judge(without, with_).word, judge(without, with_).word) == judge(with_, without).word


@given(score_pairs)
def test_lower_is_better_mirrors(pairs):
    without, with_ = map(list, zip(*pairs, strict=True))
    negated = judge([-a for a in without], [-b for b in with_], higher_is_better=False)
    assert judge(without, with_) == negated


def test_unequal_lengths_are_refused():
    with pytest.raises(ValueError, match="zip"):
        paired([1.0], [1.0, 2.0])


def test_rounding_is_not_a_difference():
    """Differences of the size of float32 rounding must not become infinitely significant."""
    without = [0.9 + 0.01 * i for i in range(8)]
    result = paired(without, [a * (1 + 1e-8) for a in without])
    assert result.identical
    assert judge(without, [a * (1 + 1e-8) for a in without]).word == "no difference shown"


# --- epochs ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("without", "with_", "higher", "want"),
    [
        ([1, 2, 3, 4], [2, 4, 5, 6], True, 0.5),
        ([1, 2, 3, 4], [1, 2, 3, 4], True, 1.0),
        ([1, 2, 3, 4], [1, 2, 3, 3.9], True, 1.0),  # never reached: 1, as in the paper
        ([4, 3, 2, 1], [1, 3, 3, 3], False, 0.25),
        ([4, 3, 2, 1], [4, 3, 2, 1.1], False, 1.0),
        ([1, 5, 2, 2], [1, 5, 2, 2], True, 0.5),  # the base itself passed its final value early
        ([1, 2, 3, 4], [math.nan, math.nan, 4, math.nan], True, 0.75),
        ([1, 2, 3, 4], [math.nan] * 4, True, 1.0),
        ([1, 2], [0, 0, 9, 9], True, 1.0),  # later epochs than the base had do not count
    ],
)
def test_epoch_ratio(without, with_, higher, want):
    assert epoch_ratio(without, with_, higher_is_better=higher) == want


def test_epoch_ratio_without_a_target():
    assert math.isnan(epoch_ratio([1.0, math.nan], [1.0, 2.0], higher_is_better=True))
    assert math.isnan(epoch_ratio([], [1.0], higher_is_better=True))


@given(st.lists(scores, min_size=1, max_size=30), st.lists(scores, min_size=1, max_size=30), st.booleans())
def test_epoch_ratio_stays_in_the_papers_range(without, with_, higher):
    assert 0 < epoch_ratio(without, with_, higher_is_better=higher) <= 1


# --- Holm -----------------------------------------------------------------------------------------------------------


def test_holm_by_hand():
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.5, 0.9]) == [1.0, 1.0]
    assert holm([]) == []


@given(st.lists(st.floats(0, 1), max_size=10))
def test_holm_between_none_and_bonferroni_and_keeps_the_order(ps):
    corrected = holm(ps)
    for p, c in zip(ps, corrected, strict=True):
        assert p <= c <= min(1, len(ps) * p) + 1e-12
    for i, j in itertools.combinations(range(len(ps)), 2):
        if ps[i] < ps[j]:
            assert corrected[i] <= corrected[j]


def test_holm_ignores_missing_p_values():
    corrected = holm([0.01, math.nan, 0.04])
    assert corrected[0] == 0.02
    assert math.isnan(corrected[1])
    assert corrected[2] == 0.04


# --- verdicts -------------------------------------------------------------------------------------------------------


def test_clear_effect_helps_or_hurts():
    low, high = [90.0, 90.5, 89.8, 90.2, 90.1, 90.3], [92.0, 92.4, 91.9, 92.3, 92.0, 92.5]
    assert judge(low, high).word == "helps"
    assert judge(high, low).word == "hurts"
    assert judge(low, high, higher_is_better=False).word == "hurts"
    assert "few" not in judge(low, high).reason.lower()


def test_five_seeds_may_decide_and_are_called_few():
    result = judge([90.0, 90.5, 89.8, 90.2, 90.1], [92.0, 92.4, 91.9, 92.3, 92.0])
    assert result.word == "helps"
    assert "Few seeds (5)" in result.reason
    assert "fewer than 6 seeds no sign test can be significant" in result.reason


def test_few_seeds_that_disagree_decide_nothing():
    """The t-test alone gives 0.017 here; one seed has the other sign."""
    without, with_ = [0.0] * 5, [1.0, 1.0, 1.0, 1.0, -0.01]
    assert paired(without, with_).t_p < 0.02
    assert judge(without, with_).word == "no difference shown"


def test_one_seed_is_too_few():
    assert judge([10.0], [99.0]).word == "too few seeds to tell"
    assert "With one seed" in judge([10.0], [99.0]).reason
    assert "exactly the same" in judge([10.0], [10.0]).reason


def test_two_seeds_are_too_few_for_any_t():
    assert paired([0.0, 0.0], [60.0, 60.1]).t_p < 0.01
    assert judge([0.0, 0.0], [60.0, 60.1]).word == "too few seeds to tell"


def test_few_seeds_one_way_without_significance_are_too_few():
    result = judge([0.0] * 3, [0.1, 2.0, 5.0])
    assert result.word == "too few seeds to tell"
    assert "all 3 seeds have the same direction" in result.reason


def test_identical_runs_show_no_difference():
    result = judge([5.0, 6.0, 7.0], [5.0, 6.0, 7.0])
    assert result.word == "no difference shown"
    assert "exactly the same score for each of 3 seeds" in result.reason


def test_equal_differences_do_not_give_an_infinite_t():
    """Accuracies are multiples of 1/n, so all seeds can differ by the same step; t would divide by zero."""
    assert math.isnan(paired([0.1, 0.2, 0.3], [0.2, 0.3, 0.4]).t_p)
    assert judge([0.1, 0.2, 0.3], [0.2, 0.3, 0.4]).word == "too few seeds to tell"
    six = [0.1, 0.2, 0.3, 0.4, 0.5, 0.6]
    assert judge(six, [a + 0.1 for a in six]).word == "helps"  # sign-flip p = 2/64


def test_noise_shows_no_difference():
    assert judge([1, 2, 3, 4, 5, 6], [2, 1, 4, 3, 6, 5]).word == "no difference shown"


def test_holm_counts_in_the_verdict():
    """Alone it has p = 0.03; with nine others it no longer decides, and the reason says both figures."""
    pair = paired([0.0] * 7, [1.0, 2.0, 1.5, 3.0, 0.5, 2.5, -0.2])
    assert LEVEL / 10 < pair.t_p < LEVEL
    assert verdicts([pair], higher_is_better=True)[0].word == "helps"
    dull = paired([0, 0, 0, 1.0], [1.0, 0.0, -1.0, 1.1])
    first, *_ = verdicts([pair] + [dull] * 9, higher_is_better=True)
    assert first.word == "no difference shown"
    assert "Holm's correction for 10 comparisons" in first.reason


def test_diverged_runs_count_against_their_arm():
    nan = math.nan
    good = [1.0, 1.1, 1.2, 1.3, 1.2, 1.1]
    assert judge(good, [nan] * 6).word == "hurts"
    assert judge([nan] * 6, good).word == "helps"
    assert judge(good, [nan] * 6, higher_is_better=False).word == "hurts"
    assert "6 with LGA" in judge(good, [nan] * 6).reason


def test_survivors_alone_cannot_help():
    """The finished runs with LGA are much better, but half of them failed."""
    nan = math.nan
    result = judge([1.0] * 6, [9.0, 9.1, 9.2, nan, nan, nan])
    assert result.word == "no difference shown"
    assert "no finite score: 3 with LGA" in result.reason


def test_nothing_finite():
    assert judge([math.nan] * 3, [math.nan] * 3).word == "too few seeds to tell"
    assert judge([], []).word == "too few seeds to tell"


@given(st.lists(st.tuples(maybe_lost, maybe_lost), max_size=9), st.booleans())
def test_every_input_has_a_verdict_and_a_reason(pairs, higher):
    without, with_ = [a for a, _ in pairs], [b for _, b in pairs]
    compared = paired(without, with_)
    result = judge(without, with_, higher)
    assert result.word in ("helps", "hurts", "no difference shown", "too few seeds to tell")
    assert result.reason.endswith(".")
    assert "nan" not in result.reason
    if result.word in ("helps", "hurts"):
        assert deciding_p(compared, higher_is_better=higher) <= LEVEL
        assert len(pairs) >= 3
    if len(pairs) < 3 and not compared.identical:
        assert result.word == "too few seeds to tell"


def test_a_false_verdict_is_rare_under_sign_flips():
    """Over all 2**6 ways the signs of given differences may fall, at most 5 % end in a verdict."""
    sizes = [1.0, 1.3, 0.8, 1.1, 0.9, 1.2]
    wrong = 0
    for signs in _signs(6):
        compared = paired([0.0] * 6, [s * d for s, d in zip(signs, sizes, strict=True)])
        p = deciding_p(compared, higher_is_better=True)
        wrong += verdict(compared, higher_is_better=True, corrected_p=p).word in ("helps", "hurts")
    assert wrong / 2**6 <= LEVEL
