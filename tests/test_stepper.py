"""A step whose state is on the device, computed by torch's operators; here the device is the CPU."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from lossaware import LGA


def make_lga(**settings: Any) -> tuple[torch.nn.Parameter, Any, LGA]:
    """A base that rests, and LGA whose state is a tensor."""
    p = torch.nn.Parameter(torch.ones(3))
    optimizer: Any = torch.optim.SGD([p], lr=0.0, fused=True)
    lga = LGA(optimizer, **{"steps_per_epoch": 2, "gamma2": 1e-3, **settings})
    lga._stepper.state_on(torch.device("cpu"))
    return p, optimizer, lga


@pytest.mark.parametrize("gamma2", [1e-3, "auto"])
def test_where_a_scaler_skips_the_step_nothing_changes(gamma2: Any) -> None:
    """The scaler of a fused base reports an overflow. Without the check: parameters or the law would change."""
    p, optimizer, lga = make_lga(gamma2=gamma2)
    p.grad = torch.ones(3)
    for loss in (2.0, 1.9):
        optimizer.step(loss=loss)
    before, state = p.detach().clone(), lga.state_dict()["state"]
    assert (before < 1).all()
    means = {name: value.clone() for name, value in optimizer.state[p].items() if isinstance(value, torch.Tensor)}
    optimizer.found_inf = torch.tensor(1.0)
    p.grad = torch.full((3,), math.inf)
    optimizer.step(loss=1.8)
    assert torch.equal(p, before)
    assert lga.state_dict()["state"] == pytest.approx(state, rel=0, abs=0, nan_ok=True)
    assert all(torch.equal(optimizer.state[p][name], mean) for name, mean in means.items())
    optimizer.found_inf = torch.tensor(0.0)
    p.grad = torch.ones(3)
    optimizer.step(loss=1.8)
    assert (p < before).all()
    assert lga.status.steps == 3


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_parameters_of_16_bits_are_rounded_as_on_the_host(dtype: torch.dtype) -> None:
    """By other noise at each step. Without the check: the mean of many small pushes would be lost."""
    ends = []
    for on_device in (False, True):
        p = torch.nn.Parameter(torch.ones(3, 500, dtype=dtype))
        optimizer: Any = torch.optim.SGD([p], lr=0.0)
        lga = LGA(optimizer, steps_per_epoch=50, gamma2=1e-5)
        if on_device:
            lga._stepper.state_on(torch.device("cpu"))
        p.grad = torch.ones_like(p)
        for _ in range(20):
            optimizer.step(loss=1.0)
        ends.append(p.detach().clone())
    assert torch.equal(*ends)
    pushes = 20 * 1e-5 / 1.01
    assert float((1 - ends[0].double()).mean()) == pytest.approx(pushes, rel=0.3)


def test_a_checkpoint_is_loaded_into_the_state_on_the_device() -> None:
    p, optimizer, lga = make_lga()
    p.grad = torch.ones(3)
    for loss in (2.0, 1.9, 1.8):
        optimizer.step(loss=loss)
    state = lga.state_dict()
    p, optimizer, other = make_lga()
    other.load_state_dict(state)
    assert other.state_dict() == state
    p.grad = torch.ones(3)
    optimizer.step(loss=1.7)
    assert (other.status.steps, other.status.upper_bound) == (4, 2.0)


def test_without_groups_there_is_no_gamma2() -> None:
    _, optimizer, lga = make_lga(gamma2="auto")
    optimizer.param_groups.clear()
    optimizer.step(loss=2.0)
    assert lga.status.gamma2 == 0.0
