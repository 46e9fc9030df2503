"""How the loss arrives, what counts as one, and what is said to those who hand over something else."""

from __future__ import annotations

import dataclasses
import math
import warnings
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch

import reference
from lossaware import LGA, Momentum, Progressive, Status

G = torch.tensor([0.5, -0.25, 0.125])
START = torch.tensor([1.0, 2.0, 3.0])


class Setup:
    """SGD on three numbers with a fixed gradient, and a correction that anyone can see."""

    def __init__(self, **kwargs: Any) -> None:
        self.p = torch.nn.Parameter(START.clone())
        self.optimizer: Any = torch.optim.SGD([self.p], lr=0.1)
        self.lga: Any = LGA(self.optimizer, **{"steps_per_epoch": 10, "gamma2": 1e-3, **kwargs})
        self.p.grad = G.clone()

    def moved_by(self, omega: float) -> bool:
        """Whether the parameters are where one step with this Omega takes them."""
        g = G.double().numpy()
        expected = START.double().numpy() - 0.1 * g - 1e-3 * omega / reference.phi(g, 0.01)
        return bool(np.allclose(self.p.detach().double().numpy(), expected, rtol=0, atol=1e-6))


def closure_of(setup: Setup, loss: Any) -> Callable[[], Any]:
    def closure() -> Any:
        setup.p.grad = G.clone()
        return loss

    return closure


CHANNELS: dict[str, Callable[[Setup, Any], Any]] = {
    "step(loss=)": lambda setup, loss: setup.optimizer.step(loss=loss),
    "step(closure)": lambda setup, loss: setup.optimizer.step(closure_of(setup, loss)),
    "step(closure=)": lambda setup, loss: setup.optimizer.step(closure=closure_of(setup, loss)),
    "observe": lambda setup, loss: (setup.lga.observe(loss), setup.optimizer.step()),
    "observe, step(None)": lambda setup, loss: (setup.lga.observe(loss), setup.optimizer.step(None)),
    "observe, step(closure=None)": lambda setup, loss: (setup.lga.observe(loss), setup.optimizer.step(closure=None)),
}

LOSSES: dict[str, Any] = {
    "int": 2,
    "float": 2.0,
    "numpy float64": np.float64(2.0),
    "numpy float32": np.float32(2.0),
    "numpy float16": np.float16(2.0),
    "numpy int": np.int64(2),
    "0-d float32": torch.tensor(2.0),
    "0-d requiring a gradient": torch.tensor(2.0, requires_grad=True),
    "0-d with a graph": torch.tensor(1.0, requires_grad=True) * 2,
    "0-d integer": torch.tensor(2),
    "1-element float16": torch.tensor([2.0], dtype=torch.float16),
    "1-element bfloat16": torch.tensor([2.0], dtype=torch.bfloat16),
    "1-element float64": torch.tensor([2.0], dtype=torch.float64),
    "1x1x1": torch.full((1, 1, 1), 2.0),
}


@pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES)
@pytest.mark.parametrize("channel", CHANNELS.values(), ids=CHANNELS)
def test_every_loss_through_every_channel(channel: Callable[[Setup, Any], Any], loss: Any) -> None:
    setup = Setup()
    channel(setup, loss)
    assert setup.lga.status.loss == 2.0
    assert setup.lga.status.omega == 2.0
    assert setup.moved_by(2.0)
    assert not setup.p.grad_fn
    assert setup.p.requires_grad


def test_a_step_with_a_closure_returns_the_closures_value() -> None:
    setup = Setup()
    loss = torch.tensor(2.0, requires_grad=True)
    assert setup.optimizer.step(closure_of(setup, loss)) is loss


def test_a_closure_is_run_once_and_with_gradients_enabled() -> None:
    setup = Setup()
    calls = []

    def closure() -> Any:
        calls.append(torch.is_grad_enabled())
        setup.optimizer.zero_grad()
        loss: Any = (setup.p * G).sum()
        loss.backward()
        return loss

    with torch.no_grad():
        setup.optimizer.step(closure)
    assert calls == [True]
    loss = float((START * G).sum())
    assert setup.lga.status.loss == pytest.approx(loss, rel=1e-6)
    assert setup.moved_by(loss)  # so phi read the gradient that the closure made


