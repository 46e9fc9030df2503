"""The Lightning Trainer and Fabric, step by step beside the plain loop."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from support import needs

pl = needs("lightning.pytorch")

from lightning.fabric import Fabric  # noqa: E402
from lightning.fabric.plugins import MixedPrecision as FabricMixedPrecision  # noqa: E402
from lightning.pytorch.loggers.logger import DummyLogger  # noqa: E402
from lightning.pytorch.plugins import MixedPrecision  # noqa: E402
from loop import (  # noqa: E402
    SETTINGS,
    Trajectory,
    assert_matters,
    assert_same,
    batches,
    loss_of,
    net,
    record,
    sgd,
    train,
)

from lossaware import LGA  # noqa: E402
from lossaware.recipes.lightning import LossAware  # noqa: E402


def growing() -> Any:
    """A gradient scaler that soon overflows in float16, though not in the first step.

    (Where that one overflows, torch's fused SGD takes up a momentum buffer that nobody has filled.)
    """
    return torch.amp.GradScaler("cpu", init_scale=2.0**10, growth_factor=16.0, growth_interval=2)


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*(does not have many workers|no `ModelCheckpoint`|litlogger).*")
        warnings.filterwarnings("error", message="LGA got no loss")
        yield


class Module(pl.LightningModule):
    """What a user writes: LGA is attached in configure_optimizers, the loss is returned as ever."""

    def __init__(self, fused: bool = False, with_lga: bool = True) -> None:
        super().__init__()
        self.net = net()
        self.fused = fused
        self.with_lga = with_lga
        self.trajectory: Trajectory = []

    def training_step(self, batch: Any, index: int) -> torch.Tensor:
        return loss_of(self.net, batch)

    def configure_optimizers(self) -> Any:
        optimizer = sgd(self.parameters(), fused=self.fused)
        if self.with_lga:
            self.lga = LGA(optimizer, **SETTINGS)
        self.trajectory = record(optimizer)
        return optimizer


def trainer(folder: Path, **kwargs: Any) -> Any:
    options = {
        "accelerator": "cpu",
        "devices": 1,
        "max_epochs": 1,
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "default_root_dir": folder,
        "callbacks": [LossAware()],
    }
    return pl.Trainer(**{**options, **kwargs})


def loader(count: int, seed: int = 0) -> Any:
    """The batches of the plain loop, one by one, as a loader that may be iterated again."""
    return torch.utils.data.DataLoader(batches(count, seed=seed), batch_size=None)  # type: ignore[arg-type]


def plain(count: int, *, fused: bool = False, seed: int = 0, **kwargs: Any) -> tuple[Trajectory, LGA]:
    module = net()
    optimizer = sgd(module.parameters(), fused=fused)
    lga = LGA(optimizer, **SETTINGS)
    trajectory = record(optimizer)
    train(module, optimizer, batches(count, seed=seed), **kwargs)
    return trajectory, lga


def assert_same_run(module: Module, expected: tuple[Trajectory, LGA]) -> None:
    assert_same(module.trajectory, expected[0])
    assert module.lga.status == expected[1].status
    assert_matters(module.lga)


@pytest.mark.parametrize("accumulate", [1, 4])
@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_trainer(tmp_path: Path, precision: str, accumulate: int) -> None:
    """Lightning's closure returns the last micro-batch's loss, divided by their number; LGA gets the mean of all."""
    module = Module()
    trainer(tmp_path, precision=precision, accumulate_grad_batches=accumulate, gradient_clip_val=1.0).fit(
        module, loader(32)
    )
    autocast = torch.bfloat16 if precision == "bf16-mixed" else None
    assert_same_run(module, plain(32, accumulate=accumulate, autocast=autocast, clip=1.0))


@pytest.mark.parametrize("accumulate", [1, 4])
@pytest.mark.parametrize("fused", [False, True], ids=["", "fused"])
def test_trainer_in_float16(tmp_path: Path, fused: bool, accumulate: int) -> None:
    """Here the closure never reaches the step, and a gradient scaler skips steps that overflow."""
    module, scaler, twin = Module(fused), growing(), growing()
    trainer(tmp_path, plugins=MixedPrecision("16-mixed", "cpu", scaler), accumulate_grad_batches=accumulate).fit(
        module, loader(40)
    )
    expected = plain(40, fused=fused, accumulate=accumulate, autocast=torch.float16, scaler=twin)
    assert scaler.get_scale() == twin.get_scale()
    assert_same_run(module, expected)
    assert module.lga.status.steps < 40 // accumulate  # there were overflows


def test_trainer_without_lga_goes_another_way(tmp_path: Path) -> None:
    """What the other tests compare is not the base optimizer alone."""
    module = Module(with_lga=False)
    trainer(tmp_path, callbacks=[]).fit(module, loader(8))
    with pytest.raises(AssertionError, match="they part"):
        assert_same(module.trajectory, plain(8)[0])


@pytest.mark.parametrize("precision", ["32-true", "16-mixed"])
def test_two_optimizers_under_manual_optimization(tmp_path: Path, precision: str) -> None:
    class Two(pl.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.automatic_optimization = False
            self.first, self.second = net(), net()

        def training_step(self, batch: Any, index: int) -> None:
            for module, optimizer, lga, factor in zip(
                (self.first, self.second), self.optimizers(), self.lgas, (1.0, 0.5), strict=True
            ):
                optimizer.zero_grad()
                loss = factor * loss_of(module, batch)
                lga.observe(loss)
                self.manual_backward(loss)
                optimizer.step()

        def configure_optimizers(self) -> Any:
            optimizers = [sgd(module.parameters()) for module in (self.first, self.second)]
            self.lgas = [LGA(optimizer, **SETTINGS) for optimizer in optimizers]
            self.trajectories = [record(optimizer) for optimizer in optimizers]
            return optimizers

    module = Two()
    half = precision == "16-mixed"
    plugins = [MixedPrecision("16-mixed", "cpu", torch.amp.GradScaler("cpu", init_scale=2.0**8))] if half else []
    trainer(tmp_path, plugins=plugins).fit(module, loader(12))

    for factor, ours, lga in zip((1.0, 0.5), module.trajectories, module.lgas, strict=True):
        twin = net()
        optimizer = sgd(twin.parameters())
        expected_lga = LGA(optimizer, **SETTINGS)
        expected = record(optimizer)
        scaler = torch.amp.GradScaler("cpu", init_scale=2.0**8, enabled=half)
        for batch in batches(12):
            optimizer.zero_grad()
            with torch.autocast("cpu", torch.float16, enabled=half):
                loss = factor * loss_of(twin, batch)
            scaler.scale(loss).backward()
            scaler.step(optimizer, loss=loss.detach())
            scaler.update()
        assert_same(ours, expected)
        assert lga.status == expected_lga.status
        assert_matters(lga)


@pytest.mark.parametrize("batches_per_epoch", [6, 8], ids=["in the midst of a status", "at the end of one"])
def test_checkpoint_and_resume(tmp_path: Path, batches_per_epoch: int) -> None:
    data = loader(batches_per_epoch)
    whole, first, second = Module(), Module(), Module()
    trainer(tmp_path, max_epochs=2).fit(whole, data)
    begun = trainer(tmp_path, max_epochs=1)
    begun.fit(first, data)
    begun.save_checkpoint(tmp_path / "half.ckpt")
    trainer(tmp_path, max_epochs=2).fit(second, data, ckpt_path=tmp_path / "half.ckpt", weights_only=True)
    assert_same([*first.trajectory, *second.trajectory], whole.trajectory)
    assert second.lga.state_dict() == whole.lga.state_dict()
    assert_matters(second.lga)


def test_a_checkpoint_without_lga_is_refused(tmp_path: Path) -> None:
    begun = trainer(tmp_path, callbacks=[])
    begun.fit(Module(with_lga=False), loader(2))
    begun.save_checkpoint(tmp_path / "without.ckpt")
    with pytest.raises(RuntimeError, match="the same configure_optimizers and the same callbacks"):
        trainer(tmp_path, max_epochs=2).fit(Module(), loader(2), ckpt_path=tmp_path / "without.ckpt")


def test_the_callback_without_lga_says_where_to_attach_it(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match=r"LGA\(optimizer, \.\.\.\) in configure_optimizers"):
        trainer(tmp_path).fit(Module(with_lga=False), loader(2))


class Logger(DummyLogger):  # type: ignore[misc]
    def __init__(self) -> None:
        super().__init__()
        self.got: list[tuple[int, float]] = []

    def log_metrics(self, metrics: dict[str, float], step: int) -> None:
        if "lga/loss" in metrics:
            self.got.append((step, metrics["lga/loss"]))


@pytest.mark.parametrize(("every", "steps"), [(0, []), (1, [1, 2, 3]), (2, [2])])
def test_loggers_get_it_once_a_step_or_never(tmp_path: Path, every: int, steps: list[int]) -> None:
    """Under accumulation several batches have the same step; 0 is how Lightning switches logging off."""
    logger = Logger()
    trainer(tmp_path, logger=logger, log_every_n_steps=every, accumulate_grad_batches=2).fit(Module(), loader(6))
    assert [step for step, _ in logger.got] == steps


def test_loggers_get_the_status(tmp_path: Path) -> None:
    logger, module = Logger(), Module()
    trainer(tmp_path, logger=logger, log_every_n_steps=4).fit(module, loader(10))
    assert [step for step, _ in logger.got] == [4, 8]
    twin = net()
    optimizer = sgd(twin.parameters())
    LGA(optimizer, **SETTINGS)
    losses = train(twin, optimizer, batches(10))
    assert [loss for _, loss in logger.got] == [losses[3], losses[7]]


# Fabric -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("accumulate", [1, 4])
@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed", "16-mixed"])
def test_fabric(precision: str, accumulate: int) -> None:
    scaler, twin = growing(), growing()
    if precision == "16-mixed":
        fabric = Fabric(accelerator="cpu", devices=1, plugins=FabricMixedPrecision("16-mixed", "cpu", scaler))
    else:
        fabric = Fabric(accelerator="cpu", devices=1, precision=precision)  # type: ignore[arg-type]
    module = net()
    optimizer = sgd(module.parameters())
    lga = LGA(optimizer, **SETTINGS)
    trajectory = record(optimizer)
    wrapped, stepper = fabric.setup(module, optimizer)
    for index, batch in enumerate(batches(40)):
        loss = loss_of(wrapped, batch)
        lga.observe(loss)
        fabric.backward(loss / accumulate)
        if (index + 1) % accumulate == 0:
            stepper.step()
            stepper.zero_grad()
    expected, expected_lga = plain(
        40,
        accumulate=accumulate,
        autocast={"bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}.get(precision),
        scaler=twin if precision == "16-mixed" else None,
    )
    assert scaler.get_scale() == twin.get_scale()
    assert_same(trajectory, expected)
    assert lga.status == expected_lga.status
    assert_matters(lga)


def test_fabric_keeps_the_state(tmp_path: Path) -> None:
    def make() -> Any:
        fabric = Fabric(accelerator="cpu", devices=1)
        module = net()
        optimizer = sgd(module.parameters())
        lga = LGA(optimizer, **SETTINGS)
        trajectory = record(optimizer)
        wrapped, stepper = fabric.setup(module, optimizer)
        return fabric, {"model": wrapped, "optimizer": stepper, "lga": lga}, trajectory

    def go_on(parts: dict[str, Any], data: Any) -> None:
        for batch in data:
            loss = loss_of(parts["model"], batch)
            parts["lga"].observe(loss)
            loss.backward()
            parts["optimizer"].step()
            parts["optimizer"].zero_grad()

    data = batches(16)
    fabric, parts, first = make()
    go_on(parts, data[:6])
    fabric.save(tmp_path / "half.ckpt", parts)
    fabric, parts, second = make()
    fabric.load(tmp_path / "half.ckpt", parts)
    go_on(parts, data[6:])
    expected, lga = plain(16)
    assert_same([*first, *second], expected)
    assert parts["lga"].status == lga.status
