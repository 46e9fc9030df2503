"""The Transformers Trainer with a tiny model made from a config, step by step beside the plain loop."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from support import needs

transformers = needs("transformers")

from loop import SETTINGS, assert_matters, assert_same, record, sgd  # noqa: E402

from lossaware import LGA  # noqa: E402
from lossaware.recipes.transformers import LossAware  # noqa: E402

TOKENS, LENGTH = 17, 8


@pytest.fixture(autouse=True)
def _warn() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message="LGA got no loss")
        yield


class LossAwareTrainer(LossAware, transformers.Trainer):  # type: ignore[misc, name-defined]  # not a module for mypy
    pass


def model(kind: str) -> Any:
    """A language model, whose loss the Trainer divides by tokens, or a classifier, whose loss is a mean of its own."""
    torch.manual_seed(0)
    sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    if kind == "language model":
        config = transformers.LlamaConfig(vocab_size=TOKENS, max_position_embeddings=LENGTH, **sizes)
        return transformers.LlamaForCausalLM(config)
    dropouts = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    sizes |= {"vocab_size": TOKENS, "max_position_embeddings": LENGTH, "num_labels": 3}
    made = transformers.BertForSequenceClassification(transformers.BertConfig(**sizes, **dropouts))
    # It swallows the number of items and does not divide by it; unless told so, the Trainer does not divide either.
    made.accepts_loss_kwargs = False
    return made


def data(kind: str, count: int) -> list[dict[str, torch.Tensor]]:
    generator = torch.Generator().manual_seed(1)
    found = []
    for _ in range(count):
        ids = torch.randint(TOKENS, (LENGTH,), generator=generator)
        labels = ids.clone()
        # Rows with different numbers of tokens that count: the mean over tokens is not that of the rows' means.
        labels[: int(torch.randint(LENGTH - 2, (), generator=generator))] = -100
        found.append({"input_ids": ids, "labels": labels if kind == "language model" else ids[0] % 3})
    return found


def trainer(folder: Path, kind: str, optimizer: Any = None, lga: Any = None, rows: int = 32, **kwargs: Any) -> Any:
    options = {
        "output_dir": str(folder),
        "use_cpu": True,
        "num_train_epochs": 1,
        "per_device_train_batch_size": 2,
        "learning_rate": 0.05,
        "lr_scheduler_type": "constant",
        "max_grad_norm": 0.0,
        "logging_strategy": "no",
        "save_strategy": "no",
        "report_to": [],
        "disable_tqdm": True,
        "train_sampling_strategy": "sequential",
        "dataloader_pin_memory": False,
    }
    module = model(kind)
    made = LossAwareTrainer(
        model=module,
        args=transformers.TrainingArguments(**{**options, **kwargs}),
        train_dataset=data(kind, rows),
        optimizers=(sgd(module.parameters()) if optimizer is None else optimizer(module), None),
        lga={**SETTINGS, **(lga or {})},
    )
    made.trajectory = record_late(made)
    return made


def record_late(made: Any) -> Any:
    """Records what is there after LGA, which the Trainer attaches when training starts."""
    made.create_optimizer()
    return record(made.optimizer)


def plain(kind: str, accumulate: int, rows: int = 32, autocast: bool = False) -> Any:
    module = model(kind)
    optimizer = sgd(module.parameters())
    lga: Any = LGA(optimizer, **SETTINGS)
    trajectory = record(optimizer)
    examples = data(kind, rows)
    micro = [{k: torch.stack([e[k] for e in examples[i : i + 2]]) for k in examples[0]} for i in range(0, rows, 2)]
    losses = []
    module.train()
    for start in range(0, len(micro), accumulate):
        group = micro[start : start + accumulate]
        optimizer.zero_grad()
        counted = sum(int((b["labels"][:, 1:] != -100).sum()) for b in group) if kind == "language model" else 0
        total = 0.0
        for batch in group:
            with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
                extra = {"num_items_in_batch": torch.tensor(counted)} if counted else {}
                loss = module(**batch, **extra).loss
            share = loss if counted else loss / len(group)
            share.backward()
            total += float(share.detach())
        optimizer.step(loss=total)
        losses.append(total)
    return trajectory, lga, losses


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
    ours = trainer(tmp_path, kind, gradient_accumulation_steps=accumulate, bf16=autocast, rows=16 * accumulate)
    ours.train()
    trajectory, lga, _ = plain(kind, accumulate, 16 * accumulate, autocast)
    assert len(ours.trajectory) == len(trajectory) == 8
    for step, (a, b) in enumerate(zip(ours.trajectory, trajectory, strict=True)):
        for p, q in zip(a, b, strict=True):
            torch.testing.assert_close(p, q, rtol=0, atol=2e-6, msg=f"they part at step {step}")
    assert vars(ours.lga.status) == pytest.approx(vars(lga.status), rel=1e-6)
    assert_matters(ours.lga)


def test_a_last_step_of_fewer_micro_batches(tmp_path: Path) -> None:
    ours = trainer(tmp_path, "classifier", gradient_accumulation_steps=4, rows=20)
    ours.train()
    trajectory, lga, losses = plain("classifier", 4, 20)  # 10 micro-batches: 4, 4 and 2
    assert ours.lga.status.loss == pytest.approx(losses[-1], rel=1e-6)
    for p, q in zip(ours.trajectory[-1], trajectory[-1], strict=True):
        torch.testing.assert_close(p, q, rtol=0, atol=2e-6)
    assert lga.status.steps == ours.lga.status.steps == 3


@pytest.mark.parametrize("stop", [6, 8], ids=["in the midst of a status", "at the end of one"])
def test_resume_from_checkpoint(tmp_path: Path, stop: int) -> None:
    whole = trainer(tmp_path / "whole", "language model")
    whole.train()
    first = trainer(tmp_path / "parts", "language model", save_strategy="steps", save_steps=stop, max_steps=stop)
    first.train()
    second = trainer(tmp_path / "parts", "language model")
    second.train(resume_from_checkpoint=True)
    assert_same([*first.trajectory, *second.trajectory], whole.trajectory)
    assert second.lga.state_dict() == whole.lga.state_dict()
    assert_matters(second.lga)


def test_a_checkpoint_without_lga_is_refused(tmp_path: Path) -> None:
    first = trainer(tmp_path, "classifier", save_strategy="steps", save_steps=2, max_steps=2)
    first.train()
    (tmp_path / "checkpoint-2" / "lossaware.json").unlink()
    with pytest.raises(RuntimeError, match="made without LGA"):
        trainer(tmp_path, "classifier").train(resume_from_checkpoint=True)


@pytest.mark.parametrize(("accumulate", "steps"), [(1, 10), (4, 3)])
def test_steps_per_epoch_follows_from_the_data(tmp_path: Path, accumulate: int, steps: int) -> None:
    made = trainer(tmp_path, "classifier", rows=20, gradient_accumulation_steps=accumulate)
    made.lga.detach()
    made._lga_settings.pop("steps_per_epoch")
    made.create_optimizer()
    assert made.lga.law.steps_per_status == steps


def test_an_lga_that_is_attached_already_is_used(tmp_path: Path) -> None:
    attached: list[LGA] = []

    def optimizer(module: Any) -> Any:
        made = sgd(module.parameters())
        attached.append(LGA(made, **SETTINGS))
        return made

    made = trainer(tmp_path, "classifier", optimizer)
    made.train()
    assert made.lga is attached[0]
    assert_matters(made.lga)


def test_the_trainers_own_optimizer_and_its_logs(tmp_path: Path) -> None:
    """AdamW, as the Trainer makes it; its reports show LGA's status beside the loss."""
    module = model("classifier")
    made = LossAwareTrainer(
        model=module,
        args=transformers.TrainingArguments(
            str(tmp_path), use_cpu=True, max_steps=6, logging_steps=3, report_to=[], disable_tqdm=True
        ),
        train_dataset=data("classifier", 64),
        lga=SETTINGS,
    )
    made.train()
    assert made.lga is not None
    rows = [row for row in made.state.log_history if "loss" in row]
    assert [row["lga/steps"] for row in rows] == [3, 6]
    assert rows[-1]["lga/loss"] == made.lga.status.loss > 0
