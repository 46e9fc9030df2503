"""gamma2 "agreement": steps compared with the reference, bounds, and invariances."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import reference
from lossaware import LGA
from lossaware.agreement import Agreement
from lossaware.base_bound import SAMPLE, _sample
from lossaware.law_state import HOST, LawState
from support import default_dtype, flat, set_gradients, torch_optimizer
from support.agreement import RULE, SHAPES, STEPS, attached, parts, problem


@pytest.mark.parametrize(
    ("name", "lr", "arrives"),
    [
        ("sgd", 1e-5, "step"),
        ("sgd", 10.0, "observe"),
        ("momentum", 1e-2, "closure"),
        ("adamw", 1e-5, "step"),
        ("adamw", 10.0, "step"),
        ("rmsprop", 1e-2, "step"),
    ],
)
def test_steps_are_the_references(name: str, lr: float, arrives: str) -> None:
    x, gradients, values = problem()
    judge = reference.Agreement(parts(x.copy()), [reference.OPTIMIZERS[name](lr=lr) for _ in SHAPES], status_steps=10)
    with default_dtype(torch.float64):
        params, optimizer, lga = attached(name, lr)
        for g, loss in zip(gradients, values, strict=True):
            set_gradients(params, g)
            if arrives == "step":
                optimizer.step(loss=loss)
            elif arrives == "observe":
                lga.observe(loss)
                optimizer.step()
            else:
                optimizer.step(lambda loss=loss: loss)
            judge.step(parts(g), loss, lr)
            np.testing.assert_allclose(
                flat(params), np.concatenate([t.ravel() for t in judge.tensors]), rtol=1e-9, atol=1e-12
            )
            assert optimizer.param_groups[0]["lr"] == lr
    assert lga.status.gamma2 == pytest.approx(judge.m)
    assert judge.m != judge.initial
    assert lga.status.nonfinite_losses == 1


def test_a_schedule_anneals_the_push_and_the_bound() -> None:
    """As the reference says, also while the rate goes up, and where it is 0."""
    x, gradients, values = problem()
    judge = reference.Agreement(parts(x.copy()), [reference.SGD() for _ in SHAPES], status_steps=10)
    with default_dtype(torch.float64):
        params, optimizer, _ = attached(lr=1e-9)
        for step, (g, loss) in enumerate(zip(gradients, values, strict=True)):
            lr = optimizer.param_groups[0]["lr"] = 1e-2 * max(0.0, min(step / 20, (STEPS - 20 - step) / 60))
            set_gradients(params, g)
            before = flat(params)
            optimizer.step(loss=loss)
            judge.step(parts(g), loss, lr)
            np.testing.assert_allclose(
                flat(params), np.concatenate([t.ravel() for t in judge.tensors]), rtol=1e-9, atol=1e-12
            )
    assert np.array_equal(flat(params), before)  # the rate is 0


@pytest.mark.parametrize("attach_first", [True, False])
def test_a_warm_up_of_a_scheduler_warms_the_push_up(attach_first: bool) -> None:
    p = nn.Parameter(torch.ones(3, 3))
    optimizer: Any = torch.optim.SGD([p], lr=1e-9)
    rule = Agreement(initial=1e-3, smallest=1e-3, largest=1e-3)
    if attach_first:
        LGA(optimizer, gamma2=rule)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda epoch: [0.25, 1.0, 0.5, 0.0][epoch])
    if not attach_first:
        LGA(optimizer, gamma2=rule)
    moved = []
    for _ in range(4):
        before = float(p.detach()[0, 0])
        p.grad = torch.ones_like(p)
        optimizer.step(loss=1.0)
        scheduler.step() if scheduler.last_epoch < 3 else None
        moved.append(round((before - float(p.detach()[0, 0])) / 1e-3, 2))
    assert moved == [0.25, 1.0, 0.5, 0.0]


# Invariances ----------------------------------------------------------------------------------------------------------


def pushed(scaled: float = 1.0, loss_scale: float = 1.0, added: float = 0.0) -> torch.Tensor:
    """The push alone: the base's learning rate is 0."""
    _, gradients, values = problem()
    params, optimizer, _ = attached(lr=0.0)
    for g, loss in zip(gradients, values, strict=True):
        set_gradients(params, g * scaled)
        optimizer.step(loss=loss * loss_scale + added)
    return torch.tensor(flat(params))


@pytest.mark.parametrize("scaled", [2.0**-40, 2.0**40])
def test_the_scale_of_gradients_changes_no_bit(scaled: float) -> None:
    assert torch.equal(pushed(scaled=scaled), pushed())


@pytest.mark.parametrize("scaled", [2.0**-20, 2.0**20])
def test_the_scale_of_the_loss_changes_no_bit(scaled: float) -> None:
    assert torch.equal(pushed(loss_scale=scaled), pushed())


@pytest.mark.parametrize("added", [-1000.0, 1000.0])
def test_a_number_added_to_the_loss_changes_nothing(added: float) -> None:
    torch.testing.assert_close(pushed(added=added), pushed())


# Bounds ---------------------------------------------------------------------------------------------------------------


