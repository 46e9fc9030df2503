"""Applies the pass to the parameters of a step, each by the fastest implementation for its memory layout."""

from collections.abc import Iterable, Sequence
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
"""A flat pair, the running mean of its gradients if phi reads that, and its number in the step."""
Batch = dict[tuple[torch.dtype, torch.dtype, torch.device, bool], list[Numbered]]
"""Flat pairs by the types of parameter and gradient, their device, and whether they have means: one call per key."""
_ZERO = 2.0**-150
"""The largest number that float32 rounds to 0."""
_GROUP_SIZE = 256
"""Number of tensors that are checked and pushed together; Python's data of this number fits into the cache."""


class Means(NamedTuple):
    """Running means of gradients, which phi reads instead of the gradients."""

    tensors: Sequence[Tensor | None]
    """One per pair, with the dtype of the arithmetic and the parameter's shape, or None."""
    weight: float
    """Weight of a gradient in its mean, in (0, 1]."""


class Correction:
    """Applies the correction with fixed settings.

    Parameters of 16 bits are rounded stochastically with the noise of `lossaware.correction.rounding`, which is the
    same on every rank and in every implementation.

    Args:
        xi: The stability constant of Eq. 5, above 0.
        zero_gradient: ``"push"`` moves elements whose gradient is exactly 0 by amount / xi, as in Eq. 5; ``"rest"``
            does not move them.
    """

    def __init__(self, xi: float, zero_gradient: str) -> None:
        self.xi = xi
        self.rest = zero_gradient == "rest"
        self._seed: int | Tensor = 0
        self._number = 0

    def prepare(self, parameters: Iterable[Tensor]) -> None:
        """Prepare for parameters: refuse those that cannot be pushed, and compile the C library if needed.

        Raises:
            ValueError: Elements of a parameter share memory.
        """
        parameters = [as_local(p) for p in parameters]
        refuse_shared_elements(parameters)
        if any(p.device.type == "cpu" for p in parameters):
            native.library()

    def reseed(self, seed: int | Tensor) -> None:
        """Set the seed of the rounding of parameters of 16 bits.

        Args:
            seed: Different in each step, the same on every rank; an integer, or a tensor of one element.
        """
        self._seed, self._number = seed, 0

    def apply(
        self,
        pairs: Iterable[Pair],
        amount: float | Tensor,
        *,
        maximize: bool = False,
        means: Means | None = None,
        pushes: bool = False,
    ) -> None:
        """Push each parameter against the sign of its gradient, or of the running mean of its gradients.

        Args:
            pairs: Parameters and their gradients, of equal shapes. Gradients are only read. For a sparse gradient only
                the stored rows are changed; complex tensors are treated as pairs of reals. Memory between the elements
                of a view is not changed.
            amount: gamma2 * Omega, rounded to the precision of the arithmetic, which is float64 for parameters of that
                type and float32 for others. If the result is 0, parameters do not change, even if gradients are not
                finite; an amount out of range becomes infinite. A tensor must have one element; on an accelerator it
                is not read on the host.
            maximize: Whether the base optimizer maximizes; phi then reads the negated gradient, so that the push has
                the base optimizer's direction.
            means: Running means, updated first unless the amount is 0: ``mean + weight * (g - mean)``, with each
                operation rounded. phi reads the result.
            pushes: Whether a tensor is known not to be 0 in the precision of the arithmetic (`is_push`), which saves
                the check of each element.

        Raises:
            ValueError: Shapes of a pair differ, or elements of a parameter share memory.
        """
        tracing = torch.compiler.is_compiling()
        if isinstance(amount, Tensor) and amount.device.type == "cpu" and not tracing:
            amount = float(amount)
        if not isinstance(amount, Tensor) and amount == 0.0:
            return
        weight = 0.0 if means is None else means.weight
        push = Push(amount, self.xi, maximize, self.rest, weight, pushes)
        pairs, of_pairs = list(pairs), None if means is None else means.tensors
        for start in range(0, len(pairs), _GROUP_SIZE):
            some = pairs[start : start + _GROUP_SIZE]
            some_means = None if of_pairs is None else of_pairs[start : start + _GROUP_SIZE]
            if tracing or not self._are_applied_together(some, some_means or (), push):
                self._apply_one_by_one(some, some_means or [None] * len(some), push, tracing)

    def _apply_one_by_one(
        self, pairs: Iterable[Pair], means: Iterable[Tensor | None], push: Push, tracing: bool
    ) -> None:
        batch: Batch = {}
        for (parameter, gradient), mean in zip(pairs, means, strict=True):
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
                        gradient = self._updated_mean(as_local(mean), gradient, push, self._number)
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
        """Apply to all pairs by one call, without checking each. Returns False if this is not possible."""
        if not pairs[0][0].is_cpu or (library := native.library()) is None:
            return False
        parameters, gradients = zip(*pairs, strict=True)
        table = library.table(parameters, gradients, means, self._number + 1)
        if table is None:
            return False
        self._number += len(pairs)
        dtype = parameters[0].dtype
        if not _moves(dtype, push):
            self._update_means(means, gradients, push, range(self._number - len(pairs) + 1, self._number + 1))
        else:
            rounded = dtype if not means else means[0].dtype if dtype not in NOISE_BITS else dtype
            library.push_table(table, parameters, gradients, self._seed_of(rounded), push, means)
        return True

    def _seed_of(self, dtype: torch.dtype) -> int:
        return int(self._seed) & MASK if dtype in NOISE_BITS else 0

    def _updated_mean(self, mean: Tensor, gradient: Tensor, push: Push, number: int) -> Tensor:
        """The mean, updated by the gradient unless the amount is 0; of 16 bits, before it is rounded."""
        if mean.dtype in NOISE_BITS:
            return operators.update_mean_rounded(mean, gradient, push, noise_key(self._seed, -number))
        if is_plain(mean) and not isinstance(push.amount, Tensor):
            update_mean(mean, gradient, push.weight)
        else:
            operators.update_mean_where(mean, gradient, push)
        return mean

    def _update_means(
        self, means: Sequence[Tensor], gradients: Sequence[Tensor], push: Push, numbers: Iterable[int]
    ) -> None:
        for mean, g, number in zip(means, gradients, numbers, strict=False):
            self._updated_mean(mean, g.detach(), push, number)

    def _apply_to_flat(self, batch: Batch, push: Push) -> None:
        for (dtype, of_gradient, device, _), numbered in batch.items():
            library = native.library() if device.type == "cpu" else None
            if library is not None and (dtype, of_gradient) in library.dtypes:
                parameters, gradients, means_or_none, numbers = zip(*numbered, strict=True)
                means = [mean for mean in means_or_none if mean is not None]
                if _moves(dtype, push):
                    library.push(parameters, gradients, numbers, self._seed_of(dtype), push, means)
                else:
                    self._update_means(means, gradients, push, numbers)
                continue
            with torch.no_grad():
                for p, g, mean, number in numbered:
                    read = g if mean is None else self._updated_mean(mean, g.detach(), push, number)
                    flat = flattened(p.detach(), read.detach())
                    operators.push_flat(flat.parameter, flat.gradient, push, self._key(dtype, number))

    def _apply_to_strided(self, parameter: Tensor, gradient: Tensor, push: Push, batch: Batch) -> None:
        """Apply to a dense pair that is not flat (`is_flat`): laid out by views if possible, otherwise by copies."""
        flat = flattened(parameter, gradient)
        p, g = flat.parameter, flat.gradient
        if flat.copied is None:
            batch.setdefault((p.dtype, g.dtype, p.device, False), []).append((p, g, None, self._number))
        else:  # immediately, since another parameter of the step may share the memory
            self._apply_to_flat({(p.dtype, g.dtype, p.device, False): [(p, g, None, self._number)]}, push)
            flat.copy_back()

    def _apply_to_rows(self, parameter: Tensor, gradient: Tensor, push: Push) -> None:
        """Apply to the stored rows or elements of a sparse gradient."""
        check_pair(parameter, gradient)
        gradient = gradient.to_sparse().coalesce()
        where = tuple(gradient.indices())
        rows = parameter[where]
        batch: Batch = {}
        self._apply_to_strided(rows, gradient.values(), push, batch)
        self._apply_to_flat(batch, push)
        parameter[where] = rows

    def _apply_to_whole(self, parameter: Tensor, gradient: Tensor, push: Push) -> None:
        """Apply to tensors whose memory cannot be laid out: traced by torch.compile, fake or wrapped."""
        operators.push_whole(parameter, gradient, push, self._key(parameter.dtype, self._number))

    def _key(self, dtype: torch.dtype, number: int) -> int | Tensor | None:
        return noise_key(self._seed, number) if dtype in NOISE_BITS or dtype is torch.complex32 else None


def update_mean(mean: Tensor, gradient: Tensor, weight: float) -> None:
    """``mean <- mean + weight * (gradient - mean)``, with each operation rounded.

    Args:
        mean: A plain tensor of any layout, real or complex; changed in place.
        gradient: A tensor of the same shape.
        weight: In (0, 1].
    """
    flat = flattened(mean, gradient)
    operators.update_mean_flat(flat.parameter, flat.gradient, weight)
    flat.copy_back()


def _moves(dtype: torch.dtype, push: Push) -> bool:
    """Whether the amount is not 0 in the arithmetic for a type. If it is, 0 / NaN must not change parameters."""
    return WORK[dtype] is not torch.float32 or abs(float(push.amount)) > _ZERO  # `is_push`, without the call


def is_push(amount: float) -> bool:
    """Whether an amount is not 0 in the arithmetic for any type."""
    return abs(amount) > _ZERO
