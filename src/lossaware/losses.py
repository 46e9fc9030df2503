"""How the loss of a step arrives: what counts as one, the mean of several, and the mean over ranks."""

import math
import numbers
from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

LossValue = float | Tensor
"""A Python float where the host has the number, else a zero-dimensional float64 tensor on the accelerator."""


def read_loss(loss: Any) -> LossValue:
    """The loss as one number, without waiting for an accelerator.

    Args:
        loss: A real number, or a tensor of one element, of any device and dtype but complex.

    Raises:
        ValueError: A tensor of several elements or none, or of complex numbers.
        TypeError: Anything else.
    """
    if isinstance(loss, Tensor):
        usual = type(loss) is Tensor and loss.is_cpu and loss.numel() == 1 and loss.is_floating_point()
        if usual and not torch.compiler.is_compiling():
            return float(loss.item())  # without what the others need; it runs at every step
        if loss.numel() != 1 or loss.is_complex():
            raise ValueError(
                f"the loss must be one real number: got a tensor of shape {tuple(loss.shape)} and {loss.dtype}; "
                "reduce it first, for example by loss.mean()"
            )
        loss = loss.detach()
        if hasattr(loss, "full_tensor"):  # a distributed tensor
            loss = loss.full_tensor()
        assert isinstance(loss, Tensor)
        if loss.device.type == "cpu" and not torch.compiler.is_compiling():
            return float(loss)
        # A copy in any case, so that a loss that is changed in place afterwards does no harm.
        return loss.reshape(()).to(wide(loss.device), copy=True)
    if isinstance(loss, numbers.Real):
        return float(loss)
    raise TypeError(f"the loss must be a number or a tensor of one element: got {type(loss).__name__}")


def wide(device: torch.device) -> torch.dtype:
    """The floating-point type in which the device keeps losses and what follows from them."""
    return torch.float32 if device.type == "mps" else torch.float64  # Apple's GPUs have no float64


def is_shared(group: dist.ProcessGroup | None) -> bool:
    """Whether there are other ranks in the group."""
    return dist.is_available() and dist.is_initialized() and dist.get_world_size(group) > 1


def mean_over_ranks(loss: LossValue, group: dist.ProcessGroup | None, home: Callable[[], torch.device]) -> LossValue:
    """The mean of the ranks' losses; the loss itself where there is one rank only.

    Every rank sums the same numbers in the same order, so that all get the same bits: replicas that disagree in the
    last one would drift apart.

    Args:
        loss: This rank's, NaN where it has none.
        group: The ranks.
        home: Says where the parameters are. A rank may have its loss on the host while others have it there; where the
            group can talk there, all do.
    """
    if not is_shared(group):
        return loss
    device = loss.device if isinstance(loss, Tensor) else torch.device("cpu")
    if device.type == "cpu":
        backend, there = dist.get_backend(group), home()
        if there.type != "cpu" and there.type in backend:  # as in cpu:gloo,cuda:nccl
            device = there
        elif "gloo" not in backend and "cpu" not in backend:
            device = torch.device(torch.accelerator.current_accelerator() or "cpu")
    own = torch.as_tensor(loss, dtype=wide(device), device=device).reshape(1)
    all_losses = own.new_empty(dist.get_world_size(group))
    gather = getattr(dist, "all_gather_single", dist.all_gather_into_tensor)  # its name since torch 2.13
    gather(all_losses, own, group=group)
    if device.type == "cpu":
        values: list[float] = all_losses.tolist()
        return math.fsum(values) / len(values) if all(map(math.isfinite, values)) else math.nan
    return all_losses.mean()


class ObservedLosses:
    """The losses observed since the last step, whose mean counts.

    A gradient scaler that finds an overflow does not call ``step``, so what was observed for that step would be taken
    for part of the next one. The gradients tell: a backward pass that finds them cleared, when another one has run
    since the last step, starts afresh, and the losses that the cleared gradients belonged to are dropped. (Only
    gradients set to None count as cleared, which is what ``zero_grad`` does unless told otherwise.)
    """

    def __init__(self, parameters: list[nn.Parameter]) -> None:
        self._all: list[LossValue] = []
        self._since_backward = 0  # how many of them came after the last backward pass
        self._backward_ran = False  # since the last step
        self._loss_first = True  # whether the first loss came before its backward pass
        self._parameters = parameters
        self._watched: nn.Parameter | None = None
        self._handle: torch.utils.hooks.RemovableHandle | None = None

    def __len__(self) -> int:
        return len(self._all)

    def add(self, loss: Any) -> None:
        """Take in one loss; see `read_loss`."""
        value = read_loss(loss)
        if self._handle is None:
            # Not before: what requires gradients may change until training begins.
            self._watched = next((p for p in self._parameters if p.requires_grad and p.is_leaf), None)
            if self._watched is not None:
                self._handle = self._watched.register_hook(self._on_backward)  # type: ignore[no-untyped-call]
                self._backward_ran = not self._cleared()
        if self._all and self._backward_ran and self._cleared():
            self.clear()
        if not self._all:
            self._loss_first = not self._backward_ran
        self._all.append(value)
        self._since_backward += 1

    def take(self) -> LossValue | None:
        """The mean of what was observed, or None; afterwards nothing is observed."""
        losses = self._all
        self.clear()
        return sum(losses) / len(losses) if losses else None

    def clear(self) -> None:
        """Forget what was observed."""
        self._all, self._since_backward, self._backward_ran = [], 0, False

    def close(self) -> None:
        """Watch the gradients no longer."""
        self.clear()
        if self._handle is not None:
            self._handle.remove()
            self._handle = None

    def _cleared(self) -> bool:
        return self._watched is not None and self._watched.grad is None

    def _on_backward(self, _: Tensor) -> None:
        # Called in a backward pass, before the gradient is accumulated.
        if self._backward_ran and self._cleared():
            self._all = self._all[len(self._all) - self._since_backward :] if self._loss_first else []
        self._backward_ran, self._since_backward = True, 0
