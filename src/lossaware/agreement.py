"""A rule for gamma2 that follows the agreement of gradients, and bounds the base's own step too.

This module has the scalar part, for any kind of scalars; `lossaware.agreement_stepper` has the part with parameters.
"""

import math
from dataclasses import dataclass
from typing import ClassVar

from lossaware.gamma2 import Defaults, Gamma2Rule
from lossaware.law_state import LawState, Ops, Scalar, Status

FEW_MEDIANS = 5.0
"""A vector has the scale of the matrix before it, unless that exceeds the median of all by this factor."""


@dataclass(frozen=True)
class Agreement(Gamma2Rule):
    r"""One step size for the base and the push together, which grows while gradients agree.

    A step moves each tensor by at most :math:`m\,s` in root mean square, where :math:`s` is the scale of its elements
    at the start. The base's own step is limited to that by a smaller learning rate. The push, against the sign of a
    running mean of the gradients, uses the rest:

    .. math::
        x \leftarrow x + q\,u - \max(m\,s - b, 0) \operatorname{sign}(\bar g)

    with the base's step :math:`u`, the factor :math:`q \le 1` on its rate, and the root mean square :math:`b` of
    :math:`q\,u`. Elements whose gradient is 0 at this step are not pushed. The agreement of the gradient with the
    earlier mean,

    .. math::
        c = \frac{\sum s \operatorname{sign}(\bar g)\,g}{\sum s\,|g|} \in [-1, 1],

    over all elements, changes :math:`m` at each step :math:`k`, and the loss reduces it if it certainly rises or does
    not change:

    .. math::
        m \leftarrow m \exp(c \max(\text{rate}, \min(1, \text{early} / k)))

    If the learning rate of a group is below its largest one so far, or below the ``initial_lr`` of a scheduler, its
    share is smaller in proportion. So a schedule anneals the push like the base.

    The result does not depend on the scale of the loss, on a number added to it, or on the scale of the gradients.

    Args:
        initial: :math:`m` at the start, as a share of a tensor's scale.
        smallest: Minimum of :math:`m`, above 0.
        largest: Maximum of :math:`m`, at most 1.
        momentum: Weight of the earlier gradients in their mean, in (0, 1).
        rate: Rate at which :math:`m` follows the agreement, above 0.
        early: Numerator of the higher rate at the start, at least 0.
        shrink: Factor on :math:`m` if the mean loss of a status certainly rose, in (0, 1].
        fade: Factor if it neither certainly rose nor certainly fell, in (0, 1].
        certainty: Number of standard errors from which a change is certain, at least 0.
        status_steps: Steps per status, at least 2.

    Raises:
        ValueError: A value is out of its range.
    """

    defaults: ClassVar[Defaults] = Defaults(eps=0.0, xi=1.0, lower_bound="zero", zero_gradient="rest")
    uses_scale: ClassVar[bool] = True
    needs_epochs: ClassVar[bool] = False
    moves_base: ClassVar[bool] = True

    initial: float = 6e-4
    smallest: float = 2e-5
    largest: float = 0.02
    momentum: float = 0.9
    rate: float = 0.03
    early: float = 3.0
    shrink: float = 0.6
    fade: float = 0.93
    certainty: float = 2.5
    status_steps: int = 25

    def __post_init__(self) -> None:
        is_integer = type(self.status_steps) is int
        for name, fine, allowed in (
            ("initial", 0 < self.initial <= 1, "above 0 and at most 1"),
            ("smallest", 0 < self.smallest <= self.initial, "above 0 and at most initial"),
            ("largest", self.initial <= self.largest <= 1, "at least initial and at most 1"),
            ("momentum", 0 < self.momentum < 1, "above 0 and below 1"),
            ("rate", 0 < self.rate <= 1, "above 0 and at most 1"),
            ("early", 0 <= self.early <= 100, "from 0 to 100"),
            ("shrink", 0 < self.shrink <= 1, "above 0 and at most 1"),
            ("fade", 0 < self.fade <= 1, "above 0 and at most 1"),
            ("certainty", 0 <= self.certainty <= 10, "from 0 to 10"),
            ("status_steps", is_integer and self.status_steps >= 2, "an integer of at least 2"),
        ):
            if not fine:
                raise ValueError(f"{name} must be {allowed}: got {getattr(self, name)!r}")

    def follow(self, state: LawState, agreement: Scalar, ops: Ops) -> LawState:
        """The state after a step's gradients. Their agreement with the mean is in [-1, 1], 0 before the first mean."""
        steps = state.steps + 1.0
        early = ops.where(steps > self.early, self.early / steps, 1.0)
        speed = ops.where(early > self.rate, early, self.rate)
        # (1 + x / 64)^64 is e^x to 1 %, and needs operators only.
        grown = state.gamma2_factor * (1 + speed * agreement / 64) ** 64
        return state._replace(gamma2_factor=self._within(grown, ops))

    def _within(self, factor: Scalar, ops: Ops) -> Scalar:
        low, high = self.smallest / self.initial, self.largest / self.initial
        return ops.where(factor < low, low, ops.where(factor > high, high, factor))

    def update_factor(self, state: LawState, mean: Scalar, error: Scalar, ops: Ops) -> Scalar:
        """See `Gamma2Rule.update_factor`."""
        change, before = mean - state.mean, state.gamma2_factor
        sure = change * change > self.certainty**2 * (error + state.error)
        unless_it_fell = before * ops.where(sure & (change > 0), self.shrink, self.fade)
        return self._within(ops.where(sure & (change < 0), before, unless_it_fell), ops)

    def group_size(self, scale: Scalar, xi: Scalar) -> Scalar:
        """See `Gamma2Rule.group_size`: the movement of a tensor of this scale per step at the start."""
        return self.initial * scale

    def step_size(self, state: LawState, ops: Ops) -> Scalar:
        """See `Gamma2Rule.step_size`."""
        return state.gamma2_factor

    def gamma2(self, state: LawState, size: Scalar, ops: Ops) -> Scalar:
        """See `Gamma2Rule.gamma2`: m, the movement of a tensor per step as a share of its scale."""
        return self.initial * state.gamma2_factor

    def steps_per_status(self, steps_per_epoch: int) -> int:
        """See `Gamma2Rule.steps_per_status`; independent of the length of an epoch."""
        return self.status_steps


class AgreementStatus(Status):
    """The state of LGA with this rule, which does not have a gate: every step with finite loss and gradients pushes.

    `omega` is the largest unused part of a tensor's share after the base's last such step, in [0, 1].
    """

    @property
    def gate(self) -> str:
        """Whether the last step with a finite loss and finite gradients pushed, and if not, why."""
        if math.isnan(self.loss):
            return "no step yet with a finite loss and finite gradients"
        if self.omega > 0:
            return "open"
        return "closed: the base moved as far as a step may, or all gradients were 0"
