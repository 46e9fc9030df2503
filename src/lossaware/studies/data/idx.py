"""The IDX format, in which MNIST is published: a magic number, the dimensions, then the values, all big-endian."""

import gzip
import io
import math
import struct
import zlib
from pathlib import Path
from typing import BinaryIO, cast

import torch
from torch import Tensor

from lossaware.errors import UsageError
from lossaware.studies.data.files import DataFiles
from lossaware.studies.specs.regular_file import MAX_BYTES

_DTYPES = {0x08: "uint8", 0x09: "int8", 0x0B: "int16", 0x0C: "int32", 0x0D: "float32", 0x0E: "float64"}
_UINT8 = 0x08
_PIECE = 1 << 20


def find_idx(files: DataFiles, name: str) -> str:
    """``name`` if the file exists, otherwise ``name.gz``.

    Raises:
        UsageError: Neither exists.
    """
    return files.first(name, f"{name}.gz")


def read_idx(files: DataFiles, name: str, shape: tuple[int | None, ...]) -> Tensor:
    """The values of an IDX file of bytes, compressed with gzip or not.

    Args:
        files: The folder of the file.
        name: The file.
        shape: The required dimensions; None allows any size.

    Returns:
        A uint8 tensor of the file's dimensions.

    Raises:
        UsageError: The file cannot be read, has another format, type or shape, or is too short or too long.
    """
    path, content = files.path(name), files.read(name)
    if content[:2] != b"\x1f\x8b":
        return _read(io.BytesIO(content), path, shape)
    try:
        with gzip.GzipFile(fileobj=io.BytesIO(content)) as unzipped:
            return _read(cast(BinaryIO, unzipped), path, shape)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise UsageError(f"{path}: the gzip file is damaged or cut short ({error})") from None


def _read(file: BinaryIO, path: Path, shape: tuple[int | None, ...]) -> Tensor:
    magic = file.read(4)
    if len(magic) < 4 or magic[:2] != b"\0\0" or magic[2] not in _DTYPES:
        raise UsageError(f"{path}: not an IDX file (it begins with {magic.hex(' ') or 'nothing'})")
    if magic[2] != _UINT8:
        raise UsageError(f"{path}: IDX values of type {_DTYPES[magic[2]]}; uint8 is expected")
    if magic[3] != len(shape):
        raise UsageError(f"{path}: {magic[3]} dimension{'s' * (magic[3] != 1)}; {len(shape)} are expected")
    sizes = file.read(4 * len(shape))
    if len(sizes) < 4 * len(shape):
        raise UsageError(f"{path}: cut short within its header")
    dimensions = struct.unpack(f">{len(shape)}I", sizes)
    if any(expected not in (None, size) for expected, size in zip(shape, dimensions, strict=True)):
        expected = " x ".join("any" if size is None else str(size) for size in shape)
        raise UsageError(f"{path}: dimensions {' x '.join(map(str, dimensions))}; expected {expected}")
    count = math.prod(dimensions)
    if count == 0:
        raise UsageError(f"{path}: it has no examples")
    # One extra byte detects a file that is too long. In pieces, as the header may announce more than the file has.
    values = bytearray()
    while piece := file.read(min(count + 1 - len(values), _PIECE)):
        values += piece
        if len(values) > MAX_BYTES:
            raise UsageError(f"{path}: more than {MAX_BYTES} values; larger files are not read")
    if len(values) != count:
        actual = f"only {len(values)} follow" if len(values) < count else "more follow"
        raise UsageError(f"{path}: its header announces {count} values, {actual}")
    return torch.frombuffer(values, dtype=torch.uint8).reshape(dimensions)
