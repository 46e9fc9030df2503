"""Memory layout of a parameter and its gradient: the check for passes over flat memory, and conversion to them.

A pass reads and writes elements in memory order: dimensions by decreasing stride of the parameter. For a contiguous
parameter this is the usual order; for a transposed or channels_last one it is the order of its memory. `is_flat` is the
check. Other pairs are laid out by `flattened`.
"""

from collections.abc import Iterable
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.parameter import is_lazy

Pair = tuple[Tensor, Tensor]
"""A parameter and its gradient, or views of them."""

_NO_DISPATCH = Tensor.__torch_dispatch__

WORK = {
    torch.float64: torch.float64,
    torch.float32: torch.float32,
    torch.bfloat16: torch.float32,
    torch.float16: torch.float32,
    torch.complex128: torch.complex128,
    torch.complex64: torch.complex64,
    torch.complex32: torch.complex64,
}
"""The dtype of the arithmetic for each dtype of parameters."""


def is_flat(parameter: Tensor, gradient: Tensor) -> bool:
    """Whether the pair is plain dense memory in the same order, which can be read and written flat.

    It must have real numbers, not lazily negated or conjugated, on one device, and the gradient must have the
    parameter's dtype or that of its arithmetic. This runs for each tensor at each step.
    """
    return (
        # `is_plain`, without the calls.
        parameter.__class__.__torch_dispatch__ is _NO_DISPATCH
        and gradient.__class__.__torch_dispatch__ is _NO_DISPATCH
        and parameter.layout is torch.strided
        and gradient.layout is torch.strided
        and parameter.shape == gradient.shape
        and parameter.device == gradient.device
        and (gradient.dtype is parameter.dtype or gradient.dtype is WORK.get(parameter.dtype))
        and not (parameter.dtype.is_complex or parameter.is_neg() or gradient.is_neg())
        and (
            (parameter.is_contiguous() and gradient.is_contiguous())
            or (parameter.stride() == gradient.stride() and _fills_memory(parameter))
        )
    )


def is_plain(tensor: Tensor) -> bool:
    """Whether a tensor's class does not override operators, as distributed, fake and wrapped tensors do."""
    return type(tensor).__torch_dispatch__ is _NO_DISPATCH


class Flat(NamedTuple):
    """A dense pair, one-dimensional and contiguous, in the parameter's memory order."""

    parameter: Tensor
    gradient: Tensor
    copied: Tensor | None
    """If ``parameter`` is a view of a copy, that copy; otherwise None."""
    target: Tensor
    """The parameter's memory, in the shape of ``copied``."""

    def copy_back(self) -> None:
        """Write a copy back to the parameter's memory."""
        if self.copied is not None:
            self.target.copy_(self.copied)


def flattened(parameter: Tensor, gradient: Tensor) -> Flat:
    """Lay out a dense pair for a flat pass, by views if the memory allows it, otherwise by copies.

    Args:
        parameter: Real or complex, of any strides; no two elements may share memory.
        gradient: Of the same shape, of any strides, dtype and device.

    Raises:
        ValueError: The shapes differ, or elements of the parameter share memory.
    """
    check_pair(parameter, gradient)
    order = _memory_order(parameter)
    target = parameter.permute(order)
    p = target.resolve_conj().resolve_neg().contiguous()  # the same tensor, if it already has this layout
    copied = None if p is target else p
    real = as_reals(p)
    if gradient.dtype not in (p.dtype, WORK[p.dtype]):
        gradient = gradient.to(WORK[p.dtype])
    g = as_reals(gradient.to(p.device).permute(order).resolve_conj().resolve_neg().contiguous())
    return Flat(real.view(-1), g.view(-1), copied, target)


def check_pair(parameter: Tensor, gradient: Tensor) -> None:
    """Check that a pair can be pushed.

    Raises:
        ValueError: The shapes differ, only the gradient is complex, the parameter has integers, or its elements share
            memory.
    """
    if parameter.shape != gradient.shape or (gradient.is_complex() and not parameter.is_complex()):
        raise ValueError(
            "a gradient must have its parameter's shape, and be complex only where that is: got "
            f"{gradient.dtype} {tuple(gradient.shape)} for {parameter.dtype} {tuple(parameter.shape)}"
        )
    if parameter.dtype not in WORK:
        raise ValueError(f"parameters must be of {', '.join(map(str, WORK))}: got {parameter.dtype}")
    refuse_shared_elements([parameter])


def refuse_shared_elements(parameters: Iterable[Tensor]) -> None:
    """Refuse parameters whose elements share memory, because each element would be pushed several times.

    Raises:
        ValueError: There is such a parameter, for example from `torch.Tensor.expand`.
    """
    for p in parameters:
        if p.layout is torch.strided and _shares_elements(tuple(p.shape), tuple(p.stride())):
            raise ValueError(
                "elements of a parameter must not share memory, as those of an expanded tensor do: got shape "
                f"{tuple(p.shape)} with strides {tuple(p.stride())}; create the parameter from a copy, tensor.clone()"
            )


def refuse_uninitialized(parameters: Iterable[Tensor]) -> None:
    """Refuse parameters of lazy modules that have not seen an input yet.

    Raises:
        ValueError: There is such a parameter.
    """
    if any(is_lazy(p) for p in parameters):
        raise ValueError(
            "parameters must be initialized: got one of a lazy module, which has no shape before its first forward "
            "pass; attach LGA after it"
        )


def places_in_memory(parameter: Tensor) -> Tensor:
    """The positions of the elements in memory order: int64, with the parameter's shape and device."""
    order = _memory_order(parameter)
    places = torch.arange(parameter.numel(), device=parameter.device).view([parameter.shape[i] for i in order])
    return places.permute([order.index(i) for i in range(len(order))])


def as_local(tensor: Tensor) -> Tensor:
    """This rank's part of a distributed tensor; other tensors are unchanged."""
    local: Tensor = tensor.to_local() if hasattr(tensor, "to_local") else tensor
    return local


def as_reals(tensor: Tensor) -> Tensor:
    """A view of complex numbers as pairs of reals, which a pass treats as separate elements; reals are unchanged."""
    return torch.view_as_real(tensor) if tensor.is_complex() else tensor


def _memory_order(tensor: Tensor) -> tuple[int, ...]:
    """The dimensions by decreasing stride."""
    strides = tensor.stride()
    return tuple(sorted(range(len(strides)), key=strides.__getitem__, reverse=True))


def _fills_memory(tensor: Tensor) -> bool:
    """Whether the elements fill their memory without gaps and overlaps, in any order."""
    filled = 1
    for stride, size in sorted(zip(tensor.stride(), tensor.shape, strict=True)):
        if size != 1:
            if stride != filled:
                return False
            filled *= size
    return True


def _shares_elements(shape: tuple[int, ...], strides: tuple[int, ...]) -> bool:
    if 0 in shape:
        return False
    reach = 0  # the last element of the dimensions so far
    for stride, size in sorted((stride, size) for stride, size in zip(strides, shape, strict=True) if size > 1):
        if stride == 0:
            return True
        if stride <= reach:
            break
        reach += stride * (size - 1)
    else:
        return False
    # Nested dimensions, as from `torch.Tensor.as_strided`: compare the positions.
    places = torch.zeros((), dtype=torch.int64, device="cpu")
    for stride, size in zip(strides, shape, strict=True):
        places = places[..., None] + torch.arange(size, device="cpu") * stride
    return bool((places.flatten().sort().values.diff() == 0).any())
