"""The loss of a step: its three channels, and the mean over the ranks."""

import math
import warnings
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.optim import Optimizer

from lossaware.attachment import takes_loss
from lossaware.loss_value import LossValue, read_loss, wide
from lossaware.observed_losses import ObservedLosses

if TYPE_CHECKING:
    from lossaware.uneven_inputs import UnevenInputs

_MANY = 1000
"""Observed losses of one step from which a warning asks whether the right optimizer steps."""


def is_shared(group: dist.ProcessGroup | None) -> bool:
    """Whether there are other ranks in the group."""
    return dist.is_available() and dist.is_initialized() and dist.get_world_size(group) > 1


def mean_over_ranks(loss: LossValue, group: dist.ProcessGroup | None, home: Callable[[], torch.device]) -> LossValue:
    """The mean of the ranks' losses; the loss itself if there is only one rank. See `gather_losses`."""
    return gather_losses(loss, group, home)() if is_shared(group) else loss


def gather_losses(
    loss: LossValue, group: dist.ProcessGroup | None, home: Callable[[], torch.device]
) -> Callable[[], LossValue]:
    """Begin to gather the losses of several ranks; the result waits for them, and returns their mean.

    Every rank sums the same numbers in the same order, so that all get the same bits. Otherwise replicas would drift
    apart.

    Args:
        loss: The loss of this rank, NaN if it does not have one.
        group: The ranks.
        home: Returns the device of the parameters. A rank may have its loss on the host while others have it on the
            device; if the group supports that device, all use it.
    """
    device = loss.device if isinstance(loss, Tensor) else torch.device("cpu")
    if device.type == "cpu":
        backend, parameter_device = dist.get_backend(group), home()
        if parameter_device.type != "cpu" and parameter_device.type in backend:  # as in cpu:gloo,cuda:nccl
            device = parameter_device
        elif "gloo" not in backend and "cpu" not in backend:
            device = torch.device(torch.accelerator.current_accelerator() or "cpu")
    own = torch.as_tensor(loss, dtype=wide(device), device=device).reshape(1)
    all_losses = own.new_empty(dist.get_world_size(group))
    gather = getattr(dist, "all_gather_single", dist.all_gather_into_tensor)  # its name since torch 2.13
    work = gather(all_losses, own, group=group, async_op=True)

    def mean() -> LossValue:
        work.wait()
        if device.type == "cpu":
            values: list[float] = all_losses.tolist()
            return math.fsum(values) / len(values) if all(map(math.isfinite, values)) else math.nan
        return all_losses.mean()

    return mean


