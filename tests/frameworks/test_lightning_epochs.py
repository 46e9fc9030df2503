"""The number of steps in an epoch of the Lightning Trainer, and LGA with its tuners."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from support import needs

pl = needs("lightning.pytorch")

from lightning.pytorch.callbacks import BatchSizeFinder, GradientAccumulationScheduler, LearningRateFinder  # noqa: E402
from lightning.pytorch.strategies import SingleDeviceStrategy  # noqa: E402
from lightning.pytorch.tuner import Tuner  # noqa: E402
from lightning_module import Module, loader, make_trainer  # noqa: E402
from loop import SETTINGS, Attached, assert_same, batches, net, record, sgd, train  # noqa: E402

from lossaware import LGA, UsageError  # noqa: E402
from lossaware.recipes.lightning import LossAware, steps_per_epoch  # noqa: E402

WITHOUT_STEPS = {name: value for name, value in SETTINGS.items() if name != "steps_per_epoch"}


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*(does not have many workers|no `ModelCheckpoint`|litlogger).*")
        warnings.filterwarnings("ignore", message=".*(smaller than the logging interval|lower than|batch size).*")
        yield


class Endless(torch.utils.data.IterableDataset[Any]):
    """Data without a length."""

    def __iter__(self) -> Iterator[Any]:
        return iter(batches(4))


class Adjustable(Module):
    """A module with the attributes that tuners change: batch size and learning rate."""

    def __init__(self, with_lga: bool = False, rows: int = 40) -> None:
        super().__init__(with_lga=with_lga)
        self.batch_size = 2
        self.lr = 0.05
        self.attached: list[LGA] = []
        (self.rows,) = batches(1, size=rows)

    def train_dataloader(self) -> Any:
        return torch.utils.data.DataLoader(torch.utils.data.TensorDataset(*self.rows), batch_size=self.batch_size)

    def configure_optimizers(self) -> Any:
        self.optimizer = sgd(self.parameters(), lr=self.lr)
        if self.with_lga:
            lga = LGA(self.optimizer, steps_per_epoch=steps_per_epoch(self.trainer), **WITHOUT_STEPS)
            self.attached.append(lga)
            self.run = Attached(self.optimizer, lga, record(self.optimizer))
        return self.optimizer


def run(module: Any, data: Any = None, callbacks: Any = (), **kwargs: Any) -> Any:
    trainer = make_trainer(
        **{"callbacks": [*callbacks, LossAware(**({} if module.with_lga else WITHOUT_STEPS))], **kwargs}
    )
    trainer.fit(module, data)
    return trainer


# How many steps -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "steps"),
    [
        ({"max_epochs": 100, "max_steps": 5}, 10),
        ({"max_epochs": None, "max_steps": 5}, 10),
        ({"max_epochs": -1, "max_steps": 5}, 10),
        ({"max_epochs": 1}, 10),
        ({"max_epochs": 1, "limit_train_batches": 7}, 7),
        ({"max_epochs": 1, "limit_train_batches": 0.5}, 5),
        ({"max_epochs": 1, "accumulate_grad_batches": 4}, 3),
        ({"max_epochs": 1, "accumulate_grad_batches": 4, "limit_train_batches": 8}, 2),
        ({"max_epochs": 1, "overfit_batches": 2}, 2),
        ({"max_epochs": 1, "fast_dev_run": True}, 1),
    ],
    ids=lambda value: str(value) if isinstance(value, dict) else "",
)
@pytest.mark.parametrize("attached_by", ["callback", "configure_optimizers"])
def test_the_steps_of_an_epoch(options: dict[str, Any], steps: int, attached_by: str) -> None:
    class Counting(Module):
        def configure_optimizers(self) -> Any:
            self.optimizer = sgd(self.parameters())
            if self.with_lga:
                LGA(self.optimizer, steps_per_epoch=steps_per_epoch(self.trainer), **WITHOUT_STEPS)
            return self.optimizer

    module = Counting(with_lga=attached_by == "configure_optimizers")
    run(module, loader(batches(10)), **options)
    lga = LGA.of(module.optimizer)
    assert lga is not None
    assert lga.steps_per_epoch == steps
    assert lga.status.steps_without_loss == 0 < lga.status.steps


def test_no_training_batches_are_allowed() -> None:
    module = Module(with_lga=False)
    run(module, loader(batches(10)), limit_train_batches=0)
    assert LGA.of(module.optimizer) is not None


def test_data_without_a_length_is_refused_in_one_line_before_training() -> None:
    module = Module(with_lga=False)
    data = torch.utils.data.DataLoader(Endless(), batch_size=None)
    with pytest.raises(UsageError) as error:
        run(module, data)
    assert "\n" not in str(error.value)
    assert "has no length" in str(error.value)
    assert "pass steps_per_epoch" in str(error.value)
    assert all(torch.equal(p, q) for p, q in zip(module.net.parameters(), net().parameters(), strict=True))


@pytest.mark.parametrize(
    ("settings", "options", "steps"),
    [(SETTINGS, {}, 4), (WITHOUT_STEPS, {"limit_train_batches": 3}, 3)],
    ids=["by steps_per_epoch", "by limit_train_batches"],
)
def test_data_without_a_length_is_given_one(settings: Any, options: Any, steps: int) -> None:
    module = Module(with_lga=False)
    data = torch.utils.data.DataLoader(Endless(), batch_size=None)
    make_trainer(callbacks=[LossAware(**settings)], max_epochs=2, **options).fit(module, data)
    assert module.run.lga.steps_per_epoch == steps
    assert module.run.lga.status.statuses == 2


def test_with_gamma2_0_the_callback_changes_nothing_that_is_random() -> None:
    """Counting the batches early draws no other random numbers: the order of the data and dropout stay."""

    class Random(Adjustable):
        def __init__(self) -> None:
            super().__init__()
            self.net.insert(1, torch.nn.Dropout(0.5))

        def train_dataloader(self) -> Any:
            return torch.utils.data.DataLoader(torch.utils.data.TensorDataset(*self.rows), batch_size=4, shuffle=True)

    ends = []
    for callbacks in ([], [LossAware(gamma2=0.0)]):
        module = Random()
        torch.manual_seed(1)
        make_trainer(max_epochs=2, callbacks=callbacks).fit(module)
        ends.append([p.detach() for p in module.parameters()])
    assert all(torch.equal(p, q) for p, q in zip(*ends, strict=True))


# When it changes ------------------------------------------------------------------------------------------------------


def test_it_follows_the_accumulation(caplog: pytest.LogCaptureFixture) -> None:
    module = Module(with_lga=False)
    lengths: list[int] = []

    class See(pl.Callback):  # type: ignore[misc, name-defined]  # mypy does not look into Lightning
        def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
            lengths.append(module.run.lga.steps_per_epoch)

    with caplog.at_level(logging.INFO, "lossaware"):
        run(module, loader(batches(8)), [GradientAccumulationScheduler({1: 4}), See()], max_epochs=3)
    assert lengths == [8, 2, 2]
    assert "steps_per_epoch is now 2 and was 8" in caplog.text
    assert module.run.lga.status.statuses == 3


@pytest.mark.parametrize("with_lga", [False, True], ids=["attached by the callback", "in configure_optimizers"])
def test_it_follows_a_loader_that_is_loaded_again(with_lga: bool) -> None:
    class Growing(Adjustable):
        def train_dataloader(self) -> Any:
            self.batch_size = 4 if self.trainer.current_epoch == 0 else 10
            return super().train_dataloader()

    module = Growing(with_lga)
    run(module, max_epochs=2, reload_dataloaders_every_n_epochs=1)
    assert module.run.lga.steps_per_epoch == 4
    assert module.run.lga.status.statuses == 2


def test_a_fixed_number_does_not_change() -> None:
    module = Module()  # its LGA has 4 steps, the epochs have 6 and then 3
    run(module, loader(batches(6)), [GradientAccumulationScheduler({1: 2})], max_epochs=2)
    assert module.run.lga.steps_per_epoch == SETTINGS["steps_per_epoch"] == 4
    module = Module(with_lga=False)
    make_trainer(callbacks=[LossAware(**SETTINGS), GradientAccumulationScheduler({1: 2})], max_epochs=2).fit(
        module, loader(batches(6))
    )
    assert module.run.lga.steps_per_epoch == 4


def test_a_run_resumes_with_epochs_of_another_length(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    first, second = Module(with_lga=False), Module(with_lga=False)
    run(first, loader(batches(8))).save_checkpoint(tmp_path / "half.ckpt")
    trainer = make_trainer(callbacks=[LossAware(**WITHOUT_STEPS)], max_epochs=2)
    with caplog.at_level(logging.INFO, "lossaware"):
        trainer.fit(second, loader(batches(5)), ckpt_path=tmp_path / "half.ckpt", weights_only=True)
    assert "steps_per_epoch is now 5 and was 8 in the checkpoint" in caplog.text
    assert second.run.lga.status.statuses == 2
    assert second.run.lga.status.steps == 13
    assert second.run.lga.steps_per_epoch == 5


def test_a_run_resumes_where_the_strategy_restores_late(tmp_path: Path) -> None:
    """As FSDP's does, which needs a GPU: the checkpoint is read when the optimizers are there already."""

    class Late(SingleDeviceStrategy):  # type: ignore[misc]  # mypy does not look into Lightning
        @property
        def restore_checkpoint_after_setup(self) -> bool:
            return True

    first, second, whole = (Module(with_lga=False) for _ in range(3))
    run(first, loader(batches(6))).save_checkpoint(tmp_path / "half.ckpt")
    late = make_trainer(strategy=Late("cpu"), max_epochs=2, callbacks=[LossAware(**WITHOUT_STEPS)])
    late.fit(second, loader(batches(6)), ckpt_path=tmp_path / "half.ckpt")
    run(whole, loader(batches(6)), max_epochs=2)
    assert_same([*first.run.trajectory, *second.run.trajectory], whole.run.trajectory)
    assert second.run.lga.state_dict() == whole.run.lga.state_dict()