def test_several_observations_count_with_their_mean() -> None:
    setup = Setup()
    for loss in (1.0, torch.tensor(2.0), np.float32(6.0)):
        setup.lga.observe(loss)
    setup.optimizer.step()
    assert setup.lga.status.loss == 3.0
    assert setup.moved_by(3.0)


def test_parameters_may_be_frozen_after_attaching() -> None:
    """Unguarded: the parameter that is watched would be one that has no gradient to watch."""
    model = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.Linear(2, 1))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    lga = LGA(optimizer, steps_per_epoch=10)
    model[0].requires_grad_(False)
    for _ in range(2):
        optimizer.zero_grad()
        loss = model(torch.ones(1, 2)).square().sum()
        lga.observe(loss)
        loss.backward()
        optimizer.step()
    assert (lga.status.steps, lga.status.steps_without_loss) == (2, 0)


def test_an_observed_loss_after_one_that_was_handed_over() -> None:
    """Unguarded: the backward pass of the step before would be taken for one of this step, and its loss dropped."""
    model = torch.nn.Linear(2, 1)
    optimizer: Any = torch.optim.SGD(model.parameters(), lr=0.1)
    lga = LGA(optimizer, steps_per_epoch=10)
    for way in ("observe", "loss", "observe", "loss", "observe"):
        optimizer.zero_grad()
        loss = model(torch.ones(1, 2)).square().sum()
        if way == "observe":
            lga.observe(loss)
        loss.backward()
        optimizer.step() if way == "observe" else optimizer.step(loss=loss)
    assert (lga.status.steps, lga.status.steps_without_loss) == (5, 0)


def test_observations_do_not_stay_for_the_next_step() -> None:
    setup = Setup()
    setup.lga.observe(4.0)
    setup.optimizer.step()
    setup.lga.observe(2.0)
    setup.optimizer.step()
    assert setup.lga.status.loss == 2.0


def test_a_low_precision_loss_is_summed_in_high_precision() -> None:
    """In float16 a sum of 1000 losses near 100 would be infinite, and in bfloat16 it would stop growing."""
    for dtype in (torch.float16, torch.bfloat16):
        setup = Setup(steps_per_epoch=1000, lower_bound="average", gamma2=0.0)
        losses = torch.linspace(99.0, 101.0, 1000).to(dtype)
        for loss in losses:
            setup.optimizer.step(loss=loss)
        assert setup.lga.status.lower_bound == pytest.approx(float(losses.double().mean()), rel=1e-12)


def loss_of(setup: Setup, value: float) -> Any:
    """A loss of that value with a graph to go back through."""
    dot = (setup.p * G).sum()
    return dot - dot.detach() + value


# Training loops call things in different orders; the loss must be the same in all of them.
def clear_forward_observe_backward_step(optimizer: Any, lga: LGA, forward: Any, clear: Any) -> None:
    clear()
    loss = forward()
    lga.observe(loss)
    loss.backward()
    optimizer.step()


def forward_observe_clear_backward_step(optimizer: Any, lga: LGA, forward: Any, clear: Any) -> None:
    loss = forward()
    lga.observe(loss)
    clear()
    loss.backward()
    optimizer.step()


def clear_forward_backward_observe_step(optimizer: Any, lga: LGA, forward: Any, clear: Any) -> None:
    clear()
    loss = forward()
    loss.backward()
    lga.observe(loss)
    optimizer.step()


def forward_clear_backward_observe_step(optimizer: Any, lga: LGA, forward: Any, clear: Any) -> None:
    loss = forward()
    clear()
    loss.backward()
    lga.observe(loss)
    optimizer.step()


def forward_backward_observe_step_clear(optimizer: Any, lga: LGA, forward: Any, clear: Any) -> None:
    loss = forward()
    loss.backward()
    lga.observe(loss)
    optimizer.step()
    clear()


ORDERS = [
    clear_forward_observe_backward_step,
    forward_observe_clear_backward_step,
    clear_forward_backward_observe_step,
    forward_clear_backward_observe_step,
    forward_backward_observe_step_clear,
]


