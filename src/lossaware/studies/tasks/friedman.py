"""Friedman's regression with noise, which a model cannot predict."""

from collections.abc import Mapping
from pathlib import Path

import torch
from sklearn.datasets import make_friedman1
from torch import Tensor, nn
from torch.nn import functional

from lossaware.studies.specs.task import Batch, Data, InMemory, Task

SUMMARY = "Friedman's first regression problem with noise, 2,000 examples, with a network of two hidden layers"
TRAIN, TEST, SEED, NOISE = 2000, 1000, 0, 2.5


def build() -> Task:
    """Regression with noise. The squared error stays well above 0: noise of 2.5 is about a fifth of the variance."""
    return Task(
        name="friedman",
        summary=SUMMARY,
        model=_model,
        data=load,
        measure=squared_error,
        score="loss",
        higher_is_better=False,
        percent=False,
        epochs=15,
        batch_size=64,
        gamma2=1e-6,
    )


def load(folder: Path | None = None) -> Data:
    """2,000 training and 1,000 test examples, standardised; the test values have no noise. Does not use the folder."""
    inputs, values = make_friedman1(TRAIN + TEST, n_features=10, noise=NOISE, random_state=SEED)
    _, clean = make_friedman1(TRAIN + TEST, n_features=10, noise=0.0, random_state=SEED)
    x = torch.from_numpy(inputs).float() * 12**0.5 - 3**0.5
    mean, deviation = float(values[:TRAIN].mean()), float(values[:TRAIN].std())
    y, targets = ((torch.from_numpy(part).float()[:, None] - mean) / deviation for part in (values, clean))
    return Data(train=InMemory((x[:TRAIN], y[:TRAIN])), test=InMemory((x[TRAIN:], targets[TRAIN:])))


def squared_error(model: nn.Module, batch: Batch) -> Mapping[str, Tensor]:
    """Mean squared error of outputs (batch, 1)."""
    inputs, targets = batch
    return {"loss": functional.mse_loss(model(inputs), targets)}


def _model() -> nn.Module:
    return nn.Sequential(nn.Linear(10, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 1))
