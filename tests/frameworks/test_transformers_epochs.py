"""The Transformers Trainer that trains again, finds its batch size, or has data of another length."""

from __future__ import annotations

import json
import math
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from support import needs

transformers = needs("transformers")

from loop import SETTINGS, assert_matters, assert_same, record, sgd  # noqa: E402
from transformers_model import LossAwareTrainer, data, make_trainer, model  # noqa: E402

from lossaware import UsageError  # noqa: E402

FOLLOWS = {"steps_per_epoch": None}


@pytest.fixture(autouse=True)
def _warn() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message="LGA got no loss")
        yield


class Endless(torch.utils.data.IterableDataset[Any]):
    def __iter__(self) -> Iterator[Any]:
        return iter(data("classifier", 64))


@pytest.mark.parametrize("accumulate", [1, 4])
def test_training_twice(tmp_path: Path, accumulate: int) -> None:
    """The second call finds Accelerate's wrapper around the optimizer; both continue after the first call."""
    ours = make_trainer(tmp_path, "language model", lga=FOLLOWS, gradient_accumulation_steps=accumulate)
    ours.train()
    first = ours.lga
    ours.train()
    assert ours.lga is first
    whole = make_trainer(
        tmp_path, "language model", gradient_accumulation_steps=accumulate, num_train_epochs=2, lga=FOLLOWS
    )
    whole.train()
    assert_same(ours.trajectory, whole.trajectory)
    assert ours.lga.state_dict() == whole.lga.state_dict()
    assert ours.lga.status.statuses == 2
    assert_matters(ours.lga)


def test_training_again_with_other_data(tmp_path: Path) -> None:
    ours = make_trainer(tmp_path, "classifier", lga=FOLLOWS)
    ours.train()
    assert ours.lga.steps_per_epoch == 16
    ours.train_dataset = data("classifier", 20)
    ours.train()
    assert ours.lga.steps_per_epoch == 10
    assert ours.lga.status.statuses == 2


def test_training_again_with_another_model(tmp_path: Path) -> None:
    """With model_init there is a new optimizer each time, and so a new LGA."""
    trainer = LossAwareTrainer(
        model_init=lambda: model("classifier"),
        args=transformers.TrainingArguments(str(tmp_path), use_cpu=True, max_steps=3, report_to=[], disable_tqdm=True),
        train_dataset=data("classifier", 64),
        lga={"gamma2": 1e-3},
    )
    trainer.train()
    first = trainer.lga
    trainer.train()
    assert trainer.lga is not None
    assert trainer.lga is not first
    assert trainer.lga.status.steps == 3


