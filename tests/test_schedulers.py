"""Every scheduler of torch.optim.lr_scheduler on an optimizer with LGA, compared with the reference."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch.optim import lr_scheduler, swa_utils

import reference
from lossaware import LGA
from support import default_dtype, flat, parameters, set_gradients, torch_optimizer

STEPS = 24
X = np.random.default_rng(0).normal(size=10)
GRADIENTS = list(np.random.default_rng(1).normal(size=(STEPS, 10)))
LOSSES = [float(f) for f in np.random.default_rng(2).uniform(0.2, 2.0, size=STEPS)]

SCHEDULERS: dict[str, Callable[[Any], Any]] = {
    "LambdaLR": lambda o: lr_scheduler.LambdaLR(o, lambda t: 1 / (1 + t)),
    "MultiplicativeLR": lambda o: lr_scheduler.MultiplicativeLR(o, lambda t: 0.9),
    "StepLR": lambda o: lr_scheduler.StepLR(o, 5, 0.5),
    "MultiStepLR": lambda o: lr_scheduler.MultiStepLR(o, [3, 11], 0.5),
    "ConstantLR": lambda o: lr_scheduler.ConstantLR(o, 0.3, 6),
    "LinearLR": lambda o: lr_scheduler.LinearLR(o, 0.1, 1.0, 10),
    "ExponentialLR": lambda o: lr_scheduler.ExponentialLR(o, 0.9),
    "PolynomialLR": lambda o: lr_scheduler.PolynomialLR(o, 20, 2.0),
    "CosineAnnealingLR": lambda o: lr_scheduler.CosineAnnealingLR(o, 20),
    "CosineAnnealingWarmRestarts": lambda o: lr_scheduler.CosineAnnealingWarmRestarts(o, 5, 2),
    "ReduceLROnPlateau": lambda o: lr_scheduler.ReduceLROnPlateau(o, factor=0.5, patience=1),
    "CyclicLR": lambda o: lr_scheduler.CyclicLR(o, 0.01, 0.1, 4),  # moves momentum or betas as well
    "OneCycleLR": lambda o: lr_scheduler.OneCycleLR(o, 0.2, STEPS),  # likewise
    "ChainedScheduler": lambda o: lr_scheduler.ChainedScheduler(
        [lr_scheduler.ConstantLR(o, 0.5, 4), lr_scheduler.ExponentialLR(o, 0.9)]
    ),
    "SequentialLR": lambda o: lr_scheduler.SequentialLR(
        o, [lr_scheduler.LinearLR(o, 0.1, 1.0, 5), lr_scheduler.CosineAnnealingLR(o, 15)], [5]
    ),
    "SWALR": lambda o: swa_utils.SWALR(o, swa_lr=0.01, anneal_epochs=10),
}


@pytest.fixture(autouse=True)
def _no_warnings() -> Iterator[None]:
    """A scheduler warns where it believes that the optimizer's step was replaced or not called."""
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*optimizer.step")
        yield


def test_none_is_missing() -> None:
    known = {
        name
        for name, value in vars(lr_scheduler).items()
        if inspect.isclass(value) and issubclass(value, lr_scheduler.LRScheduler) and not name.startswith("_")
    }
    assert set(SCHEDULERS) - {"SWALR"} == known - {"LRScheduler"}


def settings_of(optimizer: Any) -> dict[str, Any]:
    group = optimizer.param_groups[0]
    return {name: group[name] for name in ("lr", "momentum", "betas") if name in group}


def advance(scheduler: Any, loss: float) -> None:
    if isinstance(scheduler, lr_scheduler.ReduceLROnPlateau):
        scheduler.step(loss)
    else:
        scheduler.step()


def settings_without_lga(name: str, make: Callable[[Any], Any]) -> list[dict[str, Any]]:
    """The settings of the scheduler before each step of an optimizer without LGA."""
    params = parameters(X, (10,))
    optimizer = torch_optimizer(name, params, lr=0.1)
    scheduler = make(optimizer)
    result = []
    for g, loss in zip(GRADIENTS, LOSSES, strict=True):
        result.append(settings_of(optimizer))
        set_gradients(params, g)
        optimizer.step()
        advance(scheduler, loss)
    return result


@pytest.mark.parametrize("lga_first", [True, False], ids=["LGA first", "scheduler first"])
@pytest.mark.parametrize("name", ["momentum", "adam", "asgd"])
@pytest.mark.parametrize("scheduler", SCHEDULERS)
def test_every_scheduler(scheduler: str, name: str, lga_first: bool) -> None:
    make = SCHEDULERS[scheduler]
    if name == "asgd" and scheduler in ("CyclicLR", "OneCycleLR"):
        make = {
            "CyclicLR": lambda o: lr_scheduler.CyclicLR(o, 0.01, 0.1, 4, cycle_momentum=False),
            "OneCycleLR": lambda o: lr_scheduler.OneCycleLR(o, 0.2, STEPS, cycle_momentum=False),
        }[scheduler]
    with default_dtype(torch.float64):
        settings = settings_without_lga(name, make)
        assert len({s["lr"] for s in settings}) > 1
        judge = reference.OPTIMIZERS[name](lr=0.1)
        law = reference.Law(7, 1e-3, backoff=0.5)
        path = list(reference.trajectory(judge, X, GRADIENTS, LOSSES, lga=law, settings=settings))

        params = parameters(X, (10,))
        optimizer = torch_optimizer(name, params, lr=0.1)
        if lga_first:
            LGA(optimizer, steps_per_epoch=7, gamma2=1e-3, backoff=0.5)
            attached = make(optimizer)
        else:
            attached = make(optimizer)
            LGA(optimizer, steps_per_epoch=7, gamma2=1e-3, backoff=0.5)
        for t, expected in enumerate(path):
            assert settings_of(optimizer) == settings[t]
            set_gradients(params, GRADIENTS[t])
            optimizer.step(loss=LOSSES[t])
            advance(attached, LOSSES[t])
            np.testing.assert_allclose(flat(params), expected, rtol=0, atol=1e-12 * np.abs(expected).max())
    assert law.open_steps > 5


def test_a_scheduler_outlives_a_detached_lga() -> None:
    """Both leave their mark on the optimizer; taking one off must not take the other's."""
    params = parameters(X, (10,))
    optimizer = torch_optimizer("sgd", params, lr=0.1)
    lga = LGA(optimizer, steps_per_epoch=7, gamma2=1e-3)
    scheduler = lr_scheduler.ExponentialLR(optimizer, 0.5)
    set_gradients(params, GRADIENTS[0])
    optimizer.step(loss=2.0)
    scheduler.step()
    lga.detach()
    before = flat(params).copy()
    optimizer.step()
    scheduler.step()
    np.testing.assert_allclose(flat(params), before - 0.05 * GRADIENTS[0], rtol=1e-14)
    assert scheduler.get_last_lr() == [0.025]
