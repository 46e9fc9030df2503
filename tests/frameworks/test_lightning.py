"""The Lightning Trainer and Fabric, compared with the plain loop step by step."""

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
from lightning_module import Module, loader, make_trainer  # noqa: E402
from loop import (  # noqa: E402
    SETTINGS,
    assert_matters,
    assert_same,
    assert_same_run,
    attached,
    batches,
    loss_of,
    net,
    observing,
    plain,
    train,
)

from lossaware import UsageError  # noqa: E402
from lossaware.recipes.lightning import LossAware  # noqa: E402


def growing() -> Any:
    """A gradient scaler that soon overflows in float16, though not in the first step.

    (If the first step overflows, torch's fused SGD uses an uninitialized momentum buffer.)
    """
    return torch.amp.GradScaler("cpu", init_scale=2.0**10, growth_factor=16.0, growth_interval=2)


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*(does not have many workers|no `ModelCheckpoint`|litlogger).*")
        warnings.filterwarnings("error", message="LGA got no loss")
        yield


def fit(module: Any, data: Any, **kwargs: Any) -> Any:
    """Fit with the callback; the trainer."""
    trainer = make_trainer(**{"callbacks": [LossAware()], **kwargs})
    trainer.fit(module, data)
    return trainer


@pytest.mark.parametrize("accumulate", [1, 4])
@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_trainer(precision: str, accumulate: int) -> None:
    """Lightning's closure returns the last micro-batch's loss, divided by their number; LGA gets the mean of all."""
    module = Module()
    options = {"precision": precision, "accumulate_grad_batches": accumulate, "gradient_clip_val": 1.0}
    fit(module, loader(batches(32)), **options)
    autocast = torch.bfloat16 if precision == "bf16-mixed" else None
    assert_same_run(module.run, plain(batches(32), accumulate=accumulate, autocast=autocast, clip=1.0))


@pytest.mark.parametrize("accumulate", [1, 4])
@pytest.mark.parametrize("fused", [False, True], ids=["", "fused"])
def test_trainer_in_float16(fused: bool, accumulate: int) -> None:
    """Here the closure never reaches the step, and a gradient scaler skips steps that overflow."""
    module, scaler, twin = Module(fused), growing(), growing()
    plugins = MixedPrecision("16-mixed", "cpu", scaler)
    fit(module, loader(batches(40)), plugins=plugins, accumulate_grad_batches=accumulate)
    expected = plain(batches(40), fused=fused, accumulate=accumulate, autocast=torch.float16, scaler=twin)
    assert scaler.get_scale() == twin.get_scale()
    assert_same_run(module.run, expected)
    assert module.run.lga.status.steps < 40 // accumulate  # there were overflows


def test_trainer_without_lga_goes_another_way() -> None:
    """The other tests do not compare the base optimizer with itself."""
    module = Module(with_lga=False)
    fit(module, loader(batches(8)), callbacks=[])
    ends = [p.detach() for p in module.parameters()], plain(batches(8)).trajectory[-1]
    assert not all(torch.equal(p, q) for p, q in zip(*ends, strict=True))


class Two(pl.LightningModule):  # type: ignore[misc, name-defined]  # mypy does not look into Lightning
    """Two networks under manual optimization, the second with half the loss."""

    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.nets = torch.nn.ModuleList([net(), net()])

    def training_step(self, batch: Any, index: int) -> None:
        for module, optimizer, run, factor in zip(self.nets, self.optimizers(), self.runs, (1.0, 0.5), strict=True):
            optimizer.zero_grad()
            loss = factor * loss_of(module, batch)
            run.lga.observe(loss)
            self.manual_backward(loss)
            optimizer.step()

    def configure_optimizers(self) -> Any:
        self.runs = [attached(module) for module in self.nets]
        return [run.optimizer for run in self.runs]


@pytest.mark.parametrize("precision", ["32-true", "16-mixed"])
def test_two_optimizers_under_manual_optimization(precision: str) -> None:
    module = Two()
    half = precision == "16-mixed"
    plugins = [MixedPrecision("16-mixed", "cpu", torch.amp.GradScaler("cpu", init_scale=2.0**8))] if half else []
    fit(module, loader(batches(12)), plugins=plugins)

    for factor, ours in zip((1.0, 0.5), module.runs, strict=True):
        twin = net()
        expected = attached(twin)
        scaler = torch.amp.GradScaler("cpu", init_scale=2.0**8, enabled=half)
        for batch in batches(12):
            expected.optimizer.zero_grad()
            with torch.autocast("cpu", torch.float16, enabled=half):
                loss = factor * loss_of(twin, batch)
            scaler.scale(loss).backward()
            scaler.step(expected.optimizer, loss=loss.detach())
            scaler.update()
        assert_same_run(ours, expected)


