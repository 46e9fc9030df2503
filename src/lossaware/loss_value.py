"""A loss as one number, on the host or on an accelerator."""

import numbers
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

LossValue = float | Tensor
"""A Python float if the host has the number, otherwise a zero-dimensional float64 tensor on the accelerator."""


def read_loss(loss: Any, optimizer: Optimizer | None = None) -> LossValue:
    """The loss as one number, without waiting for an accelerator.

    Args:
        loss: A real number, or a tensor of one element, of any device and any dtype except complex.
        optimizer: If all its parameters are on the device meta, as in a dry run, the loss may be there too.

    Raises:
        ValueError: A tensor of several elements or none, of complex numbers, or without a value.
        TypeError: Anything else.
    """
    if isinstance(loss, Tensor):
        usual = type(loss) is Tensor and loss.is_cpu and loss.numel() == 1 and loss.is_floating_point()
        if usual and not torch.compiler.is_compiling():
            return float(loss.item())  # the fast path, as this runs at each step
        if loss.numel() != 1 or loss.is_complex():
            raise ValueError(
                f"the loss must be one real number: got a tensor of shape {tuple(loss.shape)} and {loss.dtype}; "
                "reduce it first, for example by loss.mean()"
            )
        if loss.is_meta and not _is_without_values(optimizer):
            raise ValueError(f"the loss must have a value: got a tensor on the device {loss.device}")
        loss = loss.detach()
        if hasattr(loss, "full_tensor"):  # a distributed tensor
            loss = loss.full_tensor()
        assert isinstance(loss, Tensor)
        if loss.device.type == "cpu" and not torch.compiler.is_compiling():
            return float(loss)
        # Always a copy, since the loss may be changed in place afterwards.
        return loss.reshape(()).to(wide(loss.device), copy=True)
    if isinstance(loss, numbers.Real):
        return float(loss)
    raise TypeError(f"the loss must be a number or a tensor of one element: got {type(loss).__name__}")


def wide(device: torch.device) -> torch.dtype:
    """The device's floating-point type for losses and values derived from them."""
    return torch.float32 if device.type == "mps" else torch.float64  # Apple's GPUs have no float64


def _is_without_values(optimizer: Optimizer | None) -> bool:
    return optimizer is not None and all(p.is_meta for group in optimizer.param_groups for p in group["params"])