@pytest.mark.parametrize("to_none", [True, False], ids=["to None", "to zero"])
@pytest.mark.parametrize("order", ORDERS, ids=lambda order: order.__name__)
def test_observe_in_every_order_of_a_training_loop(order: Callable[..., None], to_none: bool) -> None:
    setup = Setup(steps_per_epoch=3, gamma2=1e-4)
    law = reference.Law(3)
    values = [2.0, 1.5, 1.75, 1.25, 2.5, 1.0, 0.5]
    setup.optimizer.zero_grad(set_to_none=to_none)
    for value in values:
        order(
            setup.optimizer,
            setup.lga,
            partial(loss_of, setup, value),
            partial(setup.optimizer.zero_grad, set_to_none=to_none),
        )
        omega = law.omega(value)
        assert setup.lga.status.loss == pytest.approx(value, rel=1e-6)
        assert setup.lga.status.omega == pytest.approx(omega, rel=1e-6)
    assert setup.lga.status.steps_without_loss == 0
    assert setup.lga.status.statuses == 2


@pytest.mark.parametrize("to_none", [True, False], ids=["to None", "to zero"])
@pytest.mark.parametrize("observe_first", [True, False], ids=["observe-backward", "backward-observe"])
def test_micro_batches_in_a_training_loop(observe_first: bool, to_none: bool) -> None:
    setup = Setup()
    for step in range(4):
        setup.optimizer.zero_grad(set_to_none=to_none)
        for value in (1.0, 2.0, 6.0 + step):
            loss = loss_of(setup, value)
            if observe_first:
                setup.lga.observe(loss)
            (loss / 3).backward()
            if not observe_first:
                setup.lga.observe(loss)
        setup.optimizer.step()
        assert setup.lga.status.loss == pytest.approx((9.0 + step) / 3, rel=1e-6)


OBSERVED_IN_CLOSURE: dict[str, Callable[[Setup], Any]] = {
    "inside": lambda setup: setup.optimizer.step(lambda: (setup.lga.observe(2.0), closure_of(setup, 0.5)())[1]),
    "before and inside": lambda setup: (
        setup.lga.observe(1.0),
        setup.optimizer.step(lambda: (setup.lga.observe(3.0), closure_of(setup, 0.5)())[1]),
    ),
    "before a closure that returns nothing": lambda setup: (
        setup.lga.observe(2.0),
        setup.optimizer.step(closure_of(setup, None)),
    ),
    "loss= and a closure that returns nothing": lambda setup: setup.optimizer.step(closure_of(setup, None), loss=2.0),
}


# Losses that were observed and then not used -------------------------------------------------------------------------
def skip_after_observe(setup: Setup, clear: Any) -> None:
    setup.lga.observe(loss_of(setup, 50.0))


def skip_after_clear_and_observe(setup: Setup, clear: Any) -> None:
    clear()
    setup.lga.observe(loss_of(setup, 50.0))


def skip_after_observe_and_backward(setup: Setup, clear: Any) -> None:
    loss = loss_of(setup, 50.0)
    setup.lga.observe(loss)
    loss.backward()
    clear()


def skip_after_backward_and_observe(setup: Setup, clear: Any) -> None:
    loss = loss_of(setup, 50.0)
    loss.backward()
    setup.lga.observe(loss)
    clear()


def skip_and_forget(setup: Setup, clear: Any) -> None:
    setup.lga.observe(50.0)
    setup.lga.forget()


SKIPS = [
    skip_after_observe,
    skip_after_clear_and_observe,
    skip_after_observe_and_backward,
    skip_after_backward_and_observe,
    skip_and_forget,
]