@pytest.mark.parametrize("accumulate", [1, 2])
@pytest.mark.parametrize("fails_at", ["the first batch", "the second micro-batch"])
def test_auto_find_batch_size(tmp_path: Path, fails_at: str, accumulate: int) -> None:
    """A batch that does not fit is tried again with fewer rows; LGA has the steps of those epochs."""
    calls = []

    class Small(LossAwareTrainer):
        def compute_loss(self, model: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
            calls.append(len(inputs["labels"]))
            if calls[-1] > 4 and (fails_at == "the first batch" or len(calls) % 2 == 0):
                raise RuntimeError("CUDA out of memory.")
            return super().compute_loss(model, inputs, *args, **kwargs)

    options: dict[str, Any] = {"auto_find_batch_size": True, "gradient_accumulation_steps": accumulate}
    ours = make_trainer(tmp_path, "classifier", lga=FOLLOWS, cls=Small, per_device_train_batch_size=8, **options)
    ours.train()
    size, steps = calls[-2], ours.state.global_step
    assert size <= 4
    assert ours.lga.steps_per_epoch == steps == math.ceil(math.ceil(32 / size) / accumulate)
    assert ours.lga.status.statuses == 1
    assert ours.lga.status.steps_without_loss == 0
    if fails_at == "the first batch":  # the failed attempt changed nothing, so this is a run with that batch size
        plain = make_trainer(tmp_path, "classifier", per_device_train_batch_size=size, lga=FOLLOWS,
                        gradient_accumulation_steps=accumulate)  # fmt: skip
        plain.train()
        assert_same(ours.trajectory, plain.trajectory)
        assert ours.lga.state_dict() == plain.lga.state_dict()


def test_the_losses_of_a_step_that_was_not_made_are_dropped(tmp_path: Path) -> None:
    """The first micro-batch fits and is observed, the second does not."""
    ours = make_trainer(tmp_path, "classifier", lga=FOLLOWS)
    ours.lga.observe(1e6)
    ours.train()
    assert ours.lga.status.upper_bound < 10


@pytest.mark.parametrize("steps", [7, None], ids=["given", "followed"])
def test_resuming_with_another_batch_size(tmp_path: Path, steps: int | None) -> None:
    options: dict[str, Any] = {"save_strategy": "steps", "save_steps": 16, "lga": {"steps_per_epoch": steps}}
    first = make_trainer(tmp_path, "classifier", max_steps=16, **options)
    first.train()
    saved = json.loads((tmp_path / "checkpoint-16" / "lossaware.json").read_text())
    assert saved["hyperparameters"]["steps_per_epoch"] == (steps or 16)
    second = make_trainer(tmp_path, "classifier", max_steps=24, per_device_train_batch_size=4, **options)
    second.train(resume_from_checkpoint=True)
    assert second.lga.steps_per_epoch == (steps or 8)
    assert second.lga.status.steps == 24


def test_another_number_that_was_given_is_refused(tmp_path: Path) -> None:
    make_trainer(tmp_path, "classifier", max_steps=2, save_strategy="steps", save_steps=2).train()
    with pytest.raises(ValueError, match="steps_per_epoch is 4 in the state_dict but 5 here"):
        make_trainer(tmp_path, "classifier", lga={"steps_per_epoch": 5}).train(resume_from_checkpoint=True)


def test_data_without_a_length(tmp_path: Path) -> None:
    def make_streaming(**lga: Any) -> Any:
        return LossAwareTrainer(
            model=model("classifier"),
            args=transformers.TrainingArguments(
                str(tmp_path), use_cpu=True, max_steps=6, report_to=[], disable_tqdm=True
            ),
            train_dataset=Endless(),
            lga=lga,
        )

    with pytest.raises(UsageError, match=r"has no length.*lga=\{'steps_per_epoch': \.\.\.\}"):
        make_streaming().train()
    ours = make_streaming(steps_per_epoch=3)
    ours.train()
    assert ours.lga.status.statuses == 2


def test_with_gamma2_0_nothing_that_is_random_changes(tmp_path: Path) -> None:
    """Counting the batches draws no random numbers: the order of the data stays."""
    ends = []
    for cls, lga in ((transformers.Trainer, {}), (LossAwareTrainer, {"lga": {"gamma2": 0.0}})):
        module = model("classifier")
        trainer = cls(
            model=module,
            args=transformers.TrainingArguments(
                str(tmp_path), use_cpu=True, num_train_epochs=2, report_to=[], disable_tqdm=True, save_strategy="no"
            ),
            train_dataset=data("classifier", 64),
            optimizers=(sgd(module.parameters()), None),
            **lga,
        )
        trainer.train()
        ends.append([p.detach().clone() for p in module.parameters()])
    assert all(torch.equal(p, q) for p, q in zip(*ends, strict=True))


def test_deepspeed_is_refused(tmp_path: Path) -> None:
    trainer = make_trainer(tmp_path, "classifier")
    trainer.is_deepspeed_enabled = True  # DeepSpeed itself is not needed for the error
    with pytest.raises(UsageError, match="does not support the Trainer with DeepSpeed: use"):
        trainer.create_optimizer()


def test_an_optimizer_that_accelerate_prepared(tmp_path: Path) -> None:
    """The optimizer that the Trainer gets may already be wrapped."""
    trainer = make_trainer(tmp_path, "classifier")
    trainer.lga.detach()
    trainer.optimizer = trainer.accelerator.prepare(sgd(trainer.model.parameters()))
    trainer.create_optimizer()
    trajectory = record(trainer.optimizer.optimizer)
    trainer.train()
    assert len(trajectory) == 16
    assert trainer.lga.status.steps_without_loss == 0
    assert SETTINGS["steps_per_epoch"] == trainer.lga.steps_per_epoch
