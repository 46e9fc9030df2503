"""Parameters and gradients for pushes, and their memory layouts."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from lossaware.correction import Correction, native

XI = 0.01
AMOUNT = 3e-5
SIZE = 70_001  # of several blocks and shares, and of no whole number of vectors
DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)

needs_library = pytest.mark.skipif(native.library() is None, reason="no C compiler here")


def problem(dtype: torch.dtype, size: int = SIZE) -> tuple[Tensor, Tensor]:
    """Parameters from subnormal to 1; large, small and non-finite gradients, and both zeros."""
    generator = torch.Generator().manual_seed(0)
    p = torch.randn(size, generator=generator) * torch.logspace(-7, 0, size)
    g = torch.randn(size, generator=generator) * 10.0 ** torch.randint(-6, 1, (size,), generator=generator)
    g[::7], g[1::7] = 0.0, -0.0
    p[5], p[17], g[6], g[19], g[40] = torch.nan, torch.inf, torch.inf, torch.nan, -torch.inf
    return p.to(dtype), g.to(dtype)


def same_bits(a: Tensor, b: Tensor) -> bool:
    """Whether the bits are the same; of NaN there are many, which count as one. 0.0 is not -0.0."""
    a, b = a.contiguous(), b.contiguous()
    whole = {2: torch.int16, 4: torch.int32, 8: torch.int64}[a.element_size()]
    return bool(((a.view(whole) == b.view(whole)) | (a.isnan() & b.isnan())).all())


def applied(
    p: Tensor,
    g: Tensor,
    zero_gradient: str = "push",
    *,
    amount: float | Tensor = AMOUNT,
    maximize: bool = False,
    seed: int = 3,
) -> Tensor:
    p = p.clone()
    correction = Correction(XI, zero_gradient)
    correction.reseed(seed)
    correction.apply([(p, g)], amount, maximize=maximize)
    return p


VIEWS: dict[str, Callable[[Tensor], Tensor]] = {
    "every other": lambda base: base[::2],
    "every third, from the second": lambda base: base[1::3],
    "a column": lambda base: base.view(6, 10)[:, 3],
    "columns": lambda base: base.view(6, 10)[:, 2:5],
    "every other row": lambda base: base.view(6, 10)[::2],
    "a transposed part": lambda base: base.view(6, 10)[1:4, 2:9].t(),
    "transposed": lambda base: base.view(6, 10).t(),
    "permuted": lambda base: base.view(3, 4, 5).permute(1, 2, 0),
    "a diagonal": lambda base: base[:49].view(7, 7).diagonal(),
    "a part in the middle": lambda base: base[7:20],
    "channels_last": lambda base: base.view(1, 4, 5, 3).permute(0, 3, 1, 2),
    "part of channels_last": lambda base: base.view(1, 4, 5, 3).permute(0, 3, 1, 2)[:, :2],
    "channels_last_3d": lambda base: base.view(2, 2, 1, 5, 3).permute(0, 4, 1, 2, 3),
    "dimensions within each other": lambda base: base.as_strided((3, 4), (17, 3), 5),
    "one element": lambda base: base[13],
    "one element of each dimension": lambda base: base[13:14].view(1, 1, 1),
    "nothing": lambda base: base[5:5],
    "nothing, transposed": lambda base: base[5:5].view(0, 4).t(),
}
"""Of 60 numbers."""


def laid_out(gradient: Tensor, how: str, parameter: Tensor) -> Tensor:
    """The gradient's numbers, in another layout."""
    if how == "as the parameter":
        return torch.empty_like(parameter, dtype=gradient.dtype).copy_(gradient)
    if how == "with gaps":
        return torch.stack([gradient, torch.full_like(gradient, 77.0)], dim=-1)[..., 0]
    if how == "in another order":
        backwards = tuple(range(gradient.dim()))[::-1]
        return gradient.permute(backwards).contiguous().permute(backwards)
    assert how == "contiguous"
    return gradient.contiguous()


GRADIENTS = ("contiguous", "as the parameter", "with gaps", "in another order")