@pytest.mark.parametrize("to_none", [True, False], ids=["to None", "to zero"])
@pytest.mark.parametrize("first", [True, False], ids=["the first batch", "a later batch"])
@pytest.mark.parametrize("order", ORDERS[:3], ids=lambda order: order.__name__)
@pytest.mark.parametrize("skip", SKIPS, ids=lambda skip: skip.__name__)
def test_a_skipped_batch_does_not_count(
    skip: Callable[..., None], order: Callable[..., None], first: bool, to_none: bool
) -> None:
    """Unguarded: its loss would be part of the next step's mean, 25.9 in place of 1.8."""
    setup = Setup()
    clear = partial(setup.optimizer.zero_grad, set_to_none=to_none)
    clear()
    for step in range(3):
        if step == (0 if first else 1):
            skip(setup, clear)
        order(setup.optimizer, setup.lga, partial(loss_of, setup, 1.8), clear)
        assert setup.lga.status.loss == pytest.approx(1.8, rel=1e-6)


@pytest.mark.parametrize("to_none", [True, False], ids=["to None", "to zero"])
@pytest.mark.parametrize("order", ["clear observe backward", "clear backward observe", "observe clear backward"])
def test_a_step_that_a_scaler_skips_does_not_count(order: str, to_none: bool) -> None:
    """Unguarded: the loss of the batch that overflowed would be part of the next step's mean."""
    setup = Setup()
    scaler = torch.amp.GradScaler("cpu", init_scale=4.0)
    setup.optimizer.zero_grad(set_to_none=to_none)
    for step, value in enumerate((1.5, 4.0, 1.25)):
        loss = loss_of(setup, value)
        for act in order.split():
            if act == "clear":
                setup.optimizer.zero_grad(set_to_none=to_none)
            elif act == "observe":
                setup.lga.observe(loss)
            else:
                scaler.scale(loss * (math.inf if step == 1 else 1.0)).backward()
        scaler.step(setup.optimizer)
        scaler.update()
    assert (setup.lga.status.steps, setup.lga.status.steps_without_loss) == (2, 0)
    assert setup.lga.status.loss == pytest.approx(1.25, rel=1e-6)


@pytest.mark.parametrize("observe_first", [True, False], ids=["observe-backward", "backward-observe"])
def test_gradients_that_somebody_else_sets_to_none(observe_first: bool) -> None:
    """As ``model.zero_grad()`` does. Unguarded: 25.9 in place of 1.8."""
    setup = Setup()
    for step in range(3):
        for value in (50.0, 1.8) if step == 1 else (1.8,):
            setup.p.grad = None
            loss = loss_of(setup, value)
            if observe_first:
                setup.lga.observe(loss)
            loss.backward()
            if not observe_first:
                setup.lga.observe(loss)
        setup.optimizer.step()
        assert setup.lga.status.loss == pytest.approx(1.8, rel=1e-6)


def test_a_loss_that_is_skipped_after_the_backward_pass_of_another_does_not_count() -> None:
    setup = Setup()
    used = loss_of(setup, 1.8)
    setup.lga.observe(used)
    used.backward()
    setup.lga.observe(loss_of(setup, 50.0))
    setup.optimizer.step()
    assert setup.lga.status.loss == pytest.approx(1.8, rel=1e-6)


def test_numbers_count_beside_losses_with_a_graph() -> None:
    setup = Setup()
    setup.lga.observe(1.0)
    loss = loss_of(setup, 3.0)
    setup.lga.observe(loss)
    loss.backward()
    setup.optimizer.step()
    assert setup.lga.status.loss == pytest.approx(2.0, rel=1e-6)


def test_a_detached_lga_watches_no_gradients() -> None:
    setup = Setup()
    setup.lga.observe(loss_of(setup, 1.0))
    assert setup.p._backward_hooks
    setup.lga.detach()
    assert not setup.p._backward_hooks


def test_losses_that_share_a_backward_pass_count_with_their_mean() -> None:
    setup = Setup()
    for _ in range(2):
        setup.optimizer.zero_grad()
        losses = [loss_of(setup, value) for value in (1.0, 2.0, 6.0)]
        for loss in losses:
            setup.lga.observe(loss)
        sum(losses).backward()
        setup.optimizer.step()
        assert setup.lga.status.loss == pytest.approx(3.0, rel=1e-6)


