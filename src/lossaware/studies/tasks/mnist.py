"""MNIST with LeNet-5: the paper's main setting (Table 2)."""

from functools import partial
from pathlib import Path

import torch

from lossaware.errors import UsageError
from lossaware.studies.data.idx import find_idx, read_idx
from lossaware.studies.models.classification import classification
from lossaware.studies.models.lenet import lenet5
from lossaware.studies.task import Data, InMemory, Task

SUMMARY = "Handwritten digits, 60,000 images of 28 x 28, with LeNet-5 (reads MNIST/raw in --data)"
SOURCE = "https://ossci-datasets.s3.amazonaws.com/mnist/"
# Mean and standard deviation of the training images' pixels, on a scale of 0 to 1.
MEAN, STD = 0.1307, 0.3081
SIDE, CLASSES = 28, 10


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
    if folder is None:
        raise UsageError(
            "task 'mnist' needs --data DIR, with the four IDX files of MNIST in DIR/MNIST/raw, gzipped or not; "
            f"`lossaware data get mnist --data DIR` downloads them from {SOURCE}"
        )
    raw = folder / "MNIST" / "raw"
    if not raw.is_dir():
        raise UsageError(
            f"there is no folder {raw}: task 'mnist' reads the four IDX files of MNIST there; "
            f"`lossaware data get mnist --data {folder}` downloads them from {SOURCE}"
        )
    return Data(train=_examples(raw, "train"), test=_examples(raw, "t10k"))


def _examples(raw: Path, part: str) -> InMemory:
    images_path, labels_path = (find_idx(raw, f"{part}-{kind}-ubyte") for kind in ("images-idx3", "labels-idx1"))
    images = read_idx(images_path, (None, SIDE, SIDE))
    labels = read_idx(labels_path, (len(images),))
    if (largest := int(labels.max())) >= CLASSES:
        raise UsageError(f"{labels_path}: label {largest}; labels are 0 to {CLASSES - 1}")
    inputs = images.unsqueeze(1).to(torch.float32).div_(255).sub_(MEAN).div_(STD)
    return InMemory((inputs, labels.to(torch.int64)))