def test_deepspeed_is_refused() -> None:
    named = type("DeepSpeedStrategy", (SingleDeviceStrategy,), {})  # the real one needs a GPU
    with pytest.raises(UsageError, match="does not support Lightning's DeepSpeedStrategy: use"):
        run(Module(with_lga=False), loader(batches(2)), strategy=named("cpu"))


def test_a_fixed_number_must_equal_the_checkpoints(tmp_path: Path) -> None:
    run(Module(), loader(batches(2))).save_checkpoint(tmp_path / "half.ckpt")
    trainer = make_trainer(callbacks=[LossAware(**{**SETTINGS, "steps_per_epoch": 7})], max_epochs=2)
    with pytest.raises(ValueError, match="steps_per_epoch is 4 in the state_dict but 7 here"):
        trainer.fit(Module(with_lga=False), loader(batches(2)), ckpt_path=tmp_path / "half.ckpt")


# Tuners ---------------------------------------------------------------------------------------------------------------


def expected_after_tuning(module: Adjustable) -> Attached:
    """The plain loop from the start, with the batch size that was found."""
    rows = list(module.train_dataloader())
    twin = net()
    optimizer = sgd(twin.parameters(), lr=module.lr)
    lga = LGA(optimizer, steps_per_epoch=len(rows), **WITHOUT_STEPS)
    trajectory = record(optimizer)
    train(twin, optimizer, rows)
    return Attached(optimizer, lga, trajectory)