def test_a_loss_for_show_counts_where_no_other_is_observed() -> None:
    """What is observed need not be what is trained on."""
    setup = Setup()
    for value in (3.0, 2.0):
        setup.optimizer.zero_grad()
        setup.lga.observe(loss_of(setup, value))
        loss_of(setup, 100.0).backward()
        setup.optimizer.step()
        assert setup.lga.status.loss == pytest.approx(value, rel=1e-6)


@pytest.mark.parametrize("module_clears", [True, False])
def test_two_optimizers_whose_losses_share_parameters(module_clears: bool) -> None:
    """As in a GAN: the generator's backward pass gives the discriminator gradients, too, which are cleared."""
    first, second = torch.nn.Linear(2, 2), torch.nn.Linear(2, 1)
    optimizers: list[Any] = [torch.optim.SGD(m.parameters(), lr=1e-3) for m in (first, second)]
    lgas = [LGA(optimizer, steps_per_epoch=10) for optimizer in optimizers]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for step in range(3):
            for optimizer, lga, module in zip(optimizers, lgas, (first, second), strict=True):
                (module if module_clears else optimizer).zero_grad()
                loss = second(first(torch.ones(1, 2))).square().mean() + step
                lga.observe(loss)
                loss.backward()
                optimizer.step()
                assert lga.status.loss == pytest.approx(float(loss.detach()), rel=1e-6)


@pytest.mark.parametrize("given", [torch.tensor(2.0), 2.0], ids=["tensor", "number"])
def test_a_loss_in_the_place_of_the_closure(given: Any) -> None:
    """The likeliest slip. Unguarded: "'Tensor' object is not callable"."""
    setup = Setup()
    with pytest.raises(TypeError, match=r"hand over the loss by its name, optimizer\.step\(loss=loss\)") as raised:
        setup.optimizer.step(given)
    assert "\n" not in str(raised.value)
    assert torch.equal(setup.p.detach(), START)
    setup.optimizer.step(loss=given)
    assert setup.moved_by(2.0)


@pytest.mark.parametrize("step", OBSERVED_IN_CLOSURE.values(), ids=OBSERVED_IN_CLOSURE)
def test_what_is_observed_in_a_closure_counts_and_not_what_it_returns(step: Callable[[Setup], Any]) -> None:
    """Trainers such as Lightning's return from their closures the loss of the last micro-batch over their number."""
    setup = Setup()
    step(setup)
    assert setup.lga.status.loss == 2.0
    assert setup.moved_by(2.0)
    setup.p.grad = G.clone()
    setup.optimizer.step(closure_of(setup, 1.5))  # nothing of it is left over
    assert (setup.lga.status.loss, setup.lga.status.steps) == (1.5, 2)


# No loss ------------------------------------------------------------------------------------------------------------

NO_LOSS: dict[str, Callable[[Setup], Any]] = {
    "step()": lambda setup: setup.optimizer.step(),
    "step(None)": lambda setup: setup.optimizer.step(None),
    "step(loss=None)": lambda setup: setup.optimizer.step(loss=None),
    "closure returning None": lambda setup: setup.optimizer.step(closure_of(setup, None)),
}


@pytest.mark.parametrize("step", NO_LOSS.values(), ids=NO_LOSS)
def test_no_loss_is_the_base_step(step: Callable[[Setup], Any]) -> None:
    setup = Setup()
    with pytest.warns(UserWarning, match="no loss"):
        step(setup)
    assert torch.equal(setup.p.detach(), START - 0.1 * G)
    assert (setup.lga.status.steps_without_loss, setup.lga.status.statuses) == (1, 0)


def test_the_warning_comes_once() -> None:
    setup = Setup()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for _ in range(3):
            setup.optimizer.step()
    assert len(caught) == 1
    assert setup.lga.status.steps_without_loss == 3


# What is refused ----------------------------------------------------------------------------------------------------


def state_of(setup: Setup) -> tuple[str, list[float]]:
    return repr(setup.lga.state_dict()), setup.p.tolist()


TWO_AT_ONCE: dict[str, Callable[[Setup], Any]] = {
    "observe and loss": lambda setup: (setup.lga.observe(1.0), setup.optimizer.step(loss=2.0)),
    "observe and closure": lambda setup: (setup.lga.observe(1.0), setup.optimizer.step(closure_of(setup, 2.0))),
    "closure and loss": lambda setup: setup.optimizer.step(closure_of(setup, 1.0), loss=2.0),
    "closure= and loss": lambda setup: setup.optimizer.step(closure=closure_of(setup, 1.0), loss=2.0),
}


