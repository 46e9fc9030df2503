"""gamma2 "auto": the law compared with the reference, its bounds, its decay, and its settings."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import nn

import reference
from lossaware import LGA, AutoGamma2
from lossaware.gradient_mean import MEAN
from lossaware.groups import scale_of
from lossaware.law import Law
from lossaware.law_state import HOST, LawState
from lossaware.lower_bounds import Zero
from support import default_dtype, flat, needs, parameters, set_gradients, torch_optimizer
from support.gamma2 import SHORT, model

settings.register_profile("gamma2", deadline=None, derandomize=True)
settings.load_profile("gamma2")


XI = 1.0
SHAPES = ((5, 3), (), (7,))
SIZE = 23
STEPS = 80

strategies = st.builds(
    AutoGamma2,
    reach=st.floats(1e-3, 1.0),
    growth=st.floats(1.0, 3.0),
    shrink=st.floats(0.1, 1.0),
    fade=st.floats(0.1, 1.0),
    certainty=st.floats(0.0, 3.0),
)
losses = st.lists(st.floats(-10, 10, allow_subnormal=False) | st.just(math.nan), min_size=1, max_size=60)


def problem(seed: int = 0) -> tuple[reference.Array, list[reference.Array], list[float]]:
    """Initial parameters, a gradient per step, and losses that fall, are level and rise, with noise and one NaN."""
    rng = np.random.default_rng(seed)
    level = np.concatenate(
        [np.linspace(2.0, 0.6, STEPS // 2), np.full(STEPS // 4, 0.6), np.linspace(0.6, 1.2, STEPS // 4)]
    )
    values = level + rng.normal(scale=0.05, size=STEPS)
    values[0], values[9] = 2.1, math.nan
    gradients = rng.normal(size=(STEPS, SIZE)) * 10.0 ** rng.uniform(-4, 0, size=(STEPS, SIZE))
    gradients[rng.random(size=gradients.shape) < 0.1] = 0.0
    return rng.normal(size=SIZE), list(gradients), [float(f) for f in values]


def judged(x: reference.Array, gradients: list[reference.Array], values: list[float], **base: Any) -> list[Any]:
    """The reference's parameters after each step, for Adam."""
    law = reference.SelfSet(4, scale=float(np.sqrt(np.mean(x**2))), reach=0.2)
    adam = reference.OPTIMIZERS["adam"](**base)
    positions = []
    for g, loss in zip(gradients, values, strict=True):
        share = law.share(loss)
        x = adam.step(x, g) - law.correction(share, g)
        positions.append(x)
    assert law.factor != 1
    return positions


@pytest.mark.parametrize("arrives", ["step", "tensor", "compiled"])
def test_steps_are_the_references(arrives: str) -> None:
    x, gradients, values = problem()
    expected = judged(x, gradients, values, lr=1e-3)
    with default_dtype(torch.float64):
        params = parameters(x, *SHAPES)
        optimizer = torch_optimizer("adam", params, lr=1e-3)
        lga = LGA(optimizer, steps_per_epoch=40, gamma2=SHORT)
        step: Any = lga.compile(backend="eager") if arrives == "compiled" else None
        for g, loss, x_after in zip(gradients, values, expected, strict=True):
            set_gradients(params, g)
            observed = loss if arrives == "step" else torch.tensor(loss)
            if step is None:
                optimizer.step(loss=observed)
            else:
                step(observed)
            np.testing.assert_allclose(flat(params), x_after, rtol=1e-9, atol=1e-12)
    assert lga.status.gamma2 > 0
    assert lga.status.statuses == (STEPS - 1) // 4


