"""The bags of the paper's segmentation task (A.5): photographs and masks with equal names in two folders."""

import hashlib
from pathlib import PurePosixPath

import torch
from torch import Tensor

from lossaware.errors import UsageError
from lossaware.studies.data.files import DataFiles
from lossaware.studies.data.images import decode_image, image_size

PLACE = "bag_data"
SIDE = 224
BACKGROUND = 255
TEST_SHARE, SPLIT_SEED = 0.1, 0

Pairs = list[tuple[str, str]]
"""Photographs and their masks, as file names."""


def list_bags(files: DataFiles) -> Pairs:
    """Photographs (``last/NAME``) and their masks (``last_msk/NAME``), by name. Masks without photograph are skipped.

    Raises:
        UsageError: A folder is missing or empty, or a photograph has no mask or more than one.
    """
    photographs, masks = (_by_name(files, folder) for folder in ("last", "last_msk"))
    for name in photographs:
        if name not in masks:
            raise UsageError(f"there is no mask of {files.path(photographs[name])} in {files.path('last_msk')}")
    return [(photographs[name], masks[name]) for name in sorted(photographs, key=lambda name: (len(name), name))]


def split_bags(files: DataFiles, pairs: Pairs) -> tuple[Pairs, Pairs]:
    """Split the pairs: nine tenths for training and one tenth for tests, the same for each seed of a run.

    There is no official split. A bag can appear on several backgrounds: photographs with the same mask, byte for
    byte, stay together. Drawn with torch's generator with seed 0.

    Returns:
        Training and test pairs, each in their original order.

    Raises:
        UsageError: All photographs have the same mask, so that no training pair remains; or a mask cannot be read.
    """
    groups: dict[str, list[int]] = {}
    for index, (_, mask) in enumerate(pairs):
        groups.setdefault(hashlib.sha256(files.read(mask)).hexdigest(), []).append(index)
    members = list(groups.values())
    order = torch.randperm(len(members), generator=torch.Generator().manual_seed(SPLIT_SEED))
    tests: set[int] = set()
    for group in order.tolist():
        if len(tests) >= TEST_SHARE * len(pairs):
            break
        tests.update(members[group])
    train = [pair for index, pair in enumerate(pairs) if index not in tests]
    if not train:
        folder = files.path("last_msk")
        raise UsageError(f"{folder}: all {len(pairs)} photographs have the same mask; at least two are needed")
    return train, [pair for index, pair in enumerate(pairs) if index in tests]


def read_bags(files: DataFiles, pairs: Pairs, side: int = SIDE) -> tuple[Tensor, Tensor]:
    """The photographs, uint8 (N, 3, side, side), red first, and the masks, uint8 (N, side, side), 1 for bag.

    Both are resized (bilinear) if they have another size. In a mask 255 is background, and less is bag, as in the code
    that the paper cites. That code has OpenCV's order of colours, blue first, which is equivalent for a network with
    random initialisation.

    Raises:
        UsageError: A mask has another size than its photograph; see also `decode_image`.
    """
    photographs = torch.empty(len(pairs), 3, side, side, dtype=torch.uint8)
    bags = torch.empty(len(pairs), side, side, dtype=torch.uint8)
    for index, pair in enumerate(pairs):
        photograph, mask = ((files.read(name), files.path(name)) for name in pair)
        (width, height), (mask_width, mask_height) = image_size(*photograph), image_size(*mask)
        if (mask_width, mask_height) != (width, height):
            raise UsageError(
                f"{mask[1]}: {mask_width} x {mask_height} pixels; its photograph {photograph[1]} has {width} x {height}"
            )
        photographs[index] = decode_image(*photograph, side, resize=True)
        bags[index] = decode_image(*mask, side, "L", resize=True)[0] < BACKGROUND
    return photographs, bags


def _by_name(files: DataFiles, folder: str) -> dict[str, str]:
    if not files.path(folder).is_dir():
        raise UsageError(f"there is no folder {files.path(folder)}")
    by_stem: dict[str, str] = {}
    for path in map(PurePosixPath, files.names(f"{folder}/*")):
        if path.stem in by_stem:
            raise UsageError(
                f"{files.path(folder)} holds both {PurePosixPath(by_stem[path.stem]).name} and {path.name}"
            )
        by_stem[path.stem] = str(path)
    if not by_stem:
        raise UsageError(f"there is no image in {files.path(folder)}")
    return by_stem
