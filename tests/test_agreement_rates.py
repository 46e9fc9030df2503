"""gamma2 by agreement: the learning rate and the other settings of the base stay the user's."""

from __future__ import annotations

import contextlib
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from lossaware import LGA
from lossaware.agreement import Agreement
from support import flat, parameters, set_gradients
from support.agreement import SHAPES, attached, problem


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
    """Its step fails on request."""

    fails = False

    def step(self, closure: Any = None) -> Any:
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
    state = optimizer.state_dict()
    state["param_groups"][0]["lr"] = 7.0
    _, gradients, _ = problem()
    for fails in (False, True):
        optimizer.fails = fails
        set_gradients(params, gradients[0])
        with pytest.raises(KeyError) if fails else contextlib.nullcontext():
            optimizer.step(loss=1.0)
    optimizer.load_state_dict(state)
    optimizer.zero_grad()
    assert optimizer.param_groups[0]["lr"] == 7.0


def test_a_scheduler_reads_and_sets_the_rate_of_the_user() -> None:
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
    """Without a gradient, AdamW moves only by its decay, and at a large rate by the bound."""
    p = nn.Parameter(torch.ones(4, 4))
    optimizer: Any = torch.optim.AdamW([p], lr=1e3, weight_decay=0.5)
    LGA(optimizer, gamma2=Agreement(initial=1e-3, smallest=1e-3, largest=1e-3))
    p.grad = torch.zeros(4, 4)
    for _ in range(3):
        before = p.detach().clone()
        optimizer.step(loss=1.0)
        assert float((before - p).detach().abs().max()) == pytest.approx(1e-3, rel=2e-3)


# Kinds of tensors -----------------------------------------------------------------------------------------------------
