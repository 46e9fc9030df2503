"""Continued training of a trained network, on the same digits or on inverted ones."""

from pathlib import Path

import torch
from torch import nn

from lossaware.errors import UsageError
from lossaware.studies.models.classification import classification
from lossaware.studies.specs.task import Data, InMemory, Task
from lossaware.studies.tasks import digits

SUMMARY = "Digits of 8 x 8 (part of scikit-learn) with a network that is already trained"
TRANSFORMED = ("same", "inverted")
TRAINED_EPOCHS, TRAINED_RATE, TRAINED_BATCH = 15, 1e-3, 32


def build(data: str = "same") -> Task:
    """Continued training. The network was trained for 15 epochs by Adam at 1e-3, in the order of the run's seed.

    Args:
        data: ``"same"`` continues with the same images, ``"inverted"`` with their negatives (fine-tuning).
    """
    if data not in TRANSFORMED:
        raise UsageError(f"task 'continued': data must be {' or '.join(TRANSFORMED)}, got {data!r}")

    def load(folder: Path | None = None) -> Data:
        sign = 1 if data == "same" else -1
        train, test = (InMemory((sign * part.tensors[0], part.tensors[1])) for part in digits.read())
        return Data(train=train, test=test)

    return Task(
        name="continued",
        summary=SUMMARY,
        model=trained,
        data=load,
        measure=classification,
        epochs=10,
        batch_size=32,
        gamma2=1e-6,
    )


def trained() -> nn.Module:
    """The network after its first training; torch's global generator determines initialisation and order."""
    net = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))
    images, labels = digits.read()[0].tensors
    optimizer = torch.optim.Adam(net.parameters(), lr=TRAINED_RATE)
    for _ in range(TRAINED_EPOCHS):
        for chosen in torch.split(torch.randperm(len(images)), TRAINED_BATCH):
            optimizer.zero_grad()
            loss = nn.functional.cross_entropy(net(images[chosen]), labels[chosen])
            loss.backward()
            optimizer.step()
    return net
