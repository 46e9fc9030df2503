"""The loss of a step: one loss, and the mean of the ranks' losses, with ranks that are not there."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Sequence
from typing import Any
from unittest.mock import Mock

import pytest
import torch
import torch.distributed as dist

from lossaware import LGA
from lossaware.loss_input import mean_over_ranks
from lossaware.loss_value import read_loss

Mean = Callable[[Sequence[float]], float]


@pytest.fixture
def mean_of(monkeypatch: pytest.MonkeyPatch) -> Mean:
    """`mean_over_ranks` for ranks with these losses, of which the first asks."""

    def mean_of(losses: Sequence[float]) -> float:
        def gather(output: torch.Tensor, own: torch.Tensor, group: object, async_op: bool) -> Mock:
            assert async_op
            assert own.tolist() == pytest.approx([losses[0]], nan_ok=True)
            values = torch.tensor(losses, dtype=output.dtype)
            return Mock(wait=lambda: output.copy_(values))  # not before

        for name in ("all_gather_single", "all_gather_into_tensor"):
            monkeypatch.setattr(dist, name, gather, raising=False)
        monkeypatch.setattr(dist, "is_initialized", lambda: True)
        monkeypatch.setattr(dist, "get_world_size", lambda group=None: len(losses))
        monkeypatch.setattr(dist, "get_backend", lambda group=None: "gloo")
        return float(mean_over_ranks(losses[0], None, lambda: torch.device("cpu")))

    return mean_of


def test_the_mean_is_rounded_once(mean_of: Mean) -> None:
    """So it depends on no order: 1 is lost in a sum from left to right."""
    assert mean_of([1e16, 1.0, -1e16, 1.0]) == 0.5
    assert mean_of([2.0, 1.0]) == 1.5
    assert mean_of([3.0]) == 3.0


@pytest.mark.parametrize("losses", [[math.nan, 1.0], [1.0, math.nan], [math.inf, 1.0], [-math.inf, math.inf]], ids=str)
def test_a_loss_that_is_not_finite_makes_the_mean_nan(mean_of: Mean, losses: list[float]) -> None:
    """Without the check: an error of the sum where one is infinite and another is minus infinite."""
    assert math.isnan(mean_of(losses))


@pytest.mark.parametrize("way", ["loss", "closure", "observe"])
def test_ranks_exchange_losses_during_the_bases_step(monkeypatch: pytest.MonkeyPatch, way: str) -> None:
    """Unguarded: each rank waits for the slowest after its step, when the exchange has only begun."""
    events: list[str] = []

    class Base(torch.optim.SGD):
        def step(self, closure: Any = None) -> Any:
            loss = None if closure is None else closure()
            events.append("base")
            return loss

    def gather(output: torch.Tensor, own: torch.Tensor, group: object, async_op: bool) -> Mock:
        events.append("begun")
        output.copy_(torch.tensor([own.item(), 4.0]))
        return Mock(wait=lambda: events.append("waited"))

    for name in ("all_gather_single", "all_gather_into_tensor"):
        monkeypatch.setattr(dist, name, gather, raising=False)
    monkeypatch.setattr(dist, "is_initialized", lambda: True)
    monkeypatch.setattr(dist, "get_world_size", lambda group=None: 2)
    monkeypatch.setattr(dist, "get_backend", lambda group=None: "gloo")
    p = torch.nn.Parameter(torch.ones(3))
    optimizer: Any = Base([p], lr=0.1)
    lga = LGA(optimizer, steps_per_epoch=3)
    p.grad = torch.ones(3)
    if way == "observe":
        lga.observe(2.0)
    if way == "closure":
        optimizer.step(lambda: 2.0)
    else:
        optimizer.step(**({"loss": 2.0} if way == "loss" else {}))
    assert events == ["begun", "base", "waited"]
    assert lga.status.loss == 3.0


# One loss ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("loss", [torch.tensor(2), torch.nn.Parameter(torch.tensor(2.0))], ids=["integer", "parameter"])
def test_a_loss_on_the_cpu_is_a_number(loss: torch.Tensor) -> None:
    """So the host knows whether the gate is open."""
    value = read_loss(loss)
    assert type(value) is float
    assert value == 2.0


def test_a_loss_without_a_value_is_for_parameters_without_values() -> None:
    def optimizer(*devices: str) -> torch.optim.Optimizer:
        return torch.optim.SGD([torch.ones(1, device=device) for device in devices], lr=0.1)

    loss = torch.ones((), device="meta")
    value = read_loss(loss, optimizer("meta"))
    assert isinstance(value, torch.Tensor)
    assert (value.dtype, value.shape, value.device.type) == (torch.float64, (), "meta")
    for other in (None, optimizer("meta", "cpu")):
        with pytest.raises(ValueError, match="the loss must have a value: got a tensor on the device meta"):
            read_loss(loss, other)


def test_a_loss_in_a_graph_is_a_copy(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the check: what is added to the loss after it was observed would count."""
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
    loss = torch.tensor([2.0], dtype=torch.float64)
    value = read_loss(loss)
    assert isinstance(value, torch.Tensor)
    loss.add_(1.0)
    assert value.shape == ()
    assert float(value) == 2.0


