"""Accelerate, step by step beside the plain loop."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from support import needs

accelerate = needs("accelerate")

from loop import (  # noqa: E402
    SETTINGS,
    Attached,
    assert_same,
    assert_same_run,
    attached,
    batches,
    loss_of,
    net,
    plain,
    record,
    sgd,
    train,
)

from lossaware.recipes.accelerate import attach, backward  # noqa: E402


@pytest.fixture(autouse=True)
def _alone() -> Iterator[None]:
    """Accelerate keeps its state in the process."""
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message="LGA got no loss")
        yield
    accelerate.state.AcceleratorState._reset_state(reset_partial_state=True)
    accelerate.state.GradientState._reset_state()


class Run:
    """A training script with Accelerate."""

    def __init__(self, prepare_first: bool = False, optimizer: Any = None, **kwargs: Any) -> None:
        self.accelerator = accelerate.Accelerator(cpu=True, **kwargs)
        module = net()
        base = sgd(module.parameters()) if optimizer is None else optimizer(module.parameters())
        if not prepare_first:
            self.lga = attach(self.accelerator, base, **SETTINGS)
        self.module, self.optimizer = self.accelerator.prepare(module, base)
        if prepare_first:
            self.lga = attach(self.accelerator, self.optimizer, **SETTINGS)
        self.trajectory = record(base)

    @property
    def attached(self) -> Attached:
        return Attached(self.optimizer, self.lga, self.trajectory)

    def train(self, data: Any, clip: float | None = None) -> None:
        for batch in data:
            with self.accelerator.accumulate(self.module):
                backward(self.accelerator, self.lga, loss_of(self.module, batch))
                if clip is not None and self.accelerator.sync_gradients:
                    self.accelerator.clip_grad_norm_(self.module.parameters(), clip)
                self.optimizer.step()
                self.optimizer.zero_grad()


@pytest.mark.parametrize("prepare_first", [False, True], ids=["attached before prepare", "after"])
@pytest.mark.parametrize("accumulate", [1, 4])
@pytest.mark.parametrize("precision", ["no", "bf16"])
def test_accumulation_and_mixed_precision(precision: str, accumulate: int, prepare_first: bool) -> None:
    """Accelerate divides the loss and leaves out steps; LGA gets the mean of what was not divided."""
    run = Run(prepare_first, mixed_precision=precision, gradient_accumulation_steps=accumulate)
    run.train(batches(32), clip=1.0)
    autocast = torch.bfloat16 if precision == "bf16" else None
    assert_same_run(run.attached, plain(batches(32), accumulate=accumulate, autocast=autocast, clip=1.0))


@pytest.mark.parametrize("accumulate", [1, 4])
def test_the_way_of_float16(accumulate: int) -> None:
    """Accelerate itself scales on accelerators only; on a CPU its optimizer takes a scaler all the same."""
    run = Run(gradient_accumulation_steps=accumulate)
    scaler, twin = (
        torch.amp.GradScaler("cpu", init_scale=2.0**10, growth_factor=16.0, growth_interval=2) for _ in range(2)
    )
    run.accelerator.scaler = scaler
    run.optimizer = accelerate.optimizer.AcceleratedOptimizer(run.optimizer.optimizer, scaler=scaler)
    for batch in batches(40):
        with run.accelerator.accumulate(run.module):
            with torch.autocast("cpu", torch.float16):
                loss = loss_of(run.module, batch)
            backward(run.accelerator, run.lga, loss)
            run.optimizer.step()
            run.optimizer.zero_grad()
    assert_same_run(run.attached, plain(batches(40), accumulate=accumulate, autocast=torch.float16, scaler=twin))
    assert run.lga.status.steps < 40 // accumulate  # there were overflows


def test_save_state_and_load_state(tmp_path: Path) -> None:
    data = batches(16)
    first = Run()
    first.train(data[:6])
    first.accelerator.save_state(str(tmp_path))
    second = Run()
    second.accelerator.load_state(str(tmp_path))
    second.train(data[6:])
    whole = Attached(second.optimizer, second.lga, [*first.trajectory, *second.trajectory])
    assert_same_run(whole, plain(data))


def test_its_scheduler() -> None:
    """Accelerate wraps schedulers too; the optimizer with LGA is still the one they know."""
    run = Run()
    scheduler = run.accelerator.prepare(torch.optim.lr_scheduler.StepLR(run.optimizer.optimizer, 3, gamma=0.5))
    for batch in batches(9):
        run.train([batch])
        scheduler.step()
    module = net()
    expected = attached(module)
    twin = torch.optim.lr_scheduler.StepLR(expected.optimizer, 3, gamma=0.5)
    for batch in batches(9):
        train(module, expected.optimizer, [batch])
        twin.step()
    assert_same(run.trajectory, expected.trajectory)
