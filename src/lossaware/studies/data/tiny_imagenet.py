"""TinyImageNet in its official layout: JPEG files, one folder per class for training, a table for validation."""

import re
from pathlib import PurePosixPath

import torch
from torch import Tensor

from lossaware.errors import UsageError
from lossaware.studies.data.files import DataFiles
from lossaware.studies.data.images import read_image
from lossaware.studies.data.subset import spread

PLACE = "tiny-imagenet-200"
SIDE, CLASSES = 64, 200
# Mean and standard deviation of the training images' channels (red, green, blue), on a scale of 0 to 1.
MEAN, STD = (0.4802, 0.4481, 0.3975), (0.2770, 0.2691, 0.2821)

Listed = list[tuple[str, int]]
"""File names and labels."""


def read_classes(files: DataFiles) -> list[str]:
    """The names of the classes (WordNet identifiers), sorted; a class's label is its index.

    Raises:
        UsageError: ``wnids.txt`` cannot be read, or does not have 200 different names of letters and digits.
    """
    path = files.path("wnids.txt")
    names = sorted(_text(files, "wnids.txt").split())
    # These are folder names, which must not lead out of the data set.
    if unlike := next((name for name in names if not re.fullmatch(r"\w+", name)), None):
        raise UsageError(f"{path}: {unlike!r} is not a WordNet identifier; letters and digits are expected")
    if len(set(names)) != CLASSES or len(names) != CLASSES:
        raise UsageError(f"{path}: {len(set(names))} different names; {CLASSES} are expected")
    return names


def list_train(files: DataFiles, classes: list[str]) -> Listed:
    """The training images and their labels, by class: ``train/WNID/images/*.JPEG``.

    Raises:
        UsageError: A class does not have images.
    """
    listed = []
    for label, name in enumerate(classes):
        folder = f"train/{name}/images"
        # By number: WNID_2 before WNID_10.
        names = sorted(files.names(f"{folder}/*.JPEG"), key=lambda name: (len(name), name))
        if not names:
            raise UsageError(f"there is no image (*.JPEG) in {files.path(folder)}")
        listed += [(name, label) for name in names]
    return listed


def list_validation(files: DataFiles, classes: list[str]) -> Listed:
    """The validation images and their labels, in the order of ``val/val_annotations.txt``.

    Raises:
        UsageError: The table cannot be read, is empty, or a line does not have a file name and a known class.
    """
    table = "val/val_annotations.txt"
    path = files.path(table)
    labels = {name: label for label, name in enumerate(classes)}
    listed = []
    for number, line in enumerate(_text(files, table).splitlines(), 1):
        fields = line.split("\t")
        if len(fields) < 2 or fields[1] not in labels or PurePosixPath(fields[0]).name != fields[0]:
            raise UsageError(f"{path}, line {number}: a file name and a class of wnids.txt are expected, got {line!r}")
        listed.append((f"val/images/{fields[0]}", labels[fields[1]]))
    if not listed:
        raise UsageError(f"{path}: it does not list any images")
    return listed


def read_images(files: DataFiles, listed: Listed, count: int | None, option: str) -> tuple[Tensor, Tensor]:
    """The images, uint8 (N, 3, 64, 64), and their labels, int64 (N). Only these are decoded.

    Args:
        files: The folder of the data set.
        listed: Names and labels.
        count: Number of images; see `spread`.
        option: Name of the count, for messages.

    Raises:
        UsageError: See `spread` and `read_image`.
    """
    chosen = [listed[index] for index in spread(len(listed), count, option).tolist()]
    images = torch.empty(len(chosen), 3, SIDE, SIDE, dtype=torch.uint8)
    for image, (name, _) in zip(images, chosen, strict=True):
        image.copy_(read_image(files, name, SIDE))
    return images, torch.tensor([label for _, label in chosen])


def _text(files: DataFiles, name: str) -> str:
    try:
        return files.read(name).decode()
    except UnicodeDecodeError as error:
        raise UsageError(f"{files.path(name)}: cannot be read ({error})") from None
