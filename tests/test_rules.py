"""Custom rules for gamma2, in torch and in JAX: no code depends on the class of a rule."""

from __future__ import annotations

import logging
import math
import re
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from torch import nn

import lossaware
import reference
from lossaware import LGA
from lossaware.gamma2 import AutoGamma2, BackOff, Defaults, Gamma2Rule
from lossaware.law import Law
from lossaware.law_state import HOST, LawState
from lossaware.lower_bounds import Zero
from support import default_dtype, enable_x64, flat, needs, parameters, set_gradients

MOMENTUM = 0.5
SHARE = 1e-3
STEPS = 40
LOSSES = [1.5 + math.cos(step / 3) for step in range(STEPS)]
X = np.random.default_rng(0).normal(size=11)
GRADIENTS = list(np.random.default_rng(1).normal(size=(STEPS, 11)))


class Outside:
    """Not derived from anything: a share of the parameters' scale, halved where a status' mean loss is above 1.5."""

    defaults: ClassVar[Defaults] = Defaults(eps=0.3, xi=0.5, lower_bound="average", zero_gradient="rest")
    momentum = MOMENTUM
    uses_scale: ClassVar[bool] = True
    own_gamma2: ClassVar[bool] = True
    logs_backoffs: ClassVar[bool] = True
    needs_statuses: ClassVar[bool] = True
    needs_epochs: ClassVar[bool] = True
    moves_base: ClassVar[bool] = False

    def group_size(self, scale: Any, xi: Any) -> Any:
        return SHARE * scale * xi

    def step_size(self, state: Any, ops: Any) -> Any:
        return ops.where(state.omega > 0, state.gamma2_factor, 0.0)

    def update_factor(self, state: Any, mean: Any, error: Any, ops: Any) -> Any:
        return ops.where(mean > 1.5, state.gamma2_factor * 0.5, state.gamma2_factor)

    def gamma2(self, state: Any, size: Any, ops: Any) -> Any:
        return 10 * size * state.gamma2_factor

    def steps_per_status(self, steps_per_epoch: int) -> int:
        return steps_per_epoch // 2


class Derived(Gamma2Rule):
    """Overrides some methods; all others are those of the base class."""

    own_gamma2: ClassVar[bool] = True

    def group_size(self, scale: Any, xi: Any) -> Any:
        assert scale == 1.0
        return 1e-3

    def step_size(self, state: Any, ops: Any) -> Any:
        return state.omega


def expected(sizes: Any = None) -> tuple[list[Any], int, float]:
    """The reference's parameters after each step of SGD, back-offs, and the reported gamma2."""
    law = reference.Law(4, eps=0.3, lower_bound=reference.average())
    scale = float(np.sqrt(np.mean(X**2)))
    x, mean, factor, positions, backoffs = X, np.zeros_like(X), 1.0, [], 0
    for loss, g in zip(LOSSES, GRADIENTS, strict=True):
        statuses = law.statuses
        omega = law.omega(loss)
        if law.statuses > max(statuses, 1) and law.previous > 1.5:
            factor, backoffs = factor * 0.5, backoffs + 1
        x = x - 1e-2 * g
        if omega > 0:
            mean = MOMENTUM * mean + (1 - MOMENTUM) * g
            x = x - factor * SHARE * scale * 0.5 / reference.phi(mean, 0.5)
        positions.append(x)
    assert 5 < law.open_steps < STEPS
    assert backoffs > 1
    return positions, backoffs, 10 * SHARE * scale * 0.5 * factor


@pytest.mark.parametrize("way", ["host", "device", "compiled"])
def test_in_torch(way: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "lossaware")
    steps, backoffs, gamma2 = expected()
    with default_dtype(torch.float64):
        params = parameters(X, (5,), (3, 2))
        optimizer: Any = torch.optim.SGD(params, lr=1e-2)
        lga = LGA(optimizer, steps_per_epoch=8, gamma2=Outside())
        if way == "device":
            lga._stepper.state_on(torch.device("cpu"))
        step = lga.compile(backend="eager") if way == "compiled" else lambda loss: optimizer.step(loss=loss)
        for loss, g, x in zip(LOSSES, GRADIENTS, steps, strict=True):
            set_gradients(params, g)
            step(loss)
            np.testing.assert_allclose(flat(params), x, rtol=1e-10)
    assert lga.status.gamma2 == pytest.approx(gamma2)
    assert len([record for record in caplog.records if "backed off" in record.message]) == (
        1 if way == "device" else backoffs  # on a device it is seen when the status is read
    )
    assert lga.state_dict()["hyperparameters"]["gamma2"] == "Outside"
    assert [group["scale"] for group in lga.state_dict()["groups"]] == [pytest.approx(np.sqrt(np.mean(X**2)))]


