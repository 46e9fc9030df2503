"""Upper bounds: the running one compared with the reference, its use cases, and custom objects."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

import reference
from lossaware import LGA, AutoGamma2, FirstLoss, RunningLevel
from lossaware.gamma2 import BackOff
from lossaware.law import Law
from lossaware.law_state import HOST, LawState
from lossaware.lower_bounds import Progressive, Zero
from support import default_dtype, enable_x64, flat, needs, parameters, set_gradients

STEPS = 1200
STEPS_PER_EPOCH = 300  # longer than RunningLevel needs to settle
EPS = 0.1


def falling(start: float, end: float) -> list[float]:
    """Losses of a run that goes well, with the noise of batches."""
    rng = np.random.default_rng(0)
    level = end + (start - end) * np.exp(-3 * np.arange(STEPS) / STEPS)
    return [float(f) for f in level + rng.normal(scale=0.04, size=STEPS)]


CLEAN = falling(2.3, 0.5)


def with_losses(*pairs: tuple[int, float]) -> list[float]:
    losses = list(CLEAN)
    for step, loss in pairs:
        losses[step] = loss
    return losses


REMEDIED: dict[str, list[float]] = {
    "a first loss of 0": with_losses((0, 0.0)),
    "ten first losses of 0": with_losses(*((step, 0.0) for step in range(10))),
    "a masked batch now and then": with_losses(*((step, 0.0) for step in range(0, STEPS, 40))),
    "a small first loss": with_losses((0, 0.4)),
    "small losses for 50 steps": with_losses(*((step, 0.4 + 0.01 * math.sin(step)) for step in range(50))),
    "a spike at the first step": with_losses((0, 1e5)),
    "a spike at the second step": with_losses((1, 1e5)),
    "a spike at the tenth step": with_losses((9, 1e5)),
    "a spike in the first status": with_losses((150, 1e5)),
    "a spike later": with_losses((500, 1e5)),
    "a downward spike": with_losses((500, -1e5)),
    "NaN and infinity first": with_losses((0, math.nan), (1, math.inf)),
}
"""The losses of `CLEAN`, except for some steps."""

OTHERS: dict[str, list[float]] = {
    "clean": CLEAN,
    "rising": [0.05 + 5 * step / STEPS + 0.05 * math.sin(step) for step in range(STEPS)],
    "rising, then falling": [
        2 * min(step / 300, 1.0) * 0.999**step + 0.1 + 0.02 * math.sin(step) for step in range(STEPS)
    ],
    "below zero": [-1 - 0.01 * step + 0.05 * math.sin(7 * step) for step in range(STEPS)],
    "a square minus 5": [loss - 5 for loss in falling(1.0, 0.0)],
    "through zero": [loss - 0.5 for loss in falling(1.0, 0.0)],
    "constant": [1.0] * STEPS,
    "zero": [0.0] * STEPS,
}
ALL = {**REMEDIED, **OTHERS}


def walked(losses: list[float], bound: Any = "running", *, rule: Any = None, steps: int = STEPS_PER_EPOCH) -> Any:
    """The state after all losses."""
    bound = {"first": FirstLoss(), "running": RunningLevel()}.get(bound, bound)
    auto = isinstance(rule, AutoGamma2)
    law = Law(steps, Zero() if auto else Progressive(), 0.0 if auto else EPS, rule or BackOff(1.0), bound)
    state = LawState()
    for loss in losses:
        state = law.advance(state, loss)
    return state


# Against the reference ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("losses", ALL.values(), ids=ALL)
@pytest.mark.parametrize("steps", [7, STEPS_PER_EPOCH])
def test_the_law_is_the_references(losses: list[float], steps: int) -> None:
    law = Law(steps, Progressive(), EPS, BackOff(0.5), RunningLevel(width=3.0, memory=10))
    judge = reference.Law(steps, eps=EPS, backoff=0.5, running=reference.RunningLevel(3.0, 10))
    state = LawState()
    for loss in losses:
        state, omega = law.advance(state, loss), judge.omega(loss)
        range_, scale = judge.running, abs(judge.lower) + 1
        assert range_ is not None
        fields = (state.upper, state.origin, state.level, state.spread, state.lower, state.omega, state.gamma2_factor)
        expected = (judge.upper, judge.origin, range_.level, range_.spread, judge.lower, omega, judge.factor)
        assert fields == pytest.approx(expected, rel=1e-9, abs=1e-9 * scale, nan_ok=True)
    assert (state.opened, state.statuses) == (judge.open_steps, judge.statuses)


@pytest.mark.parametrize("losses", ALL.values(), ids=ALL)
def test_tensors_and_numbers_agree(losses: list[float]) -> None:
    law = Law(7, Progressive(), EPS, BackOff(0.5), RunningLevel(memory=10))
    host, tensors = LawState(), LawState(*torch.tensor(LawState(), dtype=torch.float64))
    for loss in losses[:300]:
        host = law.advance(host, loss, HOST)
        tensors = law.advance(tensors, torch.tensor(loss, dtype=torch.float64), torch)
        np.testing.assert_allclose(torch.stack(tensors).numpy(), np.array(host), rtol=1e-9, atol=1e-12)


WAYS = ["host", "device", "compiled"]


def trained(way: str, losses: list[float], gradients: list[Any], x: Any, **settings: Any) -> tuple[list[Any], Any]:
    """Parameters after each step of SGD with LGA, and the status."""
    positions = []
    with default_dtype(torch.float64):
        params = parameters(x, (5,), (3, 2))
        optimizer: Any = torch.optim.SGD(params, lr=1e-3)
        lga = LGA(optimizer, **settings)
        if way == "device":
            lga._stepper.state_on(torch.device("cpu"))
        step = lga.compile(backend="eager") if way == "compiled" else lambda loss: optimizer.step(loss=loss)
        for loss, gradient in zip(losses, gradients, strict=True):
            set_gradients(params, gradient)
            step(loss)
            positions.append(flat(params))
    return positions, lga.status


CHOSEN = [
    "a first loss of 0",
    "a spike at the first step",
    "a spike at the tenth step",
    "below zero",
    "NaN and infinity first",
]


@pytest.mark.parametrize("name", CHOSEN)
@pytest.mark.parametrize("way", WAYS)
def test_steps_are_the_references(way: str, name: str) -> None:
    rng = np.random.default_rng(0)
    x, gradients, losses = rng.normal(size=11), list(rng.normal(size=(60, 11))), ALL[name][:60]
    law = reference.Law(7, 1e-4, running=reference.RunningLevel(4.0, 3))
    expected = list(reference.trajectory(reference.SGD(1e-3), x, gradients, losses, lga=law))
    bound = RunningLevel(memory=3)
    result, status = trained(way, losses, gradients, x, steps_per_epoch=7, gamma2=1e-4, upper_bound=bound)
    np.testing.assert_allclose(result, expected, rtol=1e-10)
    assert status.open_share == pytest.approx(law.open_steps / len(losses))
    assert law.open_steps > 10
    assert status.lower_bound == pytest.approx(law.origin + law.lower)
    assert status.upper_bound == pytest.approx(law.upper)


@pytest.mark.parametrize("name", CHOSEN)
@pytest.mark.parametrize("double", [True, False], ids=["float64", "float32"])
def test_optax_steps_are_the_references(name: str, double: bool) -> None:
    jax, optax = needs("jax"), needs("optax")
    from lossaware.optax import loss_aware, status

    rng = np.random.default_rng(0)
    x, gradients, losses = rng.normal(size=11), list(rng.normal(size=(60, 11))), ALL[name][:60]
    law = reference.Law(7, 1e-4, running=reference.RunningLevel(4.0, 3))
    judge = reference.trajectory(reference.SGD(1e-3), x, gradients, losses, lga=law)
    with enable_x64(double):
        solver = loss_aware(optax.sgd(1e-3), steps_per_epoch=7, gamma2=1e-4, upper_bound=RunningLevel(memory=3))
        params = jax.numpy.asarray(x)
        state = solver.init(params)
        update = jax.jit(lambda g, s, p, f: solver.update(g, s, p, value=f))
        for gradient, loss, expected in zip(gradients, losses, judge, strict=True):
            updates, state = update(jax.numpy.asarray(gradient), state, params, loss)
            params = optax.apply_updates(params, updates)
            np.testing.assert_allclose(np.asarray(params), expected, rtol=1e-9 if double else 2e-4, atol=1e-6)
        assert update._cache_size() == 1
        assert status(state).upper_bound == pytest.approx(law.upper, rel=1e-5, abs=1e-5)
        assert status(state).lower_bound == pytest.approx(law.origin + law.lower, rel=1e-4, abs=1e-4)


# A remedy -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("losses", REMEDIED.values(), ids=REMEDIED)
def test_the_gate_is_as_open_as_without_the_disturbance(losses: list[float]) -> None:
    clean, disturbed = walked(CLEAN), walked(losses)
    assert disturbed.opened >= 0.97 * clean.opened > 0.5 * STEPS
    assert disturbed.lower == pytest.approx(clean.lower, abs=0.1)
    assert disturbed.upper == pytest.approx(clean.upper, abs=0.3)


BLOCKED = {
    "a first loss of 0": 0.0,
    "ten first losses of 0": 0.0,
    "a small first loss": 0.01,
    "a spike at the first step": 0.3,
    "a spike at the second step": 0.3,
    "a spike in the first status": 0.3,
}


@pytest.mark.parametrize("name", BLOCKED)
def test_the_first_loss_closes_the_gate_in_these_cases(name: str) -> None:
    assert walked(REMEDIED[name], "first").opened <= BLOCKED[name] * walked(CLEAN, "first").opened


def test_with_clean_losses_it_is_as_with_the_first_loss() -> None:
    first, running = walked(CLEAN, "first"), walked(CLEAN)
    assert running.opened == pytest.approx(first.opened, rel=0.02)
    assert (running.mean, running.lower) == pytest.approx((first.mean, first.lower), rel=0.01)


@pytest.mark.parametrize("name", ["rising", "below zero", "a square minus 5", "through zero"])
def test_losses_that_the_first_loss_shuts_out(name: str) -> None:
    assert walked(OTHERS[name], "first").opened <= 0.2 * STEPS
    assert walked(OTHERS[name]).opened >= 0.7 * STEPS


@pytest.mark.parametrize("name", [*REMEDIED, "rising", "below zero", "a square minus 5", "through zero"])
def test_it_serves_a_gamma2_that_adapts_by_itself(name: str) -> None:
    state = walked(ALL[name], rule=AutoGamma2(), steps=50)
    assert state.opened >= 0.95 * (STEPS - 12 if name.startswith("ten") else STEPS - 50 if "50" in name else STEPS)
    assert 0 < AutoGamma2().gamma2(state, 0.02, HOST) < 1


def test_an_outlier_moves_it_by_little() -> None:
    before = walked(CLEAN[:700])
    law = Law(STEPS_PER_EPOCH, Progressive(), EPS, BackOff(1.0), RunningLevel())
    for outlier in (1e5, -1e5):
        after = law.advance(before, outlier)
        assert after.omega == 0
        assert abs(after.level - before.level) < before.spread
        assert after.spread < 1.2 * before.spread
        assert after.upper == before.upper
        assert before.origin == after.origin == 0


@pytest.mark.parametrize("name", ALL)
def test_the_unit_of_the_loss_does_not_matter(name: str) -> None:
    """Scaled by a power of two, losses give the same bits."""
    plain, scaled = (
        walked([loss * unit for loss in ALL[name]], rule=AutoGamma2(), steps=50) for unit in (1.0, 2.0**-9)
    )
    assert plain.gamma2_factor == scaled.gamma2_factor
    assert [plain.upper, plain.origin, plain.level] == [2.0**9 * f for f in (scaled.upper, scaled.origin, scaled.level)]


# Resuming, custom objects, mistakes -----------------------------------------------------------------------------------


@pytest.mark.parametrize("stop", [1, 5, 29, 31, 45])
def test_a_checkpoint_resumes_bitwise(stop: int) -> None:
    def run(steps: range, p: Any, state: Any = None) -> Any:
        optimizer: Any = torch.optim.SGD([p], lr=0.1)
        lga = LGA(optimizer, steps_per_epoch=7, gamma2=1e-3, upper_bound=RunningLevel(memory=3))
        if state is not None:
            lga.load_state_dict(state)
        for step in steps:
            p.grad = torch.full_like(p, math.sin(step))
            optimizer.step(loss=ALL["a first loss of 0"][step])
        return lga.state_dict()

    whole = torch.nn.Parameter(torch.ones(3))
    expected = run(range(60), whole)
    parted = torch.nn.Parameter(torch.ones(3))
    resumed = run(range(stop, 60), parted, run(range(stop), parted))
    assert resumed == expected
    assert torch.equal(parted, whole)


def test_a_checkpoint_of_another_upper_bound_is_refused() -> None:
    p = torch.nn.Parameter(torch.ones(3))
    state = LGA(torch.optim.SGD([p], lr=0.1), steps_per_epoch=7).state_dict()
    other = LGA(torch.optim.SGD([p], lr=0.1), steps_per_epoch=7, upper_bound="running")
    with pytest.raises(
        ValueError, match=r"upper_bound is 'FirstLoss\(\)' .* but 'RunningLevel\(width=4.0, memory=20\)'"
    ):
        other.load_state_dict(state)


class Highest:
    """U is the highest loss so far; it counts its own calls in ``level``."""

    limits_mean = False

    def update(self, state: Any, loss: Any, count: Any, ops: Any) -> Any:
        upper = ops.where((count > 1) & (state.upper > loss), state.upper, loss)
        return upper, state.origin, state.level + 1.0, state.spread


def expected_with_highest(x: Any, gradients: list[Any], losses: list[float]) -> list[Any]:
    """With the highest loss as U, the gate is never closed from above."""
    law = reference.Law(7, 1e-4)
    positions = []
    for t, (gradient, loss) in enumerate(zip(gradients, losses, strict=True)):
        law.upper = max(losses[: t + 1])
        x = x - 1e-3 * gradient - law.correction(law.omega(loss), gradient)
        positions.append(x)
    assert law.closed_above == 0
    assert law.open_steps > 20
    return positions


@pytest.mark.parametrize("way", WAYS)
def test_a_custom_object(way: str) -> None:
    rng = np.random.default_rng(0)
    x, gradients, losses = rng.normal(size=11), list(rng.normal(size=(40, 11))), OTHERS["rising"][:1200:30]
    expected = expected_with_highest(x, gradients, losses)
    result, status = trained(
        way, losses, gradients, x, steps_per_epoch=7, gamma2=1e-4, backoff=0.1, upper_bound=Highest()
    )
    np.testing.assert_allclose(result, expected, rtol=1e-10)
    assert status.upper_bound == max(losses)


def test_a_custom_object_in_optax() -> None:
    jax, optax = needs("jax"), needs("optax")
    from lossaware.optax import loss_aware

    rng = np.random.default_rng(0)
    x, gradients, losses = rng.normal(size=11), list(rng.normal(size=(40, 11))), OTHERS["rising"][:1200:30]
    solver = loss_aware(optax.sgd(1e-3), steps_per_epoch=7, gamma2=1e-4, upper_bound=Highest())
    params = jax.numpy.asarray(x)
    state = solver.init(params)
    for gradient, loss, expected in zip(gradients, losses, expected_with_highest(x, gradients, losses), strict=True):
        updates, state = solver.update(jax.numpy.asarray(gradient), state, params, value=loss)
        params = optax.apply_updates(params, updates)
        np.testing.assert_allclose(np.asarray(params), expected, rtol=1e-4, atol=1e-5)
    assert float(state.law.level) == 40


class WithoutAttribute:
    def update(self, state: Any, loss: Any, count: Any, ops: Any) -> Any:
        return loss, 0.0, 0.0, 0.0


MISTAKES: list[tuple[Callable[[], Any], str]] = [
    (lambda: "runing", r"unknown upper_bound 'runing': known are first, running; did you mean 'running'\?"),
    (lambda: None, "upper_bound must be one of first, running or an object with update"),
    (lambda: 2.3, "upper_bound must be one of first, running or an object with update.*: got 2.3"),
    (lambda: RunningLevel, "upper_bound must be .* an object with update.*: got <class"),
    (WithoutAttribute, "upper_bound .* limits_mean.*: got <.*WithoutAttribute"),
    (lambda: RunningLevel(width=0.5), "width must be a finite number of at least 1: got 0.5"),
    (lambda: RunningLevel(width=math.inf), "width must be a finite number of at least 1: got inf"),
    (lambda: RunningLevel(width=math.nan), "width must be a finite number of at least 1: got nan"),
    (lambda: RunningLevel(memory=1), "memory must be an integer of at least 2: got 1"),
    (lambda: RunningLevel(memory=2.5), "memory must be an integer of at least 2: got 2.5"),  # type: ignore[arg-type]
]


def test_the_smallest_width_and_memory() -> None:
    assert walked(CLEAN, RunningLevel(width=1.0, memory=2)).opened > 0.5 * STEPS


@pytest.mark.parametrize(("bound", "message"), MISTAKES, ids=[message[:30] for _, message in MISTAKES])
@pytest.mark.parametrize("library", ["torch", "jax"])
def test_mistakes_are_one_line(library: str, bound: Callable[[], Any], message: str) -> None:
    def attach() -> None:
        if library == "torch":
            LGA(torch.optim.SGD([torch.nn.Parameter(torch.ones(3))]), steps_per_epoch=7, upper_bound=bound())
        else:
            needs("jax")
            from lossaware.optax import loss_aware

            loss_aware(needs("optax").sgd(0.1), steps_per_epoch=7, upper_bound=bound())

    with pytest.raises(ValueError, match=message) as raised:
        attach()
    assert "\n" not in str(raised.value)
