"""Observed losses: in every order of a training loop, in closures, skipped and forgotten."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import reference
from lossaware import LGA
from support.channels import START, G, Setup, closure_of


def test_several_observations_count_with_their_mean() -> None:
    setup = Setup()
    for loss in (1.0, torch.tensor(2.0), np.float32(6.0)):
        setup.lga.observe(loss)
    setup.optimizer.step()
    assert setup.lga.status.loss == 3.0
    assert setup.moved_by(3.0)


def test_an_observed_loss_after_one_that_was_handed_over() -> None:
    """Without the check: the previous step's backward pass would count for this step, and its loss be dropped."""
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
    """Without the check: its loss would count in the next step's mean, 25.9 instead of 1.8."""
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
    """Without the check: the loss of the batch that overflowed would be part of the next step's mean."""
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
def test_gradients_that_others_set_to_none(observe_first: bool) -> None:
    """As ``model.zero_grad()`` does. Without the check: 25.9 instead of 1.8."""
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


def test_numbers_and_losses_with_a_graph_count() -> None:
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
    """The observed loss may differ from the trained one."""
    setup = Setup()
    for value in (3.0, 2.0):
        setup.optimizer.zero_grad()
        setup.lga.observe(loss_of(setup, value))
        loss_of(setup, 100.0).backward()
        setup.optimizer.step()
        assert setup.lga.status.loss == pytest.approx(value, rel=1e-6)


@pytest.mark.parametrize("module_clears", [True, False])
def test_two_optimizers_whose_losses_share_parameters(module_clears: bool) -> None:
    """As in a GAN: the generator's backward pass also gives gradients to the discriminator, which are cleared."""
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


@pytest.mark.parametrize("loss", [torch.tensor(2.0), 2.0], ids=["tensor", "number"])
def test_a_loss_in_the_place_of_the_closure(loss: Any) -> None:
    """The likeliest slip. Without the check: "'Tensor' object is not callable"."""
    setup = Setup()
    with pytest.raises(TypeError, match=r"pass the loss by name, optimizer\.step\(loss=loss\)") as raised:
        setup.optimizer.step(loss)
    assert "\n" not in str(raised.value)
    assert torch.equal(setup.p.detach(), START)
    setup.optimizer.step(loss=loss)
    assert setup.moved_by(2.0)


@pytest.mark.parametrize("step", OBSERVED_IN_CLOSURE.values(), ids=OBSERVED_IN_CLOSURE)
def test_losses_observed_in_a_closure_count_instead_of_its_result(step: Callable[[Setup], Any]) -> None:
    """Trainers such as Lightning's return from their closures the loss of the last micro-batch over their number."""
    setup = Setup()
    step(setup)
    assert setup.lga.status.loss == 2.0
    assert setup.moved_by(2.0)
    setup.p.grad = G.clone()
    setup.optimizer.step(closure_of(setup, 1.5))  # it does not count
    assert (setup.lga.status.loss, setup.lga.status.steps) == (1.5, 2)


def test_a_forgotten_loss_does_not_count() -> None:
    """A batch that is skipped after its loss was observed, with gradients of zero, so that nothing else shows this."""
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


@pytest.mark.parametrize("order", ["observe backward", "backward observe"])
@pytest.mark.parametrize("why", ["frozen later", "not part of the loss"])
def test_a_skipped_batch_whose_first_parameter_has_no_gradient(why: str, order: str) -> None:
    """Unguarded: 25.9 in place of 1.8, as the gradients of that parameter alone were watched."""
    frozen, trained = torch.nn.Parameter(torch.ones(1)), torch.nn.Parameter(torch.ones(1))
    optimizer: Any = torch.optim.SGD([frozen, trained], lr=0.0)
    lga = LGA(optimizer, steps_per_epoch=10)
    for step in range(4):
        for value in (50.0, 1.8) if step > 0 else (1.8,):
            optimizer.zero_grad()
            is_part = why == "frozen later" and step == 0
            frozen.requires_grad_(is_part or why != "frozen later")
            loss = value * (frozen * trained if is_part else trained).sum()
            for act in order.split():
                loss.backward() if act == "backward" else lga.observe(loss)
        optimizer.step()
        assert lga.status.loss == pytest.approx(1.8, rel=1e-6)
    lga.detach()
    assert not frozen._backward_hooks
    assert not trained._backward_hooks


def test_many_losses_without_a_step_are_reported_once() -> None:
    """LGA may be attached to another optimizer than the one that steps. Unguarded: no push at all, and no word."""
    setup = Setup()
    with pytest.warns(UserWarning, match="1000 losses were observed since SGD made its last step") as caught:
        list(map(setup.lga.observe, [1.0] * 3000))
    assert len(caught) == 1
    assert Path(caught[0].filename) == Path(__file__)


def test_a_skipped_batch_whose_gradients_were_clipped() -> None:
    """Unguarded: they are taken for the zeros that were there before, which were changed as often."""
    setup = Setup()
    setup.optimizer.zero_grad(set_to_none=False)
    zeros: Any = setup.p.grad
    setup.p.grad = None
    for value in (50.0, 1.8):
        if value == 1.8:
            setup.optimizer.zero_grad()
        loss_of(setup, value).backward()
        g: Any = setup.p.grad
        while g._version < zeros._version:
            g.mul_(1.0)
        setup.lga.observe(value)
    setup.optimizer.step()
    assert setup.lga.status.loss == pytest.approx(1.8, rel=1e-6)


def test_losses_while_no_parameter_is_trained() -> None:
    setup = Setup()
    setup.p.requires_grad_(False)
    setup.p.grad = None
    for _ in range(2):
        setup.lga.observe(2.0)
        setup.optimizer.step()
        setup.optimizer.zero_grad()
    assert (setup.lga.status.loss, setup.lga.status.steps) == (2.0, 2)
    assert torch.equal(setup.p.detach(), START)
