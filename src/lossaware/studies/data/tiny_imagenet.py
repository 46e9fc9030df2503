"""TinyImageNet in its official layout: JPEG files, a folder a class for training, a table for validation."""

from pathlib import Path

import torch
from torch import Tensor

from lossaware.errors import UsageError
from lossaware.studies.data.images import read_image
from lossaware.studies.data.subset import spread

PLACE = "tiny-imagenet-200"
SIDE, CLASSES = 64, 200
# Mean and standard deviation of the training images' channels (red, green, blue), on a scale of 0 to 1.
MEAN, STD = (0.4802, 0.4481, 0.3975), (0.2770, 0.2691, 0.2821)

Listed = list[tuple[Path, int]]


def read_classes(folder: Path) -> list[str]:
    """The names of the classes (WordNet identifiers), sorted; a class's label is its place.

    Raises:
        UsageError: ``wnids.txt`` cannot be read, or does not hold 200 different names.
    """
    path = folder / "wnids.txt"
    names = sorted(_text(path).split())
    if len(set(names)) != CLASSES or len(names) != CLASSES:
        raise UsageError(f"{path}: {len(set(names))} different names; {CLASSES} are expected")
    return names


def list_train(folder: Path, classes: list[str]) -> Listed:
    """The training images and their labels, class by class: ``train/WNID/images/*.JPEG``.

    Raises:
        UsageError: A class has no image.
    """
    found = []
    for label, name in enumerate(classes):
        place = folder / "train" / name / "images"
        # By number where there is one: WNID_2 before WNID_10.
        paths = sorted(place.glob("*.JPEG"), key=lambda path: (len(path.name), path.name))
        if not paths:
            raise UsageError(f"there is no image (*.JPEG) in {place}")
        found += [(path, label) for path in paths]
    return found


def list_validation(folder: Path, classes: list[str]) -> Listed:
    """The validation images and their labels, in the order of ``val/val_annotations.txt``.

    Raises:
        UsageError: The table cannot be read, is empty, or a line of it names no file or an unknown class.
    """
    path = folder / "val" / "val_annotations.txt"
    labels = {name: label for label, name in enumerate(classes)}
    found = []
    for number, line in enumerate(_text(path).splitlines(), 1):
        fields = line.split("\t")
        if len(fields) < 2 or fields[1] not in labels or Path(fields[0]).name != fields[0]:
            raise UsageError(f"{path}, line {number}: a file name and a class of wnids.txt are expected, got {line!r}")
        found.append((folder / "val" / "images" / fields[0], labels[fields[1]]))
    if not found:
        raise UsageError(f"{path}: it lists no image")
    return found


def read_images(listed: Listed, count: int | None, option: str) -> tuple[Tensor, Tensor]:
    """The images, uint8 (N, 3, 64, 64), and their labels, int64 (N). Only what is wanted is decoded.

    Args:
        listed: Files and labels.
        count: How many are wanted; see `spread`.
        option: What the count is called, for messages.

    Raises:
        UsageError: See `spread` and `read_image`.
    """
    chosen = [listed[index] for index in spread(len(listed), count, option).tolist()]
    images = torch.empty(len(chosen), 3, SIDE, SIDE, dtype=torch.uint8)
    for image, (path, _) in zip(images, chosen, strict=True):
        image.copy_(read_image(path, SIDE))
    return images, torch.tensor([label for _, label in chosen])


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise UsageError(f"{path}: there is no such file") from None
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{path}: cannot be read ({error})") from None
