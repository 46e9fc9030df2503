"""Model, optimizer and LGA are freed as soon as they are unused, without the garbage collector."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

import pytest
import torch
from torch import nn

from lossaware import LGA
from support import needs


@pytest.fixture(scope="module")
def _first_optimizer() -> None:
    """Torch itself keeps the first optimizer of a process alive until the garbage collector runs."""
    torch.optim.SGD([nn.Parameter(torch.ones(1))])


@pytest.fixture(autouse=True)
def _no_garbage_collector(_first_optimizer: None) -> Iterator[None]:
    # Without a collection first, which would walk over all that earlier tests of the process left: half a second each.
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def make_lga(**settings: Any) -> tuple[nn.Linear, Any, LGA]:
    model = nn.Linear(3, 1)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    return model, optimizer, LGA(optimizer, **{"steps_per_epoch": 3, "gamma2": 1e-3, **settings})


def loss_of(model: nn.Module) -> torch.Tensor:
    loss: torch.Tensor = model(torch.ones(4, 3)).square().mean()
    return loss


def by_loss(model: nn.Module, optimizer: Any, lga: LGA) -> None:
    for _ in range(4):
        optimizer.zero_grad()
        loss = loss_of(model)
        loss.backward()
        optimizer.step(loss=loss)


def by_closure(model: nn.Module, optimizer: Any, lga: LGA) -> None:
    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        loss = loss_of(model)
        loss.backward()
        return loss

    for _ in range(4):
        optimizer.step(closure)


def by_observe(model: nn.Module, optimizer: Any, lga: LGA) -> None:
    for _ in range(4):
        optimizer.zero_grad()
        loss = loss_of(model)
        lga.observe(loss)
        loss.backward()
        optimizer.step()


def measured(model: nn.Module, optimizer: Any, lga: LGA) -> None:
    lga.measure_every(2)
    by_loss(model, optimizer, lga)
    assert lga.measurement is not None


def resumed(model: nn.Module, optimizer: Any, lga: LGA) -> None:
    by_loss(model, optimizer, lga)
    optimizer.load_state_dict(optimizer.state_dict())
    lga.load_state_dict(lga.state_dict())
    by_loss(model, optimizer, lga)


def refused(model: nn.Module, optimizer: Any, lga: LGA) -> None:
    lga.observe(1.0)
    with suppress(ValueError):
        optimizer.step(loss=2.0)


def failed(model: nn.Module, optimizer: Any, lga: LGA) -> None:
    def closure() -> Any:
        raise FloatingPointError

    with suppress(FloatingPointError):
        optimizer.step(closure)


def scheduled(model: nn.Module, optimizer: Any, lga: LGA) -> None:
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 2)
    for _ in range(4):
        by_loss(model, optimizer, lga)
        scheduler.step()


def detached(model: nn.Module, optimizer: Any, lga: LGA) -> None:
    by_observe(model, optimizer, lga)
    lga.detach()


def on_device(model: nn.Module, optimizer: Any, lga: LGA) -> None:
    lga._stepper.state_on(torch.device("cpu"))
    by_loss(model, optimizer, lga)


WAYS = [by_loss, by_closure, by_observe, measured, resumed, refused, failed, scheduled, detached, on_device]


@pytest.mark.parametrize("keep_lga", [False, True], ids=["all gone", "LGA kept"])
@pytest.mark.parametrize("gamma2", [1e-3, "auto", "agreement"])
@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.__name__)
def test_they_are_freed(way: Callable[..., None], gamma2: Any, keep_lga: bool) -> None:
    model, optimizer, lga = make_lga(gamma2=gamma2)
    watched = [weakref.ref(thing) for thing in (model, model.weight, optimizer)]
    way(model, optimizer, lga)
    of_lga = weakref.ref(lga)
    if not keep_lga:
        del lga
    del model, optimizer
    assert [ref() for ref in watched] == [None] * 3
    if not keep_lga:
        assert of_lga() is None


def test_an_optimizer_that_writes_into_gradients_is_freed() -> None:
    p = nn.Parameter(torch.ones(3))
    optimizer: Any = torch.optim.SGD([p], lr=0.1, momentum=0.9, nesterov=True)
    LGA(optimizer, steps_per_epoch=3)
    for _ in range(3):
        p.grad = torch.ones(3)
        optimizer.step(loss=2.0)
    watched = weakref.ref(p)
    del p, optimizer
    assert watched() is None


def test_trials_in_one_process_do_not_pile_up() -> None:
    alive = []
    for _ in range(5):
        model, optimizer, lga = make_lga(gamma2="auto")
        by_observe(model, optimizer, lga)
        alive.append(weakref.ref(model.weight))
        assert sum(ref() is not None for ref in alive) == 1
        del model, optimizer, lga


@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
def test_a_compiled_step_also_frees_them(backend: str) -> None:
    model, optimizer, lga = make_lga()
    step = lga.compile(backend=backend)
    watched = [weakref.ref(thing) for thing in (optimizer, lga)]
    parameter = weakref.ref(model.weight)
    for _ in range(4):
        optimizer.zero_grad()
        loss = loss_of(model)
        loss.backward()
        step(loss)
    del model, optimizer, lga, step, loss
    assert [ref() for ref in watched] == [None] * 2
    assert parameter() is None


@pytest.mark.parametrize("way", [by_loss, by_closure])
def test_lga_lives_as_long_as_the_optimizer_without_a_reference(way: Callable[..., None]) -> None:
    moved: list[torch.Tensor] = []
    for keep in (True, False):
        torch.manual_seed(0)
        model, optimizer, lga = make_lga()
        reference: Any = lga if keep else None
        del lga
        way(model, optimizer, reference)
        attached = LGA.of(optimizer)
        assert attached is not None
        assert attached.status.steps == 4
        moved.append(model.weight.detach().clone())
    assert torch.equal(*moved)


def test_messages_without_the_optimizer() -> None:
    model, optimizer, lga = make_lga()
    by_loss(model, optimizer, lga)
    status = lga.status
    del model, optimizer
    for use in (lambda: lga.observe(1.0), lambda: lga.optimizer, lambda: lga.compile()):
        with pytest.raises(RuntimeError, match="the optimizer of this LGA, Adam, no longer exists") as raised:
            use()
        assert "\n" not in str(raised.value)
    assert lga.status == status  # can be read all the same
    assert lga.state_dict()["state"]["steps"] == 4
    assert "Adam" in repr(lga)
    lga.detach()


def test_with_auto_the_status_can_still_be_read() -> None:
    model, optimizer, lga = make_lga(gamma2="auto")
    by_loss(model, optimizer, lga)
    status = lga.status
    del model, optimizer
    assert lga.status == status
    with pytest.raises(RuntimeError, match="no longer exists"):
        lga.state_dict()


def test_the_recipes_free_them() -> None:
    accelerate = needs("accelerate")
    from lossaware.recipes import metrics
    from lossaware.recipes.accelerate import backward

    del accelerate
    model, optimizer, lga = make_lga()

    class Accelerator:
        def backward(self, loss: torch.Tensor) -> None:
            loss.backward()

    for _ in range(3):
        optimizer.zero_grad()
        backward(Accelerator(), lga, loss_of(model))
        optimizer.step()
    assert metrics(lga)["lga/steps"] == 3
    watched = weakref.ref(model.weight)
    del model, optimizer, lga
    assert watched() is None