def test_no_push_moves_an_element_by_more_than_the_largest_share_of_its_scale() -> None:
    x, gradients, values = problem()
    params, optimizer, _ = attached(lr=0.0)
    scales = reference.Agreement(parts(x), [reference.SGD() for _ in SHAPES]).scales
    for g, loss in zip(gradients, values, strict=True):
        before = [p.detach().clone() for p in params]
        set_gradients(params, g * 1e6)
        optimizer.step(loss=loss)
        for p, old, scale in zip(params, before, scales, strict=True):
            assert float((p - old).detach().abs().max()) <= RULE.largest * scale * (1 + 1e-9)


@pytest.mark.parametrize("name", ["sgd", "momentum", "adamw", "adagrad"])
@pytest.mark.parametrize("lr", [1e-8, 1.0, 1e8])
def test_a_base_of_any_rate_comes_near_the_minimum(name: str, lr: float) -> None:
    """A quadratic with curvatures from 0.1 to 10, on which the base alone diverges or does not move."""
    torch.manual_seed(0)
    target, curvature = torch.randn(20, 10), torch.logspace(-1, 1, 10)
    p = nn.Parameter(torch.randn(20, 10))
    optimizer: Any = torch_optimizer(name, [p], lr=lr)
    LGA(optimizer, gamma2="agreement")
    first = last = math.nan
    for step in range(400):
        loss = (curvature * (p - target).square()).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step(loss=loss)
        first, last = (loss.item() if step == 0 else first), loss.item()
    assert last < first / 50


@settings(deadline=None, derandomize=True, max_examples=50)
@given(st.lists(st.tuples(st.floats(-1, 1), st.floats(-1e30, 1e30)), min_size=1, max_size=80))
def test_m_stays_within_its_bounds(steps: list[tuple[float, float]]) -> None:
    lga = attached(rule=Agreement(status_steps=3))[2]
    state, rule, law = LawState(), lga.settings.rule, lga.settings.law
    assert isinstance(rule, Agreement)
    for agreement, loss in steps:
        state = law.advance(rule.follow(state, agreement, HOST), loss)
        m = rule.gamma2(state, 1.0, HOST)
        assert rule.smallest * (1 - 1e-12) <= m <= rule.largest * (1 + 1e-12)


def test_a_million_steps_in_float32_overflow_nothing() -> None:
    rule = Agreement()
    state = LawState(*(torch.tensor(v, dtype=torch.float32) for v in LawState()))
    with torch.no_grad():
        for steps in (1.0, 1e3, 1e6, 2.0**24):
            state = state._replace(steps=torch.tensor(steps, dtype=torch.float32))
            for agreement, limit in ((1.0, rule.largest), (-1.0, rule.smallest)):
                for _ in range(300):
                    state = rule.follow(state, torch.tensor(agreement), torch)
                assert float(rule.gamma2(state, 1.0, torch)) == pytest.approx(limit, rel=1e-5)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("name", ["sgd", "momentum", "adamw"])
def test_a_gradient_that_is_not_finite_changes_nothing(name: str, bad: float) -> None:
    _, gradients, values = problem()
    with_bad, without = attached(name), attached(name)
    for step, (g, loss) in enumerate(zip(gradients[:40], values[:40], strict=True)):
        if step == 20:
            before = flat(with_bad[0])
            broken = g.copy()
            broken[3] = bad
            set_gradients(with_bad[0], broken)
            with_bad[1].step(loss=math.nan)
            assert np.array_equal(flat(with_bad[0]), before)
            assert with_bad[0][0].grad is not None
        for params, optimizer, _ in (with_bad, without):
            set_gradients(params, g)
            optimizer.step(loss=loss)
    assert np.isfinite(flat(with_bad[0])).all()
    np.testing.assert_allclose(flat(with_bad[0]), flat(without[0]), atol=0.02)
    assert with_bad[2].status.nonfinite_losses == without[2].status.nonfinite_losses + 1


def test_a_loss_that_is_not_finite_pushes_nothing() -> None:
    _, gradients, _ = problem()
    params, optimizer, lga = attached(lr=0.0)
    set_gradients(params, gradients[0])
    optimizer.step(loss=1.0)
    before = flat(params)
    set_gradients(params, gradients[1])
    optimizer.step(loss=math.inf)
    assert np.array_equal(flat(params), before)
    assert lga.status.nonfinite_losses == 1


# Where it rests -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(), (3,), (50, 20), (1000, 1000), (1001, 1000), (64, 32, 3, 3), (7, 100_003)])
def test_a_sample_has_elements_of_all_rows_and_columns(shape: tuple[int, ...]) -> None:
    p = nn.Parameter(torch.empty(shape))
    last = shape[-1] if shape else 1
    with torch.no_grad():
        p.copy_((torch.arange(p.numel()) % last).reshape(shape))
    sample = _sample(p)
    assert min(p.numel(), SAMPLE // 2) <= len(sample) <= SAMPLE
    assert len(sample.unique()) >= min(last, len(sample)) * 0.9


# Keeping and refusing -------------------------------------------------------------------------------------------------
