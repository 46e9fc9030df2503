"""The parameter pass of LGA: p <- p - amount / phi(g), in place (Eq. 2 and Eq. 5).

phi(g) = g + xi where g >= 0, g - xi elsewhere; so 1 / phi(g) = sign(g) / (|g| + xi) with sign(0) = +1.
Nothing here knows of losses: ``amount`` is gamma2 * Omega of the step, as a number or as a tensor on the device.

One pass, several ways, the same bits: compiled C on a CPU (`lossaware.native`), else torch's operators in blocks that
fit the cache; whole lists of tensors an operator on accelerators; and where torch.compile traces, an expression that it
fuses with its surroundings.
"""

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from lossaware import native

_BLOCK_BYTES = 1 << 18
"""Size of the scratch buffer: on a CPU block, gradient and parameter stay in the cache together."""
_LIST_BYTES = 1 << 26
"""Size of the temporaries on an accelerator."""

NOISE_BITS = {torch.bfloat16: 16, torch.float16: 13}
"""Mantissa bits of float32 that the type lacks."""
_MASK = (1 << 32) - 1

_PLAIN = (Tensor, torch.nn.Parameter)
"""Classes whose memory is what it seems; others are distributed, fake, or wrapped."""

Pair = tuple[Tensor, Tensor]
"""A parameter and its gradient, or views of them."""