@pytest.mark.parametrize("batches_per_epoch", [6, 8], ids=["in the midst of a status", "at the end of one"])
def test_checkpoint_and_resume(tmp_path: Path, batches_per_epoch: int) -> None:
    data = loader(batches(batches_per_epoch))
    whole, first, second = Module(), Module(), Module()
    fit(whole, data, max_epochs=2)
    fit(first, data).save_checkpoint(tmp_path / "half.ckpt")
    make_trainer(max_epochs=2, callbacks=[LossAware()]).fit(
        second, data, ckpt_path=tmp_path / "half.ckpt", weights_only=True
    )
    assert_same([*first.run.trajectory, *second.run.trajectory], whole.run.trajectory)
    assert second.run.lga.state_dict() == whole.run.lga.state_dict()
    assert_matters(second.run.lga)


def test_a_checkpoint_without_lga_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "without.ckpt"
    fit(Module(with_lga=False), loader(batches(2)), callbacks=[]).save_checkpoint(path)
    with pytest.raises(RuntimeError, match="the same configure_optimizers and the same callbacks"):
        make_trainer(max_epochs=2, callbacks=[LossAware()]).fit(Module(), loader(batches(2)), ckpt_path=path)


def test_the_callback_attaches_lga_where_configure_optimizers_does_not() -> None:
    module = Module(with_lga=False)
    fit(module, loader(batches(8)), callbacks=[LossAware(**SETTINGS)])
    assert_same_run(module.run, plain(batches(8)))


def test_settings_in_two_places_are_refused() -> None:
    with pytest.raises(UsageError, match="LossAware cannot attach it with gamma2, eps: pass the settings in one place"):
        fit(Module(), loader(batches(2)), callbacks=[LossAware(gamma2=1e-3, eps=0.1)])


def test_a_module_without_an_optimizer_is_refused() -> None:
    class Without(Module):
        def configure_optimizers(self) -> Any:
            return None

    with pytest.raises(UsageError, match="configure_optimizers returned no optimizer"):
        fit(Without(), loader(batches(2)))


class Logger(DummyLogger):  # type: ignore[misc]  # mypy does not look into Lightning
    def __init__(self) -> None:
        super().__init__()
        self.got: list[tuple[int, float]] = []

    def log_metrics(self, metrics: dict[str, float], step: int) -> None:
        if "lga/loss" in metrics:
            self.got.append((step, metrics["lga/loss"]))


@pytest.mark.parametrize(("every", "steps"), [(0, []), (1, [1, 2, 3]), (2, [2])])
def test_loggers_get_it_once_a_step_or_never(every: int, steps: list[int]) -> None:
    """Under accumulation several batches have the same step; 0 is how Lightning switches logging off."""
    logger = Logger()
    fit(Module(), loader(batches(6)), logger=logger, log_every_n_steps=every, accumulate_grad_batches=2)
    assert [step for step, _ in logger.got] == steps


def test_loggers_get_the_status() -> None:
    logger = Logger()
    fit(Module(), loader(batches(10)), logger=logger, log_every_n_steps=4)
    assert [step for step, _ in logger.got] == [4, 8]
    twin = net()
    losses = train(twin, attached(twin).optimizer, batches(10))
    assert [loss for _, loss in logger.got] == [losses[3], losses[7]]


# Fabric -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("accumulate", [1, 4])
@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed", "16-mixed"])
def test_fabric(precision: str, accumulate: int) -> None:
    scaler, twin = growing(), growing()
    if precision == "16-mixed":
        fabric = Fabric(accelerator="cpu", devices=1, plugins=FabricMixedPrecision("16-mixed", "cpu", scaler))
    else:
        fabric = Fabric(accelerator="cpu", devices=1, precision=precision)
    module = net()
    run = attached(module)
    wrapped, stepper = fabric.setup(module, run.optimizer)
    observing(wrapped, stepper, run.lga, batches(40), backward=fabric.backward, accumulate=accumulate)
    expected = plain(
        batches(40),
        accumulate=accumulate,
        autocast={"bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}.get(precision),
        scaler=twin if precision == "16-mixed" else None,
    )
    assert scaler.get_scale() == twin.get_scale()
    assert_same_run(run, expected)


def test_fabric_keeps_the_state(tmp_path: Path) -> None:
    def make() -> Any:
        fabric = Fabric(accelerator="cpu", devices=1)
        module = net()
        run = attached(module)
        wrapped, stepper = fabric.setup(module, run.optimizer)
        return fabric, {"model": wrapped, "optimizer": stepper, "lga": run.lga}, run.trajectory

    def resume(parts: dict[str, Any], data: Any) -> None:
        observing(parts["model"], parts["optimizer"], parts["lga"], data)

    data = batches(16)
    fabric, parts, first = make()
    resume(parts, data[:6])
    fabric.save(tmp_path / "half.ckpt", parts)
    fabric, parts, second = make()
    fabric.load(tmp_path / "half.ckpt", parts)
    resume(parts, data[6:])
    expected = plain(data)
    assert_same([*first, *second], expected.trajectory)
    assert parts["lga"].status == expected.lga.status
