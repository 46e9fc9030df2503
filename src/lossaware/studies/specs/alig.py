"""ALI-G, a peer that also uses the loss: Polyak's step size for a minimum of 0, with a maximum.

Existing packages take the loss from a closure and have no learning rate for a scheduler. This one has the interface of
the other optimizers, and is tested against pytorch_optimizer's.
"""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer


class AliG(Optimizer):
    """Adaptive learning rates for interpolation with gradients.

    With the step size s = min(lr, f / (|g|^2 + delta)), where f is the loss and |g| the norm of all gradients together,
    v <- momentum * v - s * g and x <- x - s * g + momentum * v. Source: Berrada, Zisserman and Kumar, "Training Neural
    Networks for and by Interpolation", ICML 2020, with the default momentum of the authors' code.

    Args:
        params: The parameters.
        lr: Maximum step size, above 0.
        momentum: Nesterov momentum, in [0, 1).
        delta: Keeps the step size finite if the gradient vanishes, above 0.

    Raises:
        ValueError: An argument is out of its range.
    """

    def __init__(self, params: Iterable[Tensor], lr: float = 0.1, momentum: float = 0.9, delta: float = 1e-5) -> None:
        if not lr > 0:
            raise ValueError(f"lr must be above 0: got {lr}")
        if not 0 <= momentum < 1:
            raise ValueError(f"momentum must be at least 0 and below 1: got {momentum}")
        if not delta > 0:
            raise ValueError(f"delta must be above 0: got {delta}")
        super().__init__(params, {"lr": lr, "momentum": momentum, "delta": delta})

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None, *, loss: float | Tensor | None = None) -> Any:
        """Perform one step.

        Args:
            closure: Computes loss and gradients, and returns the loss.
            loss: The loss of the present gradients, instead of a closure.

        Returns:
            The loss.

        Raises:
            TypeError: Neither is given.
        """
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        if loss is None:
            raise TypeError("ALI-G needs the loss of each step: step(loss=loss) or step(closure)")
        groups = [(group, [p for p in group["params"] if p.grad is not None]) for group in self.param_groups]
        square = sum(float(p.grad.square().sum()) for _, params in groups for p in params)
        for group, params in groups:
            size = min(group["lr"], float(loss) / (square + group["delta"]))
            for p in params:
                p.add_(p.grad, alpha=-size)
                if group["momentum"] > 0:
                    state = self.state[p]
                    if "velocity" not in state:
                        state["velocity"] = torch.zeros_like(p)
                    p.add_(state["velocity"].mul_(group["momentum"]).add_(p.grad, alpha=-size), alpha=group["momentum"])
        return loss
