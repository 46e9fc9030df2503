"""Rules for gamma2: the paper's fixed value that backs off (Algorithm 1), and one that adapts by itself.

Like the lower bounds, a rule is stateless and runs on any kind of scalar; see `lossaware.law_state`. It determines the
size of a group's correction, and the reported and logged values.
"""

from abc import abstractmethod
from dataclasses import dataclass, fields
from typing import Any, ClassVar, NamedTuple, Protocol

from lossaware.law_state import LawState, Ops, Scalar


class Defaults(NamedTuple):
    """A rule's defaults of other settings; see the arguments of `lossaware.LGA`."""

    eps: float = 0.1
    xi: float = 0.01
    lower_bound: str = "progressive"
    zero_gradient: str = "push"


class Gamma2Rule(Protocol):
    """The size of the correction.

    The correction of a step is ``group_size * step_size / phi(g)``. The first factor is a constant of a parameter
    group, the second follows the loss. Your own rule inherits from this class and overrides at least `group_size` and
    `step_size`. It must be stateless, and use only operators and ``ops``, as it runs on Python floats, on torch tensors
    and on JAX scalars.

    Attributes:
        defaults: Defaults of the other settings.
        momentum: Weight of the earlier gradients in the running mean that phi reads, in [0, 1); with 0 phi reads the
            gradient itself, without a mean.
        uses_scale: Whether `group_size` uses the scale, which is then measured once per group, and saved in
            checkpoints.
        own_gamma2: Whether a parameter group may have its own ``"gamma2"``, which replaces its group size. 0, which
            switches LGA off for the group, is always allowed.
        logs_backoffs: Whether each decrease of ``gamma2_factor`` is logged.
        needs_statuses: Whether a run that ends before its first complete status gets a warning.
        moves_base: Whether it bounds the step of the base, as `lossaware.agreement.Agreement` does.
        needs_epochs: Whether ``steps_per_epoch`` is required.
    """

    defaults: ClassVar[Defaults] = Defaults()
    momentum: float = 0.0
    uses_scale: ClassVar[bool] = False
    own_gamma2: ClassVar[bool] = False
    logs_backoffs: ClassVar[bool] = False
    needs_statuses: ClassVar[bool] = False
    needs_epochs: ClassVar[bool] = True
    moves_base: ClassVar[bool] = False

    @abstractmethod
    def group_size(self, scale: Scalar, xi: Scalar) -> Scalar:
        """The size of a group, of which its correction is a multiple, at least 0.

        Args:
            scale: Root mean square of the group's elements when LGA was attached, or the group was added, at least
                0.001; 1 if ``uses_scale`` is False.
            xi: The stability constant of Eq. 5.
        """

    @abstractmethod
    def step_size(self, state: LawState, ops: Ops) -> Scalar:
        """The factor of a step, which follows the loss, at least 0.

        Args:
            state: The state of the step, with at least one finite loss.
            ops: ``where`` and ``isfinite`` for the kind of scalars.
        """

    def update_factor(self, state: LawState, mean: Scalar, error: Scalar, ops: Ops) -> Scalar:
        """``gamma2_factor`` after a complete status, except the first; unless overridden, it does not change.

        Args:
            state: The state before it; ``state.mean`` and ``state.error`` are those of the previous status.
            mean: Mean loss of the complete status.
            error: Variance of this mean, estimated from the losses of the status; 0 if a status is a single step.
            ops: ``where`` and ``isfinite`` for the kind of scalars.
        """
        return state.gamma2_factor

    def gamma2(self, state: LawState, size: Scalar, ops: Ops) -> Scalar:
        """The reported gamma2; unless overridden, ``size * gamma2_factor``.

        Args:
            state: The present state.
            size: The largest group size.
            ops: ``where`` and ``isfinite`` for the kind of scalars.
        """
        return size * state.gamma2_factor

    def steps_per_status(self, steps_per_epoch: int) -> int:
        """Steps per status; unless overridden, those of an epoch."""
        return steps_per_epoch