def assert_untouched(module: Adjustable) -> None:
    expected = expected_after_tuning(module)
    ours = module.run
    assert ours.lga.steps_per_epoch == expected.lga.steps_per_epoch
    assert_same(ours.trajectory[-len(expected.trajectory) :], expected.trajectory)
    assert ours.lga.status == expected.lga.status
    assert ours.lga.status.open_share > 0
    assert ours.lga.status.statuses == 1


@pytest.mark.filterwarnings("ignore:LGA got no loss")  # a tuner's trials run without callbacks
@pytest.mark.parametrize(  # all pairs
    ("by", "with_lga", "mode"),
    [
        ("Tuner", False, "power"),
        ("Tuner", True, "binsearch"),
        ("BatchSizeFinder", False, "binsearch"),
        ("BatchSizeFinder", True, "power"),
    ],
)
def test_a_batch_size_finder(tmp_path: Path, by: str, with_lga: bool, mode: Any) -> None:
    """Its trials leave no trace in LGA, and LGA has the steps of the epochs that it found."""
    module = Adjustable(with_lga)
    options: dict[str, Any] = {"mode": mode, "max_trials": 3, "steps_per_trial": 2}
    callbacks = [BatchSizeFinder(**options)] if by == "BatchSizeFinder" else []
    ours = LossAware(**({} if with_lga else WITHOUT_STEPS))
    trainer = make_trainer(default_root_dir=tmp_path, callbacks=[*callbacks, ours])
    if by == "Tuner":
        Tuner(trainer).scale_batch_size(module, **options)
    trainer.fit(module)
    assert module.batch_size > 2
    assert_untouched(module)


