"""gamma2 "agreement": its steps against the reference, its bounds, what it is invariant to, and where it rests."""

from __future__ import annotations

import contextlib
import copy
import math
import warnings
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import reference
from lossaware import LGA, UsageError
from lossaware.agreement import Agreement
from lossaware.base_bound import SAMPLE, _sample
from lossaware.law_state import HOST, LawState
from support import default_dtype, flat, parameters, set_gradients, torch_optimizer

SHAPES = ((6, 4), (6,), (), (3, 2, 2))
SIZE = 43
STEPS = 120
RULE = Agreement(status_steps=10)


def problem(seed: int = 0) -> tuple[reference.Array, list[reference.Array], list[float]]:
    """Where to begin, a gradient for each step, and losses that fall, stand and rise, one of them NaN."""
    rng = np.random.default_rng(seed)
    level = np.concatenate([np.linspace(2.0, -0.6, STEPS // 2), np.full(STEPS // 4, -0.6), np.linspace(-0.6, 1.2, 30)])
    values = level + rng.normal(scale=0.05, size=STEPS)
    values[9] = math.nan
    trend = rng.normal(size=SIZE)
    gradients = (trend + rng.normal(size=(STEPS, SIZE))) * 10.0 ** rng.uniform(-2, 0, size=(STEPS, SIZE))
    gradients[rng.random(size=gradients.shape) < 0.1] = 0.0
    return rng.normal(size=SIZE), list(gradients), [float(f) for f in values]


def parts(flat_array: reference.Array) -> list[reference.Array]:
    sizes = np.cumsum([int(np.prod(shape)) for shape in SHAPES])[:-1]
    return [part.reshape(shape) for part, shape in zip(np.split(flat_array, sizes), SHAPES, strict=True)]


def attached(
    name: str = "sgd", lr: float = 1e-3, rule: Any = RULE, dtype: torch.dtype = torch.float64, **options: Any
) -> tuple[list[nn.Parameter], Any, LGA]:
    params = parameters(problem()[0], *SHAPES, dtype=dtype)
    optimizer = torch_optimizer(name, params, lr=lr, **options)
    return params, optimizer, LGA(optimizer, gamma2=rule)


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


# What is invariant ----------------------------------------------------------------------------------------------------


def pushed(scaled: float = 1.0, loss_scale: float = 1.0, added: float = 0.0) -> torch.Tensor:
    """Where the push alone goes: the base's learning rate is 0."""
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


# What is bounded ------------------------------------------------------------------------------------------------------


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
    """Of a quadratic with curvatures from 0.1 to 10; a base alone diverges there or stands still."""
    torch.manual_seed(0)
    wanted, curvature = torch.randn(20, 10), torch.logspace(-1, 1, 10)
    p = nn.Parameter(torch.randn(20, 10))
    optimizer: Any = torch_optimizer(name, [p], lr=lr)
    LGA(optimizer, gamma2="agreement")
    first = last = math.nan
    for step in range(400):
        loss = (curvature * (p - wanted).square()).mean()
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
def test_a_gradient_that_is_not_finite_moves_nothing_and_the_next_goes_on(name: str, bad: float) -> None:
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


def test_rows_without_a_gradient_at_this_step_are_not_pushed() -> None:
    table = nn.Embedding(10, 4)
    optimizer: Any = torch.optim.SGD(table.parameters(), lr=1e-3)
    LGA(optimizer, gamma2="agreement")
    for rows in ([0, 1], [2, 3], [0, 1]):
        before = table.weight.detach().clone()
        optimizer.zero_grad()
        loss = table(torch.tensor(rows)).square().sum()
        loss.backward()
        optimizer.step(loss=loss)
        moved = (table.weight != before).any(dim=1)
        assert moved.nonzero().flatten().tolist() == rows


def test_a_step_without_a_loss_is_the_bases_alone() -> None:
    _, gradients, _ = problem()
    params, optimizer, lga = attached("momentum", lr=1e-1)
    alone = parameters(problem()[0], *SHAPES)
    base = torch_optimizer("momentum", alone, lr=1e-1)
    with pytest.warns(UserWarning, match="got no loss"):
        optimizer.step()  # which has no gradient either
    for g in gradients[:3]:
        for some, one in ((params, optimizer), (alone, base)):
            set_gradients(some, g)
            one.step()
    assert np.array_equal(flat(params), flat(alone))
    assert lga.status.steps_without_loss == 4


def test_a_group_that_is_switched_off_is_the_bases_alone() -> None:
    one, two, alone = (nn.Parameter(torch.ones(3, 2)) for _ in range(3))
    optimizer: Any = torch.optim.AdamW([{"params": [one]}, {"params": [two], "gamma2": 0}], lr=1e-1)
    base = torch.optim.AdamW([alone], lr=1e-1)
    LGA(optimizer, gamma2="agreement")
    for step in range(5):
        for p in (one, two, alone):
            p.grad = torch.full((3, 2), 1.0 + step)
        if step == 3:
            one.grad = torch.full((3, 2), math.nan)  # which concerns the other group alone
        optimizer.step(loss=1.0)
        base.step()
        assert torch.equal(two, alone)
    assert not torch.equal(one, two)


def test_frozen_parameters_and_new_removed_and_reordered_groups() -> None:
    a, b, frozen, c = (nn.Parameter(torch.full((4, 4), float(k))) for k in (1, 2, 3, 4))
    frozen.requires_grad_(False)
    optimizer: Any = torch.optim.SGD([{"params": [a, frozen]}, {"params": [b]}], lr=0.0)
    LGA(optimizer, gamma2=Agreement(initial=1e-3, smallest=1e-3, largest=1e-3))

    def moved(*some: nn.Parameter) -> list[float]:
        before = [p.detach().clone() for p in some]
        for p in some:
            p.grad = torch.ones(4, 4)
        optimizer.step(loss=1.0)
        return [round(float((old - p).max()) / 1e-3, 3) for p, old in zip(some, before, strict=True)]

    assert moved(a, b) == [2.0, 2.0]  # the median of three is 2
    assert torch.equal(frozen, torch.full((4, 4), 3.0))
    optimizer.add_param_group({"params": [c]})
    assert moved(a, b, c) == [2.0, 2.0, 4.0]
    optimizer.param_groups.reverse()
    assert moved(a, b, c) == [2.0, 2.0, 4.0]
    optimizer.param_groups.pop(1)
    b.grad = None
    assert moved(a, c) == [2.0, 4.0]


# The base's rate ------------------------------------------------------------------------------------------------------


def test_the_rate_is_the_users_after_a_step_that_failed() -> None:
    params, optimizer, _ = attached(lr=1.0)

    def fails() -> float:
        raise KeyError("of the user's")

    _, gradients, _ = problem()
    set_gradients(params, gradients[0])
    with pytest.raises(KeyError):
        optimizer.step(fails)
    assert optimizer.param_groups[0]["lr"] == 1.0
    optimizer.step(loss=1.0)
    assert optimizer.param_groups[0]["lr"] == 1.0


class Failing(torch.optim.SGD):
    """Its step fails where it is told to."""

    fails = False

    def step(self, closure: Any = None) -> Any:  # type: ignore[override]
        if self.fails:
            raise KeyError("of the base's")
        return super().step(closure)


@pytest.mark.parametrize(
    "look",
    [
        lambda optimizer, lga: optimizer.state_dict()["param_groups"][0]["lr"],
        lambda optimizer, lga: (optimizer.zero_grad(), optimizer.param_groups[0]["lr"])[1],
        lambda optimizer, lga: (lga.detach(), optimizer.param_groups[0]["lr"])[1],
    ],
    ids=["state_dict", "zero_grad", "detach"],
)
def test_the_rate_is_the_users_after_a_base_that_failed(look: Any) -> None:
    params = parameters(problem()[0], *SHAPES)
    optimizer: Any = Failing(params, lr=1e3)
    lga = LGA(optimizer, gamma2="agreement")
    _, gradients, _ = problem()
    set_gradients(params, gradients[0])
    optimizer.step(loss=1.0)
    optimizer.fails = True
    with pytest.raises(KeyError):
        optimizer.step(loss=1.0)
    assert look(optimizer, lga) == 1e3


def test_a_checkpoint_that_is_loaded_after_a_base_that_failed_keeps_its_rate() -> None:
    params = parameters(problem()[0], *SHAPES)
    optimizer: Any = Failing(params, lr=1e3)
    LGA(optimizer, gamma2="agreement")
    kept = optimizer.state_dict()
    kept["param_groups"][0]["lr"] = 7.0
    _, gradients, _ = problem()
    for fails in (False, True):
        optimizer.fails = fails
        set_gradients(params, gradients[0])
        with pytest.raises(KeyError) if fails else contextlib.nullcontext():
            optimizer.step(loss=1.0)
    optimizer.load_state_dict(kept)
    optimizer.zero_grad()
    assert optimizer.param_groups[0]["lr"] == 7.0


def test_a_scheduler_sees_and_moves_the_rate_of_the_user() -> None:
    params, optimizer, _ = attached(lr=1.0)
    scheduler = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.5)
    _, gradients, _ = problem()
    for step in range(4):
        set_gradients(params, gradients[step])
        optimizer.step(loss=1.0)
        scheduler.step()
        assert optimizer.param_groups[0]["lr"] == scheduler.get_last_lr()[0] == 0.5 ** (step + 1)


def test_a_rate_that_is_a_tensor_stays_that_tensor() -> None:
    _, gradients, _ = problem()
    rate = torch.tensor(1e-1, dtype=torch.float64)
    one, other = attached(lr=rate), attached(lr=1e-1)  # type: ignore[arg-type]
    for g in gradients[:10]:
        for params, optimizer, _ in (one, other):
            set_gradients(params, g)
            optimizer.step(loss=1.0)
    assert one[1].param_groups[0]["lr"] is rate
    assert rate == 0.1
    np.testing.assert_allclose(flat(one[0]), flat(other[0]), rtol=1e-9)


def test_weight_decay_is_cut_as_the_rest_of_the_bases_step() -> None:
    """Where there is no gradient, AdamW moves by its decay alone, and at a large rate by what is allowed."""
    p = nn.Parameter(torch.ones(4, 4))
    optimizer: Any = torch.optim.AdamW([p], lr=1e3, weight_decay=0.5)
    LGA(optimizer, gamma2=Agreement(initial=1e-3, smallest=1e-3, largest=1e-3))
    p.grad = torch.zeros(4, 4)
    for _ in range(3):
        before = p.detach().clone()
        optimizer.step(loss=1.0)
        assert float((before - p).detach().abs().max()) == pytest.approx(1e-3, rel=2e-3)


# Kinds of tensors -----------------------------------------------------------------------------------------------------


def test_where_the_base_ascends_the_push_does_too() -> None:
    _, gradients, values = problem()
    down, up = attached(lr=1e-2), attached(lr=1e-2, maximize=True)
    for g, loss in zip(gradients, values, strict=True):
        set_gradients(down[0], g)
        set_gradients(up[0], -g)
        for _, optimizer, _ in (down, up):
            optimizer.step(loss=loss)
    np.testing.assert_allclose(flat(down[0]), flat(up[0]))


def test_complex_parameters_move_as_pairs_of_reals() -> None:
    torch.manual_seed(0)
    z = nn.Parameter(torch.randn(3, 4, dtype=torch.complex128))
    x = nn.Parameter(torch.view_as_real(z.detach()).clone())
    pairs: list[tuple[nn.Parameter, Any]] = [(p, torch.optim.SGD([p], lr=1e-2)) for p in (z, x)]
    for _, optimizer in pairs:
        LGA(optimizer, gamma2="agreement")
    for _ in range(20):
        g = torch.randn(3, 4, dtype=torch.complex128)
        for (p, optimizer), own in zip(pairs, (g, torch.view_as_real(g)), strict=True):
            p.grad = own.clone()
            optimizer.step(loss=1.0)
    torch.testing.assert_close(torch.view_as_real(z), x)


def test_of_sparse_gradients_the_stored_rows_alone_are_pushed() -> None:
    table = nn.Embedding(6, 3, sparse=True)
    optimizer: Any = torch.optim.SGD(table.parameters(), lr=0.0)
    LGA(optimizer, gamma2="agreement")
    before = table.weight.detach().clone()
    loss = table(torch.tensor([1, 4, 4])).sum()
    loss.backward()
    optimizer.step(loss=loss)
    assert (table.weight != before).any(dim=1).nonzero().flatten().tolist() == [1, 4]
    assert (table.weight <= before).all()


def test_parameters_of_16_bits_are_rounded_so_that_the_mean_is_kept() -> None:
    p = nn.Parameter(torch.full((200, 200), 1.0, dtype=torch.bfloat16))
    optimizer: Any = torch.optim.SGD([p], lr=0.0)
    LGA(optimizer, gamma2=Agreement(initial=1e-3, smallest=1e-3, largest=1e-3))
    p.grad = torch.ones_like(p)
    optimizer.step(loss=1.0)
    assert 1 - float(p.detach().double().mean()) == pytest.approx(1e-3, rel=0.05)


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


@pytest.mark.parametrize("name", ["sgd", "adamw"])
def test_a_checkpoint_goes_on_bit_for_bit(name: str) -> None:
    _, gradients, values = problem()
    params, optimizer, lga = attached(name, lr=1e-1)
    for g, loss in zip(gradients[:50], values[:50], strict=True):
        set_gradients(params, g)
        optimizer.step(loss=loss)
    kept = copy.deepcopy((flat(params), optimizer.state_dict(), lga.state_dict()))
    others = parameters(kept[0], *SHAPES)  # of other scales than those at the start
    second = torch_optimizer(name, others, lr=1e-1)
    again = LGA(second, gamma2=RULE)
    second.load_state_dict(kept[1])
    again.load_state_dict(kept[2])
    for g, loss in zip(gradients[50:], values[50:], strict=True):
        for some, one in ((params, optimizer), (others, second)):
            set_gradients(some, g)
            one.step(loss=loss)
    assert np.array_equal(flat(params), flat(others))
    assert lga.status == again.status


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"scales": [1.0]}, "has the scales of 1 tensors of a group, here are 4"),
        ({"scales": [1.0, 1.0, 1.0, -1.0]}, r"scales of group 0 in LGA's state_dict must be above 0: got"),
        ({"scales": None}, r"scales of group 0 in LGA's state_dict must be above 0: got None"),
        ({"reach": math.inf}, r"reach of group 0 in LGA's state_dict must be above 0: got \[inf\]"),
    ],
)
def test_a_checkpoint_that_does_not_fit_is_refused(change: dict[str, Any], message: str) -> None:
    _, optimizer, lga = attached()
    assert optimizer is lga.optimizer
    kept = lga.state_dict()
    kept["groups"][0].update(change)
    with pytest.raises(ValueError, match=message):
        lga.load_state_dict(kept)


