"""The mean of the ranks' losses, with ranks that are not there."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any
from unittest.mock import Mock

import pytest
import torch
import torch.distributed as dist

from lossaware import LGA
from lossaware.loss_input import mean_over_ranks

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
