"""Ways to pass the loss, accepted losses, and refusals."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from lossaware import LGA
from support.channels import CHANNELS, START, G, Setup, closure_of

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


def test_parameters_may_be_frozen_after_attaching() -> None:
    """Without the check: the watched parameter would not have a gradient."""
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


def test_a_low_precision_loss_is_summed_in_high_precision() -> None:
    """In float16 a sum of 1000 losses near 100 would be infinite, and in bfloat16 it would stop growing."""
    for dtype in (torch.float16, torch.bfloat16):
        setup = Setup(steps_per_epoch=1000, lower_bound="average", gamma2=0.0)
        losses = torch.linspace(99.0, 101.0, 1000).to(dtype)
        for loss in losses:
            setup.optimizer.step(loss=loss)
        assert setup.lga.status.lower_bound == pytest.approx(float(losses.double().mean()), rel=1e-12)


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


# Refusals -----------------------------------------------------------------------------------------------------------


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
def test_an_invalid_loss_is_refused_and_changes_nothing(
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
