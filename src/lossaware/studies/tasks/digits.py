"""Scikit-learn's digits with a small network: needs no download, and a run takes a second."""

from pathlib import Path

import numpy as np
import torch
from sklearn.datasets import load_digits
from torch import nn

from lossaware.errors import UsageError
from lossaware.studies.models.classification import classification
from lossaware.studies.specs.task import Data, InMemory, Task

SUMMARY = "Handwritten digits, 1,797 images of 8 x 8 (part of scikit-learn), with a network of one hidden layer"
CLASSES = 10
SPLIT_SEED, TEST_SHARE = 0, 0.2


def build(hidden: int = 64) -> Task:
    """Digits with a network of one hidden layer.

    Args:
        hidden: Units of the hidden layer, at least 1.
    """
    if not isinstance(hidden, int) or hidden < 1:
        raise UsageError(f"task 'digits': hidden must be an integer of at least 1, got {hidden!r}")

    def model() -> nn.Module:
        return nn.Sequential(nn.Linear(64, hidden), nn.ReLU(), nn.Linear(hidden, 10))

    return Task(
        name="digits",
        summary=SUMMARY,
        model=model,
        data=load,
        measure=classification,
        epochs=20,
        batch_size=32,
        # A run has a twentieth of the steps of the paper's runs on MNIST. Their 1e-8 would hardly move a weight.
        gamma2=1e-6,
    )


def load(folder: Path | None = None) -> Data:
    """1,438 training and 359 test images, standardised; the same for each seed of a run. Does not use the folder."""
    return Data(*read())


def read() -> tuple[InMemory, InMemory]:
    """Training and test set: images (examples, 64) and labels."""
    pixels, digits = load_digits(return_X_y=True)
    order = np.random.default_rng(SPLIT_SEED).permutation(len(pixels))
    inputs = torch.from_numpy(pixels[order]).float()
    labels = torch.from_numpy(digits[order]).long()
    tests = int(TEST_SHARE * len(pixels))
    train = inputs[tests:]
    inputs = (inputs - train.mean()) / train.std()
    return InMemory((inputs[tests:], labels[tests:])), InMemory((inputs[:tests], labels[:tests]))