def test_in_jax() -> None:
    jax, optax = needs("jax"), needs("optax")
    from lossaware.optax import loss_aware, status

    steps, _, gamma2 = expected()
    with enable_x64(True):
        solver = loss_aware(optax.sgd(1e-2), steps_per_epoch=8, gamma2=Outside())
        params = jax.numpy.asarray(X)
        state = solver.init(params)
        update = jax.jit(lambda g, s, p, f: solver.update(g, s, p, value=f))
        for loss, g, x in zip(LOSSES, GRADIENTS, steps, strict=True):
            updates, state = update(jax.numpy.asarray(g), state, params, loss)
            params = optax.apply_updates(params, updates)
            np.testing.assert_allclose(np.asarray(params), x, rtol=1e-9)
        assert status(state).gamma2 == pytest.approx(gamma2)


@pytest.mark.parametrize("library", ["torch", "jax"])
def test_a_derived_rule_needs_two_methods(library: str) -> None:
    law = reference.Law(5, 1e-3, backoff=1.0)
    judge = reference.trajectory(reference.SGD(1e-2), X, GRADIENTS, LOSSES, lga=law)
    if library == "torch":
        (p,) = parameters(X, (11,))
        optimizer: Any = torch.optim.SGD([p], lr=1e-2)
        lga = LGA(optimizer, steps_per_epoch=5, gamma2=Derived())
        for loss, g, x in zip(LOSSES, GRADIENTS, judge, strict=True):
            set_gradients([p], g)
            optimizer.step(loss=loss)
            np.testing.assert_allclose(flat([p]), x, rtol=1e-12)
        assert lga.state_dict()["groups"] == []
        assert lga.status.gamma2 == 1e-3
        return
    jax, optax = needs("jax"), needs("optax")
    from lossaware.optax import loss_aware

    solver = loss_aware(optax.sgd(1e-2), steps_per_epoch=5, gamma2=Derived())
    params = jax.numpy.asarray(X)
    state = solver.init(params)
    for loss, g, x in zip(LOSSES, GRADIENTS, judge, strict=True):
        updates, state = solver.update(jax.numpy.asarray(g), state, params, value=loss)
        params = optax.apply_updates(params, updates)
        np.testing.assert_allclose(np.asarray(params), x, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("library", ["numbers", "torch", "jax"])
def test_auto_does_not_push_if_omega_is_0_for_any_m(library: str) -> None:
    """Without the check: a factor that has overflowed times 0 is NaN."""
    ops: Any = {"numbers": HOST, "torch": torch}.get(library) or needs("jax").numpy
    number: Any = {"numbers": float, "torch": torch.tensor}.get(library) or ops.asarray
    for factor in (1.0, 1e300, math.inf):
        state = LawState(*map(number, LawState(upper=1.0, omega=0.0, gamma2_factor=factor)))
        assert float(AutoGamma2().step_size(state, ops)) == 0.0


def test_auto_does_not_push_if_u_is_below_0_for_any_lower_bound() -> None:
    """Without the check: L is below such losses, and Omega is not a share of U."""
    p = nn.Parameter(torch.ones(3))
    optimizer: Any = torch.optim.SGD([p], lr=0.0)
    lga = LGA(optimizer, steps_per_epoch=2, gamma2=AutoGamma2(steps_at_least=2), lower_bound="average")
    opened = 0
    for step in range(20):
        p.grad = torch.ones(3)
        optimizer.step(loss=-1.0 - 0.1 * (step % 7))
        opened += lga.status.omega > 0
    assert opened > 0
    assert torch.equal(p, torch.ones(3))
    assert lga.status.gamma2 == 0


def test_the_factor_of_auto_does_not_grow_where_losses_are_below_0() -> None:
    """Without the check: it overflows after some thousand statuses."""
    law, state = Law(1, Zero(), 0.0, AutoGamma2()), LawState()
    for step in range(100):
        state = law.advance(state, -1.0 - 0.01 * step)
    assert state.gamma2_factor == 1.0


@pytest.mark.parametrize(
    ("name", "low", "low_is_allowed", "high", "high_is_allowed"),
    [
        ("reach", 0.0, False, 1.0, True),
        ("momentum", 0.0, True, 1.0, False),
        ("growth", 1.0, True, 10.0, True),
        ("shrink", 0.0, False, 1.0, True),
        ("fade", 0.0, False, 1.0, True),
        ("certainty", 0.0, True, 10.0, True),
        ("statuses_per_epoch", 1, True, 10**9, True),
        ("steps_at_least", 1, True, 10**9, True),
    ],
)
def test_autos_values_reach_to_the_ends_of_their_ranges(
    name: str, low: float, low_is_allowed: bool, high: float, high_is_allowed: bool
) -> None:
    values = [(low, low_is_allowed), (high, high_is_allowed)]
    if isinstance(low, float):
        values += [(math.nextafter(low, -1), False), (math.nextafter(low, 11), True)]
        values += [(math.nextafter(high, 11), False), (math.nextafter(high, -1), True), (math.nan, False)]
    for value, is_allowed in values:
        changed: dict[str, Any] = {name: value}
        if is_allowed:
            assert getattr(AutoGamma2(**changed), name) == value
        else:
            with pytest.raises(ValueError, match=f"^{name} must be "):
                AutoGamma2(**changed)


@pytest.mark.parametrize("xi", [0.01, 1.0, 5.0])
def test_the_largest_push_of_auto_depends_on_no_xi(xi: float) -> None:
    p = nn.Parameter(torch.full((3,), 2.0, dtype=torch.float64))
    optimizer: Any = torch.optim.SGD([p], lr=0.0)
    LGA(optimizer, steps_per_epoch=8, gamma2=AutoGamma2(reach=0.1), xi=xi)
    p.grad = torch.full_like(p, 1e-12)
    optimizer.step(loss=1.0)
    assert p.tolist() == pytest.approx([2.0 - 0.1 * 2.0] * 3, rel=1e-9)


@pytest.mark.parametrize(
    ("upper", "origin", "factor", "gamma2"),
    [
        (0.5, 0.0, 0.25, 1.5),
        (4.0, 0.0, 0.25, 0.1875),
        (1.0, -3.0, 2.0, 1.5),
        (0.0, 0.0, 1.0, 0.0),
        (-1.0, 0.0, 1.0, 0.0),
    ],
)
def test_gamma2_reported_by_auto(upper: float, origin: float, factor: float, gamma2: float) -> None:
    """The size over U, counted from where L starts; 0 where U is not above that."""
    state = LawState(upper=upper, origin=origin, gamma2_factor=factor)
    assert AutoGamma2().gamma2(state, 3.0, HOST) == gamma2


@pytest.mark.parametrize(("upper", "origin", "omega", "share"), [(4.0, 0.0, 1.0, 0.5), (1.0, -3.0, 1.0, 0.5)])
def test_the_push_of_auto_goes_by_omega_over_u_counted_from_where_l_starts(
    upper: float, origin: float, omega: float, share: float
) -> None:
    assert AutoGamma2().step_size(LawState(upper=upper, origin=origin, omega=omega), HOST) == share


@pytest.mark.parametrize("certainty", [0.5, 1.0, 2.0])
@pytest.mark.parametrize("origin", [0.0, -4.0])
def test_auto_takes_a_change_for_one_from_so_many_standard_errors(certainty: float, origin: float) -> None:
    rule = AutoGamma2(growth=1.5, shrink=0.5, fade=0.75, certainty=certainty)
    state = LawState(upper=100.0, origin=origin, mean=4.0, error=0.01, gamma2_factor=0.5)
    standard_error = math.sqrt(0.01 + 0.03)

    def factor_after(change: float) -> float:
        factor: float = rule.update_factor(state, 4.0 + change * standard_error, 0.03, HOST) / 0.5
        return factor

    assert factor_after(1.01 * certainty) == 0.5
    assert factor_after(-1.01 * certainty) == 1.5
    assert factor_after(0.99 * certainty) == factor_after(-0.99 * certainty) == factor_after(0.0) == 0.75
    exactly = state._replace(error=1.0)  # 2 is the standard error of this and 3
    for change in (2.0 * certainty, -2.0 * certainty):
        assert rule.update_factor(exactly, 4.0 + change, 3.0, HOST) == 0.5 * 0.75


@pytest.mark.parametrize(
    ("upper", "origin", "mean", "most"),
    [(4.0, 0.0, 1.0, 2.0), (3.0, -1.0, 0.0, 2.0), (0.0, 0.0, 1.0, 1.0), (-1.0, 0.0, 1.0, 1.0), (4.0, 0.0, 0.0, 1.0)],
)
def test_the_factor_of_auto_is_bounded_by_the_mean_loss(upper: float, origin: float, mean: float, most: float) -> None:
    """By the root of U over the mean, both counted from where L starts; by 1 where one is not above that."""
    state = LawState(upper=upper, origin=origin, mean=100.0, gamma2_factor=50.0)
    assert AutoGamma2().update_factor(state, mean, 0.0, HOST) == most


def test_a_rule_says_whether_groups_may_have_their_own() -> None:
    for rule, allowed in ((Outside(), True), (Derived(), True), (BackOff(), True), (AutoGamma2(), False)):
        p = nn.Parameter(torch.ones(3))
        optimizer: Any = torch.optim.SGD([{"params": [p], "gamma2": 1e-2}], lr=0.0)
        if not allowed:
            with pytest.raises(ValueError, match=r"gamma2 of parameter group 0 must be 0, .* as AutoGamma2 sets it"):
                LGA(optimizer, steps_per_epoch=8, gamma2=rule)
            continue
        LGA(optimizer, steps_per_epoch=8, gamma2=rule)
        p.grad = torch.ones(3)
        optimizer.step(loss=2.0)
        assert (p < 1).all()


@pytest.mark.parametrize("needs_statuses", [True, False])
def test_a_rule_decides_whether_a_run_without_a_status_warns(
    needs_statuses: bool, caplog: pytest.LogCaptureFixture
) -> None:
    rule: Any = Outside()
    rule.needs_statuses = needs_statuses
    p = nn.Parameter(torch.ones(3))
    optimizer: Any = torch.optim.SGD([p], lr=0.0)
    lga = LGA(optimizer, steps_per_epoch=1000, gamma2=rule)
    for _ in range(150):
        optimizer.step(loss=1.0)
    lga.detach()
    assert bool(caplog.records) is needs_statuses


class Falling(Derived):
    """Overrides the factor, but not its report."""

    def update_factor(self, state: Any, mean: Any, error: Any, ops: Any) -> Any:
        return state.gamma2_factor * 0.5


def test_defaults_of_a_rule(caplog: pytest.LogCaptureFixture) -> None:
    """It needs the length of an epoch, and neither back-offs nor missing statuses are reported."""
    caplog.set_level(logging.INFO, "lossaware")
    with pytest.raises(TypeError, match="steps_per_epoch"):
        LGA(torch.optim.SGD([nn.Parameter(torch.ones(3))], lr=0.0), gamma2=Falling())  # type: ignore[call-overload]
    for steps_per_epoch, gamma2 in ((2, 1e-3 * 0.5**74), (1000, 1e-3)):
        optimizer: Any = torch.optim.SGD([nn.Parameter(torch.ones(3))], lr=0.0)
        lga = LGA(optimizer, steps_per_epoch=steps_per_epoch, gamma2=Falling())
        for _ in range(150):
            optimizer.step(loss=1.0)
        assert lga.status.gamma2 == pytest.approx(gamma2)
        lga.detach()
    assert not caplog.records


def test_the_papers_rule_without_arguments() -> None:
    """Algorithm 1 divides gamma2 by 10; its value is that for ten classes."""
    optimizer: Any = torch.optim.SGD([nn.Parameter(torch.ones(3))], lr=0.0)
    lga = LGA(optimizer, steps_per_epoch=1, gamma2=BackOff())
    values = []
    for loss in (1.0, 2.0):
        optimizer.step(loss=loss)
        values.append(lga.status.gamma2)
    assert values == [1e-8, pytest.approx(1e-9)]


def test_a_checkpoint_names_the_rule() -> None:
    p = nn.Parameter(torch.ones(3))
    state = LGA(torch.optim.SGD([p], lr=0.0), steps_per_epoch=8, gamma2=Derived()).state_dict()
    optimizer = torch.optim.SGD([p], lr=0.0)
    lga = LGA(optimizer, steps_per_epoch=8)
    with pytest.raises(ValueError, match="gamma2 is 'Derived' in the state_dict but 1e-08 here"):
        lga.load_state_dict(state)


class Lacking:
    def step_size(self, state: Any, ops: Any) -> Any:
        return state.omega


class Negative(Derived):
    def group_size(self, scale: Any, xi: Any) -> Any:
        return -1.0


class WithBadMomentum(Derived):
    momentum = 1.0


class WithBadSteps(Derived):
    def steps_per_status(self, steps_per_epoch: int) -> Any:
        return 0


@pytest.mark.parametrize(
    ("rule", "message"),
    [
        (Lacking(), "which lacks .*defaults.*group_size"),
        (Derived, "a class; create an instance"),
        (Negative(), "group_size of Negative must be .*: got -1.0"),
        (WithBadMomentum(), "momentum of WithBadMomentum must be at least 0 and below 1: got 1.0"),
        (WithBadSteps(), "steps_per_status of WithBadSteps must be an integer of at least 1: got 0"),
    ],
    ids=["lacking", "class", "negative", "momentum", "steps"],
)
def test_mistakes_are_one_line(rule: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message) as raised:
        LGA(torch.optim.SGD([nn.Parameter(torch.ones(3))], lr=0.0), steps_per_epoch=8, gamma2=rule)
    assert "\n" not in str(raised.value)


def test_no_code_depends_on_the_class_of_a_rule() -> None:
    """Except the kernel, which has the arithmetic of two of them, in one documented place."""
    folder = Path(lossaware.__file__).parent
    asking = re.compile(r"isinstance\([^)]*\b(AutoGamma2|SelfSet|BackOff)\b")
    files = [path.name for path in folder.glob("*.py") if asking.search(path.read_text(encoding="utf-8"))]
    assert set(files) <= {"gamma2.py", "law_kernel.py"}
