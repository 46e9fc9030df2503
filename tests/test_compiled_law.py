"""The law of a compiled step: on the host with two graphs, or part of a single graph."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch._dynamo.utils import counters

from lossaware import LGA

LOSSES = (2.2, 0.5, 3.0, 1.0, float("nan"), 1.7, 0.2)


@pytest.fixture(autouse=True)
def fresh_compiler() -> Iterator[None]:
    torch._dynamo.reset()
    counters.clear()
    yield
    torch._dynamo.reset()


def stepped(gamma2: Any, *, compiled: bool, on_device: bool) -> tuple[list[torch.Tensor], dict[str, Any]]:
    generator = torch.Generator().manual_seed(0)
    params = [torch.nn.Parameter(torch.randn(n, generator=generator)) for n in (15, 7)]
    optimizer: Any = torch.optim.SGD(params, lr=0.01)
    lga = LGA(optimizer, steps_per_epoch=3, gamma2=gamma2, backoff=0.5)
    if on_device:
        lga._stepper.state_on(torch.device("cpu"))
    step: Any = lga.compile(backend="aot_eager") if compiled else lambda loss: optimizer.step(loss=loss)
    for loss in LOSSES:
        for p in params:
            p.grad = torch.randn(p.shape, generator=generator)
        step(loss)
    return [p.detach() for p in params], lga.state_dict()["state"]


@pytest.mark.parametrize(("on_device", "graphs"), [(True, 1), (False, 2)], ids=["device", "host"])
@pytest.mark.parametrize("gamma2", [1e-2, "auto"])
def test_graphs_and_the_eager_numbers(gamma2: Any, on_device: bool, graphs: int) -> None:
    """On a device, whose losses the host does not read, the gate is data of one graph."""
    judge, expected = stepped(gamma2, compiled=False, on_device=False)
    moved, status = stepped(gamma2, compiled=True, on_device=on_device)
    assert counters["stats"]["unique_graphs"] == graphs
    for p, q in zip(moved, judge, strict=True):
        torch.testing.assert_close(p, q)
    for name, value in expected.items():
        assert status[name] == pytest.approx(value, rel=1e-12, nan_ok=True), name


@pytest.mark.parametrize("on_device", [True, False], ids=["device", "host"])
def test_a_closed_gate_ignores_gradients_that_are_not_finite(on_device: bool) -> None:
    """Unguarded: 0 / NaN is NaN. The base rests, so that it does not move them either."""
    p = torch.nn.Parameter(torch.ones(8))
    optimizer: Any = Rests([p])
    lga = LGA(optimizer, steps_per_epoch=3)
    if on_device:
        lga._stepper.state_on(torch.device("cpu"))
    step = lga.compile(backend="aot_eager")
    for loss, gradient in ((2.0, 1.0), (2.0, 1.0), (0.01, float("nan"))):
        p.grad = torch.full((8,), gradient)
        before = p.detach().clone()
        step(loss)
    assert lga.status.open_share == pytest.approx(2 / 3)
    assert torch.equal(p, before)


class Rests(torch.optim.Optimizer):
    def __init__(self, params: Any) -> None:
        super().__init__(params, {})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        pass
