"""The length of an epoch may change while LGA is attached."""

from __future__ import annotations

import logging
from typing import Any

import numpy as np
import pytest
import torch

import reference
from lossaware import LGA
from support import flat, parameters, set_gradients

LOSSES = [3.0, 2.5, 2.9, 2.2, 1.9, 2.1, 2.0, 1.7, 1.8, 1.5, 1.6, 1.4]
SETTINGS: dict[str, Any] = {"gamma2": 1e-3, "eps": 0.01, "backoff": 0.5}


def start() -> tuple[list[torch.nn.Parameter], Any, LGA]:
    params = parameters(np.linspace(-1, 1, 6), (6,))
    optimizer = torch.optim.SGD(params, lr=0.1)
    return params, optimizer, LGA(optimizer, steps_per_epoch=4, **SETTINGS)


@pytest.mark.parametrize("compiled", [False, True], ids=["eager", "compiled"])
@pytest.mark.parametrize("steps", [2, 3, 8])
def test_the_status_in_progress_ends_at_the_new_length(steps: int, compiled: bool) -> None:
    """Changed after step 5, when the second status has one loss."""
    params, optimizer, lga = start()
    step: Any = lga.compile(backend="eager") if compiled else lambda loss: optimizer.step(loss=loss)
    law = reference.Law(4, SETTINGS["gamma2"], SETTINGS["eps"], backoff=SETTINGS["backoff"])
    gradients = np.random.default_rng(0).normal(size=(len(LOSSES), 6))
    expected = flat(params)
    for index, (loss, gradient) in enumerate(zip(LOSSES, gradients, strict=True)):
        if index == 5:
            lga.steps_per_epoch = law.steps_per_epoch = steps
        set_gradients(params, gradient)
        step(loss)
        expected = expected - 0.1 * gradient - law.correction(law.omega(loss), gradient)
        np.testing.assert_allclose(flat(params), expected, rtol=0, atol=1e-12)
    assert lga.status.statuses == law.statuses == 1 + (len(LOSSES) - 4) // steps
    assert lga.status.lower_bound == pytest.approx(law.lower, rel=1e-12)


def test_a_status_that_has_more_losses_already_ends_at_the_next_step() -> None:
    _, optimizer, lga = start()
    for loss in LOSSES[:3]:
        optimizer.step(loss=loss)
    lga.steps_per_epoch = 2
    assert lga.status.statuses == 0
    optimizer.step(loss=LOSSES[3])
    assert lga.status.statuses == 1
    assert lga.state_dict()["state"]["mean"] == pytest.approx(np.mean(LOSSES[:4]))


def test_checkpoints_have_the_new_length() -> None:
    _, optimizer, lga = start()
    optimizer.step(loss=1.0)
    lga.steps_per_epoch = 25
    state = lga.state_dict()
    assert state["hyperparameters"]["steps_per_epoch"] == lga.steps_per_epoch == 25
    _, _, other = start()
    with pytest.raises(ValueError, match="steps_per_epoch is 25 in the state_dict but 4 here"):
        other.load_state_dict(state)
    other.steps_per_epoch = 25
    other.load_state_dict(state)
    assert other.state_dict() == state


@pytest.mark.parametrize("change_at", [0, 50])
def test_the_notice_of_runs_without_a_status_has_the_new_length(
    caplog: pytest.LogCaptureFixture, change_at: int
) -> None:
    """After 50 steps with 4 per status there were statuses, so there is no warning."""
    _, optimizer, lga = start()
    for step in range(100):
        if step == change_at:
            lga.steps_per_epoch = 1000
        optimizer.step(loss=1.0)
    with caplog.at_level(logging.WARNING, "lossaware"):
        lga.detach()
    assert ("LGA made 100 steps, but steps_per_epoch=1000" in caplog.text) == (change_at == 0)


@pytest.mark.parametrize("steps", [0, -1, 2.5, True, "3", None])
def test_an_invalid_length_is_refused_and_changes_nothing(steps: Any) -> None:
    _, _, lga = start()
    with pytest.raises(ValueError, match="steps_per_epoch must be an integer of at least 1: got"):
        lga.steps_per_epoch = steps
    assert lga.steps_per_epoch == 4
