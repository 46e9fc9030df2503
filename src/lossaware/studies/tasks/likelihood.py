"""A Gaussian likelihood with learned standard deviation: a loss that falls below zero."""

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

from lossaware.studies.specs.task import Batch, Data, InMemory, Task

SUMMARY = "A curve with noise of two widths, with a network for mean and width; the loss falls below zero"
TRAIN, TEST, SEED = 2000, 1000, 0


def build() -> Task:
    """Negative log likelihood of a Gaussian whose mean and deviation depend on the input (Nix and Weigend, 1994)."""
    return Task(
        name="likelihood",
        summary=SUMMARY,
        model=_model,
        data=load,
        measure=likelihood,
        score="loss",
        higher_is_better=False,
        percent=False,
        epochs=15,
        batch_size=64,
        gamma2=1e-6,
    )


def load(folder: Path | None = None) -> Data:
    """sin(3 x) with noise of 0.01 for x below 0 and 0.1 above, x uniform in [-2, 2]. Does not use the folder."""
    generator = torch.Generator().manual_seed(SEED)
    x = 4 * torch.rand(TRAIN + TEST, 1, generator=generator) - 2
    noise = torch.randn(len(x), 1, generator=generator) * torch.where(x < 0, 0.01, 0.1)
    y = torch.sin(3 * x) + noise
    return Data(train=InMemory((x[:TRAIN], y[:TRAIN])), test=InMemory((x[TRAIN:], y[TRAIN:])))


def likelihood(model: nn.Module, batch: Batch) -> Mapping[str, Tensor]:
    """Mean negative log likelihood in nats; outputs (batch, 2) are the mean and the deviation before its softplus."""
    inputs, values = batch
    mean, width = model(inputs).chunk(2, dim=1)
    width = functional.softplus(width) + 1e-3
    return {"loss": (((values - mean) / width).square() / 2 + width.log()).mean()}


def _model() -> nn.Module:
    return nn.Sequential(nn.Linear(1, 64), nn.Tanh(), nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, 2))
