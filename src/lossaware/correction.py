"""The parameter pass of LGA: p <- p - amount / phi(g), in place (Eq. 2 and Eq. 5).

phi(g) = g + xi where g >= 0, g - xi elsewhere; so 1 / phi(g) = sign(g) / (|g| + xi) with sign(0) = +1.
Nothing here knows of losses: ``amount`` is gamma2 * Omega of the step, as a number or as a tensor on the device.
"""

from collections.abc import Iterable

import torch
from torch import Tensor

_BLOCK_BYTES = {"cpu": 1 << 18}
"""Size of the scratch buffer by device type: on a CPU block, gradient and parameter stay in the cache together."""
_DEFAULT_BLOCK_BYTES = 1 << 24

_NOISE_BITS = {torch.bfloat16: 16, torch.float16: 13}
"""Mantissa bits of float32 that the type lacks."""


class Correction:
    """Applies the correction with fixed settings, and holds the scratch buffers that it reuses.

    Args:
        xi: The stability constant of Eq. 5, above 0.
        zero_gradient: ``"push"`` moves elements whose gradient is exactly 0 by amount / xi, as Eq. 5 says; ``"rest"``
            leaves them where they are.
    """

    def __init__(self, xi: float, zero_gradient: str) -> None:
        self.xi = xi
        self.rest = zero_gradient == "rest"
        self._buffers: dict[tuple[torch.device, torch.dtype], Tensor] = {}
        self._generators: dict[torch.device, torch.Generator] = {}
        self._seed = 0

    def reseed(self, seed: int) -> None:
        """Decide the rounding of parameters of 16 bits; use another seed each step, the same on every rank."""
        self._seed = seed
        for generator in self._generators.values():
            generator.manual_seed(seed)

    @torch.no_grad()
    def apply(self, pairs: Iterable[tuple[Tensor, Tensor]], amount: float | Tensor, *, maximize: bool = False) -> None:
        """Push each parameter along its gradient.

        Args:
            pairs: Parameters and their gradients, of equal shapes. Gradients are only read. Of a sparse gradient only
                the stored rows are touched; complex tensors are taken as pairs of reals.
            amount: gamma2 * Omega. A tensor must have one element; it is never read on the host.
            maximize: Whether the base optimizer ascends; phi then reads the negated gradient, so that the push goes
                the base optimizer's way.
        """
        for parameter, gradient in pairs:
            parameter, gradient = _local(parameter), _local(gradient)
            if gradient.is_sparse:
                gradient = gradient.coalesce()
                where = tuple(gradient.indices())
                rows = parameter[where]
                self._push(rows, gradient.values(), amount, maximize)
                parameter[where] = rows
            else:
                self._push(parameter, gradient, amount, maximize)

    def _push(self, parameter: Tensor, gradient: Tensor, amount: float | Tensor, maximize: bool) -> None:
        if parameter.is_complex():
            parameter, gradient = torch.view_as_real(parameter), torch.view_as_real(gradient)
        p, g = _flatten(parameter, gradient)
        work = torch.promote_types(p.dtype, torch.float32)
        if isinstance(amount, Tensor):
            amount = amount.to(device=p.device, dtype=work)
        buffer = self._buffer(p.device, work)
        noisy = p.dtype in _NOISE_BITS
        for start in range(0, p.numel(), buffer.numel()):
            block, grad = p[start : start + buffer.numel()], g[start : start + buffer.numel()]
            push = self._over_phi(amount, grad, maximize, buffer[: block.numel()])
            if noisy:
                torch.sub(block, push, out=push)
                block.copy_(self._round_stochastically(push, p.dtype))
            else:
                block.sub_(push)
        if p.data_ptr() != parameter.data_ptr():  # no flat view of the parameter exists: `p` is a copy
            parameter.copy_(p.view_as(parameter))

    def _over_phi(self, amount: float | Tensor, g: Tensor, maximize: bool, out: Tensor) -> Tensor:
        """``amount / phi(g)``, or ``amount / phi(-g)`` to maximize, written to ``out``."""
        sign = -1 if maximize else 1
        torch.mul(g, sign, out=out).add_(0.0)  # -0.0 becomes 0.0, whose sign is +
        phi = torch.copysign(self._constant(self.xi, out), out, out=out).add_(g, alpha=sign)
        if isinstance(amount, Tensor):
            torch.div(amount, phi, out=out)
        else:
            torch.div(self._constant(amount, out), phi, out=out)
        if self.rest:
            out.mul_(g != 0)
        return out

    @staticmethod
    def _constant(value: float, like: Tensor) -> Tensor:
        return torch.full((), value, dtype=like.dtype, device=like.device)

    def _buffer(self, device: torch.device, dtype: torch.dtype) -> Tensor:
        key = (device, dtype)
        if key not in self._buffers:
            size = _BLOCK_BYTES.get(device.type, _DEFAULT_BLOCK_BYTES) // dtype.itemsize
            self._buffers[key] = torch.empty(size, dtype=dtype, device=device)
        return self._buffers[key]

    def _round_stochastically(self, values: Tensor, dtype: torch.dtype) -> Tensor:
        """Round float32 values to 16 bits, up or down at random, so that the mean is kept.

        A push is mostly far below half a unit in the last place of the parameter; rounding to nearest would lose it.
        """
        if values.device not in self._generators:
            self._generators[values.device] = torch.Generator(values.device).manual_seed(self._seed)
        step = 1 << _NOISE_BITS[dtype]
        bits = values.view(torch.int32)
        noise = torch.randint(
            step, bits.shape, dtype=torch.int32, device=bits.device, generator=self._generators[values.device]
        )
        return bits.add_(noise).bitwise_and_(-step).view(torch.float32).to(dtype)


def _local(tensor: Tensor) -> Tensor:
    """This rank's part of a distributed tensor; other tensors as they are."""
    local: Tensor = tensor.to_local() if hasattr(tensor, "to_local") else tensor
    return local.detach()


def _flatten(parameter: Tensor, gradient: Tensor) -> tuple[Tensor, Tensor]:
    """Both as one-dimensional tensors in the same order; views wherever the memory allows it."""
    if parameter.is_contiguous() and gradient.is_contiguous():
        return parameter.view(-1), gradient.view(-1)
    # Memory formats such as channels_last are dense too, in another order of dimensions.
    order = sorted(range(parameter.dim()), key=parameter.stride, reverse=True)
    if parameter.permute(order).is_contiguous():
        return parameter.permute(order).view(-1), gradient.permute(order).reshape(-1)
    return parameter.reshape(-1), gradient.reshape(-1)
