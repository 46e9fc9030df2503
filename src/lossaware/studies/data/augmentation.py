"""Random augmentation of images: shift, mirror, rotate. The random numbers do not depend on the device."""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

from lossaware.studies.specs.task import Batch


def moved(images: Tensor, offsets: Tensor, pad: int) -> Tensor:
    """Each image shifted: a window of the image's size in the image padded with ``pad`` zeros.

    Args:
        images: (batch, channels, height, width).
        offsets: (batch, 2), int64 from 0 to 2 ``pad``: row and column of the window's first corner. ``pad``
            leaves the image; less shifts zeros in at the top or the left.
        pad: Zeros on each side.
    """
    height, width = images.shape[-2:]
    padded = functional.pad(images, (pad, pad, pad, pad))
    rows = (offsets[:, :1] + torch.arange(height, device=images.device))[:, None, :, None]
    columns = (offsets[:, 1:] + torch.arange(width, device=images.device))[:, None, None, :]
    example = torch.arange(len(images), device=images.device)[:, None, None, None]
    channel = torch.arange(images.shape[1], device=images.device)[None, :, None, None]
    return padded[example, channel, rows, columns]


def mirrored(images: Tensor, chosen: Tensor) -> Tensor:
    """The chosen images mirrored left to right.

    Args:
        images: (batch, channels, height, width).
        chosen: (batch), bool.
    """
    return torch.where(chosen[:, None, None, None], images.flip(-1), images)


def rotated(images: Tensor, degrees: Tensor) -> Tensor:
    """Each image rotated counter-clockwise about its centre, with nearest pixels, and zeros beyond the border.

    Args:
        images: (batch, channels, side, side), square.
        degrees: (batch), floating.
    """
    angle = degrees.to(images.dtype).deg2rad()
    zero = torch.zeros_like(angle)
    # Maps output to input pixels. Rows run downwards, so this is the inverse of a counter-clockwise rotation.
    origin = torch.stack([angle.cos(), -angle.sin(), zero, angle.sin(), angle.cos(), zero], dim=1).reshape(-1, 2, 3)
    grid = functional.affine_grid(origin, list(images.shape), align_corners=False)
    return functional.grid_sample(images, grid, mode="nearest", padding_mode="zeros", align_corners=False)


def move_mirror_rotate(
    pad: int, degrees: float, mean: tuple[float, ...], std: tuple[float, ...]
) -> Callable[[Batch, torch.Generator], Batch]:
    """An augmentation: shift by up to ``pad`` pixels, mirror half of the images, rotate by up to ``degrees``.

    Pixels from beyond the border are black, as if the images were augmented before they are standardised.

    Args:
        pad: Largest shift, in pixels.
        degrees: Largest rotation, in either direction.
        mean: Mean per channel by which the images were standardised.
        std: Standard deviation per channel by which they were.

    Returns:
        A function for `lossaware.studies.specs.task.Data.augment`; it changes the first tensor of a batch.
    """

    def augment(batch: Batch, generator: torch.Generator) -> Batch:
        images, *others = batch
        count, device = len(images), images.device
        drawn = (
            torch.randint(2 * pad + 1, (count, 2), generator=generator),
            torch.rand(count, generator=generator) < 0.5,
            (2 * torch.rand(count, generator=generator) - 1) * degrees,
            (-torch.tensor(mean) / torch.tensor(std)).reshape(-1, 1, 1),
        )
        offsets, mirror, angles, black = (values.to(device, non_blocking=True) for values in drawn)
        changed = rotated(mirrored(moved(images - black, offsets, pad), mirror), angles)
        return (changed + black, *others)

    return augment
