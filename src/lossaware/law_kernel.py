"""The scalar law on a GPU, as one small Triton kernel instead of about forty launches of torch operators.

It computes the same as `lossaware.law.Law`, for the supported bounds and rules. This module needs Triton, and is only
imported for losses on a GPU.
"""

import math

import torch
import triton
import triton.language as tl
from torch import Tensor

from lossaware.gamma2 import AutoGamma2, BackOff
from lossaware.law import Law
from lossaware.law_state import LawState
from lossaware.lower_bounds import Average, LowerBound, Momentum, Progressive, Zero
from lossaware.upper_bounds import FirstLoss

_BOUNDS: dict[type[LowerBound], tuple[int, str]] = {
    Progressive: (0, "log_base"),
    Average: (1, ""),
    Momentum: (2, "beta"),
    Zero: (3, ""),
}
"""The kernel's code of each lower bound, and the name of its parameter."""


def supports(law: Law) -> bool:
    """Whether the kernel supports this law's bounds and rule; others run as torch operators."""
    known = type(law.lower_bound) in _BOUNDS and isinstance(law.upper_bound, FirstLoss)
    return known and type(law.rule) in (BackOff, AutoGamma2)


class LawKernel:
    """Updates the state of one law.

    Args:
        law: A law for which `supports` is true.
        held: The state, `LawState` as float64 on the device; written in place.
    """

    def __init__(self, law: Law, held: Tensor) -> None:
        bound = law.lower_bound
        self._bound, name = _BOUNDS[type(bound)]
        number = getattr(bound, name) if name else 0.0
        number = math.log(number) if isinstance(bound, Progressive) else number
        self._held = held
        self._self_set = isinstance(law.rule, AutoGamma2)
        constants = [float(law.steps_per_status), law.eps, number, *_factors(law)]
        self._constants = torch.tensor(constants, dtype=torch.float64, device=held.device)
        self._step = torch.zeros(2, dtype=torch.float64, device=held.device)

    def advance(self, loss: Tensor, found_inf: Tensor | None) -> Tensor:
        """Perform a step of the law.

        Args:
            loss: A float64 tensor with one element, on the device.
            found_inf: Of a gradient scaler: if it is above 0, the state does not change and there is no push.

        Returns:
            The step size and the number of the step, as float64; overwritten by the next call.
        """
        _law_kernel[(1,)](
            self._held,
            loss,
            self._held if found_inf is None else found_inf,
            self._constants,
            self._step,
            BOUND=self._bound,
            SELF_SET=self._self_set,
            SCALER=found_inf is not None,
            num_warps=1,
        )
        return self._step


def _factors(law: Law) -> list[float]:
    """Factors on gamma2 if the loss rose, fell, or did neither, and the squared threshold of a certain change."""
    match law.rule:
        case AutoGamma2(growth=growth, shrink=shrink, fade=fade, certainty=certainty):
            return [shrink, growth, fade, certainty**2]
        case BackOff(backoff=backoff):
            return [backoff, 1.0, 1.0, 0.0]
        case other:
            raise TypeError(f"the kernel does not know {type(other).__name__}")


# The index of each field in the state. `origin`, `level` and `spread` do not change if U is the first loss.
_LOSS = tl.constexpr(LawState._fields.index("loss"))
_UPPER = tl.constexpr(LawState._fields.index("upper"))
_LOWER = tl.constexpr(LawState._fields.index("lower"))
_OMEGA = tl.constexpr(LawState._fields.index("omega"))
_FACTOR = tl.constexpr(LawState._fields.index("gamma2_factor"))
_MEAN = tl.constexpr(LawState._fields.index("mean"))
_TOTAL = tl.constexpr(LawState._fields.index("total"))
_COUNT = tl.constexpr(LawState._fields.index("count"))
_STATUSES = tl.constexpr(LawState._fields.index("statuses"))
_OPENED = tl.constexpr(LawState._fields.index("opened"))
_STEPS = tl.constexpr(LawState._fields.index("steps"))
_NONFINITE = tl.constexpr(LawState._fields.index("nonfinite"))
_SCATTER = tl.constexpr(LawState._fields.index("scatter"))
_ERROR = tl.constexpr(LawState._fields.index("error"))


