"""The gradients that phi reads: those of the step, also where the base optimizer writes into them."""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.optim import Optimizer

from lossaware.correction import as_local


class StepGradients:
    """Keeps an eye on what the base optimizer does to its gradients.

    LGA reads them after the base step. Most of torch's own optimizers leave them alone, and nothing is done then.
    Others are watched: their first step is taken with copies at hand, and whether they wrote into a gradient or
    replaced it decides whether later steps need copies too.

    Args:
        optimizer: The base optimizer.
    """

    def __init__(self, optimizer: Optimizer) -> None:
        self._name = type(optimizer).__name__
        self._is_torchs = type(optimizer).__module__.startswith("torch.optim")
        self._writes: bool | None = None  # not known before the first step
        self._kept: list[tuple[Tensor, Tensor, int, Tensor | None]] = []

    def _trusts(self, optimizer: Optimizer) -> bool:
        # SGD with Nesterov momentum adds the momentum buffer into the gradients in its foreach form; a group that does
        # so may come at any time.
        if not self._is_torchs:
            return False
        for group in optimizer.param_groups:  # noqa: SIM110  # any() takes twice as long; this runs at each step
            if group.get("nesterov"):
                return False
        return True

    def remember(self, optimizer: Optimizer) -> None:
        """Look at the gradients; to be called when they are there and the base optimizer has not stepped yet."""
        if self._trusts(optimizer):
            return
        scale = getattr(optimizer, "grad_scale", None)
        self._kept = []
        for group in optimizer.param_groups:
            for p in group["params"]:
                if p.grad is not None:
                    copy = None
                    if self._writes is not False:
                        copy = p.grad.detach().clone()
                        if scale is not None:  # a gradient scaler leaves it to the step to unscale
                            copy.div_(scale)
                    self._kept.append((p, p.grad, p.grad._version, copy))

    def after_step(self, optimizer: Optimizer) -> Callable[[Tensor], Tensor | None]:
        """Look again, after the base step.

        Returns:
            A function from a parameter to the gradient it had before the step, or None.

        Raises:
            RuntimeError: The base optimizer has set gradients to None, or has begun to write into them.
        """
        if self._trusts(optimizer):
            return lambda p: p.grad
        name = self._name
        if any(p.grad is None for p, _, _, _ in self._kept):
            raise RuntimeError(
                f"{name} consumes its gradients (it sets p.grad to None in its step), but LGA reads them after the "
                "step: switch that off in the optimizer, for example by consume_grad=False"
            )
        if not self._kept:
            return lambda p: p.grad  # it had nothing to write into, which says nothing of later steps
        writes = any(
            p.grad is not g or g._version != version or (self._writes is None and _differ(g, copy))
            for p, g, version, copy in self._kept
        )
        if self._writes is False and writes:
            raise RuntimeError(
                f"{name} has begun to write into its gradients, which it did not do in its first step, so LGA cannot "
                "read them any more: detach LGA and attach a new one with the old one's state_dict()"
            )
        self._writes = writes or self._writes is True
        copies = {p: copy for p, _, _, copy in self._kept if copy is not None}
        return copies.get if copies else lambda p: p.grad

    def forget(self) -> None:
        """Let the gradients go; to be called when the step is over."""
        self._kept = []


def _differ(gradient: Tensor, copy: Tensor | None) -> bool:
    """Whether values have changed: what is written through ``.data`` does not count up a tensor's version.

    This waits for the device, in the first step alone.
    """
    if copy is None or gradient.is_sparse or gradient.is_meta or torch.compiler.is_compiling():
        return False
    now, before = as_local(gradient.detach()), as_local(copy)
    return not bool(((now == before) | ((now != now) & (before != before))).all())
