"""The pass in torch operators: one expression for all devices, which torch.compile fuses with its context."""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from lossaware.correction.memory import WORK, as_reals, places_in_memory
from lossaware.correction.rounding import round_to

_BLOCK_BYTES = {"cpu": 1 << 17}
"""Size of one temporary: on a CPU, all temporaries of a block fit into the cache."""
_OTHER_BLOCK_BYTES = 1 << 26


class Push(NamedTuple):
    """One push of a step."""

    amount: float | Tensor
    """gamma2 * Omega: a number, or a tensor of one element."""
    xi: float
    maximize: bool
    rest: bool
    """Whether elements whose gradient is exactly 0 are not moved."""
    weight: float = 0.0
    """Weight of a gradient in its running mean, in (0, 1], if phi reads means."""
    pushes: bool = False
    """Whether the amount is known not to be 0."""


def update_mean_flat(mean: Tensor, g: Tensor, weight: float) -> None:
    """``mean <- mean + weight * (g - mean)``, block by block.

    Each operation is rounded separately. torch's ``lerp_`` would fuse two of them on some processors.

    Args:
        mean: One-dimensional and contiguous; changed in place.
        g: One-dimensional and contiguous, with the same number of elements.
        weight: In (0, 1].
    """
    size = _BLOCK_BYTES.get(mean.device.type, _OTHER_BLOCK_BYTES) // mean.dtype.itemsize
    for start in range(0, mean.numel(), size):
        block = mean[start : start + size]
        block.add_(g[start : start + size].to(block.dtype).sub(block).mul_(weight))


def update_mean_where(mean: Tensor, g: Tensor, push: Push) -> None:
    """The same for tensors of any layout and class, without blocks, if the amount is not 0."""
    moved, amount = mean + (g.to(mean.dtype) - mean) * push.weight, push.amount
    if isinstance(amount, Tensor) and not push.pushes:
        moved = torch.where(amount.to(mean.device) != 0, moved, mean)
    mean.copy_(moved)


def update_mean_rounded(mean: Tensor, g: Tensor, push: Push, key: int | Tensor) -> Tensor:
    """The same for a mean of 16 bits, which is rounded stochastically; returns it before the rounding, in float32."""
    wide = mean.to(torch.float32)
    moved, amount = wide + (g.to(torch.float32) - wide) * push.weight, push.amount
    if isinstance(amount, Tensor) and not push.pushes:
        moved = torch.where(amount.to(mean.device) != 0, moved, wide)
    mean.copy_(round_to(mean.dtype, moved, places_in_memory(mean), key))
    return moved


def push_flat(p: Tensor, g: Tensor, push: Push, key: int | Tensor | None) -> None:
    """``p <- p - amount / phi(g)``, block by block.

    Args:
        p: One-dimensional and contiguous; changed in place.
        g: One-dimensional and contiguous, with the same number of elements.
        push: The push.
        key: Key of the noise; None for types without rounding noise.
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
    """The same for tensors of any layout and class, without blocks.

    Args:
        p: Real or complex; changed in place.
        g: A tensor of the same shape.
        push: The push.
        key: Key of the noise; None for types without rounding noise.
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
    moved = amount / (d + _with_sign_of(d, push.xi))  # Eq. 5
    if push.rest:
        moved = torch.where(d == 0, 0.0, moved)
    if not push.pushes:
        moved = torch.where(amount == 0, 0.0, moved)  # also for 0 / NaN
    if places is None or key is None:
        p.sub_(moved)
    else:
        p.copy_(round_to(p.dtype, p.to(amount.dtype) - moved, places, key))


def _with_sign_of(d: Tensor, xi: float) -> Tensor:
    """The number xi with the sign of each element of d, and above 0 where that is 0.

    Without comparisons for torch's compiler on CPUs, with the same bits: for AVX-512 it turns the mask of a comparison
    into a vector by an instruction that waits for the old value of its register. If this is the result of the division,
    each vector waits for the one before.
    """
    if torch.compiler.is_compiling() and d.device.type == "cpu":
        large = 2.0 ** (math.frexp(torch.finfo(d.dtype).max)[1] - 1)
        far = d * large * large  # 0, or beyond 2 xi on either side, for the smallest d too
        return xi - torch.relu(2 * xi - torch.relu(far + 2 * xi))
    positive = torch.full((), xi, dtype=d.dtype, device=d.device)
    return torch.where(d >= 0, positive, -positive)


def _scalar(amount: float | Tensor, dtype: torch.dtype, device: torch.device) -> Tensor:
    """The amount rounded to the precision of the arithmetic; too large ones become infinite, tiny ones 0."""
    if isinstance(amount, Tensor):
        return amount.to(device=device, dtype=dtype).reshape(())
    return torch.full((), amount, dtype=torch.float64, device=device).to(dtype)
