"""The gradients that phi reads: those that the base's step began with, also where it writes into them."""

from collections.abc import Callable

from torch import Tensor
from torch.optim import Optimizer

_ONLY_READ = ("torch.optim.", "bitsandbytes.optim.", "torchao.optim.")
"""Packages whose optimizers only read their gradients, but for the cases in `StepGradients`; tests hold them to it."""


class StepGradients:
    """Keeps copies of the gradients of a step, where the base might change them.

    LGA reads gradients after the base's step. Optimizers that are known to leave them alone cost nothing. Any other may
    write into them, replace or drop them, in any step and also through ``.data``, which leaves no trace. So its
    gradients are copied before each step, which takes one more tensor for each parameter while the step runs.

    Args:
        optimizer: The base optimizer.
    """

    def __init__(self, optimizer: Optimizer) -> None:
        self._only_reads = type(optimizer).__module__.startswith(_ONLY_READ)
        self.copies: dict[Tensor, Tensor] | None = None
        """Copies during a step, None where there are none; to be set to None when the step is over."""

    def remember(self, optimizer: Optimizer) -> None:
        """Copy the gradients if need be; to be called when they are there and the base has not stepped yet."""
        self.copies = None
        if self._only_reads:
            # SGD with Nesterov momentum adds the momentum buffer into the gradients in its foreach form; a group that
            # does so may come at any time.
            for group in optimizer.param_groups:  # a loop, since any() takes twice as long, and this runs at each step
                if group.get("nesterov"):
                    break
            else:
                return
        scale = getattr(optimizer, "grad_scale", None)
        copies = {p: p.grad.detach().clone() for g in optimizer.param_groups for p in g["params"] if p.grad is not None}
        if scale is not None:  # a gradient scaler leaves it to the step to unscale
            for copy in copies.values():
                copy.div_(scale)
        self.copies = copies

    def after_step(self, optimizer: Optimizer) -> Callable[[Tensor], Tensor | None]:
        """A function from a parameter to the gradient that the base's step began with, or None."""
        return (lambda p: p.grad) if self.copies is None else self.copies.get
