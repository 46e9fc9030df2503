"""Images: read from files with Pillow, and kept as bytes until a batch needs numbers."""

import io
import struct
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from lossaware.errors import UsageError
from lossaware.studies.data.files import DataFiles
from lossaware.studies.specs.task import Batch, InMemory

FORMATS = ("JPEG", "PNG", "BMP", "WEBP")
"""Supported formats. Pillow has more, some of which run other programs."""
MAX_PIXELS = 64_000_000
"""Maximum number of pixels of an image, about that of a good camera."""


@dataclass(frozen=True)
class Images(InMemory):
    """Images in memory as bytes, which take a quarter of the memory of float32. Batches are standardised when used.

    Attributes:
        tensors: uint8 images (examples, channels, height, width) first; the others are not changed.
        mean: Mean of each channel, for pixels in [0, 1].
        std: Standard deviation of each channel.
    """

    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)

    def batches(self, size: int, generator: torch.Generator | None) -> Iterator[Batch]:
        """See `lossaware.studies.specs.task.Examples.batches`; the images are float32."""
        for pixels, *others in super().batches(size, generator):
            yield (standardised(pixels, self.mean, self.std), *others)


def standardised(pixels: Tensor, mean: tuple[float, ...], std: tuple[float, ...]) -> Tensor:
    """uint8 images (..., channels, height, width) as float32: (pixel / 255 - mean) / std, per channel."""
    shift, scale = (_on(pixels.device, torch.tensor(values).reshape(-1, 1, 1)) for values in (mean, std))
    return pixels.to(torch.float32).div_(255).sub_(shift).div_(scale)


def _on(device: torch.device, values: Tensor) -> Tensor:
    return values.to(device, non_blocking=True)


def read_image(
    files: DataFiles, name: str, side: int, mode: Literal["RGB", "L"] = "RGB", *, resize: bool = False
) -> Tensor:
    """The pixels of an image file; see `decode_image`.

    Raises:
        UsageError: The file cannot be read; see also `decode_image`.
    """
    return decode_image(files.read(name), files.path(name), side, mode, resize=resize)


def decode_image(
    content: bytes, path: Path, side: int, mode: Literal["RGB", "L"] = "RGB", *, resize: bool = False
) -> Tensor:
    """The pixels of an image. A grey image read as RGB has three equal channels.

    Args:
        content: The bytes of an image file, in one of `FORMATS`.
        path: The file, for messages.
        side: Width and height.
        mode: ``"RGB"``, or ``"L"`` for grey.
        resize: Whether an image of another size is resized (bilinear); otherwise it is an error.

    Returns:
        uint8 (3, side, side), or (1, side, side) for grey.

    Raises:
        UsageError: The file is not an image, is damaged, has another size, or has more than `MAX_PIXELS` pixels.
    """
    with _open_image(content, path) as image:
        if image.size != (side, side):
            if not resize:
                width, height = image.size
                raise UsageError(f"{path}: {width} x {height} pixels; {side} x {side} are expected")
            pixels = np.array(image.convert(mode).resize((side, side), Image.Resampling.BILINEAR))
        else:
            pixels = np.array(image.convert(mode))
    return torch.from_numpy(pixels).reshape(side, side, -1).permute(2, 0, 1).contiguous()


def image_size(content: bytes, path: Path) -> tuple[int, int]:
    """Width and height of an image in pixels; only its header is decoded.

    Args:
        content: The bytes of an image file.
        path: The file, for messages.

    Raises:
        UsageError: The file is not an image, is damaged, or has more than `MAX_PIXELS` pixels.
    """
    with _open_image(content, path) as image:
        return image.size


@contextmanager
def _open_image(content: bytes, path: Path) -> Iterator[Image.Image]:
    try:
        with warnings.catch_warnings():
            # Pillow only warns at its own limit.
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            image = Image.open(io.BytesIO(content), formats=FORMATS)
        with image:
            if image.width * image.height > MAX_PIXELS:
                raise Image.DecompressionBombError
            yield image
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise UsageError(f"{path}: the image has more than {MAX_PIXELS} pixels; larger ones are not read") from None
    except UnidentifiedImageError:
        raise UsageError(f"{path}: this is not an image ({', '.join(FORMATS)} are read)") from None
    except (OSError, EOFError, SyntaxError, ValueError, TypeError, LookupError, struct.error, zlib.error) as error:
        raise UsageError(f"{path}: the image cannot be read, it is damaged or cut short ({error})") from None
