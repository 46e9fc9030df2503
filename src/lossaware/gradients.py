"""The gradients that phi reads: those from before the base's step, also if the base writes into them."""

from collections.abc import Callable

from torch import Tensor
from torch.optim import Optimizer

_ONLY_READ = ("torch.optim.", "bitsandbytes.optim.", "torchao.optim.")
"""Packages whose optimizers only read gradients, except for the cases in `StepGradients`; tests check this."""


class StepGradients:
    """Keeps copies of a step's gradients if the base may change them.

    LGA reads gradients after the base's step. Optimizers that are known not to change them have no overhead. Others may
    write into gradients, replace or drop them, in any step and also through ``.data``, which cannot be detected. So
    their gradients are copied before each step, which takes one more tensor per parameter during the step.

    Args:
        optimizer: The base optimizer.
    """

    def __init__(self, optimizer: Optimizer) -> None:
        self._only_reads = type(optimizer).__module__.startswith(_ONLY_READ)
        self.copies: dict[Tensor, Tensor] | None = None
        """Copies during a step, or None; set it to None after the step."""

    def remember(self, optimizer: Optimizer) -> None:
        """Copy the gradients if needed. Call it when they are computed and before the base's step."""
        self.copies = None
        if self._only_reads:
            # SGD with Nesterov momentum adds the momentum buffer to the gradients in its foreach form. Such a group can
            # be added at any time.
            for group in optimizer.param_groups:  # any() would take twice as long, and this runs at each step
                if group.get("nesterov"):
                    break
            else:
                return
        scale = getattr(optimizer, "grad_scale", None)
        copies = {p: p.grad.detach().clone() for g in optimizer.param_groups for p in g["params"] if p.grad is not None}
        if scale is not None:  # a gradient scaler lets the step unscale
            for copy in copies.values():
                copy.div_(scale)
        self.copies = copies

    def after_step(self, optimizer: Optimizer) -> Callable[[Tensor], Tensor | None]:
        """A function from a parameter to its gradient before the base's step, or None."""
        return (lambda p: p.grad) if self.copies is None else self.copies.get