@pytest.mark.parametrize("step", TWO_AT_ONCE.values(), ids=TWO_AT_ONCE)
def test_two_channels_at_once_are_refused(step: Callable[[Setup], Any]) -> None:
    setup = Setup()
    before = state_of(setup)
    with pytest.raises(ValueError, match=r"one way.* and "):
        step(setup)
    assert state_of(setup) == before


REFUSED: dict[str, tuple[Any, type[Exception], str]] = {
    "vector": (torch.ones(3), ValueError, r"\(3,\)"),
    "matrix": (torch.ones(2, 4), ValueError, r"\(2, 4\)"),
    "empty": (torch.ones(0), ValueError, r"\(0,\)"),
    "complex": (torch.tensor(1j), ValueError, "complex"),
    "str": ("2.0", TypeError, "str"),
    "list": ([2.0], TypeError, "list"),
    "module": (torch.nn.Linear(1, 1), TypeError, "Linear"),
}


@pytest.mark.parametrize(("loss", "error", "named"), REFUSED.values(), ids=REFUSED)
@pytest.mark.parametrize("channel", CHANNELS.values(), ids=CHANNELS)
def test_what_is_no_loss_is_refused_and_changes_nothing(
    channel: Callable[[Setup, Any], Any], loss: Any, error: type[Exception], named: str
) -> None:
    setup = Setup()
    before = state_of(setup)
    with pytest.raises(error, match=named) as raised:
        channel(setup, loss)
    assert "\n" not in str(raised.value)
    assert state_of(setup) == before
    setup.p.grad = G.clone()
    setup.optimizer.step(loss=2.0)  # and the next step is a step like any other
    assert setup.moved_by(2.0)


def test_an_error_in_the_closure_changes_nothing() -> None:
    setup = Setup()
    before = state_of(setup)

    def closure() -> float:
        raise FloatingPointError("the model broke")

    with pytest.raises(FloatingPointError, match="the model broke"):
        setup.optimizer.step(closure)
    assert state_of(setup) == before
    setup.optimizer.step(loss=2.0)
    assert setup.moved_by(2.0)


NUMBER = r"must be .*: got "
BAD_HYPERPARAMETERS: list[tuple[dict[str, Any], str]] = [
    *(({"steps_per_epoch": value}, rf"steps_per_epoch {NUMBER}") for value in (0, -1, True, 2.5, "7")),
    *(({"gamma2": value}, rf"gamma2 {NUMBER}") for value in (-1e-8, math.nan, math.inf, "1e-8", None)),
    *(({"eps": value}, rf"eps {NUMBER}") for value in (-0.1, math.nan, math.inf, "0.1")),
    *(({"xi": value}, rf"xi {NUMBER}") for value in (0.0, -0.01, math.nan, math.inf)),
    *(({"backoff": value}, rf"backoff {NUMBER}") for value in (-0.1, 1.5, math.nan, math.inf)),
    ({"lower_bound": "progresive"}, "'progresive'.*did you mean 'progressive'"),
    ({"lower_bound": "median"}, "'median'.*progressive, average, momentum"),
    ({"lower_bound": Progressive}, "lower_bound must be"),
    ({"lower_bound": 0.9}, "lower_bound must be.*0.9"),
    ({"zero_gradient": "rset"}, "zero_gradient must be 'push' or 'rest': got 'rset'"),
    ({"zero_gradient": 0}, "zero_gradient must be 'push' or 'rest': got 0"),
    (
        {"gamma2": "automatic"},
        r"gamma2 must be a number of at least 0, 'auto', 'agreement' or a rule .*: got 'automatic'",
    ),
    ({"gamma2": "Auto"}, r"gamma2 must be .*: got 'Auto'; did you mean 'auto'\?"),
]


