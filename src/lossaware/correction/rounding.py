"""Stochastic rounding of parameters of 16 bits, so that the mean of a push is kept.

A push is usually far below half a unit in the last place of a weight of 16 bits, so rounding to nearest would lose it.
The noise is a hash of the step's seed, the number of the tensor in the step, and the position of the element in memory
order. So it is the same on every rank and in every implementation.
"""

from typing import Any

import torch
from torch import Tensor

NOISE_BITS = {torch.bfloat16: 16, torch.float16: 13}
"""Mantissa bits of float32 that the type does not have."""
MASK = (1 << 32) - 1
GOLDEN = 0x9E3779B9


def noise_key(seed: int | Tensor, number: int) -> int | Tensor:
    """The key of the noise of one tensor in a step, from 0 to 2^32 - 1.

    Args:
        seed: Different in each step; an integer, or a tensor of one element.
        number: Number of the tensor in the step; that of the mean of its gradients is negative.
    """
    seed = seed.to(torch.int64) if isinstance(seed, Tensor) else seed
    key: int | Tensor = _mixed((_mixed(seed & MASK) + number * GOLDEN) & MASK)
    return key


def round_to(dtype: torch.dtype, values: Tensor, places: Tensor, key: int | Tensor) -> Tensor:
    """Round float32 values to 16 bits, up or down at random, so that the mean is kept.

    Args:
        dtype: bfloat16 or float16.
        values: The values.
        places: The positions of the elements, as int64; the noise depends only on them and the key.
        key: The key from `noise_key`.
    """
    if dtype == torch.float16:
        # Below 2^-14 the spacing of float16 is that of 2^-14; lifted there, all values are rounded in the same way.
        smallest = torch.full((), 2.0**-14, dtype=values.dtype, device=values.device)
        lift = torch.where(values.abs() < smallest, torch.copysign(smallest, values), 0.0)
        rounded = _round_bits(dtype, values + lift, places, key) - lift
        return torch.copysign(rounded, values).to(dtype)  # -0.0 stays
    return _round_bits(dtype, values, places, key).to(dtype)


def _round_bits(dtype: torch.dtype, values: Tensor, places: Tensor, key: int | Tensor) -> Tensor:
    step = 1 << NOISE_BITS[dtype]
    noise = (_mixed((places + key) & MASK) & (step - 1)).to(torch.int32)
    rounded = ((values.view(torch.int32) + noise) & -step).view(torch.float32)
    return torch.where(values.isnan(), values, rounded)  # the bits of NaN would overflow


def _mixed(x: Any) -> Any:
    """A hash of 32 bits, of an int or an int64 tensor, that spreads every bit over all of the result."""
    x = ((x ^ (x >> 16)) * 0x45D9F3B) & MASK
    x = ((x ^ (x >> 16)) * 0x45D9F3B) & MASK
    return x ^ (x >> 16)
