"""Properties of the scalar law, over losses of every kind, and its agreement with the reference."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

import pytest
import torch
from hypothesis import assume, example, given
from hypothesis import strategies as st

import reference
from lossaware import Average, LowerBound, Momentum, Progressive
from lossaware.gamma2 import AutoGamma2, BackOff
from lossaware.law import Law
from lossaware.law_state import HOST, LawState
from lossaware.lower_bounds import Zero

finite = st.floats(-1e6, 1e6, allow_subnormal=False)
losses = st.lists(finite, min_size=1, max_size=40)
any_losses = st.lists(finite | st.sampled_from([math.nan, math.inf, -math.inf]), min_size=1, max_size=40)
bounds = st.one_of(
    st.builds(Progressive, st.floats(1.01, 11.0)), st.just(Average()), st.builds(Momentum, st.floats(0.0, 1.0))
)
laws = st.builds(
    Law,
    steps_per_status=st.integers(1, 9),
    lower_bound=bounds,
    eps=st.floats(0.0, 10.0),
    rule=st.builds(BackOff, st.floats(0.0, 1.0)) | st.builds(AutoGamma2, reach=st.floats(1e-3, 1.0)),
)


def states(law: Law, values: list[float]) -> list[LawState]:
    """The state before the first loss and after each."""
    result = [LawState()]
    for value in values:
        result.append(law.advance(result[-1], value))
    return result


def same(a: Any, b: Any) -> bool:
    return bool(a == b) or (math.isnan(a) and math.isnan(b))


@given(laws, any_losses)
def test_omega_is_never_negative_and_never_above_the_gap(law: Law, values: list[float]) -> None:
    for loss, state in zip(values, states(law, values)[1:], strict=True):
        assert state.omega >= 0
        if math.isfinite(loss):
            assert state.omega <= max(loss - state.lower, 0)
        else:
            assert state.omega == 0


@given(laws, any_losses)
def test_the_gate_is_closed_above_the_first_finite_loss(law: Law, values: list[float]) -> None:
    upper = next((loss for loss in values if math.isfinite(loss)), math.nan)
    after = states(law, values)[1:]
    assert same(after[-1].upper, upper)
    for loss, state in zip(values, after, strict=True):
        assert state.omega == 0 or loss <= upper


@given(laws, any_losses)
def test_a_fixed_gamma2_never_grows(law: Law, values: list[float]) -> None:
    assume(isinstance(law.rule, BackOff))
    decays = [state.gamma2_factor for state in states(law, values)]
    assert decays[0] == 1
    assert all(0 <= new <= old for old, new in pairwise(decays))


@given(laws, losses)
def test_the_lower_bound_stays_in_the_hull_of_zero_and_the_losses(law: Law, values: list[float]) -> None:
    slack = 1e-12 * max(map(abs, values))
    for step, state in enumerate(states(law, values)):
        so_far = [0.0, *values[:step]]
        assert min(so_far) - slack <= state.lower <= max(so_far) + slack


@given(laws, losses, st.lists(st.sampled_from([math.nan, math.inf, -math.inf]), min_size=1, max_size=5), st.data())
def test_a_loss_that_is_not_finite_changes_nothing(
    law: Law, values: list[float], broken: list[float], data: st.DataObject
) -> None:
    """At any position: it only closes the gate of its own step and is counted."""
    where = data.draw(st.integers(0, len(values)))
    clean = states(law, values)
    before = states(law, values[:where] + broken)[-1]
    counted = {"omega", "steps", "nonfinite"}
    for name in set(LawState._fields) - counted:
        assert same(getattr(before, name), getattr(clean[where], name)), name
    assert (before.omega, before.nonfinite) == (0, len(broken))
    after = states(law, values[:where] + broken + values[where:])[-1]
    if where < len(values):
        assert after.omega == clean[-1].omega


@given(laws, any_losses)
def test_host_numbers_and_tensors_agree(law: Law, values: list[float]) -> None:
    """Bitwise, except for the logarithm in Eq. 3, which the two may round differently."""
    on_host, on_tensors = LawState(), LawState(*torch.tensor(LawState(), dtype=torch.float64))
    for value in values:
        on_host = law.advance(on_host, value, HOST)
        on_tensors = law.advance(on_tensors, torch.tensor(value, dtype=torch.float64), torch)
        gap = value - on_host.lower
        # Within rounding of the gate's edge the two may rightly differ.
        assume(not math.isfinite(value) or abs(gap - law.eps) > 1e-9 * (1 + abs(gap)))
        for name, host, tensor in zip(LawState._fields, on_host, on_tensors, strict=True):
            assert same(host, pytest.approx(float(tensor), rel=1e-9, abs=1e-9, nan_ok=True)), name


eighths = st.integers(-800, 800).map(lambda n: n / 8)  # sums and means of 2, 4 or 8 of them are exact: no ties to miss


@given(
    st.sampled_from([1, 2, 4, 8]),
    st.sampled_from(["progressive", "average", "momentum"]),
    st.lists(eighths | st.just(math.nan), min_size=1, max_size=60),
    st.floats(0.0, 1.0),
)
@example(1, "progressive", [2.0, 3.0, 1.0, 2.0], 0.1)
def test_the_law_is_the_references(steps: int, bound: str, values: list[float], backoff: float) -> None:
    bounds: dict[str, tuple[LowerBound, reference.LowerBound]] = {
        "progressive": (Progressive(), reference.progressive()),
        "average": (Average(), reference.average()),
        "momentum": (Momentum(), reference.momentum()),
    }
    theirs, ours = bounds[bound]
    eps = 0.1234567  # no gap between eighths and their bounds is that close to it
    law, judge = (
        Law(steps, theirs, eps, BackOff(backoff)),
        reference.Law(steps, eps=eps, lower_bound=ours, backoff=backoff),
    )
    state = LawState()
    for loss in values:
        state, omega = law.advance(state, loss), judge.omega(loss)
        assert state.omega == pytest.approx(omega, rel=1e-12, abs=1e-11)
        assert state.lower == pytest.approx(judge.lower, rel=1e-12, abs=1e-11)
        assert state.gamma2_factor == pytest.approx(judge.factor, rel=1e-12)
        assert same(state.upper, judge.upper)
        assert same(state.mean, judge.previous)
        assert (state.statuses, state.count) == (judge.statuses, len(judge.pending))
        assert (state.opened, state.total) == (judge.open_steps, sum(judge.pending))


def test_both_edges_of_the_gate_are_open() -> None:
    """Eq. 4 has f - L >= eps and f <= U; the numbers are exact in binary."""
    law = Law(10, Average(), eps=0.5, rule=BackOff(0.1))
    state = law.advance(LawState(), 2.0)
    assert state.omega == 2.0  # f = U
    assert law.advance(state, 0.5).omega == 0.5  # f - L = eps
    assert law.advance(state, math.nextafter(0.5, 0)).omega == 0
    assert law.advance(state, math.nextafter(2.0, 3)).omega == 0


def test_an_equal_status_does_not_back_off() -> None:
    """Algorithm 1, line 7: only a loss above the one before."""
    law = Law(2, Average(), eps=0.1, rule=BackOff(0.25))
    decays = [state.gamma2_factor for state in states(law, [1.0, 2.0, 2.0, 1.0, 2.0, 1.5, 1.0, 1.0])[2::2]]
    assert decays == [1, 1, 0.25, 0.25]


def test_gamma2_moves_before_the_gate_of_the_same_step() -> None:
    """The step that completes a rising status is corrected with the smaller gamma2 and against the new bound."""
    law = Law(1, Average(), eps=0.1, rule=BackOff(0.1))
    *_, state = states(law, [3.0, 1.0, 2.5])
    assert state.gamma2_factor == 0.1
    assert state.lower == pytest.approx((3.0 + 1.0 + 2.5) / 3)
    assert state.omega == pytest.approx(2.5 - 6.5 / 3)


@pytest.mark.parametrize("log_base", [1.0, 0.5, -10.0, 0.0, 12.0, math.inf, math.nan])
def test_a_base_that_would_leave_the_hull_is_refused(log_base: float) -> None:
    """Above 11, w_1 = 1 / log(11) is more than 1 and L_1 falls below zero."""
    with pytest.raises(ValueError, match="log_base"):
        Progressive(log_base)


@pytest.mark.parametrize("beta", [-0.1, 1.1, math.nan, math.inf])
def test_a_beta_that_would_leave_the_hull_is_refused(beta: float) -> None:
    with pytest.raises(ValueError, match="beta"):
        Momentum(beta)


def test_the_lower_bounds_by_hand() -> None:
    assert Progressive().update(0.0, 2.0, 1) == pytest.approx(2 * (1 - 1 / math.log10(11)), rel=1e-14)
    assert Progressive(math.e).update(1.0, 2.0, 5) == pytest.approx(2 - 1 / math.log(15), rel=1e-14)
    assert Average().update(2.0, 5.0, 3) == 3.0
    assert Momentum(0.75).update(4.0, 8.0, 9) == 5.0
    assert Zero().update(4.0, 8.0, 9) == 0.0