# Steps of other optimizers -------------------------------------------------------------------------------------------


class Own(torch.optim.SGD):
    """Its step has one more argument, and may fail."""

    def step(self, closure: Any = None, factor: float = 1.0) -> Any:
        loss = None if closure is None else closure()
        if factor < 0:
            raise ArithmeticError
        self.param_groups[0]["lr"] = factor
        return loss


def with_observed(optimizer: Any) -> None:
    lga = LGA.of(optimizer)
    assert lga is not None
    lga.observe(1.5)
    optimizer.step(None, 3.0)


AFTER: dict[str, Callable[[Any], object]] = {
    "a closure": lambda optimizer: optimizer.step(lambda: 1.5),
    "a closure and more": lambda optimizer: optimizer.step(lambda: 1.5, 3.0),
    "closure=": lambda optimizer: optimizer.step(closure=lambda: 1.5, factor=3.0),
    "loss=": lambda optimizer: optimizer.step(loss=1.5, factor=3.0),
    "an observed loss": with_observed,
}


@pytest.mark.parametrize("step", AFTER.values(), ids=AFTER)
def test_a_step_after_one_that_failed(step: Callable[[Any], object]) -> None:
    """Without the check: it would be taken for a part of the failed step, and its loss would not count."""
    optimizer: Any = Own([torch.nn.Parameter(torch.ones(1))], lr=0.1)
    lga = LGA(optimizer, steps_per_epoch=2)
    with pytest.raises(ArithmeticError):
        optimizer.step(lambda: 2.0, -1.0)
    step(optimizer)
    assert optimizer.param_groups[0]["lr"] == (1.0 if step is AFTER["a closure"] else 3.0)
    assert (lga.status.steps, lga.status.loss) == (1, 1.5)


# Warnings ------------------------------------------------------------------------------------------------------------


def test_a_missing_loss_is_reported_at_the_line_of_the_step() -> None:
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.ones(1))], lr=0.1)
    lga = LGA(optimizer, steps_per_epoch=2)
    with pytest.warns(UserWarning, match="LGA got no loss for this step, ") as caught:
        optimizer.step()
    assert caught[0].filename == __file__
    other = torch.optim.SGD([torch.nn.Parameter(torch.ones(1))], lr=0.1)
    resumed = LGA(other, steps_per_epoch=2)
    resumed.load_state_dict(lga.state_dict())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        other.step()  # it was reported before the checkpoint
    assert resumed.status.steps_without_loss == 2


def test_a_thousand_losses_without_a_step_are_reported_at_the_line_of_the_last() -> None:
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.ones(1))], lr=0.1)
    lga = LGA(optimizer, steps_per_epoch=2)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for _ in range(999):
            lga.observe(1.0)
    with pytest.warns(UserWarning, match="1000 losses were observed since SGD made its last step") as caught:
        lga.observe(1.0)
    assert caught[0].filename == __file__