def test_optax_makes_the_same_steps() -> None:
    jax, optax = needs("jax"), needs("optax")
    jnp = jax.numpy

    from lossaware.optax import loss_aware, status

    x, gradients, values = problem()
    law = reference.SelfSet(4, scale=float(np.sqrt(np.mean(x**2))), reach=0.2)
    solver = loss_aware(optax.sgd(1e-3), steps_per_epoch=40, gamma2=SHORT)
    params = jnp.asarray(x)
    state = solver.init(params)
    update = jax.jit(lambda g, s, p, f: solver.update(g, s, p, value=f))
    for g, loss in zip(gradients, values, strict=True):
        updates, state = update(jnp.asarray(g), state, params, jnp.asarray(loss))
        params = optax.apply_updates(params, updates)
        x = x - 1e-3 * g - law.correction(law.share(loss), g)
        np.testing.assert_allclose(np.asarray(params), x, rtol=1e-3, atol=1e-5)
    assert update._cache_size() == 1
    expected = law.factor * law.reach * law.scale * XI / law.upper
    assert status(state).gamma2 == pytest.approx(expected, rel=1e-3)


# Guarantees -----------------------------------------------------------------------------------------------------------


class _Host:
    isfinite = staticmethod(math.isfinite)

    @staticmethod
    def where(condition: bool, yes: float, no: float) -> float:
        return yes if condition else no


@given(strategies, st.integers(1, 6), losses)
def test_no_push_is_above_one_unit(strategy: AutoGamma2, steps: int, values: list[float]) -> None:
    law, state = Law(steps, Zero(), 0.0, strategy), LawState()
    for loss in values:
        state = law.advance(state, loss)
        assert 0 <= strategy.step_size(state, _Host) <= 1


def test_no_parameter_moves_further_than_the_reach() -> None:
    x, gradients, values = problem()
    for scaled in (1e-6, 1.0, 1e6):  # for all gradients and losses
        params = parameters(x, *SHAPES)
        optimizer: Any = torch.optim.SGD(params, lr=0.0)
        LGA(optimizer, steps_per_epoch=40, gamma2=SHORT)
        bound = SHORT.reach * float(np.sqrt(np.mean(x**2)))
        moved = 0.0
        for g, loss in zip(gradients, values, strict=True):
            before = flat(params)
            set_gradients(params, g * scaled)
            optimizer.step(loss=loss * scaled)
            moved = max(moved, float(np.abs(flat(params) - before).max()))
        assert moved <= bound * (1 + 1e-9)
        assert scaled > 1 or moved > bound / 2


def test_the_push_goes_with_the_root_of_the_loss() -> None:
    law, state = Law(1000, Zero(), 0.0, AutoGamma2()), LawState()
    for loss, share in ((2.0, 1.0), (0.5, 0.5), (0.02, 0.1), (0.0, 0.0)):
        state = law.advance(state, loss)
        assert AutoGamma2().step_size(state, _Host) == pytest.approx(share)


@pytest.mark.parametrize("scaled", [1e-1, 1e-3])
def test_the_scale_of_gradients_hardly_matters(scaled: float) -> None:
    """For gradients far below xi only the signs count, for any scale of the loss or a layer."""
    x, gradients, _ = problem()

    def pushed(scale: float) -> reference.Array:
        params = parameters(x, *SHAPES)
        optimizer: Any = torch.optim.SGD(params, lr=0.0)
        LGA(optimizer, steps_per_epoch=40, gamma2="auto")
        set_gradients(params, gradients[0] / np.abs(gradients[0]).max() * 0.01 * scale)
        optimizer.step(loss=scale)
        return flat(params) - x

    np.testing.assert_allclose(pushed(scaled), pushed(1.0), rtol=0.01)


@given(strategies, st.lists(st.floats(0.1, 10), min_size=3, max_size=40))
def test_it_fades_where_the_loss_does_not_fall(strategy: AutoGamma2, values: list[float]) -> None:
    """At least by the larger of the two factors a status."""
    law, state = Law(1, Zero(), 0.0, strategy), LawState()
    for count, loss in enumerate(sorted(values)):
        state = law.advance(state, loss)
        assert state.gamma2_factor <= max(strategy.shrink, strategy.fade) ** count * (1 + 1e-9)


def test_noise_alone_ends_it_and_a_falling_loss_lets_it_grow() -> None:
    rng = np.random.default_rng(0)
    law = Law(50, Zero(), 0.0, AutoGamma2())
    noise, falls = LawState(), LawState()
    for step in range(50 * 200):
        noise = law.advance(noise, 1.0 + float(rng.normal(scale=0.3)))
        if step < 50 * 100:
            falls = law.advance(falls, 2.0 * 0.9995**step + float(rng.normal(scale=0.01)))
    assert noise.gamma2_factor < 1e-5
    assert falls.gamma2_factor > 3  # of the 3.5 that the bound lets through


