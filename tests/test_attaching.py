"""Attaching and detaching, hyperparameters that are refused, and the status."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import pytest
import torch

from lossaware import LGA, Momentum, Progressive, Status
from support.channels import START, G, Setup

NUMBER = r"must be .*: got "
BAD_HYPERPARAMETERS: list[tuple[dict[str, Any], str]] = [
    *(({"steps_per_epoch": value}, rf"steps_per_epoch {NUMBER}") for value in (0, -1, True, 2.5, "7")),
    *(({"gamma2": value}, rf"gamma2 {NUMBER}") for value in (-1e-8, math.nan, math.inf, "1e-8", None)),
    *(({"eps": value}, rf"eps {NUMBER}") for value in (-0.1, math.nan, math.inf, "0.1")),
    *(({"xi": value}, rf"xi {NUMBER}") for value in (0.0, -0.01, math.nan, math.inf)),
    *(({"backoff": value}, rf"backoff {NUMBER}") for value in (-0.1, 1.5, math.nan, math.inf)),
    ({"lower_bound": "progresive"}, "'progresive'.*did you mean 'progressive'"),
    ({"lower_bound": "median"}, "'median'.*progressive, average, momentum"),
    ({"lower_bound": Progressive}, "lower_bound must be"),
    ({"lower_bound": 0.9}, "lower_bound must be.*0.9"),
    ({"zero_gradient": "rset"}, "zero_gradient must be 'push' or 'rest': got 'rset'"),
    ({"zero_gradient": 0}, "zero_gradient must be 'push' or 'rest': got 0"),
    (
        {"gamma2": "automatic"},
        r"gamma2 must be a number of at least 0, 'auto', 'agreement' or a rule .*: got 'automatic'",
    ),
    ({"gamma2": "Auto"}, r"gamma2 must be .*: got 'Auto'; did you mean 'auto'\?"),
]


@pytest.mark.parametrize(
    ("kwargs", "message"), BAD_HYPERPARAMETERS, ids=lambda v: str(v) if isinstance(v, dict) else ""
)
def test_bad_hyperparameters_are_named_with_their_value(kwargs: dict[str, Any], message: str) -> None:
    p = torch.nn.Parameter(START.clone())
    optimizer = torch.optim.SGD([p], lr=0.1)
    with pytest.raises(ValueError, match=message) as raised:
        LGA(optimizer, **{"steps_per_epoch": 10, **kwargs})
    assert "\n" not in str(raised.value)
    LGA(optimizer, steps_per_epoch=10)  # the failed attempt has changed nothing


def test_steps_per_epoch_has_no_default() -> None:
    optimizer = torch.optim.SGD([torch.nn.Parameter(START.clone())], lr=0.1)
    with pytest.raises(TypeError, match=r"^steps_per_epoch is missing: .*steps_per_epoch=len\(loader\)"):
        LGA(optimizer)  # type: ignore[call-overload]
    with pytest.raises(TypeError, match=r"^steps_per_epoch is missing"):
        LGA(optimizer, steps_per_epoch=None)  # type: ignore[call-overload]


@pytest.mark.parametrize("gamma2", [-1.0, math.nan, "much"])
def test_a_groups_gamma2_is_checked_too(gamma2: Any) -> None:
    groups = [{"params": [torch.nn.Parameter(START.clone())]} for _ in range(2)]
    groups[1]["gamma2"] = gamma2
    with pytest.raises(ValueError, match=r"gamma2 .*1"):
        LGA(torch.optim.SGD(groups, lr=0.1), steps_per_epoch=10)


@pytest.mark.parametrize("thing", [None, "sgd", torch.nn.Linear(1, 1), torch.optim.SGD])
def test_an_invalid_optimizer_is_refused(thing: Any) -> None:
    with pytest.raises(TypeError, match=r"torch\.optim\.Optimizer"):
        LGA(thing, steps_per_epoch=10)


# Coming and going ---------------------------------------------------------------------------------------------------


def test_attaching_twice_is_refused_and_after_detach_is_not() -> None:
    setup = Setup()
    with pytest.raises(ValueError, match="detach"):
        LGA(setup.optimizer, steps_per_epoch=10)
    setup.optimizer.step(loss=2.0)
    assert setup.moved_by(2.0)  # once, not twice
    setup.lga.detach()
    second = LGA(setup.optimizer, steps_per_epoch=10)
    setup.optimizer.step(loss=3.0)
    assert (second.status.loss, setup.lga.status.loss) == (3.0, 2.0)


def test_a_detached_optimizer_is_restored() -> None:
    setup = Setup()
    plain = torch.optim.SGD([torch.nn.Parameter(START.clone())], lr=0.1)
    setup.lga.detach()
    setup.lga.detach()  # no harm
    assert vars(setup.optimizer).keys() == vars(plain).keys()
    setup.optimizer.step()
    assert torch.equal(setup.p.detach(), START - 0.1 * G)
    with pytest.raises(TypeError):
        setup.optimizer.step(loss=2.0)
    with pytest.raises(RuntimeError, match="detached"):
        setup.lga.observe(2.0)


def test_the_optimizer_keeps_its_class() -> None:
    setup = Setup()
    assert str(type(setup.optimizer)) == str(torch.optim.SGD)
    assert not hasattr(setup.optimizer, "_step_supports_amp_scaling")
    setup.optimizer.step(loss=2.0)
    twin = torch.optim.SGD([torch.nn.Parameter(START.clone())], lr=0.1)
    assert setup.optimizer.state_dict() == twin.state_dict()


def test_context_manager() -> None:
    p = torch.nn.Parameter(START.clone())
    optimizer: Any = torch.optim.SGD([p], lr=0.1)
    p.grad = G.clone()
    with LGA(optimizer, steps_per_epoch=10, gamma2=1e-3) as lga:
        optimizer.step(loss=2.0)
    after = p.detach().clone()
    assert not torch.equal(after, START - 0.1 * G)
    optimizer.step()
    assert torch.equal(p.detach(), after - 0.1 * G)
    assert lga.status.steps == 1  # can be read afterwards
    with pytest.raises(ZeroDivisionError), LGA(optimizer, steps_per_epoch=10):
        raise ZeroDivisionError
    LGA(optimizer, steps_per_epoch=10)  # also detached after an exception


def test_other_hooks_also_run() -> None:
    setup = Setup()
    calls = []
    setup.optimizer.register_step_pre_hook(lambda *_: calls.append("pre"))
    setup.optimizer.register_step_post_hook(lambda *_: calls.append("post"))
    setup.optimizer.step(loss=2.0)
    assert calls == ["pre", "post"]
    assert setup.moved_by(2.0)


def test_repr_shows_its_settings() -> None:
    setup = Setup(steps_per_epoch=17, gamma2=3e-7, xi=0.02, lower_bound=Momentum(0.8), zero_gradient="rest")
    text = repr(setup.lga)
    for part in ("LGA(", "SGD", "steps_per_epoch=17", "gamma2=3e-07", "eps=0.1", "xi=0.02", "0.8", "backoff", "rest"):
        assert part in text
    assert "\n" not in text
    assert "detached" not in text
    setup.lga.detach()
    assert "detached" in repr(setup.lga)


# Status -------------------------------------------------------------------------------------------------------------


def test_status_before_any_loss() -> None:
    status = Setup().lga.status
    assert math.isnan(status.loss)
    assert math.isnan(status.upper_bound)
    assert (status.lower_bound, status.omega, status.gamma2) == (0.0, 0.0, 1e-3)
    assert (status.statuses, status.open_share, status.steps) == (0, 0.0, 0)
    assert (status.nonfinite_losses, status.steps_without_loss) == (0, 0)


def test_status_is_frozen_plain_numbers() -> None:
    setup = Setup(steps_per_epoch=2)
    for loss in (torch.tensor(2.0), math.nan, 2.5, 1.0):
        setup.optimizer.step(loss=loss)
    status = setup.lga.status
    assert isinstance(status, Status)
    names = [field.name for field in dataclasses.fields(status)]
    assert names == [
        *("loss", "lower_bound", "upper_bound", "omega", "gamma2", "statuses", "open_share", "steps"),
        *("nonfinite_losses", "steps_without_loss"),
    ]
    counts = {"statuses", "steps", "nonfinite_losses", "steps_without_loss"}
    assert {name: type(getattr(status, name)) for name in names} == {n: int if n in counts else float for n in names}
    assert (status.loss, status.upper_bound, status.steps, status.nonfinite_losses) == (1.0, 2.0, 4, 1)
    assert status.open_share == 0.5  # 2.0 and 1.0 of 2.0, NaN, 2.5, 1.0
    with pytest.raises(dataclasses.FrozenInstanceError):
        status.loss = 0.0  # type: ignore[misc]


def test_a_custom_lower_bound() -> None:
    class Lowest:
        def update(self, lower: Any, loss: Any, count: Any) -> Any:
            return loss if count == 1 else min(lower, loss)

    setup = Setup(lower_bound=Lowest(), steps_per_epoch=1)
    bounds = []
    for loss in (2.0, 3.0, 1.0, 1.5):
        setup.optimizer.step(loss=loss)
        bounds.append(setup.lga.status.lower_bound)
    assert bounds == [2.0, 2.0, 1.0, 1.0]
    assert setup.lga.status.omega == 0.5