@dataclass(frozen=True)
class BackOff(Gamma2Rule):
    """Algorithm 1: the correction is gamma2 times Omega, and gamma2 never grows.

    Args:
        backoff: Factor on gamma2 each time a status's mean loss is above the one before, in [0, 1] (lines 7-9: 1/10).
        initial: gamma2 before all back-offs, at least 0. A group's own gamma2 replaces it.
    """

    defaults: ClassVar[Defaults] = Defaults()
    own_gamma2: ClassVar[bool] = True
    logs_backoffs: ClassVar[bool] = True
    needs_statuses: ClassVar[bool] = True

    backoff: float = 0.1
    initial: float = 1e-8

    def group_size(self, scale: Scalar, xi: Scalar) -> Scalar:
        """See `Gamma2Rule.group_size`."""
        return self.initial

    def step_size(self, state: LawState, ops: Ops) -> Scalar:
        """See `Gamma2Rule.step_size`."""
        return state.gamma2_factor * state.omega

    def update_factor(self, state: LawState, mean: Scalar, error: Scalar, ops: Ops) -> Scalar:
        """See `Gamma2Rule.update_factor`."""
        return ops.where(mean > state.mean, state.gamma2_factor * self.backoff, state.gamma2_factor)

    def gamma2(self, state: LawState, size: Scalar, ops: Ops) -> Scalar:
        """See `Gamma2Rule.gamma2`: the gamma2 of groups without their own."""
        return self.initial * state.gamma2_factor


