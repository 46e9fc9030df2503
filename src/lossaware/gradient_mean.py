"""Running means of the gradients, which phi reads where gamma2 sets itself."""

from collections.abc import Iterable

import torch
from torch import Tensor
from torch.optim import Optimizer

from lossaware.correction import Pair, as_local

MEAN = "lossaware_mean"
"""Its name in the optimizer's state."""


class GradientMean:
    """One mean a parameter, kept in the optimizer's state: its checkpoints have it, whole or sharded, as their own.

    A mean takes in the gradients of the steps that push, and no others: where the loss is not finite or a gradient
    scaler has found an overflow, the gradients are worth nothing.

    Args:
        momentum: Weight of the earlier gradients, in [0, 1).
    """

    def __init__(self, momentum: float) -> None:
        self._weight = 1 - momentum

    def of(self, optimizer: Optimizer, parameter: Tensor, gradient: Tensor) -> Tensor | None:
        """The mean of a parameter's gradients, 0 before the first; none of sparse gradients, whose rows come and go.

        To be called after the optimizer's step: most make their state only where a parameter has none yet.
        """
        if gradient.is_sparse:
            return None
        state = optimizer.state[parameter]
        if MEAN not in state:
            state[MEAN] = torch.zeros_like(parameter, requires_grad=False)
        mean: Tensor = state[MEAN]
        return mean

    def make(self, optimizer: Optimizer, parameters: Iterable[Tensor]) -> None:
        """Have all means that those with a gradient need, so that a checkpoint finds the place to load into."""
        for p in parameters:
            if p.grad is not None:
                self.of(optimizer, p, p.grad)

    def take_in(self, optimizer: Optimizer, pairs: list[Pair], amount: float | Tensor) -> list[Pair]:
        """Move the means of a step that pushes.

        Args:
            optimizer: The base optimizer.
            pairs: Parameters and their gradients.
            amount: What the step pushes by; where a tensor of one element is 0, the means stay as they are.

        Returns:
            Parameters, and what phi is to read: the means, or the gradients that have none.
        """
        read: list[Pair] = []
        means: list[Tensor] = []
        gradients: list[Tensor] = []
        with torch.no_grad():
            for p, g in pairs:
                mean = self.of(optimizer, p, g)
                read.append((p, g if mean is None else mean))
                if mean is not None:
                    means.append(as_local(mean))
                    gradients.append(as_local(g).to(mean.dtype))
            if isinstance(amount, Tensor):
                for mean, g in zip(means, gradients, strict=True):
                    moved = torch.lerp(mean, g, self._weight)
                    mean.copy_(torch.where(amount.to(mean.device) != 0, moved, mean))
            elif means:
                torch._foreach_lerp_(means, gradients, self._weight)
        return read