class LossInput:
    """Receives the loss of each step of one optimizer, by one of three channels.

    Args:
        optimizer: The optimizer.
        group: The ranks over which the loss is averaged; None means all of them.
        ready: Called once per step, when the gradients are computed and before the base's step, with the optimizer,
            whether the step has a loss, and whether a closure has run.
    """

    def __init__(
        self, optimizer: Optimizer, group: dist.ProcessGroup | None, ready: Callable[[Optimizer, bool, bool], None]
    ) -> None:
        self._group = group
        self._ready = ready
        self._observed = ObservedLosses()
        self._uneven: UnevenInputs | None = None  # made if there are several ranks
        self._shared = False  # whether the step in progress is one of several ranks
        self._loss: LossValue | None = None  # of the step in progress
        self._gathered: Callable[[], LossValue] | None = None  # the pending mean over the ranks
        self.depth = 0  # of nested steps: an optimizer may call its parent's step, which runs the hooks too
        self._observed_in_closure = False
        self.base_takes_loss = takes_loss(optimizer)
        self.steps_without_loss = 0
        self._warned = False

    @property
    def has_observed(self) -> bool:
        """Whether losses were observed since the last step."""
        return len(self._observed) > 0

    def observe(self, loss: Any, optimizer: Optimizer) -> None:
        """Record one loss of the next step; with several, their mean counts."""
        self._observed.add(loss, optimizer)
        self._observed_in_closure = True
        if len(self._observed.all) == _MANY:
            warnings.warn(
                f"{_MANY} losses were observed since {type(optimizer).__name__} made its last step, whose mean is the "
                "loss of its next step: if it is another optimizer that steps, attach LGA to that one",
                stacklevel=3,
            )

    def forget(self) -> None:
        """Drop the observed losses."""
        self._observed.clear()

    def after_zero_grad(self, optimizer: Optimizer) -> None:
        """Drop the losses whose gradients have just been cleared."""
        self._observed.after_zero_grad(optimizer)

    def close(self) -> None:
        """Drop the observed losses, and stop watching the gradients."""
        self._observed.close()

    # A step with the optimizer's hooks -------------------------------------------------------------------------------

    def _refuse_uneven(self, optimizer: Optimizer) -> None:
        if self._uneven is None:
            from lossaware.uneven_inputs import UnevenInputs

            self._uneven = UnevenInputs()
        self._uneven.refuse(optimizer)

    def is_inside_another(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
        """Whether a beginning step is part of another one, as when a step calls its parent's."""
        if not self.depth:
            return False
        closure = args[1] if len(args) > 1 else kwargs.get("closure")
        own_closure = closure is not None and not isinstance(closure, _Watched)
        if kwargs.get("loss") is not None or own_closure or self._observed:
            return False  # the other step has failed, so that `end` was not called
        self.depth += 1
        return True

    def begin(
        self, optimizer: Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
        """Begin a step and find its loss.

        Returns:
            The new arguments of the base's step, or None if they do not change.

        Raises:
            ValueError: The loss arrives by more than one channel, or is not one real number.
            TypeError: It is not a number.
            RuntimeError: Ranks may have different numbers of steps.
        """
        self._shared, self._gathered = is_shared(self._group), None
        if self._shared:
            self._refuse_uneven(optimizer)
        passed = kwargs.get("loss")
        closure = args[1] if len(args) > 1 else kwargs.get("closure")
        if closure is not None and not callable(closure):
            raise TypeError(
                f"the first argument of step must be a closure, a function: got {type(closure).__name__}; pass the "
                "loss by name, optimizer.step(loss=loss)"
            )
        if passed is None:
            self._loss = None
        else:
            if self._observed.all:  # faster than len(), as this runs at each step
                self._refuse_two({"step(loss=...)": True, "observe(loss)": True})
            self._loss = read_loss(passed, optimizer)
            self._observed.clear()  # it is empty, but must be notified of the step
        self.depth = 1
        if closure is None:
            if passed is None:
                self._loss = self._observed.take(optimizer)
            self._ready(optimizer, self._loss is not None, False)
            if self._shared:
                self._exchange(optimizer)
            if "loss" not in kwargs or self.base_takes_loss:
                return None
        if not self.base_takes_loss:
            kwargs = {name: value for name, value in kwargs.items() if name != "loss"}
        if closure is not None:
            self._observed_in_closure = False
            watched = _Watched(closure, partial(self._after_closure, optimizer))
            if len(args) > 1:
                args = (args[0], watched, *args[2:])
            else:
                kwargs["closure"] = watched
        return args, kwargs

    def _after_closure(self, optimizer: Optimizer, loss: Any) -> None:
        passed, observed = self._loss, self._observed.take(optimizer)
        self._loss = passed if observed is None else observed
        # Trainers' closures return the value for display, mostly another multiple of the loss.
        if loss is not None and not (self._observed_in_closure and passed is None):
            self._refuse_two(
                {
                    "step(loss=...)": passed is not None,
                    "step(closure)": True,
                    "observe(loss)": observed is not None,
                }
            )
            self._loss = read_loss(loss, optimizer)
        self._ready(optimizer, self._loss is not None, True)
        if self._shared:
            self._exchange(optimizer)

    def _exchange(self, optimizer: Optimizer) -> None:
        """Begin to exchange the losses of the ranks, so that this happens during the base's step."""
        if self._loss is not None or not _has_no_effect(optimizer):
            own = math.nan if self._loss is None else self._loss
            self._gathered = gather_losses(own, self._group, partial(_device_of, optimizer))

    def _refuse_two(self, arrives: dict[str, bool]) -> None:
        channels = [name for name, used in arrives.items() if used]
        if len(channels) > 1:
            self._observed.clear()  # so that the step can be repeated
            raise ValueError(f"pass the loss of a step in one way only: got it by {' and by '.join(channels)}")

    def end(self) -> bool:
        """End a step. Returns False if it was part of another one."""
        self.depth -= 1
        return self.depth <= 0

    def take(self, optimizer: Optimizer) -> LossValue | None:
        """The loss of the finished step, averaged over the ranks; None if it does not have one.

        NaN if other ranks may have one: then all count the step as one without a finite loss, so that their states, and
        the noise that rounds parameters of 16 bits, stay equal.
        """
        loss, self._loss = self._loss, None
        gathered, self._gathered = self._gathered, None
        if loss is None:
            self._warn_of_missing_loss()
            if not self._shared or _has_no_effect(optimizer):
                self.steps_without_loss += 1
                return None
            loss = math.nan
        if not self._shared:
            return loss
        return mean_over_ranks(loss, self._group, partial(_device_of, optimizer)) if gathered is None else gathered()

    def _warn_of_missing_loss(self) -> None:
        if self.steps_without_loss or self._warned:
            return
        self._warned = True
        who = f" on rank {dist.get_rank()}" if is_shared(self._group) else ""
        warnings.warn(
            f"LGA got no loss for this step{who}, so it makes only the base optimizer's step; pass the loss by "
            "optimizer.step(loss=loss), optimizer.step(closure), or lga.observe(loss) before the step",
            stacklevel=6,
        )

    # A step without hooks -------------------------------------------------------------------------------------------

    def take_directly(self, optimizer: Optimizer, loss: Any) -> LossValue:
        """The loss of a step without hooks: the argument, or the observed losses; averaged over the ranks."""
        if is_shared(self._group):
            self._refuse_uneven(optimizer)
        self._refuse_two({"step(loss)": loss is not None, "observe(loss)": self.has_observed})
        observed = self._observed.take(optimizer)
        own = observed if loss is None else read_loss(loss, optimizer)
        assert own is not None
        return mean_over_ranks(own, self._group, partial(_device_of, optimizer))


class _Watched:
    """A closure whose first result in a step is recorded; later results belong to other points."""

    def __init__(self, closure: Callable[[], Any], note: Callable[[Any], None]) -> None:
        self._closure = closure
        self._note: Callable[[Any], None] | None = note

    def __call__(self) -> Any:
        loss = self._closure()
        if self._note is not None:
            note, self._note = self._note, None
            note(loss)
        return loss


def _device_of(optimizer: Optimizer) -> torch.device:
    """The device of the parameters, the same on all ranks."""
    params = (p for group in optimizer.param_groups for p in group["params"])
    return next((p.device for p in params), torch.device("cpu"))


def _has_no_effect(optimizer: Optimizer) -> bool:
    """Whether the step has no effect, as when torch's checkpointing initialises the state, maybe on one rank only."""
    rates = [group.get("lr") for group in optimizer.param_groups]
    return all(not (isinstance(lr, Tensor) and lr.device.type != "cpu") and lr == 0 for lr in rates)
