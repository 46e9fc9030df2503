"""A push that never comes is reported, once, with the remedy."""

from __future__ import annotations

import logging
import math
import re
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
import torch.distributed as dist

from lossaware import LGA
from lossaware.notices import PushNotice


def train(losses: Sequence[float], **settings: Any) -> tuple[list[str], Any, torch.Tensor]:
    """The warnings, LGA's status and the parameter after these losses, each with the same gradient and lr 0."""
    p = torch.nn.Parameter(torch.ones(1, dtype=torch.float64))
    optimizer: Any = torch.optim.SGD([p], lr=0.0)
    lga = LGA(optimizer, **{"steps_per_epoch": 50, "gamma2": 1e-4, **settings})
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for loss in losses:
            p.grad = torch.ones_like(p)
            optimizer.step(loss=loss)
    return [str(warning.message) for warning in caught], lga.status, p.detach()


def falling(start: float, end: float, steps: int = 400) -> list[float]:
    return [start + (end - start) * i / steps for i in range(steps)]


# Losses for which the gate can never open, or not any more, by name; and the reason that is given.
SHUT: dict[str, tuple[Callable[[], list[float]], str]] = {
    "a first loss of 0": (lambda: [0.0, *falling(2.0, 0.5)], "later losses were higher than the first"),
    "small first, then large": (lambda: [0.4, *falling(2.3, 0.9)], "later losses were higher than the first"),
    "a spike": (lambda: [*falling(2.0, 1.5), 1e5, *falling(1.5, 1.0)], "later losses were higher than the first"),
    "below 0": (lambda: falling(-1.0, -5.0), "the losses are not above 0"),
    "all 0": (lambda: [0.0] * 400, "the losses are not above 0"),
    "rising": (lambda: falling(1.0, 3.0), "their mean, .*, was above the first one"),
}


@pytest.mark.parametrize("gamma2", [1e-4, "auto"])
@pytest.mark.parametrize("name", SHUT)
def test_a_gate_that_cannot_open_is_reported_once_with_the_remedy(name: str, gamma2: Any) -> None:
    losses, reason = SHUT[name]
    messages, _, _ = train(losses(), gamma2=gamma2)
    if (name, gamma2) == ("a spike", "auto"):
        assert messages == []  # its lower bound is 0 for any losses
        return
    assert len(messages) == 1
    if gamma2 != "auto":
        assert re.match(f"LGA makes no correction at step .*, since no loss opens the gate: {reason}; ", messages[0])
    assert messages[0].startswith("LGA makes no correction at step ")
    assert 'upper_bound="running"' in messages[0]
    assert "\n" not in messages[0]


def test_bounds_that_are_too_near_to_each_other_are_reported() -> None:
    """Unguarded: the losses are said to be higher than the first, and a remedy is named that does not help."""
    (message,), _, _ = train(falling(1.0, 0.7, 300), steps_per_epoch=5)
    assert "the bounds are less than eps = 0.1 apart; the lower bound is L = 0.90" in message
    assert message.endswith("the upper bound U = 1; LGA(..., eps=0) opens it for any loss between them")
    assert train(falling(1.0, 0.7, 300), steps_per_epoch=5, eps=0)[0] == []


def test_losses_that_are_not_finite_are_reported() -> None:
    messages, status, p = train([math.nan] * 300)
    assert messages == ["none of 100 losses was finite, so LGA has made no correction"]
    assert (status.gate, float(p)) == ("no finite loss yet", 1.0)


def test_losses_at_the_upper_bound_and_at_0() -> None:
    """The reason is not that they were above the first, or that none is above 0."""
    (message,), _, _ = train([1.0, 0.9, *[0.9, 1.0] * 60], steps_per_epoch=2, lower_bound="average")
    assert "the bounds are less than eps = 0.1 apart; the lower bound is L = 0.95, the upper bound U = 1;" in message
    (message,), _, _ = train([0.05, *[0.0] * 120])
    assert "the bounds are less than eps = 0.1 apart; the lower bound is L = " in message
    (message,), _, _ = train([1.0] * 120, eps=0.0, lower_bound="average")
    assert "the losses did not fall below the first; the lower bound is L = 1, the upper bound U = 1;" in message


def test_the_place_of_a_warning_is_the_line_of_the_step() -> None:
    p = torch.nn.Parameter(torch.ones(1))
    optimizer: Any = torch.optim.SGD([p], lr=0.0)
    LGA(optimizer, steps_per_epoch=50)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for _ in range(99):
            optimizer.step(loss=0.0)
    with pytest.warns(UserWarning, match="since no loss opens the gate") as caught:
        optimizer.step(loss=0.0)
    assert caught[0].filename == __file__


def test_a_hundred_steps_in_a_row_without_a_push_are_reported_once() -> None:
    notice = PushNotice()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for reason in ("all is 0", "", *["all is 0"] * 99):
            notice.step(reason)
    with pytest.warns(UserWarning, match="no correction in 100 steps: in the last of them nothing moved"):
        notice.step("nothing moved")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        notice.step("nothing moved")