@pytest.mark.filterwarnings("ignore:LGA got no loss")
@pytest.mark.parametrize("with_lga", [False, True], ids=["attached by the callback", "in configure_optimizers"])
@pytest.mark.parametrize("by", ["Tuner", "LearningRateFinder"])
def test_a_learning_rate_finder(tmp_path: Path, by: str, with_lga: bool) -> None:
    module = Adjustable(with_lga)
    callbacks = [LearningRateFinder(num_training_steps=30)] if by == "LearningRateFinder" else []
    ours = LossAware(**({} if with_lga else WITHOUT_STEPS))
    trainer = make_trainer(default_root_dir=tmp_path, callbacks=[*callbacks, ours])
    if by == "Tuner":
        Tuner(trainer).lr_find(module, num_training=30)
    trainer.fit(module)
    assert module.lr != 0.05
    assert_untouched(module)


@pytest.mark.filterwarnings("ignore:LGA got no loss")
def test_a_learning_rate_finder_in_the_midst_of_training(tmp_path: Path) -> None:
    """Lightning's own example of a finder at later epochs: LGA continues with its state."""

    class Later(LearningRateFinder):  # type: ignore[misc]  # mypy does not look into Lightning
        def on_fit_start(self, *args: Any, **kwargs: Any) -> None:
            return

        def on_train_epoch_start(self, trainer: Any, pl_module: Any) -> None:
            if trainer.current_epoch == 1:
                before.append(pl_module.run.lga.state_dict())
                self.lr_find(trainer, pl_module)
                after.append(pl_module.run.lga.state_dict())

    before: list[Any] = []
    after: list[Any] = []
    module = Adjustable()
    outer = make_trainer(
        default_root_dir=tmp_path, max_epochs=2, callbacks=[Later(num_training_steps=20), LossAware(**WITHOUT_STEPS)]
    )
    outer.fit(module)
    assert before[0]["state"]["steps"] == 20
    assert before == after
    assert module.run.lga.status.steps == 40
    assert module.run.lga.status.steps_without_loss == 0
    module = Adjustable()
    outer.fit_loop.max_epochs = 4
    outer.callbacks = outer.callbacks[1:]
    outer.fit(module)  # this does not affect the next fit
    assert module.run.lga.status.steps == 40


@pytest.mark.filterwarnings("ignore:LGA got no loss")
def test_the_checkpoint_of_a_tuner_does_not_replace_the_one_to_resume_from(tmp_path: Path) -> None:
    """In this case Lightning restores only the weights, and counts its steps from 0."""
    first, second = Adjustable(), Adjustable()
    run(first).save_checkpoint(tmp_path / "half.ckpt")
    finder = BatchSizeFinder(max_trials=1, steps_per_trial=2)
    trainer = make_trainer(default_root_dir=tmp_path, callbacks=[finder, LossAware(**WITHOUT_STEPS)])
    trainer.fit(second, ckpt_path=tmp_path / "half.ckpt", weights_only=True)
    assert trainer.global_step == 20
    assert second.run.lga.status.steps == 40
    assert second.run.lga.status.upper_bound == first.run.lga.status.upper_bound


def test_testing_with_a_checkpoint_leaves_the_status_alone(tmp_path: Path) -> None:
    class Tested(Module):
        def test_step(self, batch: Any, index: int) -> None:
            return

    module = Tested(with_lga=False)
    trainer = run(module, loader(batches(4)))
    trainer.save_checkpoint(tmp_path / "early.ckpt")
    trainer.fit_loop.max_epochs = 2
    trainer.fit(module, loader(batches(4)))
    status = module.run.lga.status
    trainer.test(module, loader(batches(2)), ckpt_path=tmp_path / "early.ckpt", verbose=False, weights_only=True)
    assert module.run.lga.status == status
