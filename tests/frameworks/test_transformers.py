"""The Transformers Trainer with a tiny model created from a config, compared with the plain loop step by step."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from support import needs

transformers = needs("transformers")

from loop import SETTINGS, assert_matters, assert_same, sgd  # noqa: E402
from transformers_model import LossAwareTrainer, data, make_trainer, model, plain  # noqa: E402

from lossaware import LGA  # noqa: E402


@pytest.fixture(autouse=True)
def _warn() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message="LGA got no loss")
        yield


@pytest.mark.parametrize(
    ("kind", "accumulate", "autocast"),
    [
        ("language model", 1, False),
        ("language model", 4, False),
        ("language model", 4, True),
        ("classifier", 1, False),
        ("classifier", 4, False),
    ],
)
def test_trainer(tmp_path: Path, kind: str, accumulate: int, autocast: bool) -> None:
    """The losses that the Trainer adds up are shares: of the micro-batches, or of all tokens in the step."""
    ours = make_trainer(tmp_path, kind, gradient_accumulation_steps=accumulate, bf16=autocast, rows=16 * accumulate)
    ours.train()
    trajectory, lga, _ = plain(kind, accumulate, 16 * accumulate, autocast)
    assert len(ours.trajectory) == len(trajectory) == 8
    for step, (a, b) in enumerate(zip(ours.trajectory, trajectory, strict=True)):
        for p, q in zip(a, b, strict=True):
            torch.testing.assert_close(p, q, rtol=0, atol=2e-6, msg=f"they part at step {step}")
    assert vars(ours.lga.status) == pytest.approx(vars(lga.status), rel=1e-6)
    assert_matters(ours.lga)


def test_a_last_step_of_fewer_micro_batches(tmp_path: Path) -> None:
    ours = make_trainer(tmp_path, "classifier", gradient_accumulation_steps=4, rows=20)
    ours.train()
    trajectory, lga, losses = plain("classifier", 4, 20)  # 10 micro-batches: 4, 4 and 2
    assert ours.lga.status.loss == pytest.approx(losses[-1], rel=1e-6)
    for p, q in zip(ours.trajectory[-1], trajectory[-1], strict=True):
        torch.testing.assert_close(p, q, rtol=0, atol=2e-6)
    assert lga.status.steps == ours.lga.status.steps == 3


@pytest.mark.parametrize("stop", [6, 8], ids=["in the midst of a status", "at the end of one"])
def test_resume_from_checkpoint(tmp_path: Path, stop: int) -> None:
    whole = make_trainer(tmp_path / "whole", "language model")
    whole.train()
    first = make_trainer(tmp_path / "parts", "language model", save_strategy="steps", save_steps=stop, max_steps=stop)
    first.train()
    second = make_trainer(tmp_path / "parts", "language model")
    second.train(resume_from_checkpoint=True)
    assert_same([*first.trajectory, *second.trajectory], whole.trajectory)
    assert second.lga.state_dict() == whole.lga.state_dict()
    assert_matters(second.lga)


def test_a_checkpoint_without_lga_is_refused(tmp_path: Path) -> None:
    first = make_trainer(tmp_path, "classifier", save_strategy="steps", save_steps=2, max_steps=2)
    first.train()
    (tmp_path / "checkpoint-2" / "lossaware.json").unlink()
    with pytest.raises(RuntimeError, match="saved without LGA"):
        make_trainer(tmp_path, "classifier").train(resume_from_checkpoint=True)


@pytest.mark.parametrize(("accumulate", "steps"), [(1, 10), (4, 3)])
def test_steps_per_epoch_follows_from_the_data(tmp_path: Path, accumulate: int, steps: int) -> None:
    trainer = make_trainer(tmp_path, "classifier", rows=20, gradient_accumulation_steps=accumulate)
    trainer.lga.detach()
    trainer._lga_settings.pop("steps_per_epoch")
    trainer.create_optimizer()
    assert trainer.lga.steps_per_epoch == steps


def test_an_lga_that_is_attached_already_is_used(tmp_path: Path) -> None:
    attached: list[LGA] = []

    def optimizer(module: Any) -> Any:
        base = sgd(module.parameters())
        attached.append(LGA(base, **SETTINGS))
        return base

    trainer = make_trainer(tmp_path, "classifier", optimizer)
    trainer.train()
    assert trainer.lga is attached[0]
    assert_matters(trainer.lga)


def test_the_trainers_own_optimizer_and_its_logs(tmp_path: Path) -> None:
    """AdamW, as the Trainer creates it; the Trainer's logs contain LGA's status and the loss."""
    module = model("classifier")
    trainer = LossAwareTrainer(
        model=module,
        args=transformers.TrainingArguments(
            str(tmp_path), use_cpu=True, max_steps=6, logging_steps=3, report_to=[], disable_tqdm=True
        ),
        train_dataset=data("classifier", 64),
        lga=SETTINGS,
    )
    trainer.train()
    assert trainer.lga is not None
    rows = [row for row in trainer.state.log_history if "loss" in row]
    assert [row["lga/steps"] for row in rows] == [3, 6]
    assert rows[-1]["lga/loss"] == trainer.lga.status.loss > 0
