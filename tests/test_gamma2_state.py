"""gamma2 that sets itself: the running means in optimizers of every kind, and checkpoints."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from lossaware import LGA, AutoGamma2
from lossaware.gradient_mean import MEAN
from support.gamma2 import SHORT, model


def test_means_are_in_the_optimizers_checkpoint(tmp_path: Path) -> None:
    """The two state_dicts contain everything to resume, and a new process loads them with weights_only."""
    whole = trained(auto, 40)
    net = model()
    optimizer = torch.optim.SGD(net.parameters(), lr=1e-3)
    lga = auto(optimizer)
    train(net, optimizer, range(22))
    torch.save([net.state_dict(), optimizer.state_dict(), lga.state_dict()], tmp_path / "kept")
    of_net, of_optimizer, of_lga = torch.load(tmp_path / "kept", weights_only=True)
    assert json.loads(json.dumps(of_lga)) == of_lga
    fresh = nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 1))
    optimizer = torch.optim.SGD(fresh.parameters(), lr=1e-3)
    lga = auto(optimizer)
    fresh.load_state_dict(of_net)
    optimizer.load_state_dict(of_optimizer)
    lga.load_state_dict(of_lga)
    train(fresh, optimizer, range(22, 40))
    assert all(torch.equal(a, b) for a, b in zip(whole, fresh.parameters(), strict=True))


def test_a_step_without_a_loss_makes_the_place_that_a_checkpoint_loads_into() -> None:
    p = nn.Parameter(torch.ones(3))
    optimizer = torch.optim.Adam([p], lr=0.0)
    LGA(optimizer, steps_per_epoch=10, gamma2="auto")
    p.grad = torch.zeros_like(p)
    with pytest.warns(UserWarning, match="no loss"):
        optimizer.step()
    assert torch.equal(optimizer.state[p][MEAN], torch.zeros(3))


@pytest.mark.parametrize("gamma2", [1e-3, AutoGamma2(momentum=0.0)], ids=["fixed", "no momentum"])
def test_without_momentum_nothing_is_kept(gamma2: Any) -> None:
    p = nn.Parameter(torch.ones(3))
    optimizer: Any = torch.optim.SGD([p], lr=0.0)
    LGA(optimizer, steps_per_epoch=10, gamma2=gamma2)
    p.grad = torch.ones(3)
    optimizer.step(loss=2.0)
    assert not optimizer.state[p]
    assert (p < 1).all()


@pytest.mark.parametrize("compiled", [False, True], ids=["eager", "compiled"])
def test_of_a_group_that_is_left_out_nothing_is_kept(compiled: bool) -> None:
    within, out = nn.Parameter(torch.ones(3)), nn.Parameter(torch.ones(3))
    groups: list[dict[str, Any]] = [{"params": [within]}, {"params": [out], "gamma2": 0}]
    optimizer: Any = torch.optim.SGD(groups, lr=0.0)
    lga = LGA(optimizer, steps_per_epoch=10, gamma2="auto")
    step = lga.compile(backend="eager") if compiled else lambda loss: optimizer.step(loss=loss)
    for _ in range(3):
        within.grad, out.grad = torch.ones(3), torch.ones(3)
        step(2.0)
    assert list(optimizer.state[within]) == [MEAN]
    assert not optimizer.state[out]
    assert torch.equal(out, torch.ones(3))


def test_asgds_average_is_pushed_along_the_mean_too() -> None:
    p = nn.Parameter(torch.ones(3, dtype=torch.float64))
    optimizer: Any = torch.optim.ASGD([p], lr=0.1, t0=1000)  # until then the average is the parameter
    LGA(optimizer, steps_per_epoch=10, gamma2="auto")
    for gradient in (1.0, 1.0, -0.1, 0.5):
        p.grad = torch.full_like(p, gradient)
        optimizer.step(loss=2.0)
        torch.testing.assert_close(optimizer.state[p]["ax"], p.detach())


@pytest.mark.parametrize("arrives", [float, torch.tensor])
def test_where_the_base_maximizes_the_push_goes_up_the_mean(arrives: Any) -> None:
    p = nn.Parameter(torch.ones(3))
    optimizer: Any = torch.optim.SGD([p], lr=0.0, maximize=True)
    LGA(optimizer, steps_per_epoch=10, gamma2="auto")
    moved = 1.0
    for gradient, mean in ((2.0, 0.2), (-1.0, 0.08)):
        p.grad = torch.full_like(p, gradient)
        optimizer.step(loss=arrives(2.0))
        moved += 0.02 / (1 + mean)
        torch.testing.assert_close(p.detach(), torch.full((3,), moved))


def test_where_a_scaler_skips_a_fused_step_the_means_stay() -> None:
    p = nn.Parameter(torch.ones(3))
    optimizer: Any = torch.optim.SGD([p], lr=0.0, fused=True)
    LGA(optimizer, steps_per_epoch=10, gamma2="auto")
    scaler = torch.amp.GradScaler("cpu", init_scale=4.0)
    for gradient, mean in ((1.0, 0.1), (math.inf, 0.1), (2.0, 0.29)):
        p.grad = torch.full_like(p, gradient) * scaler.scale(torch.ones(()))
        scaler.step(optimizer, loss=2.0)
        scaler.update()
        torch.testing.assert_close(optimizer.state[p][MEAN], torch.full((3,), mean))


def test_sparse_gradients_are_read_directly() -> None:
    table = nn.Embedding(4, 2, sparse=True)
    with torch.no_grad():
        table.weight.fill_(1.0)
    optimizer: Any = torch.optim.SGD(table.parameters(), lr=0.0)
    LGA(optimizer, steps_per_epoch=10, gamma2="auto")
    for row in (1, 3):
        optimizer.zero_grad()
        table(torch.tensor([row])).sum().backward()
        optimizer.step(loss=2.0)
    assert not optimizer.state[table.weight]
    once = 1 - 0.02 / 2  # a gradient of 1 is as large as xi
    torch.testing.assert_close(table.weight.detach()[:, 0], torch.tensor([1.0, once, 1.0, once]))


def train(net: nn.Module, optimizer: Any, steps: Iterable[int]) -> None:
    inputs = torch.randn(64, 6, generator=torch.Generator().manual_seed(1))
    for step in steps:
        optimizer.zero_grad()
        loss = (net(inputs[step % 8 :: 8]) - 1).square().mean()
        loss.backward()
        optimizer.step(loss=loss)


def trained(lga_of: Any, steps: int, resume_at: int | None = None) -> list[torch.Tensor]:
    """Parameters after this number of steps; if resumed, with another LGA on the same optimizer."""
    net = model()
    optimizer = torch.optim.SGD(net.parameters(), lr=1e-3)
    lga = lga_of(optimizer)
    train(net, optimizer, range(resume_at or steps))
    if resume_at is not None:
        state = lga.state_dict()
        lga.detach()
        lga = lga_of(optimizer)
        assert lga.state_dict()["groups"] != state["groups"]  # a new companion measures its own, which must not count
        lga.load_state_dict(state)
        train(net, optimizer, range(resume_at, steps))
    return [p.detach().clone() for p in net.parameters()]


def auto(optimizer: torch.optim.Optimizer) -> LGA:
    return LGA(optimizer, steps_per_epoch=8, gamma2=SHORT)


def test_a_checkpoint_resumes_with_the_same_bits() -> None:
    whole, parted = trained(auto, 40), trained(auto, 40, resume_at=22)
    assert all(torch.equal(a, b) for a, b in zip(whole, parted, strict=True))
    assert not torch.equal(whole[0], trained(lambda o: LGA(o, steps_per_epoch=8, gamma2=0.0), 40)[0])


def test_a_group_that_was_just_added_is_in_the_checkpoint() -> None:
    def with_new_group(value: float) -> tuple[torch.optim.Optimizer, LGA]:
        optimizer = torch.optim.SGD([nn.Parameter(torch.ones(3))], lr=1e-3)
        lga = auto(optimizer)
        optimizer.add_param_group({"params": [nn.Parameter(torch.full((3,), value))]})
        return optimizer, lga

    _optimizer, lga = with_new_group(2.0)
    state = lga.state_dict()
    assert [group["scale"] for group in state["groups"]] == pytest.approx([1.0, 2.0])
    _optimizer, lga = with_new_group(4.0)
    lga.load_state_dict(state)
    assert lga.state_dict()["groups"] == state["groups"]


def test_a_state_of_another_strategy_is_refused() -> None:
    optimizer = torch.optim.SGD(model().parameters(), lr=1e-3)
    state = auto(optimizer).state_dict()
    other = torch.optim.SGD(model().parameters(), lr=1e-3)
    with pytest.raises(ValueError, match="gamma2 is 'AutoGamma2"):
        LGA(other, steps_per_epoch=8).load_state_dict(state)
