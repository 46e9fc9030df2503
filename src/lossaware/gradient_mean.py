"""Running means of the gradients, which phi reads if gamma2 adapts by itself."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from lossaware.correction import WORK, Means, Pair, as_local, update_mean

MEAN = "lossaware_mean"
"""The key in the optimizer's state."""


class GradientMean:
    """One mean per parameter, in the optimizer's state and therefore in its checkpoints, whole or sharded.

    Means of parameters of 16 bits are float32, since in float16 a tenth of a small gradient is 0, and a zero mean does
    not push. On request all are bfloat16, which has the range of float32, and are rounded stochastically. A mean is
    only updated in steps with a push: if the loss is not finite or a gradient scaler has found an overflow, the
    gradients are not usable.

    Args:
        momentum: Weight of the earlier gradients, in [0, 1).
        dtype: See ``mean_dtype`` of `lossaware.AutoGamma2`.
    """

    def __init__(self, momentum: float, dtype: str | None = None) -> None:
        self._weight = 1 - momentum
        self._narrow: torch.dtype | None = None if dtype is None else getattr(torch, dtype)

    def check(self, parameters: Iterable[Tensor]) -> None:
        """Refuse parameters whose means cannot be stored in the chosen dtype.

        Raises:
            ValueError: There is such a parameter.
        """
        for p in parameters:
            if self._narrow is not None and WORK.get(p.dtype) is not torch.float32:
                raise ValueError(
                    f"mean_dtype 'bfloat16' is for parameters of float32, bfloat16 and float16: got {p.dtype}; "
                    "leave it out"
                )

    def of(self, optimizer: Optimizer, parameter: Tensor, gradient: Tensor) -> Tensor | None:
        """The mean of a parameter's gradients, 0 before the first; None for sparse gradients, whose rows vary.

        Call it after the optimizer's step: most optimizers only initialise the state of parameters without state.
        """
        if gradient.is_sparse:
            return None
        state = optimizer.state[parameter]
        mean: Tensor | None = state.get(MEAN)
        wide = self._dtype_for(parameter)
        if mean is None:
            self.check([parameter])
            with torch.inference_mode(False):  # later steps outside this mode could not change it
                mean = state[MEAN] = torch.zeros_like(parameter, dtype=wide, requires_grad=False)
        elif mean.dtype is not wide:  # loaded before LGA was attached: torch has narrowed it
            mean = state[MEAN] = mean.to(wide)
        return mean

    def make(self, optimizer: Optimizer, parameters: Iterable[Tensor]) -> None:
        """Make the means of all parameters with a gradient, so that a checkpoint can be loaded into them."""
        for p in parameters:
            if p.grad is not None:
                self.of(optimizer, p, p.grad)

    def of_pairs(self, optimizer: Optimizer, pairs: Iterable[Pair]) -> Means:
        """The means of a step's gradients, for `Correction.apply`, which updates them."""
        return Means([self.of(optimizer, p, g) for p, g in pairs], self._weight)

    def _dtype_for(self, parameter: Tensor) -> torch.dtype:
        return self._narrow or WORK.get(parameter.dtype, parameter.dtype)

    @torch.no_grad()
    def update_means(self, optimizer: Optimizer, pairs: Iterable[Pair]) -> list[Tensor]:
        """Update the means without a push.

        Args:
            optimizer: The base optimizer.
            pairs: Parameters and their gradients.

        Returns:
            The means, or the gradients if they do not have one.
        """
        read: list[Tensor] = []
        for p, g in pairs:
            mean = self.of(optimizer, p, g)
            read.append(g if mean is None else mean)
            if mean is not None:
                update_mean(as_local(mean), as_local(g), self._weight)
        return read

    # Loading a checkpoint of the optimizer ----------------------------------------------------------------------------

    def before_load(self, state_dict: dict[str, Any]) -> dict[str, Any]:
        """Wrap the means, so that torch does not convert them to the types of their parameters."""
        state = {
            key: {**of_parameter, MEAN: _Hidden(of_parameter[MEAN])}
            if isinstance(of_parameter, dict) and isinstance(of_parameter.get(MEAN), Tensor)
            else of_parameter
            for key, of_parameter in state_dict["state"].items()
        }
        return {**state_dict, "state": state}

    def after_load(self, optimizer: Optimizer) -> None:
        """Unwrap the means. Means of 16 bits, from older versions, are converted."""
        for p, of_parameter in optimizer.state.items():
            hidden = of_parameter.get(MEAN) if isinstance(of_parameter, dict) else None
            if isinstance(hidden, _Hidden):
                known = isinstance(p, Tensor)  # a checkpoint may have more parameters than the optimizer
                of_parameter[MEAN] = hidden.mean.to(p.device, self._dtype_for(p)) if known else hidden.mean


@dataclass(frozen=True)
class _Hidden:
    """A mean of the checkpoint, wrapped so that torch does not convert it."""

    mean: Tensor