@pytest.mark.parametrize(
    ("kwargs", "message"), BAD_HYPERPARAMETERS, ids=lambda v: str(v) if isinstance(v, dict) else ""
)
def test_bad_hyperparameters_are_named_with_their_value(kwargs: dict[str, Any], message: str) -> None:
    p = torch.nn.Parameter(START.clone())
    optimizer = torch.optim.SGD([p], lr=0.1)
    with pytest.raises(ValueError, match=message) as raised:
        LGA(optimizer, **{"steps_per_epoch": 10, **kwargs})
    assert "\n" not in str(raised.value)
    LGA(optimizer, steps_per_epoch=10)  # the failed attempt has left nothing behind


def test_steps_per_epoch_has_no_default() -> None:
    optimizer = torch.optim.SGD([torch.nn.Parameter(START.clone())], lr=0.1)
    with pytest.raises(TypeError, match=r"^steps_per_epoch is missing: .*steps_per_epoch=len\(loader\)"):
        LGA(optimizer)
    with pytest.raises(TypeError, match=r"^steps_per_epoch is missing"):
        LGA(optimizer, steps_per_epoch=None)


@pytest.mark.parametrize("gamma2", [-1.0, math.nan, "much"])
def test_a_groups_gamma2_is_checked_too(gamma2: Any) -> None:
    groups = [{"params": [torch.nn.Parameter(START.clone())]} for _ in range(2)]
    groups[1]["gamma2"] = gamma2
    with pytest.raises(ValueError, match=r"gamma2 .*1"):
        LGA(torch.optim.SGD(groups, lr=0.1), steps_per_epoch=10)


@pytest.mark.parametrize("thing", [None, "sgd", torch.nn.Linear(1, 1), torch.optim.SGD])
def test_what_is_no_optimizer_is_refused(thing: Any) -> None:
    with pytest.raises(TypeError, match=r"torch\.optim\.Optimizer"):
        LGA(thing, steps_per_epoch=10)


# Coming and going ---------------------------------------------------------------------------------------------------


def test_attaching_twice_is_refused_and_after_detach_is_not() -> None:
    setup = Setup()
    with pytest.raises(ValueError, match="detach"):
        LGA(setup.optimizer, steps_per_epoch=10)
    setup.optimizer.step(loss=2.0)
    assert setup.moved_by(2.0)  # once, not twice
    setup.lga.detach()
    again = LGA(setup.optimizer, steps_per_epoch=10)
    setup.optimizer.step(loss=3.0)
    assert (again.status.loss, setup.lga.status.loss) == (3.0, 2.0)


def test_a_detached_optimizer_is_what_it_was() -> None:
    setup = Setup()
    plain = torch.optim.SGD([torch.nn.Parameter(START.clone())], lr=0.1)
    setup.lga.detach()
    setup.lga.detach()  # no harm
    assert vars(setup.optimizer).keys() == vars(plain).keys()
    setup.optimizer.step()
    assert torch.equal(setup.p.detach(), START - 0.1 * G)
    with pytest.raises(TypeError):
        setup.optimizer.step(loss=2.0)
    with pytest.raises(RuntimeError, match="detached"):
        setup.lga.observe(2.0)


def test_the_optimizer_stays_what_it_was() -> None:
    setup = Setup()
    assert str(type(setup.optimizer)) == str(torch.optim.SGD)
    assert not hasattr(setup.optimizer, "_step_supports_amp_scaling")
    setup.optimizer.step(loss=2.0)
    twin = torch.optim.SGD([torch.nn.Parameter(START.clone())], lr=0.1)
    assert setup.optimizer.state_dict() == twin.state_dict()


def test_context_manager() -> None:
    p = torch.nn.Parameter(START.clone())
    optimizer: Any = torch.optim.SGD([p], lr=0.1)
    p.grad = G.clone()
    with LGA(optimizer, steps_per_epoch=10, gamma2=1e-3) as lga:
        optimizer.step(loss=2.0)
    after = p.detach().clone()
    assert not torch.equal(after, START - 0.1 * G)
    optimizer.step()
    assert torch.equal(p.detach(), after - 0.1 * G)
    assert lga.status.steps == 1  # can be read afterwards
    with pytest.raises(ZeroDivisionError), LGA(optimizer, steps_per_epoch=10):
        raise ZeroDivisionError
    LGA(optimizer, steps_per_epoch=10)  # detached by the exception too


