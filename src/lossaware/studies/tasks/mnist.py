"""MNIST with LeNet-5: the paper's main setting (Table 2)."""

from functools import partial
from pathlib import Path
from typing import Literal

from lossaware.errors import UsageError
from lossaware.studies.data.folder import downloadable, require
from lossaware.studies.data.images import standardised
from lossaware.studies.data.mnist import MEAN, PLACE, STD, read_mnist
from lossaware.studies.models.classification import classification
from lossaware.studies.models.lenet import lenet5
from lossaware.studies.task import Data, InMemory, Task

SUMMARY = "Handwritten digits, 60,000 images of 28 x 28, with LeNet-5 (reads MNIST/raw in --data)"


def build(pad: int = 2) -> Task:
    """MNIST with LeNet-5.

    Args:
        pad: Zeros around the image, 2 (61,706 parameters) or 0 (44,426 parameters).
    """
    if pad not in (0, 2):
        raise UsageError(f"task 'mnist': pad must be 0 or 2, got {pad!r}")
    return Task(
        name="mnist",
        summary=SUMMARY,
        model=partial(lenet5, pad),
        data=load,
        measure=classification,
        epochs=20,
        batch_size=64,
    )


def load(folder: Path | None) -> Data:
    """The two sets from ``folder/MNIST/raw``, images standardised."""
    raw = require(folder, PLACE, "mnist", f"it holds the four IDX files, gzipped or not; {downloadable('mnist')}")
    return Data(train=_examples(raw, "train"), test=_examples(raw, "t10k"))


def _examples(raw: Path, part: Literal["train", "t10k"]) -> InMemory:
    # As numbers, not as bytes: standardising each batch anew would cost more than the memory.
    images, labels = read_mnist(raw, part)
    return InMemory((standardised(images, MEAN, STD), labels))
