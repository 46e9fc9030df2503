"""The losses observed since the last step, and which of them belong to its gradients."""

import weakref
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from lossaware.loss_value import LossValue, read_loss


@dataclass
class _Observed:
    value: LossValue
    unused: bool  # it has a graph, but no backward pass went through this graph
    passed_over: bool = False  # a backward pass went through other graphs


class ObservedLosses:
    """The losses observed since the last step, whose mean counts.

    A loss belongs to the gradients of its backward pass. If these were not computed, or were cleared before the step,
    it does not count: a loop may skip a batch with a high loss, and a gradient scaler skips the step if gradients
    overflow. This is detected in three ways:

    - The loss has a graph, and the backward pass went through another one; except if this is so for all losses of the
      step, as when one loss is observed and another is trained on.
    - The optimizer's ``zero_grad`` was called after a backward pass.
    - The gradients are None after a backward pass, as they were cleared in another way (``model.zero_grad()``).
    """

    def __init__(self) -> None:
        self.all: list[_Observed] = []
        self._since_backward = 0  # number of losses after the last backward pass
        self._backward_ran = False  # since the last step, and its gradients exist
        self._zeros: tuple[Tensor, int] | None = None  # a gradient that `zero_grad` left, before watching began
        self._loss_first = True  # whether the first loss came before its backward pass
        self._watched: weakref.ref[Tensor] | None = None  # the parameter holds the hook, which holds this
        self._handle: torch.utils.hooks.RemovableHandle | None = None

    def __len__(self) -> int:
        return len(self.all)

    def add(self, loss: Any, optimizer: Optimizer) -> None:
        """Record one loss of the optimizer's next step; see `read_loss`."""
        value = read_loss(loss, optimizer)
        if not self._watches_trained():
            # Not earlier: requires_grad may change until training begins.
            watched = _first_trained(optimizer)
            if watched is not None:
                self._watch(watched)
                g, zeros = watched.grad, self._zeros
                are_zeros = zeros is not None and g is zeros[0] and g._version == zeros[1]
                self._backward_ran = g is not None and not are_zeros
                self._zeros = None
        self._look_for_cleared()
        if not self.all:
            self._loss_first = not self._backward_ran
        self.all.append(_observed(loss, value))
        self._since_backward += 1

    def take(self, optimizer: Optimizer) -> LossValue | None:
        """The mean of the observed losses, or None; then clear them. Call it when the gradients are computed."""
        observed = self.all
        if observed and self._are_none():  # of a parameter that the losses do not depend on
            watched = next((p for p in _trained(optimizer) if p.grad is not None), None)
            if watched is not None:
                self._watch(watched)
        self.clear()
        some_used = any(not one.unused for one in observed)
        observed = [one for one in observed if not (one.unused and (one.passed_over or some_used))] or observed
        return sum(one.value for one in observed) / len(observed) if observed else None

    def clear(self) -> None:
        """Drop the observed losses."""
        self.all, self._since_backward, self._backward_ran = [], 0, False

    def after_zero_grad(self, optimizer: Optimizer) -> None:
        """Drop the losses whose gradients have just been cleared."""
        if not self._watches_trained():
            watched = _first_trained(optimizer)
            g = None if watched is None else watched.grad
            self._zeros = None if g is None else (g, g._version)
        self._drop_cleared()

    def _drop_cleared(self) -> None:
        if self._backward_ran:
            self.all = self.all[len(self.all) - self._since_backward :] if self._loss_first else []
            self._since_backward, self._backward_ran = len(self.all), False

    def close(self) -> None:
        """Stop watching the gradients."""
        self.clear()
        self._stop_watching()

    def _watch(self, parameter: Tensor) -> None:
        self._stop_watching()
        self._watched = weakref.ref(parameter)
        self._handle = parameter.register_hook(self._on_backward)

    def _stop_watching(self) -> None:
        if self._handle is not None:
            self._handle.remove()
            self._handle = self._watched = None

    def _watches_trained(self) -> bool:
        watched = None if self._watched is None else self._watched()
        return watched is not None and watched.requires_grad

    def _look_for_cleared(self) -> None:
        if self._backward_ran and self._are_none():
            self._drop_cleared()

    def _are_none(self) -> bool:
        watched = None if self._watched is None else self._watched()
        return watched is not None and watched.grad is None

    def _on_backward(self, _: Tensor) -> None:
        # Called in a backward pass, before the gradient is accumulated.
        self._look_for_cleared()
        self._backward_ran, self._since_backward = True, 0
        if self._loss_first:  # otherwise the pass before was theirs
            for one in self.all:
                one.passed_over = one.unused


def _trained(optimizer: Optimizer) -> Iterator[Tensor]:
    return (p for group in optimizer.param_groups for p in group["params"] if p.requires_grad and p.is_leaf)


def _first_trained(optimizer: Optimizer) -> Tensor | None:
    return next(_trained(optimizer), None)


def _observed(loss: Any, value: LossValue) -> _Observed:
    """The loss, which records whether a backward pass goes through it."""
    if not isinstance(loss, Tensor) or not loss.requires_grad or torch.compiler.is_compiling():
        return _Observed(value, unused=False)
    one = _Observed(value, unused=True)

    def note(_: Tensor) -> None:
        one.unused = False

    loss.register_hook(note)
    return one
