"""Applies the pass to the parameters of a step, each in the fastest way that its memory allows."""

from collections.abc import Iterable

import torch
from torch import Tensor

from lossaware.correction import native, operators
from lossaware.correction.memory import (
    Pair,
    as_local,
    check_pair,
    flattened,
    is_flat,
    is_plain,
    refuse_shared_elements,
)
from lossaware.correction.operators import Push
from lossaware.correction.rounding import MASK, NOISE_BITS, noise_key

Numbered = tuple[Tensor, Tensor, int]
"""A flat pair, and its number in the step."""
Batch = dict[tuple[torch.dtype, torch.dtype, torch.device], list[Numbered]]
"""Flat pairs by the types of parameter and gradient and their device: one call for thousands of small tensors."""


class Correction:
    """Applies the correction with fixed settings.

    Parameters of 16 bits are rounded up or down at random, so that the mean is kept. The noise, which is the same on
    every rank and by every way of computing, is that of `lossaware.correction.rounding`.

    Args:
        xi: The stability constant of Eq. 5, above 0.
        zero_gradient: ``"push"`` moves elements whose gradient is exactly 0 by amount / xi, as Eq. 5 says; ``"rest"``
            leaves them where they are.
    """

    def __init__(self, xi: float, zero_gradient: str) -> None:
        self.xi = xi
        self.rest = zero_gradient == "rest"
        self._seed: int | Tensor = 0
        self._number = 0

    def prepare(self, parameters: Iterable[Tensor]) -> None:
        """Get ready for parameters: refuse those that cannot be pushed, and compile the C library if it is needed.

        Raises:
            ValueError: Elements of a parameter share memory.
        """
        parameters = [as_local(p) for p in parameters]
        refuse_shared_elements(parameters)
        if any(p.device.type == "cpu" for p in parameters):
            native.library()

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
                the stored rows are touched; complex tensors are taken as pairs of reals. Memory between the elements of
                a view is left as it is.
            amount: gamma2 * Omega, rounded to the precision of the arithmetic, which is float64 for parameters of that
                type and float32 for others. Where that gives 0, everything stays as it is, even where gradients are not
                finite; an amount beyond the range is infinite. A tensor must have one element; on an accelerator it is
                never read on the host.
            maximize: Whether the base optimizer ascends; phi then reads the negated gradient, so that the push goes
                the base optimizer's way.

        Raises:
            ValueError: Shapes of a pair differ, or elements of a parameter share memory.
        """
        tracing = torch.compiler.is_compiling()
        if isinstance(amount, Tensor) and amount.device.type == "cpu" and not tracing:
            amount = float(amount)
        if not isinstance(amount, Tensor) and amount == 0.0:
            return
        push = Push(amount, self.xi, maximize, self.rest)
        batch: Batch = {}
        for parameter, gradient in pairs:
            self._number += 1
            if not tracing and is_flat(parameter, gradient):
                key = (parameter.dtype, gradient.dtype, parameter.device)
                if key not in batch:
                    batch[key] = []
                batch[key].append((parameter, gradient, self._number))
            else:
                with torch.no_grad():
                    parameter, gradient = as_local(parameter).detach(), as_local(gradient).detach()
                    if tracing or not is_plain(parameter):
                        check_pair(parameter, gradient)
                        self._apply_to_whole(parameter, gradient, push)
                    elif gradient.layout is torch.strided:
                        self._apply_to_strided(parameter, gradient, push, batch)
                    else:
                        self._apply_to_rows(parameter, gradient, push)
        if batch:
            self._apply_to_flat(batch, push)

    def _apply_to_flat(self, batch: Batch, push: Push) -> None:
        for (dtype, of_gradient, device), numbered in batch.items():
            library = native.library() if device.type == "cpu" else None
            if library is not None and (dtype, of_gradient) in library.dtypes:
                parameters, gradients, numbers = zip(*numbered, strict=True)
                seed = int(self._seed) & MASK if dtype in NOISE_BITS else 0
                library.push(parameters, gradients, numbers, seed, push)
                continue
            with torch.no_grad():
                for p, g, number in numbered:
                    flat = flattened(p.detach(), g.detach())
                    operators.push_flat(flat.parameter, flat.gradient, push, self._key(dtype, number))

    def _apply_to_strided(self, parameter: Tensor, gradient: Tensor, push: Push, batch: Batch) -> None:
        """A dense pair that the gate of `is_flat` keeps out: laid out by views where there are any, else by copies."""
        flat = flattened(parameter, gradient)
        p, g = flat.parameter, flat.gradient
        if flat.copied is None:
            batch.setdefault((p.dtype, g.dtype, p.device), []).append((p, g, self._number))
        else:  # at once, since another parameter of the step may lie in the same memory
            self._apply_to_flat({(p.dtype, g.dtype, p.device): [(p, g, self._number)]}, push)
            flat.copy_back()

    def _apply_to_rows(self, parameter: Tensor, gradient: Tensor, push: Push) -> None:
        """Of a sparse gradient, the stored rows or elements alone."""
        check_pair(parameter, gradient)
        gradient = gradient.to_sparse().coalesce()
        where = tuple(gradient.indices())
        rows = parameter[where]
        batch: Batch = {}
        self._apply_to_strided(rows, gradient.values(), push, batch)
        self._apply_to_flat(batch, push)
        parameter[where] = rows

    def _apply_to_whole(self, parameter: Tensor, gradient: Tensor, push: Push) -> None:
        """What has no memory to be laid out: tensors that torch.compile traces, fake and wrapped ones."""
        operators.push_whole(parameter, gradient, push, self._key(parameter.dtype, self._number))

    def _key(self, dtype: torch.dtype, number: int) -> int | Tensor | None:
        return noise_key(self._seed, number) if dtype in NOISE_BITS or dtype is torch.complex32 else None
