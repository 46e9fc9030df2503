"""DoG, a peer without a learning rate, with the average of its iterates, which its authors call crucial."""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from dog import DoG
from torch import Tensor

AVERAGE = "average"
"""Its key in the optimizer's state."""


class AveragedDoG(DoG):  # type: ignore[misc]  # the package has no types
    """DoG, trained at its iterates and tested at their average, like schedule-free optimizers.

    The average of step t is a <- a + (1 + gamma) / (t + gamma) (x - a), which weighs late iterates most. Sources: Ivgi,
    Hinder and Carmon, "DoG is SGD's Best Friend", ICML 2023, for the steps, which are those of their package; Shamir
    and Zhang, "Stochastic Gradient Descent for Non-smooth Optimization", ICML 2013, for the average.

    Args:
        params: The parameters.
        lr: Factor of the step size. The authors recommend 1.
        reps_rel: Length of the first step, as a fraction of 1 plus the norm of the parameters. The authors use 1e-4 for
            networks with batch normalization.
        weight_decay: Weight decay, added to the gradients.
        gamma: Weight of late iterates, at least 0.

    Raises:
        ValueError: An argument is out of its range.
    """

    def __init__(
        self,
        params: Iterable[Tensor],
        lr: float = 1.0,
        reps_rel: float = 1e-6,
        weight_decay: float = 0.0,
        gamma: float = 8.0,
    ) -> None:
        if not gamma >= 0:
            raise ValueError(f"gamma must be at least 0: got {gamma}")
        super().__init__(params, reps_rel=reps_rel, lr=lr, weight_decay=weight_decay)
        for group in self.param_groups:
            group.update(gamma=gamma, steps=0, averaged=False)

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Perform one step and update the average.

        Args:
            closure: Computes the loss and the gradients again; may be None.

        Raises:
            RuntimeError: The parameters hold the average, as `train` was not called.
        """
        if any(group["averaged"] for group in self.param_groups):
            raise RuntimeError("the parameters hold DoG's average: call train() before the step")
        loss = super().step(closure)
        for group in self.param_groups:
            group["steps"] += 1
            weight = (1 + group["gamma"]) / (group["steps"] + group["gamma"])
            for p in group["params"]:
                state = self.state[p]
                if AVERAGE not in state:
                    state[AVERAGE] = p.detach().clone()
                state[AVERAGE].lerp_(p, weight)
        return loss

    def train(self) -> None:
        """Set the parameters to the iterate."""
        self._swap(averaged=False)

    def eval(self) -> None:
        """Set the parameters to the average."""
        self._swap(averaged=True)

    @torch.no_grad()
    def _swap(self, *, averaged: bool) -> None:
        for group in self.param_groups:
            if group["averaged"] == averaged or not group["steps"]:
                continue
            group["averaged"] = averaged
            for p in group["params"]:
                other = self.state[p][AVERAGE]
                iterate = p.detach().clone()
                p.copy_(other)
                other.copy_(iterate)