def test_other_hooks_run_beside_it() -> None:
    setup = Setup()
    seen = []
    setup.optimizer.register_step_pre_hook(lambda *_: seen.append("pre"))
    setup.optimizer.register_step_post_hook(lambda *_: seen.append("post"))
    setup.optimizer.step(loss=2.0)
    assert seen == ["pre", "post"]
    assert setup.moved_by(2.0)


def test_repr_says_what_it_is() -> None:
    setup = Setup(steps_per_epoch=17, gamma2=3e-7, xi=0.02, lower_bound=Momentum(0.8), zero_gradient="rest")
    text = repr(setup.lga)
    for part in ("LGA(", "SGD", "steps_per_epoch=17", "gamma2=3e-07", "eps=0.1", "xi=0.02", "0.8", "backoff", "rest"):
        assert part in text
    assert "\n" not in text
    assert "detached" not in text
    setup.lga.detach()
    assert "detached" in repr(setup.lga)


# Status -------------------------------------------------------------------------------------------------------------


def test_status_before_any_loss() -> None:
    status = Setup().lga.status
    assert math.isnan(status.loss)
    assert math.isnan(status.upper_bound)
    assert (status.lower_bound, status.omega, status.gamma2) == (0.0, 0.0, 1e-3)
    assert (status.statuses, status.open_share, status.steps) == (0, 0.0, 0)
    assert (status.nonfinite_losses, status.steps_without_loss) == (0, 0)


def test_status_is_frozen_plain_numbers() -> None:
    setup = Setup(steps_per_epoch=2)
    for loss in (torch.tensor(2.0), math.nan, 2.5, 1.0):
        setup.optimizer.step(loss=loss)
    status = setup.lga.status
    assert isinstance(status, Status)
    names = [field.name for field in dataclasses.fields(status)]
    assert names == [
        *("loss", "lower_bound", "upper_bound", "omega", "gamma2", "statuses", "open_share", "steps"),
        *("nonfinite_losses", "steps_without_loss"),
    ]
    counts = {"statuses", "steps", "nonfinite_losses", "steps_without_loss"}
    assert {name: type(getattr(status, name)) for name in names} == {n: int if n in counts else float for n in names}
    assert (status.loss, status.upper_bound, status.steps, status.nonfinite_losses) == (1.0, 2.0, 4, 1)
    assert status.open_share == 0.5  # 2.0 and 1.0 of 2.0, NaN, 2.5, 1.0
    with pytest.raises(dataclasses.FrozenInstanceError):
        status.loss = 0.0  # type: ignore[misc]


def test_a_lower_bound_of_ones_own() -> None:
    class Lowest:
        def update(self, lower: Any, loss: Any, count: Any) -> Any:
            return loss if count == 1 else min(lower, loss)

    setup = Setup(lower_bound=Lowest(), steps_per_epoch=1)
    bounds = []
    for loss in (2.0, 3.0, 1.0, 1.5):
        setup.optimizer.step(loss=loss)
        bounds.append(setup.lga.status.lower_bound)
    assert bounds == [2.0, 2.0, 1.0, 1.0]
    assert setup.lga.status.omega == 0.5


def test_what_is_forgotten_counts_nowhere() -> None:
    """A batch that is skipped after its loss was observed; gradients of zero, so that nothing else can tell."""
    params = [torch.nn.Parameter(torch.ones(2))]
    optimizer: Any = torch.optim.SGD(params, lr=0.1)
    lga = LGA(optimizer, steps_per_epoch=10)
    for loss in (1e6, 2.0):
        lga.observe(loss)
        if loss > 10:
            lga.forget()
            continue
        params[0].grad = torch.zeros(2)
        optimizer.step()
    assert (lga.status.loss, lga.status.upper_bound, lga.status.steps) == (2.0, 2.0, 1)
    lga.observe(5.0)
    lga.forget()
    with pytest.warns(UserWarning, match="LGA got no loss"):
        optimizer.step()