class Correction:
    """Applies the correction with fixed settings, and holds the scratch buffers that it reuses.

    Parameters of 16 bits are rounded up or down at random, so that the mean is kept: a push is mostly far below half a
    unit in their last place, and rounding to nearest would lose it. The noise is a hash of the step, the number of the
    tensor and the place in it, so every rank and every way of computing draws the same.

    Args:
        xi: The stability constant of Eq. 5, above 0.
        zero_gradient: ``"push"`` moves elements whose gradient is exactly 0 by amount / xi, as Eq. 5 says; ``"rest"``
            leaves them where they are.
    """

    def __init__(self, xi: float, zero_gradient: str) -> None:
        self.xi = xi
        self.rest = zero_gradient == "rest"
        self._buffers: dict[torch.dtype, Tensor] = {}
        self._seed: int | Tensor = 0
        self._number = 0

    def reseed(self, seed: int | Tensor) -> None:
        """Decide the rounding of parameters of 16 bits from here on.

        Args:
            seed: Another each step, the same on every rank; a whole number, or a tensor of one.
        """
        self._seed, self._number = seed, 0

    def apply(self, pairs: Iterable[Pair], amount: float | Tensor, *, maximize: bool = False) -> None:
        """Push each parameter along its gradient.

        Args:
            pairs: Parameters and their gradients, of equal shapes. Gradients are only read. Of a sparse gradient only
                the stored rows are touched; complex tensors are taken as pairs of reals.
            amount: gamma2 * Omega; 0 leaves everything as it is, even where gradients are not finite. A tensor must
                have one element; on an accelerator it is never read on the host.
            maximize: Whether the base optimizer ascends; phi then reads the negated gradient, so that the push goes
                the base optimizer's way.
        """
        tracing = torch.compiler.is_compiling()
        if isinstance(amount, Tensor) and amount.device.type == "cpu" and not tracing:
            amount = float(amount)
        if isinstance(amount, float) and amount == 0.0:
            return
        batch = _Batch(self, amount, maximize)
        for parameter, gradient in pairs:
            self._number += 1
            if tracing and not gradient.is_sparse:
                with torch.no_grad():
                    self._trace(
                        _as_reals(as_local(parameter).detach()),
                        _as_reals(as_local(gradient).detach()),
                        amount,
                        maximize,
                    )
            elif (
                parameter.__class__ in _PLAIN
                and gradient.__class__ in _PLAIN
                and gradient.layout is torch.strided
                and (
                    (parameter.is_contiguous() and gradient.is_contiguous()) or _are_channels_last(parameter, gradient)
                )
                and not (parameter.dtype.is_complex or parameter.is_neg() or gradient.is_neg())
            ):
                batch.add(parameter, gradient, self._number)
            else:
                with torch.no_grad():
                    self._apply_to_views(batch, as_local(parameter).detach(), as_local(gradient).detach())
        batch.run()

    def _apply_to_views(self, batch: "_Batch", parameter: Tensor, gradient: Tensor) -> None:
        """What is no plain dense tensor: by views where there are any, else by copies."""
        if gradient.is_sparse:
            gradient = gradient.coalesce()
            where = tuple(gradient.indices())
            rows, values = parameter[where], gradient.values().resolve_conj().resolve_neg()
            rows = rows.resolve_conj().resolve_neg()
            batch.run_alone(_as_reals(rows).view(-1), _as_reals(values).reshape(-1), self._number)
            parameter[where] = rows
            return
        # Memory holds other values than a tensor that is negated or conjugated lazily.
        gradient = _as_reals(gradient.resolve_conj().resolve_neg())
        if parameter.is_conj() or parameter.is_neg():
            moved = parameter.resolve_conj().resolve_neg()
            batch.run_alone(*_flatten(_as_reals(moved), gradient), self._number)
            parameter.copy_(moved)
            return
        parameter = _as_reals(parameter)
        p, g = _flatten(parameter, gradient)
        if p.data_ptr() != parameter.data_ptr():
            batch.run_alone(p, g, self._number)
            parameter.copy_(p.view_as(parameter))
        elif p.is_contiguous():
            batch.add(p, g, self._number)
        else:  # a view with gaps, whose neighbours in memory belong to others
            batch.run_alone(p, g, self._number)

    # torch.compile ----------------------------------------------------------------------------------------------------

    def _trace(self, p: Tensor, g: Tensor, amount: float | Tensor, maximize: bool) -> None:
        work = torch.promote_types(p.dtype, torch.float32)
        d = (-g if maximize else g).to(work)
        size = amount.to(device=p.device, dtype=work) if isinstance(amount, Tensor) else _constant(amount, d)
        push = size / torch.where(d >= 0, d + self.xi, d - self.xi)
        push = torch.where((size == 0) | (d == 0) if self.rest else size == 0, 0.0, push)
        if p.dtype in NOISE_BITS:
            places = torch.arange(p.numel(), device=p.device).view(p.shape)
            p.copy_(_round(p.to(work) - push, places, self._key(self._number), p.dtype))
        else:
            p.sub_(push)

    # torch's operators ------------------------------------------------------------------------------------------------

    def _push_in_blocks(self, p: Tensor, g: Tensor, number: int, amount: float | Tensor, maximize: bool) -> None:
        work = torch.promote_types(p.dtype, torch.float32)
        if isinstance(amount, Tensor):
            amount = amount.to(device=p.device, dtype=work)
        buffer = self._buffer(p.device, work) if p.device.type == "cpu" else torch.empty_like(p, dtype=work)
        size = max(buffer.numel() // (4 if p.dtype in NOISE_BITS else 1), 1)  # the noise needs room, too
        for start in range(0, p.numel(), size):
            block, grad = p[start : start + size], g[start : start + size]
            push = self._over_phi(amount, grad, maximize, buffer[: block.numel()])
            if p.dtype in NOISE_BITS:
                places = torch.arange(start, start + block.numel(), device=p.device)
                block.copy_(_round(torch.sub(block, push, out=push), places, self._key(number), p.dtype))
            else:
                block.sub_(push)

    def _over_phi(self, amount: float | Tensor, g: Tensor, maximize: bool, out: Tensor) -> Tensor:
        """``amount / phi(g)``, or ``amount / phi(-g)`` to maximize, written to ``out``."""
        sign = -1 if maximize else 1
        torch.mul(g, sign, out=out).add_(0.0)  # -0.0 becomes 0.0, whose sign is +
        phi = torch.copysign(_constant(self.xi, out), out, out=out).add_(g, alpha=sign)
        torch.div(amount if isinstance(amount, Tensor) else _constant(amount, out), phi, out=out)
        if self.rest:
            out.mul_(g != 0)
        if isinstance(amount, Tensor):
            out.masked_fill_(amount == 0, 0.0)  # 0 / NaN is none
        return out

    def _push_lists(self, pairs: Sequence[Pair], amount: float | Tensor, maximize: bool) -> None:
        """An operator for many tensors at once: where each launch takes longer than the work of a small tensor."""
        amount = amount.to(pairs[0][0]) if isinstance(amount, Tensor) else amount
        for some in _portions(pairs):
            parameters, gradients = [p for p, _ in some], [g for _, g in some]
            signs = torch._foreach_sign(gradients)
            if maximize:
                torch._foreach_neg_(signs)
            if not self.rest:  # the sign of 0 is +
                torch._foreach_add_(signs, 0.5)
                torch._foreach_sign_(signs)
            sizes = torch._foreach_abs(gradients)
            torch._foreach_add_(sizes, self.xi)
            torch._foreach_mul_(signs, amount)
            torch._foreach_div_(signs, sizes)
            if isinstance(amount, Tensor):
                for push in signs:
                    push.masked_fill_(amount == 0, 0.0)  # 0 / NaN is none
            torch._foreach_sub_(parameters, signs)

    def _buffer(self, device: torch.device, dtype: torch.dtype) -> Tensor:
        if dtype not in self._buffers:
            self._buffers[dtype] = torch.empty(_BLOCK_BYTES // dtype.itemsize, dtype=dtype, device=device)
        return self._buffers[dtype]

    def _key(self, number: int) -> int | Tensor:
        """The key of the noise of a tensor in this step."""
        seed = self._seed.to(torch.int64) if isinstance(self._seed, Tensor) else self._seed
        key: int | Tensor = _mixed((_mixed(seed & _MASK) + number * 0x9E3779B9) & _MASK)
        return key


class _Batch:
    """Pairs of flat dense tensors that are worked off together: one call for thousands of small ones."""

    def __init__(self, correction: Correction, amount: float | Tensor, maximize: bool) -> None:
        self._correction = correction
        self._amount = amount
        self._maximize = maximize
        self._held: dict[tuple[torch.dtype, torch.device], list[tuple[Tensor, Tensor, int]]] = {}

    def add(self, p: Tensor, g: Tensor, number: int) -> None:
        """Take in tensors of equal shape that fill their memory in the same order; `run` moves the first in place."""
        dtype, device = key = (p.dtype, p.device)
        if g.dtype is not dtype or g.device != device:
            self.run_alone(p, g, number)
            return
        if key not in self._held:
            self._held[key] = []
        self._held[key].append((p, g, number))

    def run_alone(self, p: Tensor, g: Tensor, number: int) -> None:
        """Move one parameter now."""
        with torch.no_grad():
            p, g = _flatten(p, g)
            self._correction._push_in_blocks(p, g, number, self._amount, self._maximize)

    def run(self) -> None:
        """Move all that was added."""
        for (dtype, device), held in self._held.items():
            parameters, gradients, numbers = zip(*held, strict=True)
            noisy = dtype in NOISE_BITS
            if device.type == "cpu" and (library := native.library()) is not None and dtype in library.dtypes:
                library.push(
                    parameters,
                    gradients,
                    numbers,
                    int(self._correction._seed) & _MASK if noisy else 0,
                    float(self._amount),
                    self._correction.xi,
                    maximize=self._maximize,
                    rest=self._correction.rest,
                )
            elif device.type == "cpu" or noisy:
                for p, g, number in held:
                    self.run_alone(p, g, number)
            else:
                with torch.no_grad():
                    flat = [_flatten(p, g) for p, g, _ in held]
                    self._correction._push_lists(flat, self._amount, self._maximize)
        self._held = {}


def _mixed(x: Any) -> Any:
    """A hash of 32 bits, of an int or an int64 tensor, that spreads every bit over all of the result."""
    x = ((x ^ (x >> 16)) * 0x45D9F3B) & _MASK
    x = ((x ^ (x >> 16)) * 0x45D9F3B) & _MASK
    return x ^ (x >> 16)


def _round(values: Tensor, places: Tensor, key: int | Tensor, dtype: torch.dtype) -> Tensor:
    """Round float32 values to 16 bits, up or down at random, so that the mean is kept.

    Args:
        values: What to round.
        places: Their numbers in the tensor, as int64; the noise depends on them and the key alone.
        key: From 0 to 2^32 - 1.
        dtype: bfloat16 or float16.
    """
    if dtype == torch.float16:
        # Below 2^-14 the spacing of float16 stays that of 2^-14; lifted there, all values round alike.
        lift = torch.where(values.abs() < 2.0**-14, torch.copysign(_constant(2.0**-14, values), values), 0.0)
        return (_round_bits(values + lift, places, key, dtype) - lift).to(dtype)
    return _round_bits(values, places, key, dtype).to(dtype)


def _round_bits(values: Tensor, places: Tensor, key: int | Tensor, dtype: torch.dtype) -> Tensor:
    step = 1 << NOISE_BITS[dtype]
    noise = (_mixed((places + key) & _MASK) & (step - 1)).to(torch.int32)
    rounded = ((values.view(torch.int32) + noise) & -step).view(torch.float32)
    return torch.where(values.isnan(), values, rounded)  # the bits of NaN would run over


def _constant(value: float, like: Tensor) -> Tensor:
    return torch.full((), value, dtype=like.dtype, device=like.device)


def _portions(pairs: Sequence[Pair]) -> Iterable[list[Pair]]:
    """Flat pairs, in parts whose gradients have up to `_LIST_BYTES` together; larger tensors are cut."""
    portion: list[Pair] = []
    room = _LIST_BYTES
    for whole_p, whole_g in pairs:
        size = _LIST_BYTES // whole_p.element_size()
        for p, g in zip(torch.split(whole_p, size), torch.split(whole_g, size), strict=True):
            bytes_needed = p.numel() * p.element_size()
            if portion and bytes_needed > room:
                yield portion
                portion, room = [], _LIST_BYTES
            portion.append((p, g))
            room -= bytes_needed
    if portion:
        yield portion


def as_local(tensor: Tensor) -> Tensor:
    """This rank's part of a distributed tensor; other tensors as they are."""
    local: Tensor = tensor.to_local() if hasattr(tensor, "to_local") else tensor
    return local


def _as_reals(tensor: Tensor) -> Tensor:
    return torch.view_as_real(tensor) if tensor.is_complex() else tensor


def _are_channels_last(parameter: Tensor, gradient: Tensor) -> bool:
    """Whether both fill their memory in the same order, which is not the usual one."""
    return any(
        parameter.is_contiguous(memory_format=layout) and gradient.is_contiguous(memory_format=layout)
        for layout in (torch.channels_last, torch.channels_last_3d)
    )


def _flatten(parameter: Tensor, gradient: Tensor) -> Pair:
    """Both as one-dimensional tensors in the same order; views wherever the memory allows it."""
    if parameter.is_contiguous() and gradient.is_contiguous():
        return parameter.view(-1), gradient.view(-1)
    # Memory formats such as channels_last are dense too, in another order of dimensions.
    order = sorted(range(parameter.dim()), key=parameter.stride, reverse=True)
    if parameter.permute(order).is_contiguous():
        return parameter.permute(order).view(-1), gradient.permute(order).reshape(-1).contiguous()
    return parameter.reshape(-1), gradient.reshape(-1).contiguous()
