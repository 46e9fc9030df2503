"""Memory layouts of a parameter, with memory around it that does not belong to it."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

_GUARD = 7
"""Number of elements after the last one of a parameter; odd, so that the next parameter is not aligned."""


@dataclass(frozen=True)
class Layout:
    """Shape, strides and storage offset, and whether two parameters share memory."""

    shape: tuple[int, ...]
    strides: tuple[int, ...]
    offset: int = 0
    tied: bool = False


LAYOUTS = {
    "contiguous": Layout((3, 4), (4, 1)),
    "channels_last": Layout((2, 3, 2, 2), (12, 1, 6, 3)),
    "transposed": Layout((4, 3), (1, 4)),
    "gaps": Layout((3, 4), (11, 2), 3),
    "zero-size": Layout((0, 4), (4, 1), 2),
    "scalar": Layout((), (), 4),
    "offset": Layout((3, 5), (5, 1), 5),
    "tied": Layout((2, 5), (5, 1), tied=True),
}
REFUSED = {
    "expanded": Layout((3, 4), (0, 1)),
    "overlapping": Layout((3, 4), (2, 1)),
}
"""Elements share memory."""
TWO_DIMENSIONAL = [name for name, layout in LAYOUTS.items() if len(layout.shape) == 2 and 0 not in layout.shape]


class Guarded:
    """A tensor of a layout, within memory whose other elements are known.

    Args:
        layout: Where its elements lie.
        dtype: Of all elements.
        generator: Draws all elements.
    """

    def __init__(self, layout: Layout, dtype: torch.dtype, generator: torch.Generator) -> None:
        last = sum((size - 1) * stride for size, stride in zip(layout.shape, layout.strides, strict=True))
        length = layout.offset + max(last, 0) + 1 + _GUARD
        drawn = torch.complex128 if dtype.is_complex else torch.float64
        self.memory = torch.randn(length, dtype=drawn, generator=generator).to(dtype)
        self.view = self.memory.as_strided(layout.shape, layout.strides, layout.offset)
        self._outside = torch.ones(length, dtype=torch.bool)
        self._outside[torch.arange(length).as_strided(layout.shape, layout.strides, layout.offset).flatten()] = False
        self._known = self._neighbours()

    def _neighbours(self) -> Tensor:
        return bits(self.memory)[self._outside]

    def neighbours_are_unchanged(self) -> bool:
        return torch.equal(self._neighbours(), self._known)


def bits(tensor: Tensor) -> Tensor:
    """The bits of each element, as whole numbers; of a complex one, of both parts."""
    tensor = tensor.detach().resolve_conj().resolve_neg().contiguous()
    if tensor.is_complex():
        real = torch.view_as_real(tensor).contiguous()
        return real.view({4: torch.int32, 8: torch.int64}[real.element_size()])
    return tensor.view({2: torch.int16, 4: torch.int32, 8: torch.int64}[tensor.element_size()])
