"""Applies the pass to the parameters of a step, each in the fastest way that its memory allows."""

from collections.abc import Iterable, Sequence
from itertools import repeat
from typing import Any, NamedTuple

import torch
from torch import Tensor

from lossaware.correction import native, operators
from lossaware.correction.memory import (
    WORK,
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

Numbered = tuple[Tensor, Tensor, Tensor | None, int]
"""A flat pair, the mean of its gradients where phi reads that, and its number in the step."""
Batch = dict[tuple[torch.dtype, torch.dtype, torch.device, bool], list[Numbered]]
"""Flat pairs by the types of parameter and gradient, their device, and whether there are means: one call for each."""
_ZERO = 2.0**-150
"""The largest amount that float32 rounds to 0."""
_TOGETHER = 256
"""Tensors that are looked at, and pushed, together: what Python knows of so many stays in the cache."""


class Means(NamedTuple):
    """Running means of gradients, which phi reads in place of these."""

    tensors: Sequence[Tensor | None]
    """One for each pair, in the dtype of the arithmetic and the shape of the parameter; None where there is none."""
    weight: float
    """Of a gradient in its mean, above 0 and at most 1."""


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

    def apply(
        self, pairs: Iterable[Pair], amount: float | Tensor, *, maximize: bool = False, means: Means | None = None
    ) -> None:
        """Push each parameter along its gradient, or along the mean of its gradients.

        Args:
            pairs: Parameters and their gradients, of equal shapes. Gradients are only read. Of a sparse gradient only
                the stored rows are touched; complex tensors are taken as pairs of reals. Memory between the elements of
                a view is left as it is.
            amount: gamma2 * Omega, rounded to the precision of the arithmetic, which is float64 for parameters of that
                type and float32 for others. Where that gives 0, parameters stay as they are, even where gradients are
                not finite; an amount beyond the range is infinite. A tensor must have one element; on an accelerator it
                is never read on the host.
            maximize: Whether the base optimizer ascends; phi then reads the negated gradient, so that the push goes
                the base optimizer's way.
            means: Means that take the gradients in first, unless the amount is 0: ``mean + weight * (g - mean)``, each
                operation rounded. phi reads the result.

        Raises:
            ValueError: Shapes of a pair differ, or elements of a parameter share memory.
        """
        tracing = torch.compiler.is_compiling()
        if isinstance(amount, Tensor) and amount.device.type == "cpu" and not tracing:
            amount = float(amount)
        if not isinstance(amount, Tensor) and amount == 0.0:
            return
        push = Push(amount, self.xi, maximize, self.rest, 0.0 if means is None else means.weight)
        pairs, of_pairs = list(pairs), None if means is None else means.tensors
        for start in range(0, len(pairs), _TOGETHER):
            some = pairs[start : start + _TOGETHER]
            found = None if of_pairs is None else of_pairs[start : start + _TOGETHER]
            if tracing or not self._are_applied_together(some, found or (), push):
                self._apply_one_by_one(some, found or repeat(None), push, tracing)

    def _apply_one_by_one(
        self, pairs: Iterable[Pair], means: Iterable[Tensor | None], push: Push, tracing: bool
    ) -> None:
        batch: Batch = {}
        for (parameter, gradient), mean in zip(pairs, means, strict=False):
            self._number += 1
            if (
                not tracing
                and is_flat(parameter, gradient)
                and (mean is None or (is_flat(parameter, mean) and mean.dtype is WORK[parameter.dtype]))
            ):
                key = (parameter.dtype, gradient.dtype, parameter.device, mean is not None)
                if key not in batch:
                    batch[key] = []
                batch[key].append((parameter, gradient, mean, self._number))
            else:
                with torch.no_grad():
                    parameter, gradient = as_local(parameter).detach(), as_local(gradient).detach()
                    if mean is not None:
                        gradient = _taken_in(as_local(mean), gradient, push)
                    if tracing or not is_plain(parameter):
                        check_pair(parameter, gradient)
                        self._apply_to_whole(parameter, gradient, push)
                    elif gradient.layout is torch.strided:
                        self._apply_to_strided(parameter, gradient, push, batch)
                    else:
                        self._apply_to_rows(parameter, gradient, push)
        if batch:
            self._apply_to_flat(batch, push)

    def _are_applied_together(self, pairs: Sequence[Pair], means: Sequence[Any], push: Push) -> bool:
        """Apply to all pairs without a look at each, if they are that much alike."""
        if not pairs[0][0].is_cpu or (library := native.library()) is None:
            return False
        parameters, gradients = zip(*pairs, strict=True)
        table = library.table(parameters, gradients, means, self._number + 1)
        if table is None:
            return False
        self._number += len(pairs)
        dtype = parameters[0].dtype
        if not _moves(dtype, push):
            _take_all_in(means, gradients, push)
        else:
            library.push_table(table, parameters, gradients, self._seed_of(dtype), push, means)
        return True

    def _seed_of(self, dtype: torch.dtype) -> int:
        return int(self._seed) & MASK if dtype in NOISE_BITS else 0

    def _apply_to_flat(self, batch: Batch, push: Push) -> None:
        for (dtype, of_gradient, device, _), numbered in batch.items():
            library = native.library() if device.type == "cpu" else None
            if library is not None and (dtype, of_gradient) in library.dtypes:
                parameters, gradients, found, numbers = zip(*numbered, strict=True)
                means = [mean for mean in found if mean is not None]
                if _moves(dtype, push):
                    library.push(parameters, gradients, numbers, self._seed_of(dtype), push, means)
                else:
                    _take_all_in(means, gradients, push)
                continue
            with torch.no_grad():
                for p, g, mean, number in numbered:
                    read = g if mean is None else _taken_in(mean, g.detach(), push)
                    flat = flattened(p.detach(), read.detach())
                    operators.push_flat(flat.parameter, flat.gradient, push, self._key(dtype, number))

    def _apply_to_strided(self, parameter: Tensor, gradient: Tensor, push: Push, batch: Batch) -> None:
        """A dense pair that the gate of `is_flat` keeps out: laid out by views where there are any, else by copies."""
        flat = flattened(parameter, gradient)
        p, g = flat.parameter, flat.gradient
        if flat.copied is None:
            batch.setdefault((p.dtype, g.dtype, p.device, False), []).append((p, g, None, self._number))
        else:  # at once, since another parameter of the step may lie in the same memory
            self._apply_to_flat({(p.dtype, g.dtype, p.device, False): [(p, g, None, self._number)]}, push)
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


def take_in(mean: Tensor, gradient: Tensor, weight: float) -> None:
    """``mean <- mean + weight * (gradient - mean)``, each operation rounded.

    Args:
        mean: A plain tensor of any layout, real or complex; moved in place.
        gradient: Of its shape.
        weight: Above 0, at most 1.
    """
    flat = flattened(mean, gradient)
    operators.take_in_flat(flat.parameter, flat.gradient, weight)
    flat.copy_back()


def _taken_in(mean: Tensor, gradient: Tensor, push: Push) -> Tensor:
    """The mean, with the gradient taken in unless the amount is 0."""
    if is_plain(mean) and not isinstance(push.amount, Tensor):
        take_in(mean, gradient, push.weight)
    else:
        operators.take_in_where(mean, gradient, push.weight, push.amount)
    return mean


def _take_all_in(means: Sequence[Tensor], gradients: Sequence[Tensor], push: Push) -> None:
    for mean, g in zip(means, gradients, strict=False):
        _taken_in(mean, g.detach(), push)


def _moves(dtype: torch.dtype, push: Push) -> bool:
    """Whether the amount is not 0 in the arithmetic for a type: 0 / NaN is none."""
    return WORK[dtype] is not torch.float32 or abs(float(push.amount)) > _ZERO
