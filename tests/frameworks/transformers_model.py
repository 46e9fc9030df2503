"""A Transformers Trainer with a tiny model created from a config, and the equivalent plain loop."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import transformers
from loop import SETTINGS, record, sgd

from lossaware import LGA
from lossaware.recipes.transformers import LossAware

TOKENS, LENGTH = 17, 8


class LossAwareTrainer(LossAware, transformers.Trainer):  # type: ignore[misc]  # mypy does not look into Transformers
    pass


def model(kind: str) -> Any:
    """A small model.

    Args:
        kind: ``"language model"``, whose loss the Trainer divides by tokens; ``"classifier"``, whose loss is the mean
            of the micro-batch; or ``"classifier as it is"``, for which the Trainer does not know this.
    """
    torch.manual_seed(0)
    sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    if kind == "language model":
        config = transformers.LlamaConfig(vocab_size=TOKENS, max_position_embeddings=LENGTH, **sizes)
        return transformers.LlamaForCausalLM(config)
    dropouts = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    sizes |= {"vocab_size": TOKENS, "max_position_embeddings": LENGTH, "num_labels": 3}
    module = transformers.BertForSequenceClassification(transformers.BertConfig(**sizes, **dropouts))
    if kind == "classifier":
        # It accepts the number of items and ignores it; by default, the Trainer does not divide either.
        module.accepts_loss_kwargs = False
    return module


def data(kind: str, count: int) -> list[dict[str, torch.Tensor]]:
    generator = torch.Generator().manual_seed(1)
    dataset = []
    for _ in range(count):
        ids = torch.randint(TOKENS, (LENGTH,), generator=generator)
        labels = ids.clone()
        # Rows with different numbers of tokens that count: the mean over tokens is not that of the rows' means.
        labels[: int(torch.randint(LENGTH - 2, (), generator=generator))] = -100
        dataset.append({"input_ids": ids, "labels": labels if kind == "language model" else ids[0] % 3})
    return dataset


def make_trainer(
    folder: Path,
    kind: str,
    optimizer: Any = None,
    lga: Any = None,
    rows: int = 32,
    cls: Any = LossAwareTrainer,
    own: dict[str, Any] | None = None,
    **kwargs: Any,
) -> Any:
    """A Trainer with LGA, which records each step.

    Args:
        folder: The output folder.
        kind: The kind of model.
        optimizer: Creates the optimizer of a model.
        lga: Further settings of LGA; those that are None are omitted.
        rows: The rows of the data.
        cls: The class of the Trainer.
        own: Further arguments of the Trainer.
        **kwargs: Its TrainingArguments.
    """
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
    settings = {**SETTINGS, **(lga or {})}
    result = cls(
        model=module,
        args=transformers.TrainingArguments(**{**options, **kwargs}),
        train_dataset=data(kind, rows),
        optimizers=(sgd(module.parameters()) if optimizer is None else optimizer(module), None),
        lga={name: value for name, value in settings.items() if value is not None},
        **(own or {}),
    )
    result.trajectory = record_late(result)
    return result


def record_late(trainer: Any) -> Any:
    """Records the state after LGA's hooks; the Trainer attaches LGA when training starts."""
    trainer.create_optimizer()
    return record(trainer.optimizer)


def plain(kind: str, accumulate: int, rows: int = 32, autocast: bool = False, sums: bool = False) -> Any:
    """The plain loop that is equivalent to `trainer`.

    Args:
        kind: The kind of model.
        accumulate: Number of micro-batches per step.
        rows: The rows of the data.
        autocast: Whether to train in bfloat16.
        sums: Whether the gradients of the micro-batches' mean losses are added up, as the Trainer does by mistake if
            they are not divided by the items of the whole step. The loss of the step is still their mean.

    Returns:
        The trajectory, LGA, and the loss of each step.
    """
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
        by_items = kind == "language model" and not sums
        counted = sum(int((b["labels"][:, 1:] != -100).sum()) for b in group) if by_items else 0
        total = 0.0
        for batch in group:
            with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
                extra = {"num_items_in_batch": torch.tensor(counted)} if counted else {}
                loss = module(**batch, **extra).loss
            share = loss if counted else loss / len(group)
            (loss if sums else share).backward()
            total += float(share.detach())
        optimizer.step(loss=total)
        losses.append(total)
    return trajectory, lga, losses