@dataclass(frozen=True)
class AutoGamma2(Gamma2Rule):
    """A gamma2 that adapts by itself: it starts at a share of the parameters' scale, and follows the loss.

    The unit is ``reach * s * xi``, where s is the root mean square of the group's parameters at the start. The push of
    a step is at most one unit, so it moves a parameter by at most ``reach * s``. Below this bound it is the square root
    of Omega as a share of the first loss U, times a factor m that starts at 1: gamma2 = m * reach * s * xi / U, with
    sqrt(U * Omega) instead of Omega. Near a minimum the loss is proportional to the squared distance from it. A push
    along signs has the same size near and far; with the square root it is proportional to the distance.

    phi reads a running mean of the gradients instead of the batch's gradient. A push along the sign of each gradient
    stops where half of them have either sign, and not where their mean is 0: a few misclassified examples have large
    gradients, but are outvoted by the many others.

    After each status, m grows if the mean loss fell by more than ``certainty`` standard errors of the difference,
    shrinks if it rose by more, and fades if neither is certain. So noise alone ends the push, at a known rate. m is
    limited to the value at which the push reaches its bound at the status's mean loss, so that the push can become
    smaller without delay.

    Args:
        reach: Maximum movement of a parameter by one push, as a share of s, above 0.
        momentum: Weight of the earlier gradients in their running mean, in [0, 1); 0 reads each batch's gradient, and
            saves the mean, which is one more tensor per parameter. Sparse gradients are read without a mean.
        growth: Factor on m if the loss certainly fell, at least 1.
        shrink: Factor if it certainly rose, in (0, 1].
        fade: Factor if neither is certain, in (0, 1].
        certainty: Number of standard errors from which a change is certain, at least 0.
        statuses_per_epoch: Statuses per epoch, at least 1.
        steps_at_least: Minimum number of steps per status, for short epochs.
        mean_dtype: Dtype in which the running mean is stored: None for float32, or the parameter's dtype if that is
            wider; ``"bfloat16"`` needs half the memory. It is then rounded stochastically, so that small changes are
            not lost, and phi reads it before it is rounded. For parameters of float32, bfloat16 and float16, in torch.

    Raises:
        ValueError: A value is out of its range.
    """

    defaults: ClassVar[Defaults] = Defaults(eps=0.0, xi=1.0, lower_bound="zero", zero_gradient="rest")
    uses_scale: ClassVar[bool] = True

    reach: float = 0.02
    momentum: float = 0.9
    growth: float = 1.3
    shrink: float = 0.6
    fade: float = 0.93
    certainty: float = 1.0
    statuses_per_epoch: int = 10
    steps_at_least: int = 25
    mean_dtype: Any = None

    def __post_init__(self) -> None:
        if str(self.mean_dtype) == "torch.bfloat16":
            object.__setattr__(self, "mean_dtype", "bfloat16")
        for name, fine, allowed in (
            ("mean_dtype", self.mean_dtype in (None, "bfloat16"), "None or 'bfloat16'"),
            ("reach", 0 < self.reach <= 1, "above 0 and at most 1"),
            ("momentum", 0 <= self.momentum < 1, "at least 0 and below 1"),
            ("growth", 1 <= self.growth <= 10, "from 1 to 10"),
            ("shrink", 0 < self.shrink <= 1, "above 0 and at most 1"),
            ("fade", 0 < self.fade <= 1, "above 0 and at most 1"),
            ("certainty", 0 <= self.certainty <= 10, "from 0 to 10"),
            ("statuses_per_epoch", _counts(self.statuses_per_epoch), "an integer of at least 1"),
            ("steps_at_least", _counts(self.steps_at_least), "an integer of at least 1"),
        ):
            if not fine:
                raise ValueError(f"{name} must be {allowed}: got {getattr(self, name)!r}")

    def __repr__(self) -> str:
        """Without ``mean_dtype`` where that is None, as in checkpoints of versions that did not have it."""
        listed = [f for f in fields(self) if f.name != "mean_dtype" or self.mean_dtype is not None]
        return f"AutoGamma2({', '.join(f'{f.name}={getattr(self, f.name)!r}' for f in listed)})"

    def group_size(self, scale: Scalar, xi: Scalar) -> Scalar:
        """See `Gamma2Rule.group_size`: the maximum push of a step, times xi."""
        return self.reach * xi * scale

    def step_size(self, state: LawState, ops: Ops) -> Scalar:
        """See `Gamma2Rule.step_size`. At most 1, and 0 if U is not above 0, for any lower bound."""
        first = state.upper - state.origin
        opened = (state.omega > 0) & (first > 0)
        # 1 where it is closed, as the root has no derivative at 0, for JAX programs that go back through an update.
        size = state.gamma2_factor * (ops.where(opened, state.omega, 1.0) / ops.where(opened, first, 1.0)) ** 0.5
        return ops.where(opened, ops.where(size < 1.0, size, 1.0), 0.0)

    def update_factor(self, state: LawState, mean: Scalar, error: Scalar, ops: Ops) -> Scalar:
        """See `Gamma2Rule.update_factor`."""
        change, before = mean - state.mean, state.gamma2_factor
        sure = change * change > self.certainty**2 * (error + state.error)
        unless_it_fell = ops.where(sure & (change > 0), before * self.shrink, before * self.fade)
        size = ops.where(sure & (change < 0), before * self.growth, unless_it_fell)
        # The factor at which the push at the mean loss is at its maximum; 1 if a loss is 0 or below.
        first, current = state.upper - state.origin, mean - state.origin
        bounded = (current > 0) & (first > 0)
        most = (ops.where(bounded, first, 1.0) / ops.where(bounded, current, 1.0)) ** 0.5
        return ops.where(size > most, most, size)

    def gamma2(self, state: LawState, size: Scalar, ops: Ops) -> Scalar:
        """See `Gamma2Rule.gamma2`: the largest of all groups, with ``push = gamma2 * sqrt(U * Omega) / phi``.

        0 if U is not above 0: then there is no push.
        """
        first = state.upper - state.origin
        return ops.where(first > 0, size / ops.where(first > 0, first, 1.0) * state.gamma2_factor, 0.0)

    def steps_per_status(self, steps_per_epoch: int) -> int:
        """See `Gamma2Rule.steps_per_status`."""
        least, share = self.steps_at_least, steps_per_epoch // self.statuses_per_epoch
        return least + (share > least) * (share - least)  # the larger, also of numbers that JAX traces


def _counts(value: Any) -> bool:
    return type(value) is int and value >= 1


SMALLEST_SCALE = 1e-3
"""Minimum scale, for parameters that start near 0: Adafactor's ``eps_2`` (Shazeer and Stern, 2018)."""


def __getattr__(name: str) -> Any:
    if name in ("SelfSet", "Strategy"):
        from lossaware.deprecated import renamed

        new = {"SelfSet": "lossaware.gamma2.AutoGamma2", "Strategy": "lossaware.gamma2.Gamma2Rule"}
        return renamed(__name__, new, stacklevel=3)(name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
