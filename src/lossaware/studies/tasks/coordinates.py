"""A photograph as a function of its coordinates."""

import math
from collections.abc import Mapping
from pathlib import Path

import torch
from sklearn.datasets import load_sample_image
from torch import Tensor, nn
from torch.nn import functional

from lossaware.studies.specs.task import Batch, Data, InMemory, Task

SUMMARY = "A photograph (part of scikit-learn) as a function of its coordinates, with random Fourier features"
SIDE, FEATURES, DEVIATION, SEED = 128, 64, 4.0, 0


class RandomSines(nn.Module):
    """Random Fourier features (Tancik et al., 2020): (batch, 2) to (batch, 2 x features)."""

    directions: Tensor

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(SEED)
        self.register_buffer("directions", DEVIATION * torch.randn(2, FEATURES, generator=generator))

    def forward(self, x: Tensor) -> Tensor:
        """Sines and cosines of random projections of ``x``."""
        angles = 2 * math.pi * x @ self.directions
        return torch.cat([angles.sin(), angles.cos()], dim=1)


def build() -> Task:
    """Regression of colours on coordinates, without noise. The loss keeps falling throughout training."""
    return Task(
        name="coordinates",
        summary=SUMMARY,
        model=_model,
        data=load,
        measure=squared_error,
        score="loss",
        higher_is_better=False,
        percent=False,
        epochs=6,
        batch_size=128,
        gamma2=1e-6,
    )


def load(folder: Path | None = None) -> Data:
    """128 x 128 pixels of ``china.jpg``: three quarters for training, the rest for tests. Does not use the folder."""
    square = load_sample_image("china.jpg")[100 : 100 + 2 * SIDE : 2, 200 : 200 + 2 * SIDE : 2]
    colours = torch.from_numpy(square.copy()).reshape(-1, 3).float() / 127.5 - 1
    rows, columns = torch.meshgrid(*[torch.linspace(-1, 1, SIDE)] * 2, indexing="ij")
    places = torch.stack([rows.flatten(), columns.flatten()], dim=1)
    order = torch.randperm(len(places), generator=torch.Generator().manual_seed(SEED))
    test, train = torch.tensor_split(order, [len(order) // 4])
    return Data(train=InMemory((places[train], colours[train])), test=InMemory((places[test], colours[test])))


def squared_error(model: nn.Module, batch: Batch) -> Mapping[str, Tensor]:
    """Mean squared error of the colours, which are in [-1, 1]."""
    places, colours = batch
    return {"loss": functional.mse_loss(model(places), colours)}


def _model() -> nn.Module:
    return nn.Sequential(
        RandomSines(), nn.Linear(2 * FEATURES, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 3)
    )
