"""Scikit-learn's digits, some with a random label."""

import numpy as np
import torch
from torch import nn

from lossaware.errors import UsageError
from lossaware.studies.models.classification import classification
from lossaware.studies.specs.task import Data, InMemory, Task
from lossaware.studies.tasks import digits

SUMMARY = "Digits of 8 x 8 (part of scikit-learn), a fifth of the training labels drawn at random"
SEED = 0


def build(share: float = 0.2) -> Task:
    """Digits with wrong labels. A training loss of 0 means that the network has learned the wrong labels.

    Args:
        share: Share of the training labels that are drawn at random, in [0, 1]. The test labels are correct.
    """
    if isinstance(share, bool) or not isinstance(share, (int, float)) or not 0 <= share <= 1:
        raise UsageError(f"task 'noisy-labels': share must be from 0 to 1, got {share!r}")

    def load(folder: object = None) -> Data:
        train, test = digits.read()
        images, labels = train.tensors
        rng = np.random.default_rng(SEED)
        drawn = torch.from_numpy(rng.random(len(labels)) < share)
        others = torch.from_numpy(rng.integers(10, size=len(labels)))
        return Data(train=InMemory((images, torch.where(drawn, others, labels))), test=test)

    return Task(
        name="noisy-labels",
        summary=SUMMARY,
        model=_model,
        data=load,
        measure=classification,
        epochs=15,
        batch_size=32,
        gamma2=1e-6,
    )


def _model() -> nn.Module:
    return nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 128), nn.ReLU(), nn.Linear(128, 10))
