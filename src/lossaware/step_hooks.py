"""LGA's hooks around each step of its optimizer: read the loss, keep the gradients, apply the correction."""

from functools import partial
from typing import Any

import torch.distributed as dist
from torch.optim import Optimizer

from lossaware.attachment import Attachment
from lossaware.gradients import StepGradients
from lossaware.loss_input import LossInput
from lossaware.stepper import Stepper
from lossaware.update_meter import UpdateMeter


class StepHooks:
    """The hooks of one LGA on one optimizer.

    Args:
        optimizer: The base optimizer; no reference is kept.
        stepper: Applies the corrections.
        group: The ranks over which the loss is averaged; None means all of them.
    """

    def __init__(self, optimizer: Optimizer, stepper: Stepper, group: dist.ProcessGroup | None) -> None:
        self._stepper = stepper
        self._gradients = StepGradients(optimizer)
        self.input = LossInput(optimizer, group, partial(_gradients_ready, self._gradients, stepper))
        self.meter = UpdateMeter(None)

    def attach(self, optimizer: Optimizer, companion: object) -> Attachment:
        """Register these hooks at the optimizer.

        Args:
            optimizer: The base optimizer.
            companion: The object that it keeps alive.
        """
        return Attachment(
            optimizer,
            companion,
            before_step=self.before_step,
            after_step=self.after_step,
            before_save=self._stepper.release,
            before_load=self._stepper.before_load,
            after_load=self._stepper.after_load,
            after_zero_grad=self.after_zero_grad,
        )

    def before_step(
        self, optimizer: Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
        """The step's pre hook."""
        if self.input.depth and self.input.is_inside_another(args, kwargs):
            return None
        self._stepper.sizes.of(optimizer.param_groups)  # checks the groups before any change
        arguments = self.input.begin(optimizer, args, kwargs)
        if self.meter.is_on:
            self.meter.before_step(optimizer)
        return arguments

    def after_step(self, optimizer: Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """The step's post hook."""
        if not self.input.end():
            return
        if self.meter.is_on:
            self.meter.after_base()
        loss = self.input.take(optimizer)
        self._stepper.step(optimizer, loss, getattr(optimizer, "found_inf", None), self._gradients.after_step)
        self._gradients.copies = None  # freed
        if self.meter.is_on:
            self.meter.after_correction()

    def after_zero_grad(self, optimizer: Optimizer) -> None:
        """Call after the optimizer's ``zero_grad``."""
        self._stepper.release()
        self.input.after_zero_grad(optimizer)


def _gradients_ready(
    gradients: StepGradients, stepper: Stepper, optimizer: Optimizer, has_loss: bool, by_closure: bool
) -> None:
    """A function, not a method, to avoid a reference cycle with `LossInput`."""
    if by_closure:
        stepper.sizes.of(optimizer.param_groups)  # it may have added or removed groups
    gradients.remember(optimizer)
    stepper.before_base(optimizer, has_loss)