def test_steps_per_epoch_is_needed_by_other_rules_alone() -> None:
    optimizer = torch.optim.SGD(parameters(problem()[0], *SHAPES), lr=1e-3)
    with pytest.raises(TypeError, match="steps_per_epoch is missing"):
        LGA(optimizer)
    LGA(optimizer, gamma2="agreement").detach()
    LGA(optimizer, gamma2="agreement", steps_per_epoch=100)


@pytest.mark.parametrize(
    ("given_", "message"),
    [
        ({"initial": 0.0}, "initial must be above 0 and at most 1: got 0.0"),
        ({"smallest": 1e-3}, "smallest must be above 0 and at most initial: got 0.001"),
        ({"largest": 1e-5}, "largest must be at least initial and at most 1: got 1e-05"),
        ({"momentum": 0.0}, "momentum must be above 0 and below 1: got 0.0"),
        ({"rate": 0.0}, "rate must be above 0 and at most 1: got 0.0"),
        ({"early": -1.0}, "early must be from 0 to 100: got -1.0"),
        ({"shrink": 0.0}, "shrink must be above 0 and at most 1: got 0.0"),
        ({"fade": 2.0}, "fade must be above 0 and at most 1: got 2.0"),
        ({"certainty": math.nan}, "certainty must be from 0 to 10: got nan"),
        ({"status_steps": 1}, "status_steps must be a whole number of at least 2: got 1"),
    ],
)
def test_values_out_of_range_are_told(given_: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Agreement(**given_)


def test_compiled_steps_say_that_they_have_it_not() -> None:
    _, optimizer, lga = attached()
    assert optimizer is lga.optimizer
    with pytest.raises(UsageError, match="Agreement has no compiled step so far"):
        lga.compile()


def test_parameters_elsewhere_than_on_the_cpu_are_refused() -> None:
    p = nn.Parameter(torch.empty(2, 2, device="meta"))
    optimizer: Any = torch.optim.SGD([p], lr=1e-3)
    with pytest.raises(UsageError, match="gamma2 'agreement' takes whole parameters on the CPU so far: one is on meta"):
        LGA(optimizer, gamma2="agreement")


def test_several_ranks_are_refused_before_anything_moves() -> None:
    """Of a backend that needs no second process."""
    from torch.testing._internal.distributed.fake_pg import FakeStore

    params, optimizer, lga = attached()
    set_gradients(params, problem()[1][0])
    before = flat(params)
    torch.distributed.init_process_group("fake", store=FakeStore(), rank=0, world_size=2)
    try:
        with pytest.raises(
            UsageError, match="gamma2 'agreement' runs in one process so far, and here are several ranks"
        ):
            optimizer.step(loss=1.0)
    finally:
        torch.distributed.destroy_process_group()
    assert np.array_equal(flat(params), before)
    assert lga.status.steps == 0


@pytest.mark.parametrize(
    ("name", "value"), [("eps", 0.1), ("xi", 0.01), ("lower_bound", "progressive"), ("zero_gradient", "push")]
)
def test_settings_that_it_does_not_read_are_refused(name: str, value: Any) -> None:
    optimizer = torch.optim.SGD(parameters(problem()[0], *SHAPES), lr=1e-3)
    with pytest.raises(ValueError, match=f"{name} must be left out, as Agreement does not read it: got {value!r}"):
        LGA(optimizer, gamma2="agreement", **{name: value})
    LGA(optimizer, gamma2="agreement", zero_gradient="rest", eps=0.0)  # which it has anyhow


# What it says ---------------------------------------------------------------------------------------------------------


def ran(gradient: float, loss: float, steps: int = 250, lr: float = 1e-9) -> tuple[list[str], Any, float]:
    """The warnings and the status of a run of one tensor, and how far it went."""
    p = nn.Parameter(torch.ones(3, 3))
    optimizer: Any = torch.optim.SGD([p], lr=lr)
    lga = LGA(optimizer, gamma2="agreement")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for _ in range(steps):
            p.grad = torch.full_like(p, gradient)
            optimizer.step(loss=loss)
    return [str(warning.message) for warning in caught], lga.status, float((p.detach() - 1).abs().max())


@pytest.mark.parametrize(
    ("gradient", "loss", "reason"),
    [
        (0.0, 1.0, "all gradients were 0"),
        (1.0, math.nan, "no loss was finite"),
        (math.inf, 1.0, "no gradient was finite"),
    ],
)
def test_a_run_that_pushes_nothing_says_so_once(gradient: float, loss: float, reason: str) -> None:
    messages, status, moved = ran(gradient, loss)
    assert messages == [f"LGA has made no correction in 100 steps: in the last of them {reason}"]
    assert moved < 1e-6
    assert status.omega == 0
    assert status.gate == (
        "closed: the base moved as far as a step may, or all gradients were 0"
        if gradient == 0
        else "no step yet with a finite loss and finite gradients"
    )


@pytest.mark.parametrize("loss", [1.0, 0.0, -5.0])
def test_a_run_that_pushes_says_nothing(loss: float) -> None:
    messages, status, moved = ran(1.0, loss)
    assert messages == []
    assert moved > 0.1
    assert (status.gate, status.open_share) == ("open", 1.0)
    assert status.omega == pytest.approx(1.0, abs=1e-4)


def test_where_the_base_takes_all_the_gate_is_closed() -> None:
    messages, status, moved = ran(1.0, 1.0, lr=1e3)
    assert messages == []
    assert moved > 0.1
    assert status.omega == pytest.approx(0.0, abs=0.3)
    assert status.upper_bound == 1.0
