"""The pass in torch's operators: one expression, for every device, which torch.compile fuses with its surroundings."""

from typing import NamedTuple

import torch
from torch import Tensor

from lossaware.correction.memory import WORK, as_reals, places_in_memory
from lossaware.correction.rounding import round_to

_BLOCK_BYTES = {"cpu": 1 << 17}
"""Size of one temporary: on a CPU, all temporaries of a block stay in the cache together."""
_OTHER_BLOCK_BYTES = 1 << 26


class Push(NamedTuple):
    """One push of a step."""

    amount: float | Tensor
    """gamma2 * Omega: a number, or a tensor of one element."""
    xi: float
    maximize: bool
    rest: bool
    """Whether elements whose gradient is exactly 0 stay."""
    weight: float = 0.0
    """Of a gradient in its running mean, above 0 and at most 1, where phi reads means."""


def take_in_flat(mean: Tensor, g: Tensor, weight: float) -> None:
    """``mean <- mean + weight * (g - mean)``, block by block.

    Each operation is rounded by itself. torch's own ``lerp_`` would fuse two of them on some processors and not on
    others.

    Args:
        mean: One-dimensional and contiguous; moved in place.
        g: The same, with as many elements.
        weight: Above 0, at most 1.
    """
    size = _BLOCK_BYTES.get(mean.device.type, _OTHER_BLOCK_BYTES) // mean.dtype.itemsize
    for start in range(0, mean.numel(), size):
        block = mean[start : start + size]
        block.add_(g[start : start + size].to(block.dtype).sub(block).mul_(weight))


def take_in_where(mean: Tensor, g: Tensor, weight: float, amount: float | Tensor) -> None:
    """The same for tensors of any layout and class, all at once, where an amount is not 0."""
    moved = mean + (g.to(mean.dtype) - mean) * weight
    mean.copy_(torch.where(amount.to(mean.device) != 0, moved, mean) if isinstance(amount, Tensor) else moved)


def push_flat(p: Tensor, g: Tensor, push: Push, key: int | Tensor | None) -> None:
    """``p <- p - amount / phi(g)``, block by block.

    Args:
        p: One-dimensional and contiguous; moved in place.
        g: The same, with as many elements.
        push: What to push by.
        key: Of the noise; None where the type needs none.
    """
    work = WORK[p.dtype]
    amount = _scalar(push.amount, work, p.device)
    if not isinstance(push.amount, Tensor) and p.device.type == "cpu" and amount.item() == 0.0:
        return
    size = _BLOCK_BYTES.get(p.device.type, _OTHER_BLOCK_BYTES) // (8 if key is not None else work.itemsize)
    for start in range(0, p.numel(), size):
        end = min(start + size, p.numel())
        places = None if key is None else torch.arange(start, end, device=p.device)
        _push(p[start:end], g[start:end], amount, push, places, key)


def push_whole(p: Tensor, g: Tensor, push: Push, key: int | Tensor | None) -> None:
    """The same for tensors of any layout and class, all at once.

    Args:
        p: Real or complex; moved in place.
        g: Of its shape.
        push: What to push by.
        key: Of the noise; None where the type needs none.
    """
    if p.is_complex():
        values = p.resolve_conj().clone()
        real, gradient = as_reals(values), as_reals(g.to(WORK[p.dtype]).resolve_conj())
    else:
        values, real, gradient = p, p, g
    amount = _scalar(push.amount, WORK[real.dtype], real.device)
    _push(real, gradient, amount, push, None if key is None else places_in_memory(real), key)
    if values is not p:
        p.copy_(values)


def _push(p: Tensor, g: Tensor, amount: Tensor, push: Push, places: Tensor | None, key: int | Tensor | None) -> None:
    d = g.to(amount.dtype)
    d = -d if push.maximize else d
    moved = amount / torch.where(d >= 0, d + push.xi, d - push.xi)  # Eq. 5
    stays = amount == 0  # 0 / NaN is none
    moved = torch.where(stays | (d == 0) if push.rest else stays, 0.0, moved)
    if places is None or key is None:
        p.sub_(moved)
    else:
        p.copy_(round_to(p.dtype, p.to(amount.dtype) - moved, places, key))


def _scalar(amount: float | Tensor, dtype: torch.dtype, device: torch.device) -> Tensor:
    """The amount in the precision of the arithmetic: to nearest; what is too large is infinite, what is tiny is 0."""
    if isinstance(amount, Tensor):
        return amount.to(device=device, dtype=dtype).reshape(())
    return torch.full((), amount, dtype=torch.float64, device=device).to(dtype)
