"""The steps of `lossaware.agreement.Agreement` on torch tensors: agreement, bound on the base's step, and push."""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.optim import ASGD, Optimizer

from lossaware.agreement import Agreement, AgreementStatus
from lossaware.base_bound import Active, BaseBound
from lossaware.correction import Correction
from lossaware.correction.memory import as_reals
from lossaware.errors import UsageError
from lossaware.gradient_mean import MEAN, GradientMean
from lossaware.groups import Group
from lossaware.law_state import HOST, LawState, Status
from lossaware.loss_input import is_shared
from lossaware.loss_value import LossValue
from lossaware.notices import PushNotice
from lossaware.settings import Settings
from lossaware.stepper import GradientOf, Stepper
from lossaware.tensor_scales import TensorScales


class AgreementStepper(Stepper):
    """Bounds the base's steps, and pushes.

    Args:
        settings: The settings of LGA, whose rule is an `Agreement`.
    """

    def __init__(self, settings: Settings) -> None:
        super().__init__(settings)
        assert isinstance(settings.rule, Agreement)
        self._agreement = rule = settings.rule
        self._bound = BaseBound()
        self.sizes: TensorScales = TensorScales(rule, settings.xi, self._bound.memories)
        self._means = GradientMean(rule.momentum)
        self._notice = PushNotice()
        # Of the step in progress: the sum of the gradients' sizes, NaN if one is not finite; the maximum movement of
        # each active group.
        self._weight = 0.0
        self._shares: list[float] = []

    def make_correction(self) -> Correction:
        """A `Correction` that moves by half of its amount against a sign, and does not move elements with sign 0."""
        return Correction(1.0, "rest")

    # A step -----------------------------------------------------------------------------------------------------------

    def before_base(self, optimizer: Optimizer, has_loss: bool) -> None:
        """See `Stepper.before_base`: bounds the base's step.

        If a gradient is not finite, the gradients are removed for this step, so that nothing moves.

        Raises:
            UsageError: There are several ranks.
        """
        self._bound.drop()  # of a failed step
        if not has_loss:
            return
        if is_shared(None):
            raise UsageError("gamma2 'agreement' does not support several ranks")
        active = self._bounded(optimizer)
        along, self._weight = _agreement(optimizer, active)
        if math.isfinite(self._weight):
            agreement = along / self._weight if self._weight > 0 else 0.0
            self._state = self._agreement.follow(self._state, max(-1.0, min(1.0, agreement)), HOST)
            share = float(self._agreement.gamma2(self._state, 1.0, HOST))
            self._shares = self._bound.begin(active, share)
        else:
            self._bound.remove_gradients(active)

    def release(self, *_: Any) -> None:
        """See `Stepper.release`."""
        self._bound.restore()

    def step(
        self,
        optimizer: Optimizer,
        loss: LossValue | None,
        found_inf: Tensor | None,
        gradients: Callable[[Optimizer], GradientOf],
    ) -> None:
        """Push, after the base's step.

        Args:
            optimizer: The base optimizer.
            loss: The loss of the step, or None.
            found_inf: Of a gradient scaler: if it is above 0, nothing changes.
            gradients: Returns the gradients from before the base's step.
        """
        moved = self._bound.end()
        active = self._bounded(optimizer)
        self._means.make(optimizer, (p for group, _ in active for p in group["params"]))
        if loss is None or (found_inf is not None and float(found_inf) > 0):
            return
        before, value = self._state, float(loss)
        state = self._law.advance(before, value if math.isfinite(self._weight) else math.nan)
        if state.nonfinite > before.nonfinite:
            self._state = state._replace(omega=before.omega)
            self._notice.step(f"{'no gradient' if math.isfinite(value) else 'no loss'} was finite")
            return
        self._correction.reseed(int(state.steps))
        gradient_of = gradients(optimizer)
        largest_rest = [
            self._push(optimizer, group, scales, share, moved, gradient_of)
            for (group, scales), share in zip(active, self._shares, strict=True)
        ]
        state = state._replace(omega=max(largest_rest, default=0.0))
        self._state = state._replace(opened=before.opened + (state.omega > 0))
        self._notice.step("all gradients were 0" if active and self._weight == 0 else "")

    def _push(
        self,
        optimizer: Optimizer,
        group: Group,
        scales: list[float],
        share: float,
        moved: dict[int, float],
        gradient_of: GradientOf,
    ) -> float:
        """Push each tensor of a group by the rest of its share after the base's step; returns the largest rest."""
        triples = [(p, g, s) for p, s in zip(group["params"], scales, strict=True) if (g := gradient_of(p)) is not None]
        read = self._means.update_means(optimizer, [(p, g) for p, g, _ in triples])
        maximize, largest_rest = bool(group.get("maximize", False)), 0.0
        for (p, g, scale), mean in zip(triples, read, strict=True):
            amount = share * scale - moved.get(id(p), 0.0)
            if not amount > 0:
                continue
            direction = _direction(mean, g)
            largest_rest = max(largest_rest, amount / (share * scale))
            self._correction.apply([(p, direction)], 2 * amount, maximize=maximize)
            if isinstance(optimizer, ASGD):  # see Stepper
                state = optimizer.state[p]
                mu = float(1 / (state["step"] - 1 - group["t0"]).clamp(min=1))
                self._correction.apply([(state["ax"], direction)], 2 * mu * amount, maximize=maximize)
        return largest_rest if self._weight > 0 else 0.0

    def _bounded(self, optimizer: Optimizer) -> Active:
        groups = optimizer.param_groups
        of_tensors = self.sizes.of_tensors(groups)
        return [(group, s) for group, s in zip(groups, of_tensors, strict=True) if group.get("gamma2") != 0]

    # The state --------------------------------------------------------------------------------------------------------

    def load_state(self, state: LawState) -> None:
        """See `Stepper.load_state`."""
        super().load_state(state)
        self._notice = PushNotice()

    def status(self, steps_without_loss: int) -> Status:
        """See `Stepper.status`."""
        return AgreementStatus(**vars(super().status(steps_without_loss)))


def _agreement(optimizer: Optimizer, active: Active) -> tuple[float, float]:
    """Numerator and denominator of the agreement of the gradients with the means before them.

    The denominator is NaN or infinite if a gradient is not finite.
    """
    along = total = 0.0
    with torch.no_grad():
        for group, scales in active:
            for p, scale in zip(group["params"], scales, strict=True):
                if p.grad is None:
                    continue
                g = p.grad.coalesce().values() if p.grad.is_sparse else p.grad
                values = as_reals(g)
                total += scale * float(values.abs().sum(dtype=torch.float64))  # float32 could overflow
                mean = optimizer.state[p].get(MEAN) if p in optimizer.state and not p.grad.is_sparse else None
                if mean is not None:
                    along += scale * float((as_reals(mean).sign() * values).sum(dtype=torch.float64))
    return along, total


def _direction(mean: Tensor, g: Tensor) -> Tensor:
    """The sign of the mean where this step has a gradient, otherwise 0; of real and imaginary parts separately."""
    if g.is_sparse:
        g = g.coalesce()
        return torch.sparse_coo_tensor(
            g.indices(), g.values().sign(), g.shape, is_coalesced=True, check_invariants=False
        )
    signs = as_reals(mean).sign().mul_(as_reals(g) != 0)
    return torch.view_as_complex(signs) if mean.is_complex() else signs
