"""Contrastive learning without labels: a noisy view of a digit is matched with the digit's other view."""

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

from lossaware.studies.specs.task import Batch, Data, Task
from lossaware.studies.tasks import digits

SUMMARY = "Noisy views of digits of 8 x 8 (part of scikit-learn) matched with their digit, without labels"
NOISE, TEMPERATURE, CODE = 0.7, 0.2, 16


def build() -> Task:
    """Contrastive learning (van den Oord et al., 2018). Its loss depends on the batch size and ends far from 0."""
    return Task(
        name="contrastive",
        summary=SUMMARY,
        model=_model,
        data=load,
        measure=contrast,
        score="loss",
        higher_is_better=False,
        percent=False,
        epochs=12,
        batch_size=64,
        test_batch_size=64,
        gamma2=1e-6,
    )


def load(folder: Path | None = None) -> Data:
    """The data of the task ``digits``; the labels are not used. Does not use the folder."""
    return digits.load(folder)


def contrast(model: nn.Module, batch: Batch) -> Mapping[str, Tensor]:
    """Cross-entropy in nats, and accuracy, of finding the other view in the batch; views differ by noise of 0.7."""
    images = batch[0]
    # The same noise in each evaluation, so that the same weights give the same values.
    generator = None if model.training else torch.Generator(images.device).manual_seed(0)
    views = [images + NOISE * _noise(images, generator) for _ in range(2)]
    one, two = (functional.normalize(model(view), dim=1) for view in views)
    logits, targets = one @ two.T / TEMPERATURE, torch.arange(len(images), device=images.device)
    return {
        "loss": functional.cross_entropy(logits, targets),
        "accuracy": (logits.detach().argmax(dim=1) == targets).float().mean(),
    }


def _noise(images: Tensor, generator: torch.Generator | None) -> Tensor:
    return torch.randn(images.shape, generator=generator, device=images.device)


def _model() -> nn.Module:
    return nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 128), nn.ReLU(), nn.Linear(128, CODE))
