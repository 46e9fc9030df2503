"""One step of LGA after the base's: the law, the size of each group, and the correction.

Steps with the optimizer's hooks, compiled steps and steps launched on a GPU all use this module.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.optim import ASGD, Optimizer

from lossaware.correction import Correction, refuse_uninitialized
from lossaware.gamma2 import Gamma2Rule
from lossaware.gradient_mean import GradientMean
from lossaware.groups import Group, GroupSizes
from lossaware.law import Law
from lossaware.law_state import HOST, LawState, Status, summarize
from lossaware.loss_value import LossValue, wide
from lossaware.notices import ENOUGH_STEPS, BackoffNotice, GateNotice, StatusNotice
from lossaware.settings import Settings

GradientOf = Callable[[Tensor], Tensor | None]
"""From a parameter to its gradient before the base's step."""

Size = float | Tensor
ActiveGroup = tuple[Group, Size, list[tuple[Tensor, Tensor]]]
"""A group with LGA switched on, its size, and its parameters with their gradients."""


class Stepper:
    """Has the state of the law, and applies the corrections of one optimizer.

    The state is on the host until a loss arrives from an accelerator; then it moves there, and steps do not wait.

    Args:
        settings: The settings of LGA.
    """

    def __init__(self, settings: Settings) -> None:
        self.rule = settings.rule
        self._law = settings.law
        self._settings = settings
        self.sizes = GroupSizes(settings.rule, settings.xi)
        self._correction = self.make_correction()
        self._mean = _make_mean(settings.rule)
        self._state = LawState()
        self.device_state: Tensor | None = None  # the state, once losses come from an accelerator
        self._launcher: Any = None
        self._backoffs = BackoffNotice()
        self._gate = GateNotice(settings.eps, settings.upper_bound)
        self.statuses = StatusNotice(_reported_epoch(settings))

    def prepare(self, optimizer: Optimizer) -> None:
        """Prepare for an optimizer's parameters, once before the steps.

        Raises:
            ValueError: There are parameters that cannot be corrected, or a group's own gamma2 is out of its range.
        """
        refuse_uninitialized(p for group in optimizer.param_groups for p in group["params"])
        for group, size in zip(optimizer.param_groups, self.sizes.of(optimizer.param_groups), strict=True):
            if size != 0:
                parameters = [p for p in group["params"] if p.requires_grad]
                self._correction.prepare(parameters)
                if self._mean is not None:
                    self._mean.check(parameters)

    def before_base(self, optimizer: Optimizer, has_loss: bool) -> None:
        """Call when the gradients are computed and before the base's step.

        Args:
            optimizer: The base optimizer.
            has_loss: Whether the step has a loss; otherwise it is only the base's step.
        """

    def release(self, *_: Any) -> None:
        """Restore the optimizer's values that were changed for a failed step."""

    def before_load(self, optimizer: Optimizer, state_dict: Any) -> Any:
        """Call before the optimizer reads a ``state_dict``; returns the one to read."""
        self.release()
        self.sizes.before_load(optimizer)
        return state_dict if self._mean is None else self._mean.before_load(state_dict)

    def after_load(self, optimizer: Optimizer) -> None:
        """Call after the optimizer has read a ``state_dict``."""
        self.sizes.after_load(optimizer)
        if self._mean is not None:
            self._mean.after_load(optimizer)

    def step(
        self,
        optimizer: Optimizer,
        loss: LossValue | None,
        found_inf: Tensor | None,
        gradients: Callable[[Optimizer], GradientOf],
    ) -> None:
        """Perform a step, after that of the base.

        Args:
            optimizer: The base optimizer; `GroupSizes.of` was called for its groups before its step.
            loss: The loss of the step, or None.
            found_inf: Of a gradient scaler: if it is above 0, nothing changes.
            gradients: Called at most once, and only if a correction may be needed.
        """
        if self._mean is not None:
            groups = zip(optimizer.param_groups, self.sizes.last, strict=True)
            self._mean.make(optimizer, (p for group, size in groups if size != 0 for p in group["params"]))
        if loss is None:
            return
        self.statuses.steps += 1
        on_host = found_inf is None or found_inf.device.type == "cpu"
        if isinstance(loss, float) and self.device_state is None and on_host:
            if found_inf is None or not found_inf.item():
                self.step_on_host(optimizer, loss, gradients)
            return
        like = loss if isinstance(loss, Tensor) else found_inf
        law_state = self.state_on(torch.device("cpu") if like is None else like.device)
        value = loss.to(law_state) if isinstance(loss, Tensor) else law_state.new_full((), loss)
        active = self._active(optimizer, self.sizes.last, gradients(optimizer))
        if not _launched(self._launcher, self._mean, optimizer, value, found_inf, active):
            self.step_on_device(optimizer, law_state, value, found_inf, active, self._correction)

    def step_on_host(
        self,
        optimizer: Optimizer,
        loss: float,
        gradients: Callable[[Optimizer], GradientOf],
        graph: Callable[[LawState, float], None] | None = None,
    ) -> None:
        """Perform a step whose loss and state the host knows.

        Args:
            optimizer: The base optimizer.
            loss: The loss of the step.
            gradients: See `step`.
            graph: Performs base step and corrections instead; called with the new state and the factor of the
                corrections. If it fails, the state does not change.
        """
        before, state = self._state.gamma2_factor, self._law.advance(self._state, loss)
        size = float(self.rule.step_size(state, HOST))
        if graph is not None:
            graph(state, size)
        self._state = state
        if state.gamma2_factor != before:
            self._look_for_backoff()
        if state.steps >= ENOUGH_STEPS and (state.count == 0.0 or state.steps == ENOUGH_STEPS) and not self._gate.done:
            self._gate.look(state)
        if graph is None and size != 0.0:
            self._correction.reseed(int(state.steps))
            active = self._active(optimizer, self.sizes.last, gradients(optimizer))
            self.correct(self._correction, optimizer, active, size)

    def step_on_device(
        self,
        optimizer: Optimizer,
        law_state: Tensor,
        loss: Tensor,
        found_inf: Tensor | None,
        active: list[ActiveGroup],
        correction: Correction,
    ) -> None:
        """Perform a step by torch operators, without waiting for the device. It can be traced and captured.

        Args:
            optimizer: The base optimizer.
            law_state: The state from `state_on`; changed in place, as needed for captured graphs.
            loss: The loss of the step, of shape () and of the state's dtype, on its device.
            found_inf: See `step`.
            active: The groups to correct.
            correction: Applies the corrections.
        """
        state = self._law.advance(LawState(*law_state.unbind()), loss, torch)
        moved: Tensor = torch.stack(state)
        size: Tensor = self.rule.step_size(state, torch)
        if found_inf is not None:
            skipped = found_inf.to(law_state.device) > 0
            moved, size = torch.where(skipped, law_state, moved), torch.where(skipped, 0.0, size)
        correction.reseed(state.steps)
        self.correct(correction, optimizer, active, size)
        law_state.copy_(moved)

    def _active(self, optimizer: Optimizer, sizes: list[float], gradient_of: GradientOf) -> list[ActiveGroup]:
        active: list[ActiveGroup] = []
        for group, size in zip(optimizer.param_groups, sizes, strict=True):
            if size != 0:
                pairs = [(p, gradient_of(p)) for p in group["params"]]
                active.append((group, size, [(p, g) for p, g in pairs if g is not None]))
        return active

    def correct(
        self,
        correction: Correction,
        optimizer: Optimizer,
        active: list[ActiveGroup],
        step_size: LossValue,
        *,
        pushes: bool = False,
    ) -> None:
        """Correct the parameters of a step.

        Args:
            correction: Applies the corrections.
            optimizer: The base optimizer.
            active: The groups to correct.
            step_size: The factor on the sizes of the groups.
            pushes: See `Correction.apply`.
        """
        for group, size, pairs in active:
            amount = step_size * size
            maximize = bool(group.get("maximize", False))
            means = None if self._mean is None else self._mean.of_pairs(optimizer, pairs)
            correction.apply(pairs, amount, maximize=maximize, means=means, pushes=pushes)
            if isinstance(optimizer, ASGD):
                # Its averaged iterate includes the parameter before the correction, with the weight mu of this step;
                # the state already has mu of the next step.
                read = [g for _, g in pairs] if means is None else means.tensors
                for (p, of_step), mean in zip(pairs, read, strict=True):
                    g = of_step if mean is None else mean
                    state = optimizer.state[p]
                    mu = 1 / (state["step"] - 1 - group["t0"]).clamp(min=1)
                    share = mu * amount if isinstance(amount, Tensor) or mu.device.type != "cpu" else float(mu) * amount
                    correction.apply([(state["ax"], g)], share, maximize=maximize)

    def make_correction(self) -> Correction:
        """A `Correction` with these settings."""
        return Correction(self._settings.xi, self._settings.zero_gradient)

    # The state --------------------------------------------------------------------------------------------------------

    def state_on(self, device: torch.device) -> Tensor:
        """The state as a tensor. The first call creates it on this device; later steps use this tensor."""
        if self.device_state is None:
            self.device_state = torch.tensor(self._state, dtype=wide(device), device=device)
            self._launcher = _make_launcher(self._law, self._settings, self.device_state)
        return self.device_state

    def set_epoch(self, settings: Settings) -> None:
        """Continue with settings for another length of an epoch; the status in progress keeps its losses."""
        self._settings, self._law = settings, settings.law
        self.statuses.set_epoch(_reported_epoch(settings))
        if self.device_state is not None:
            self._launcher = _make_launcher(self._law, self._settings, self.device_state)

    def read_state(self) -> LawState:
        """The state as plain numbers. Waits for the device."""
        if self.device_state is not None:
            self._state = LawState(*self.device_state.tolist())
            self._look_for_backoff()
            if self._state.steps >= ENOUGH_STEPS and not self._gate.done:
                self._gate.look(self._state)
        return self._state

    def load_state(self, state: LawState) -> None:
        """Continue from a state of plain numbers."""
        self._state = state
        self._backoffs = BackoffNotice(state.gamma2_factor)
        self.statuses.load(state)
        if self.device_state is not None:
            self.device_state.copy_(torch.tensor(state, dtype=self.device_state.dtype))

    def gamma2(self, state: LawState) -> float:
        """The reported gamma2 for a state of plain numbers."""
        return float(self.rule.gamma2(state, max(self.sizes.last, default=0.0), HOST))

    def status(self, steps_without_loss: int) -> Status:
        """The present `Status`. Waits for the device.

        Args:
            steps_without_loss: Number of steps without a loss.
        """
        state = self.read_state()
        return summarize(state, self.gamma2(state), steps_without_loss)

    def _look_for_backoff(self) -> None:
        if self.rule.logs_backoffs:
            self._backoffs.look(self._state, self.gamma2(self._state))


