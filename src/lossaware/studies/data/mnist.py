"""MNIST, from its four IDX files."""

from typing import Literal

import torch
from torch import Tensor

from lossaware.errors import UsageError
from lossaware.studies.data.files import DataFiles
from lossaware.studies.data.idx import find_idx, read_idx

PLACE = "MNIST/raw"
SIDE, CLASSES = 28, 10
# Mean and standard deviation of the training images' pixels, on a scale of 0 to 1.
MEAN, STD = (0.1307,), (0.3081,)


def read_mnist(files: DataFiles, part: Literal["train", "t10k"]) -> tuple[Tensor, Tensor]:
    """The images, uint8 (N, 1, 28, 28), and their labels, int64 (N).

    Args:
        files: The four files, compressed with gzip or not.
        part: The training set or the test set.

    Raises:
        UsageError: A file is missing, damaged or has another format.
    """
    images_name, labels_name = (find_idx(files, f"{part}-{kind}-ubyte") for kind in ("images-idx3", "labels-idx1"))
    images = read_idx(files, images_name, (None, SIDE, SIDE))
    labels = read_idx(files, labels_name, (len(images),))
    if (largest := int(labels.max())) >= CLASSES:
        raise UsageError(f"{files.path(labels_name)}: label {largest}; labels are 0 to {CLASSES - 1}")
    return images.unsqueeze(1), labels.to(torch.int64)
