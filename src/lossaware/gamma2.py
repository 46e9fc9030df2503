"""How gamma2 moves: the paper's fixed value that backs off (Algorithm 1), and one that sets itself.

As with the lower bounds, a strategy is stateless and its few lines run on any kind of scalar; see `status.Ops`.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, Protocol

if TYPE_CHECKING:
    from torch import Tensor

    from lossaware.status import Ops, Scalar, State


class Defaults(NamedTuple):
    """What goes best with a strategy where nothing else is asked for; see the arguments of `lossaware.LGA`."""

    eps: float
    xi: float
    lower_bound: str
    zero_gradient: str


class Strategy(Protocol):
    """What decides the size of the correction, ``unit * push / phi(g)``, with a unit that is fixed at the start."""

    defaults: ClassVar[Defaults]

    @property
    def momentum(self) -> float:
        """Weight of the earlier gradients in the running mean that phi reads, in [0, 1); 0 is the gradient itself."""

    def steps_per_status(self, steps_per_epoch: int) -> int:
        """How many steps are judged together."""

    def decay(self, state: "State", mean: "Scalar", error: "Scalar", ops: "Ops") -> "Scalar":
        """What ``state.decay`` becomes when a status is complete that is not the first.

        Args:
            state: Before it; ``state.mean`` and ``state.error`` are those of the status before.
            mean: Mean loss of the status that is now complete.
            error: Variance of that mean, as the losses of the status show it; 0 where a status is a single step.
            ops: Where the scalars live.
        """

    def push(self, state: "State", ops: "Ops") -> "Scalar":
        """The push of a step in units, at least 0; the state is that of the step."""


@dataclass(frozen=True)
class BackOff:
    """Algorithm 1: the unit is gamma2, which only ever shrinks, and the push is Omega.

    Args:
        backoff: Factor on gamma2 each time a status' mean loss is above the one before, from 0 to 1 (lines 7-9: 1/10).
    """

    defaults: ClassVar[Defaults] = Defaults(eps=0.1, xi=0.01, lower_bound="progressive", zero_gradient="push")

    backoff: float = 0.1

    @property
    def momentum(self) -> float:
        """See `Strategy.momentum`."""
        return 0.0

    def steps_per_status(self, steps_per_epoch: int) -> int:
        """See `Strategy.steps_per_status`: one status an epoch."""
        return steps_per_epoch

    def decay(self, state: "State", mean: "Scalar", error: "Scalar", ops: "Ops") -> "Scalar":
        """See `Strategy.decay`."""
        return ops.where(mean > state.mean, state.decay * self.backoff, state.decay)

    def push(self, state: "State", ops: "Ops") -> "Scalar":
        """See `Strategy.push`."""
        return state.decay * state.omega


@dataclass(frozen=True)
class SelfSet:
    """A gamma2 that sets itself: it starts at what the parameters can bear, and follows what the loss does.

    The unit is ``reach * s * xi`` with s the root mean square of the group's parameters at the start, so that the push
    of a step, at most one unit, moves no parameter by more than ``reach * s``. Up to that bound it is the square root
    of Omega as a share of the first loss U, times a factor m that starts at 1: gamma2 = m * reach * s * xi / U, and
    sqrt(U * Omega) in place of Omega. Near a minimum the loss goes with the square of the distance from it, so that a
    push along signs, which has the same size near and far, thus goes with the distance.

    What phi reads is a running mean of the gradients, and not a batch's own. A push along the sign of each gradient
    rests where half of them point either way, which is not where their mean is 0: the few examples that are still wrong
    have large gradients, and are outvoted by the many that are right.

    After each status, m grows where the mean loss fell by more than ``certainty`` standard errors of the difference,
    shrinks where it rose by more, and fades where neither is certain. So noise alone ends the push, and it ends it at
    a known rate. It never stands above what the bound lets through at the status' mean loss, so that it has nothing to
    come down from when the push must become smaller.

    Args:
        reach: The most that one push may move a parameter, as a share of s, above 0.
        momentum: Weight of the earlier gradients in their running mean, in [0, 1); 0 reads each batch's own, and saves
            the mean, which is one more tensor a parameter. Sparse gradients are read as they are.
        growth: Factor on m where the loss surely fell, at least 1.
        shrink: Factor where it surely rose, in (0, 1].
        fade: Factor where neither is sure, in (0, 1].
        certainty: Standard errors from which a change is taken for one, at least 0.
        statuses_per_epoch: Judgements an epoch, at least 1.
        steps_at_least: Steps that a judgement needs at least, where epochs are short.

    Raises:
        ValueError: A value is out of its range.
    """

    defaults: ClassVar[Defaults] = Defaults(eps=0.0, xi=1.0, lower_bound="zero", zero_gradient="rest")

    reach: float = 0.02
    momentum: float = 0.9
    growth: float = 1.3
    shrink: float = 0.6
    fade: float = 0.93
    certainty: float = 1.0
    statuses_per_epoch: int = 10
    steps_at_least: int = 25

    def __post_init__(self) -> None:
        for name, fine, allowed in (
            ("reach", 0 < self.reach <= 1, "above 0 and at most 1"),
            ("momentum", 0 <= self.momentum < 1, "at least 0 and below 1"),
            ("growth", 1 <= self.growth <= 10, "from 1 to 10"),
            ("shrink", 0 < self.shrink <= 1, "above 0 and at most 1"),
            ("fade", 0 < self.fade <= 1, "above 0 and at most 1"),
            ("certainty", 0 <= self.certainty <= 10, "from 0 to 10"),
            ("statuses_per_epoch", _counts(self.statuses_per_epoch), "a whole number of at least 1"),
            ("steps_at_least", _counts(self.steps_at_least), "a whole number of at least 1"),
        ):
            if not fine:
                raise ValueError(f"{name} must be {allowed}: got {getattr(self, name)!r}")

    def decay(self, state: "State", mean: "Scalar", error: "Scalar", ops: "Ops") -> "Scalar":
        """See `Strategy.decay`."""
        change, before = mean - state.mean, state.decay
        sure = change * change > self.certainty**2 * (error + state.error)
        unless_it_fell = ops.where(sure & (change > 0), before * self.shrink, before * self.fade)
        wanted = ops.where(sure & (change < 0), before * self.growth, unless_it_fell)
        # Where the push at the mean loss is the largest that is allowed; there is none where a loss is 0 or below.
        bounded = (mean > 0) & (state.upper > 0)
        most = (ops.where(bounded, state.upper, 1.0) / ops.where(bounded, mean, 1.0)) ** 0.5
        return ops.where(bounded & (wanted > most), most, wanted)

    def push(self, state: "State", ops: "Ops") -> "Scalar":
        """See `Strategy.push`. At most 1."""
        wanted = state.decay * (state.omega / ops.where(state.upper > 0, state.upper, 1.0)) ** 0.5
        return ops.where(wanted < 1.0, wanted, 1.0)

    def steps_per_status(self, steps_per_epoch: int) -> int:
        """See `Strategy.steps_per_status`."""
        return max(self.steps_at_least, steps_per_epoch // self.statuses_per_epoch)


def _counts(value: Any) -> bool:
    return type(value) is int and value >= 1


SMALLEST_SCALE = 1e-3
"""Of parameters that start near 0: Adafactor's ``eps_2`` (Shazeer and Stern, 2018)."""


def scale_of(parameters: Iterable["Tensor"]) -> float:
    """Root mean square of all elements, at least `SMALLEST_SCALE`; of sharded parameters, over all ranks."""
    import torch  # not before: the law serves JAX, too

    total, count = 0.0, 0
    for p in parameters:
        reals = torch.view_as_real(p.detach()) if p.is_complex() else p.detach()
        norm: Any = reals.norm(dtype=torch.promote_types(reals.dtype, torch.float32))
        total += float(norm.full_tensor() if hasattr(norm, "full_tensor") else norm) ** 2
        count += p.numel()
    return max(math.sqrt(total / max(count, 1)), SMALLEST_SCALE)


def make_strategy(gamma2: Any, backoff: float) -> Strategy:
    """The strategy that ``gamma2`` asks for: a number, ``"auto"``, or a `SelfSet`.

    Raises:
        ValueError: It is another string.
    """
    if isinstance(gamma2, str):
        if gamma2 != "auto":
            raise ValueError(f"gamma2 must be a number of at least 0, 'auto' or a SelfSet: got {gamma2!r}")
        return SelfSet()
    return gamma2 if isinstance(gamma2, SelfSet) else BackOff(backoff)
