"""Logging LGA: TensorBoard, a flat dictionary for every logger, and the size of the correction."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from loop import SETTINGS, batches, net, sgd, train

import reference
from lossaware import LGA
from lossaware.recipes import metrics
from lossaware.recipes.tensorboard import log_status
from lossaware.update_meter import SAMPLE
from support import needs


def test_tensorboard(tmp_path: Path) -> None:
    needs("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from torch.utils.tensorboard import SummaryWriter

    module = net()
    optimizer = sgd(module.parameters())
    lga = LGA(optimizer, **SETTINGS)
    expected = []
    with SummaryWriter(str(tmp_path)) as writer:
        for batch in batches(6):
            train(module, optimizer, [batch])
            log_status(writer, lga)
            expected.append((lga.status.steps, lga.status.loss))
        log_status(writer, lga, step=60, prefix="mine/")
    events: Any = EventAccumulator(str(tmp_path))
    events.Reload()
    names = {"loss", "lower_bound", "upper_bound", "omega", "gamma2", "statuses", "open_share", "steps"}
    assert {f"lga/{name}" for name in names} <= set(events.Tags()["scalars"])
    read = [(event.step, event.value) for event in events.Scalars("lga/loss")]
    assert read == [(step, pytest.approx(loss, rel=1e-6)) for step, loss in expected]
    assert [event.step for event in events.Scalars("mine/loss")] == [60]


def test_metrics_are_finite_floats() -> None:
    lga = LGA(sgd(net().parameters()), **SETTINGS)
    before = metrics(lga)
    assert "lga/loss" not in before  # it has not been measured yet
    assert before["lga/lower_bound"] == 0.0
    module = net()
    optimizer = sgd(module.parameters())
    lga = LGA(optimizer, **SETTINGS)
    lga.measure_every(1)
    train(module, optimizer, batches(1))
    logged = metrics(lga, prefix="")
    assert logged["loss"] == lga.status.loss
    assert lga.measurement is not None
    assert logged["correction_ratio"] == lga.measurement.ratio > 0
    assert all(type(value) is float and math.isfinite(value) for value in logged.values())


# How large the correction is ----------------------------------------------------------------------------------------


def params_of(*shapes: tuple[int, ...], seed: int = 0) -> list[torch.nn.Parameter]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.nn.Parameter(torch.randn(shape, generator=generator)) for shape in shapes]


def norms(params: list[torch.nn.Parameter], lr: float, omega: float, gamma2: float) -> tuple[float, float]:
    """The changes by the base step and by the correction, from the reference."""
    g = np.concatenate([p.grad.double().numpy().ravel() for p in params if p.grad is not None])
    return float(np.linalg.norm(lr * g)), float(np.linalg.norm(gamma2 * omega / reference.phi(g, 0.01)))


def gradients(params: list[torch.nn.Parameter], seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    for scale, p in enumerate(params, 1):
        p.grad = torch.randn(p.shape, generator=generator) * scale


def test_a_small_model_is_measured_exactly() -> None:
    params = params_of((7, 3), (5,), ())
    optimizer: Any = torch.optim.SGD(params, lr=0.1)
    lga = LGA(optimizer, steps_per_epoch=100, gamma2=1e-2)
    assert lga.measurement is None
    lga.measure_every(3)
    measured: list[Any] = []
    for step in range(1, 8):
        gradients(params, step)
        optimizer.step(loss=1.0 if step != 6 else math.nan)
        measured.append(lga.measurement)
        if step == 3:
            expected = norms(params, 0.1, 1.0, 1e-2)
    assert [m and m.step for m in measured] == [None, None, 3, 3, 3, 6, 6]
    assert measured[2] is not None
    assert (measured[2].update_norm, measured[2].correction_norm) == pytest.approx(expected, rel=1e-4)
    assert measured[2].ratio == pytest.approx(expected[1] / expected[0], rel=1e-4)
    assert measured[5] is not None
    assert (measured[5].correction_norm, measured[5].ratio) == (0.0, 0.0)  # a closed gate
    lga.measure_every(None)
    assert lga.measurement is None


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_a_large_model_is_measured_by_a_sample(layout: Any) -> None:
    """The estimate is unbiased, and close: its error is some per cent with gradients as different as these."""
    params = params_of((300, 20, 5, 7), (1000,), (400, 300))
    params[0].data = params[0].data.contiguous(memory_format=layout)
    assert sum(p.numel() for p in params) > 4 * SAMPLE
    optimizer: Any = torch.optim.SGD(params, lr=0.1)
    lga = LGA(optimizer, steps_per_epoch=100, gamma2=1e-2)
    lga.measure_every(1)
    errors = []
    for step in range(8):
        gradients(params, step)
        expected = norms(params, 0.1, 1.0, 1e-2)
        optimizer.step(loss=1.0)
        measurement = lga.measurement
        assert measurement is not None
        errors.append(
            ((measurement.update_norm / expected[0]) ** 2 - 1, (measurement.correction_norm / expected[1]) ** 2 - 1)
        )
    assert np.abs(errors).max() < 0.05
    assert np.abs(np.mean(errors, axis=0)).max() < 0.015
    assert len({error for error, _ in errors}) == 8  # each time another sample


def test_measuring_changes_nothing_and_makes_no_copy_of_the_model() -> None:
    runs = []
    for every in (None, 1):
        params = params_of((1 << 20,))
        optimizer: Any = torch.optim.SGD(params, lr=0.1)
        lga = LGA(optimizer, steps_per_epoch=100, gamma2=1e-2)
        lga.measure_every(every)
        gradients(params, 0)
        if every is not None:
            meter: Any = lga._hooks.meter
            meter.before_step(lga.optimizer)
            count = sum(sample.values.numel() for sample in meter._before)
            assert count == SAMPLE
        optimizer.step(loss=1.0)
        runs.append(params[0].detach())
    assert torch.equal(*runs)


def test_with_closures_and_other_kinds_of_parameters() -> None:
    """Gradients from a closure, 16 bits, complex numbers, and a parameter without a gradient."""
    params = [
        torch.nn.Parameter(torch.ones(5, dtype=torch.bfloat16)),
        torch.nn.Parameter(torch.ones(3, dtype=torch.complex64)),
        torch.nn.Parameter(torch.ones(4)),
    ]
    optimizer: Any = torch.optim.SGD(params, lr=0.5)
    lga = LGA(optimizer, steps_per_epoch=100, gamma2=1e-2)
    lga.measure_every(1)

    def closure() -> float:
        params[0].grad = torch.ones_like(params[0])
        params[1].grad = torch.full_like(params[1], 1 + 1j)
        return 1.0

    optimizer.step(closure)
    assert lga.measurement is not None
    assert lga.measurement.update_norm == pytest.approx(math.sqrt(5 * 0.25 + 6 * 0.25), rel=1e-3)
    assert lga.measurement.correction_norm == pytest.approx(1e-2 / 1.01 * math.sqrt(11), rel=0.2)  # rounded at random


@pytest.mark.parametrize("steps", [0, -1, 2.0, True, "3"])
def test_measuring_every_other_thing_is_refused(steps: Any) -> None:
    lga = LGA(sgd(net().parameters()), **SETTINGS)
    with pytest.raises(ValueError, match=r"steps must be an integer of at least 1, or None: got"):
        lga.measure_every(steps)


def test_parameters_after_an_empty_one_are_measured() -> None:
    params = [torch.nn.Parameter(torch.ones(size)) for size in (0, 4)]
    optimizer: Any = torch.optim.SGD(params, lr=0.5)
    lga = LGA(optimizer, steps_per_epoch=2)
    lga.measure_every(1)
    params[1].grad = torch.ones(4)
    optimizer.step(loss=1.0)
    assert lga.measurement is not None
    assert lga.measurement.update_norm == pytest.approx(1.0)