@given(strategies, st.integers(1, 6), losses)
def test_m_is_never_above_its_limit(strategy: AutoGamma2, steps: int, values: list[float]) -> None:
    law, state = Law(steps, Zero(), 0.0, strategy), LawState()
    for loss in values:
        before, state = state.statuses, law.advance(state, loss)
        if state.statuses > max(before, 1) and state.mean > 0 and state.upper > 0:
            most = math.sqrt(state.upper / state.mean)
            assert state.gamma2_factor <= most * (1 + 1e-12)


@given(strategies, st.integers(1, 6), losses, st.integers(-20, 20))
def test_the_unit_of_the_loss_does_not_matter(
    strategy: AutoGamma2, steps: int, values: list[float], power: int
) -> None:
    """Nats or bits, mean or sum: the pushes are the same, bitwise for powers of two."""
    assume(all(math.isnan(loss) or abs(loss) > 1e-100 or loss == 0 for loss in values))
    law = Law(steps, Zero(), 0.0, strategy)
    plain, scaled = LawState(), LawState()
    for loss in values:
        plain, scaled = law.advance(plain, loss), law.advance(scaled, loss * 2.0**power)
        assert plain.gamma2_factor == scaled.gamma2_factor
        assert strategy.step_size(plain, _Host) == strategy.step_size(scaled, _Host)


# The running mean -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("momentum", "ends_at"), [(0.0, 0.0), (0.9, 0.1)])
def test_it_goes_where_the_mean_gradient_is_zero_and_not_where_half_of_them_are(
    momentum: float, ends_at: float
) -> None:
    """Nine examples of ten want x at 0, and the tenth, which counts as much as any, wants it at 1: the mean is 0.1."""
    x = nn.Parameter(torch.tensor([0.5], dtype=torch.float64))
    optimizer: Any = torch.optim.SGD([x], lr=0.0)
    LGA(optimizer, steps_per_epoch=50, gamma2=AutoGamma2(reach=0.004, momentum=momentum, fade=0.999, growth=1.0))
    rng = np.random.default_rng(0)
    for step in range(4000):
        target = 1.0 if rng.random() < 0.1 else 0.0
        x.grad = x.detach() - target
        optimizer.step(loss=0.5 if step == 0 else 0.045)
    assert float(x.detach()) == pytest.approx(ends_at, abs=0.04)


@pytest.mark.parametrize("on_device", [False, True], ids=["host", "device"])
@pytest.mark.parametrize("arrives", [float, torch.tensor])
def test_a_step_that_does_not_push_leaves_the_means(arrives: Any, on_device: bool) -> None:
    p = nn.Parameter(torch.ones(3))
    optimizer: Any = torch.optim.SGD([p], lr=0.0)
    lga = LGA(optimizer, steps_per_epoch=10, gamma2="auto")
    if on_device:  # as for losses on an accelerator: the size of the push is then a tensor
        lga._stepper.state_on(torch.device("cpu"))
    for loss, gradient, mean in ((2.0, 1.0, 0.1), (math.nan, math.nan, 0.1), (3.0, 9.0, 0.1), (1.0, 2.0, 0.29)):
        p.grad = torch.full_like(p, gradient)
        optimizer.step(loss=arrives(loss))
        torch.testing.assert_close(optimizer.state[p][MEAN], torch.full((3,), mean))


def test_auto_is_the_rule_with_its_own_defaults() -> None:
    lga = LGA(torch.optim.SGD(model().parameters(), lr=1e-3), steps_per_epoch=1000, gamma2="auto")
    chosen = lga.settings
    assert (chosen.gamma2, chosen.eps, chosen.lower_bound, chosen.zero_gradient) == (AutoGamma2(), 0.0, Zero(), "rest")
    assert chosen.xi == 1.0
    assert chosen.law.steps_per_status == 100
    assert AutoGamma2().steps_per_status(30) == 25