@triton.jit  # type: ignore[untyped-decorator]
def _law_kernel(  # type: ignore[no-untyped-def]
    held,
    loss_pointer,
    found_inf,
    constants,
    step,
    BOUND: tl.constexpr,
    SELF_SET: tl.constexpr,
    SCALER: tl.constexpr,
):
    loss = tl.load(loss_pointer)
    old_loss = tl.load(held + _LOSS)
    old_upper = tl.load(held + _UPPER)
    old_lower = tl.load(held + _LOWER)
    old_factor = tl.load(held + _FACTOR)
    old_mean = tl.load(held + _MEAN)
    old_total = tl.load(held + _TOTAL)
    old_count = tl.load(held + _COUNT)
    old_statuses = tl.load(held + _STATUSES)
    old_opened = tl.load(held + _OPENED)
    old_steps = tl.load(held + _STEPS)
    old_nonfinite = tl.load(held + _NONFINITE)
    old_scatter = tl.load(held + _SCATTER)
    old_error = tl.load(held + _ERROR)
    steps_per_status = tl.load(constants)
    eps = tl.load(constants + 1)
    number = tl.load(constants + 2)
    shrink = tl.load(constants + 3)
    grow = tl.load(constants + 4)
    fade = tl.load(constants + 5)
    certainty_squared = tl.load(constants + 6)

    finite = (loss - loss) == 0.0
    upper = tl.where(old_steps == old_nonfinite, loss, old_upper)
    total = old_total + loss
    count = old_count + 1.0
    complete = count >= steps_per_status
    mean = total / count
    deviation = count * loss - total
    pairs = count * tl.where(count > 1.0, count - 1.0, 1.0)
    scatter = old_scatter + deviation * deviation / pairs
    error = scatter / pairs

    change = mean - old_mean
    if SELF_SET:
        sure = change * change > certainty_squared * (error + old_error)
        by = tl.where(sure & (change < 0.0), grow, tl.where(sure & (change > 0.0), shrink, fade))
        bounded = (mean > 0.0) & (upper > 0.0)
        most = tl.sqrt(tl.where(bounded, upper, 1.0) / tl.where(bounded, mean, 1.0))
        factor = tl.where(old_factor * by > most, most, old_factor * by)
    else:
        factor = tl.where(change > 0.0, old_factor * shrink, old_factor)
    factor = tl.where(finite & complete & (old_statuses > 0.0), factor, old_factor)

    statuses = old_statuses + 1.0
    if BOUND == 0:  # Eq. 3
        weight = number / tl.log(statuses + 10.0)
        lower = weight * old_lower + (1.0 - weight) * mean
    elif BOUND == 1:
        lower = old_lower + (mean - old_lower) / statuses
    elif BOUND == 2:
        lower = number * old_lower + (1.0 - number) * mean
    else:
        lower = 0.0 * old_lower
    lower = tl.where(finite & complete, lower, old_lower)

    gap = loss - lower  # Eq. 4
    opened = (gap >= eps) & (loss <= upper) & finite
    omega = tl.where(opened, gap, 0.0)
    if SELF_SET:
        wanted = factor * tl.sqrt(omega / tl.where(upper > 0.0, upper, 1.0))
        size = tl.where((omega > 0.0) & (upper > 0.0), tl.where(wanted < 1.0, wanted, 1.0), 0.0)
    else:
        size = factor * omega
    skipped = False
    if SCALER:
        skipped = tl.load(found_inf) > 0

    # Each thread has loaded the state for itself. The barrier keeps any of them from storing before all have loaded.
    tl.debug_barrier()
    tl.store(step, tl.where(skipped, 0.0, size))
    tl.store(step + 1, tl.where(skipped, old_steps, old_steps + 1.0))
    if not skipped:
        tl.store(held + _LOSS, tl.where(finite, loss, old_loss))
        tl.store(held + _UPPER, tl.where(finite, upper, old_upper))
        tl.store(held + _LOWER, lower)
        tl.store(held + _OMEGA, omega)
        tl.store(held + _FACTOR, factor)
        tl.store(held + _MEAN, tl.where(finite & complete, mean, old_mean))
        tl.store(held + _TOTAL, tl.where(finite, tl.where(complete, 0.0, total), old_total))
        tl.store(held + _COUNT, tl.where(finite, tl.where(complete, 0.0, count), old_count))
        tl.store(held + _STATUSES, tl.where(finite & complete, statuses, old_statuses))
        tl.store(held + _OPENED, tl.where(opened, old_opened + 1.0, old_opened))
        tl.store(held + _STEPS, old_steps + 1.0)
        tl.store(held + _NONFINITE, tl.where(finite, old_nonfinite, old_nonfinite + 1.0))
        tl.store(held + _SCATTER, tl.where(finite, tl.where(complete, 0.0, scatter), old_scatter))
        tl.store(held + _ERROR, tl.where(finite & complete, error, old_error))
