"""CIFAR-10 and CIFAR-100 in their binary version: records of label bytes and 3 x 32 x 32 pixels by channel."""

import numpy as np
import torch
from torch import Tensor

from lossaware.errors import UsageError
from lossaware.studies.data.files import DataFiles

PLACE_10, PLACE_100 = "cifar-10-batches-bin", "cifar-100-binary"
SIDE = 32
PIXELS = 3 * SIDE * SIDE
# Mean and standard deviation of the training images' channels (red, green, blue), on a scale of 0 to 1.
MEAN_10, STD_10 = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)
MEAN_100, STD_100 = (0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762)
# Records per file.
BATCH_10, TRAIN_100, TEST_100 = 10_000, 50_000, 10_000

Labelled = tuple[Tensor, Tensor]
"""Images, uint8 (N, 3, 32, 32), and their labels, int64 (N)."""


def read_cifar10(files: DataFiles) -> tuple[Labelled, Labelled]:
    """The training set (five files, 50,000 images) and the test set (10,000) of CIFAR-10.

    Raises:
        UsageError: See `read_cifar`.
    """
    parts = [read_cifar(files, f"data_batch_{number}.bin", (10,), BATCH_10) for number in range(1, 6)]
    images, labels = (torch.cat(tensors) for tensors in zip(*parts, strict=True))
    return (images, labels), read_cifar(files, "test_batch.bin", (10,), BATCH_10)


def read_cifar100(files: DataFiles) -> tuple[Labelled, Labelled]:
    """The training set (50,000 images) and the test set (10,000) of CIFAR-100, with their 100 fine labels.

    Raises:
        UsageError: See `read_cifar`.
    """
    classes = (20, 100)
    return read_cifar(files, "train.bin", classes, TRAIN_100), read_cifar(files, "test.bin", classes, TEST_100)


def read_cifar(files: DataFiles, name: str, classes: tuple[int, ...], records: int) -> Labelled:
    """The records of one file.

    Args:
        files: The folder of the file.
        name: The file.
        classes: Number of classes of each label byte of a record; the last byte is the label.
        records: Required number of records.

    Raises:
        UsageError: The file cannot be read, has another size, or has a label out of range.
    """
    path, content = files.path(name), files.read(name)
    size = len(classes) + PIXELS
    if len(content) != records * size:
        why = f"{records} records of {size} bytes are {records * size}"
        short = "; cut short?" if len(content) < records * size else ""
        raise UsageError(f"{path}: {len(content)} bytes; {why}{short}")
    table = np.frombuffer(content, np.uint8).reshape(records, size)
    for place, count in enumerate(classes):
        if (largest := int(table[:, place].max())) >= count:
            record = int(table[:, place].argmax())
            raise UsageError(f"{path}: record {record} has label {largest}; labels are 0 to {count - 1}")
    images = torch.from_numpy(table[:, len(classes) :].reshape(records, 3, SIDE, SIDE).copy())
    return images, torch.from_numpy(table[:, len(classes) - 1].astype(np.int64))