def test_groups_have_their_own_scales_and_may_be_excluded() -> None:
    small, large, out = (nn.Parameter(torch.full((4,), value)) for value in (0.1, 10.0, 1.0))
    groups: list[dict[str, Any]] = [{"params": [small]}, {"params": [large]}, {"params": [out], "gamma2": 0}]
    optimizer: Any = torch.optim.SGD(groups, lr=0.0)
    LGA(optimizer, steps_per_epoch=10, gamma2="auto")
    for p in (small, large, out):
        p.grad = torch.full_like(p, 1e-9)
    optimizer.step(loss=2.0)
    assert float(0.1 - small[0]) == pytest.approx(0.02 * 0.1, rel=1e-3)
    assert float(10 - large[0]) == pytest.approx(0.02 * 10, rel=1e-3)
    assert torch.equal(out, torch.ones(4))


def test_a_group_with_its_own_number_is_refused() -> None:
    optimizer = torch.optim.SGD([{"params": model().parameters(), "gamma2": 1e-7}], lr=1e-3)
    with pytest.raises(ValueError, match=r"gamma2 of parameter group 0 must be 0.*or absent.*got 1e-07"):
        LGA(optimizer, steps_per_epoch=8, gamma2="auto")


def test_the_scale_of_zero_parameters() -> None:
    assert scale_of([torch.zeros(5)]) == 0.001
    assert scale_of([torch.full((2,), 3 + 4j), torch.zeros(2)]) == pytest.approx(math.sqrt(50 / 4))


def test_the_scale_of_16_bits_is_measured_in_float32() -> None:
    """The norm is beyond the range of float16."""
    assert scale_of([torch.full((10_000,), 1000.0, dtype=torch.float16)]) == pytest.approx(1000.0, rel=1e-4)


def test_optax_does_not_push_below_0_for_any_factor() -> None:
    """Without the check: m overflowed in float32 at step 8,500, and pushed at full size through a closed gate."""
    jax, optax = needs("jax"), needs("optax")
    jnp = jax.numpy

    from lossaware.optax import loss_aware, status

    solver = loss_aware(optax.sgd(1e-3), steps_per_epoch=1, gamma2=AutoGamma2(steps_at_least=1))
    params = jnp.ones(3)

    def step(state: Any, loss: Any) -> Any:
        updates, state = solver.update(jnp.ones(3), state, params, value=loss)
        return state, updates

    state, updates = jax.lax.scan(step, solver.init(params), -1.0 - 0.01 * jnp.arange(20_000.0))
    np.testing.assert_array_equal(np.asarray(updates), np.full((20_000, 3), -1e-3, np.float32))
    assert status(state).gamma2 == 0.0


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"reach": 0.0}, "reach must be above 0 and at most 1: got 0.0"),
        ({"momentum": 1.0}, "momentum must be at least 0 and below 1: got 1.0"),
        ({"growth": 0.9}, "growth must be from 1 to 10: got 0.9"),
        ({"shrink": 1.1}, "shrink must be above 0 and at most 1: got 1.1"),
        ({"fade": 0.0}, "fade must be above 0 and at most 1: got 0.0"),
        ({"certainty": -1.0}, "certainty must be from 0 to 10: got -1.0"),
        ({"statuses_per_epoch": 0}, "statuses_per_epoch must be an integer of at least 1: got 0"),
        ({"statuses_per_epoch": 1.5}, "statuses_per_epoch must be an integer of at least 1: got 1.5"),
        ({"steps_at_least": True}, "steps_at_least must be an integer of at least 1: got True"),
        ({"steps_at_least": 0}, "steps_at_least must be an integer of at least 1: got 0"),
    ],
)
def test_values_out_of_range_are_named(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        AutoGamma2(**values)


def test_auto_does_not_push_where_the_first_loss_is_0() -> None:
    """Also with a lower bound below 0, which opens the gate. Without the check: a push of the size of the loss."""
    state = LawState(loss=0.0, upper=0.0, lower=-1.0, omega=1.0)
    assert AutoGamma2().step_size(state, HOST) == 0.0
    assert AutoGamma2().gamma2(state, 1.0, HOST) == 0.0