def test_on_a_device_it_is_reported_when_the_status_is_read() -> None:
    """After 100 steps, once: steps do not wait for the device."""
    optimizer: Any = torch.optim.SGD([torch.nn.Parameter(torch.ones(1))], lr=0.0)
    lga = LGA(optimizer, steps_per_epoch=50)
    lga._stepper.state_on(torch.device("cpu"))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        warnings_so_far = []
        for step in range(1, 103):
            optimizer.step(loss=0.0)
            assert lga.status.steps == step
            warnings_so_far.append(len(caught))
    assert warnings_so_far == [0] * 99 + [1] * 3


@pytest.mark.parametrize("gamma2", [1e-4, "auto"])
def test_a_usual_run_reports_nothing(gamma2: Any) -> None:
    assert train(falling(2.3, 0.3), gamma2=gamma2)[0] == []


def test_the_status_says_why_the_gate_is_closed() -> None:
    def gate(*losses: float) -> str:
        gate: str = train(losses, steps_per_epoch=2, lower_bound="average")[1].gate
        return gate

    assert gate() == "no finite loss yet"
    assert gate(2.0) == "open"
    assert gate(2.0, 2.5) == "closed: the loss is above the upper bound"
    assert gate(2.0, 2.0, 1.0) == "closed: the loss is below the lower bound"
    assert gate(2.0, 1.9, 1.96) == "closed: the loss is within eps of the lower bound"
    assert gate(1.0, 1.0, 1.0) == "closed: the loss is within eps of the lower bound"  # which is also the upper one
    assert gate(0.5) == "open"


@pytest.mark.parametrize("steps", [500, 70_000])
def test_auto_does_not_push_below_0_for_any_factor(steps: int) -> None:
    """Without the check: its factor grows without bound, overflows, and then pushes through a closed gate."""
    losses = [-1.0 - 0.01 * i for i in range(steps)]
    _, status, p = train(losses, gamma2="auto", steps_per_epoch=1)
    assert float(p) == 1.0
    assert (status.omega, status.gamma2) == (0.0, 0.0)


# The log ------------------------------------------------------------------------------------------------------------


def backing_off(*, on_device: bool) -> LGA:
    """After a status whose mean loss rose, and one whose fell; it was looked at after each step."""
    optimizer: Any = torch.optim.SGD([torch.nn.Parameter(torch.ones(1))], lr=0.0)
    lga = LGA(optimizer, steps_per_epoch=2, gamma2=1e-6)
    if on_device:
        lga._stepper.state_on(torch.device("cpu"))
    for loss in (2.0, 2.0, 3.0, 3.0, 1.0, 1.0):
        optimizer.step(loss=loss)
        assert lga.status.gamma2 <= 1e-6
    optimizer.param_groups[0]["params"].clear()
    return lga


@pytest.mark.parametrize("on_device", [False, True], ids=["host", "device"])
def test_a_back_off_is_logged_once_however_often_the_status_is_read(
    on_device: bool, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "lossaware")
    backing_off(on_device=on_device)
    (record,) = caplog.records
    assert record.message.startswith("gamma2 backed off to 1e-07 ")


def test_the_first_rank_alone_speaks(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr(dist, "is_initialized", lambda: True)
    monkeypatch.setattr(dist, "get_world_size", lambda group=None: 1)
    monkeypatch.setattr(dist, "get_rank", lambda: 1)
    caplog.set_level(logging.INFO, "lossaware")
    assert train([0.0, *falling(2.0, 0.5)])[0] == []
    train([1.0] * 120, steps_per_epoch=1000)
    backing_off(on_device=False)
    assert not caplog.records


def test_a_resumed_run_without_a_status_is_reported(caplog: pytest.LogCaptureFixture) -> None:
    optimizers: list[Any] = [torch.optim.SGD([torch.nn.Parameter(torch.ones(1))], lr=0.0) for _ in range(2)]
    first, resumed = (LGA(optimizer, steps_per_epoch=1000) for optimizer in optimizers)
    for _ in range(60):
        optimizers[0].step(loss=1.0)
    resumed.load_state_dict(first.state_dict())
    for _ in range(40):
        optimizers[1].step(loss=1.0)
    resumed.detach()
    (record,) = caplog.records
    assert record.message.startswith("LGA made 100 steps, but steps_per_epoch=1000, ")


def test_a_complete_status_is_remembered_by_a_longer_epoch(caplog: pytest.LogCaptureFixture) -> None:
    optimizer: Any = torch.optim.SGD([torch.nn.Parameter(torch.ones(1))], lr=0.0)
    lga = LGA(optimizer, steps_per_epoch=100)
    for _ in range(100):
        optimizer.step(loss=1.0)
    lga.steps_per_epoch = 1000
    lga.detach()
    assert not caplog.records