def _reported_epoch(settings: Settings) -> int:
    """The length of an epoch for the warning about missing statuses; 0 if the rule does not need statuses."""
    return settings.steps_per_epoch if settings.rule.needs_statuses else 0


def _make_mean(rule: Gamma2Rule) -> GradientMean | None:
    # A rule of users may not have a choice of dtype.
    return GradientMean(rule.momentum, getattr(rule, "mean_dtype", None)) if rule.momentum else None


# Launches on a GPU ----------------------------------------------------------------------------------------------------


def _make_launcher(law: Law, settings: Settings, law_state: Tensor) -> Any:
    """Law and correction by Triton, if it is installed and supports the law; otherwise None."""
    if law_state.device.type != "cuda":
        return None
    try:
        from lossaware.launcher import Launcher
    except ImportError:
        return None
    if not Launcher.supports_law(law):
        return None
    return Launcher(law, settings.xi, settings.zero_gradient == "rest", law_state)


def _launched(
    launcher: Any,
    means: GradientMean | None,
    optimizer: Optimizer,
    loss: Tensor,
    found_inf: Tensor | None,
    active: list[ActiveGroup],
) -> bool:
    """Perform the step by Triton launches, unless they do not support a gradient."""
    if launcher is None or torch.compiler.is_compiling() or isinstance(optimizer, ASGD):
        return False
    groups = [
        (
            [(p.detach(), g, None if means is None else means.of(optimizer, p, g)) for p, g in pairs],
            float(size),
            bool(group.get("maximize", False)),
        )
        for group, size, pairs in active
    ]
    if not all(launcher.takes(p, g, mean) for tensors, _, _ in groups for p, g, mean in tensors):
        return False
    launcher.step(groups, loss, found_inf)
    return True
