"""Law and correction for all parameters on a GPU, in one launch (Triton).

Every program computes the law for itself from the state before the step, which takes no time; the last one to have read
it writes the state after the step. So one launch does for what the host would need forty, the host reads nothing, and a
captured CUDA graph may replay it. Where Omega is 0, each program leaves after the law.

This module needs Triton, and is imported only where losses come from a GPU. Its arithmetic is that of `law.Law` and
of `correction.Correction`, whose noise it shares to the bit.
"""

import math
from collections.abc import Iterable, Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

from lossaware.correction import NOISE_BITS, WORK
from lossaware.gamma2 import AutoGamma2, BackOff
from lossaware.law import Law
from lossaware.law_state import LawState
from lossaware.lower_bounds import Average, LowerBound, Momentum, Progressive, Zero
from lossaware.upper_bounds import FirstLoss

Group = tuple[Sequence[tuple[Tensor, Tensor, Tensor | None]], float, bool]
"""Parameters with their gradients and the means of these, where phi reads means; gamma2; whether the base maximizes."""

_BLOCK = 8192
"""Elements that a program takes at a time."""
_PROGRAMS_A_PROCESSOR = 8
_COLUMNS = 7
"""Of a row: where parameter, gradient and mean lie, elements, the first one's place, the noise's key, maximize."""

_GOLDEN = 0x9E3779B9
_FIELDS = len(LawState._fields)
_BOUNDS: dict[type[LowerBound], tuple[int, str]] = {
    Progressive: (0, "log_base"),
    Average: (1, ""),
    Momentum: (2, "beta"),
    Zero: (3, ""),
}
_WORK = {torch.float32: tl.float32, torch.float64: tl.float64, torch.bfloat16: tl.float32, torch.float16: tl.float32}
_STORED = {torch.float32: tl.float32, torch.float64: tl.float64, torch.bfloat16: tl.uint16, torch.float16: tl.float16}


class Launcher:
    """Makes the steps of one LGA on one GPU.

    Args:
        law: Its bounds and rule must be some that the kernel knows; see `supports_law`.
        xi: The stability constant of Eq. 5.
        rest: Whether elements with a gradient of exactly 0 stay where they are.
        held: The state, `LawState` as float64 on the device; written in place.
    """

    def __init__(self, law: Law, xi: float, rest: bool, held: Tensor) -> None:
        bound = law.lower_bound
        self._kind, name = _BOUNDS[type(bound)]
        number = getattr(bound, name) if name else 0.0
        number = math.log(number) if isinstance(bound, Progressive) else number
        self._held = held
        self._rest = rest
        self._self_set = isinstance(law.rule, AutoGamma2)
        self._momentum = law.rule.momentum
        constants = [float(law.steps_per_status), law.eps, number, xi, *_factors(law), 1 - self._momentum]
        self._constants = torch.tensor(constants, dtype=torch.float64, device=held.device)
        self._push = torch.zeros(2, dtype=torch.float64, device=held.device)  # of the step, in units; the seed
        self._arrived = torch.zeros((), dtype=torch.int32, device=held.device)
        self._programs = _PROGRAMS_A_PROCESSOR * _processors(held.device)
        self._tables: dict[torch.dtype, _Table] = {}

    @staticmethod
    def supports_law(law: Law) -> bool:
        """Whether the kernel has this law's bounds and rule; any other object runs as torch operators."""
        known = type(law.lower_bound) in _BOUNDS and isinstance(law.upper_bound, FirstLoss)
        return known and type(law.rule) in (BackOff, AutoGamma2)

    def takes(self, parameter: Tensor, gradient: Tensor, mean: Tensor | None = None) -> bool:
        """Whether all are plain tensors, flat in the same order, on its device, of a type that the kernel knows.

        A gradient must have the parameter's type, and a mean that of the arithmetic, float32 for types of 16 bits.
        """
        if parameter.dtype not in _WORK or (mean is not None and mean.dtype != WORK[parameter.dtype]):
            return False
        return gradient.dtype == parameter.dtype and all(
            type(tensor) is Tensor
            and tensor.device == self._held.device
            and tensor.layout is torch.strided
            and tensor.is_contiguous()
            and not tensor.is_neg()
            for tensor in (parameter, gradient, *([] if mean is None else [mean]))
        )

    def step(self, groups: Iterable[Group], loss: Tensor, found_inf: Tensor | None) -> None:
        """One step of law and correction.

        Args:
            groups: What to push; `takes` must hold for each pair.
            loss: A float64 tensor with one element, on the device.
            found_inf: Of a gradient scaler: where it is above 0, nothing moves, the state included.
        """
        rows: dict[torch.dtype, list[_Row]] = {}
        number = 0
        for tensors, gamma2, maximize in groups:
            for p, g, mean in tensors:
                number += 1
                rows.setdefault(p.dtype, []).append((p, g, g if mean is None else mean, number, gamma2, maximize))
        with_law = True
        for dtype, some in rows.items() or [(torch.float32, [])]:
            if dtype not in self._tables:
                self._tables[dtype] = _Table(dtype, self._held.device)
            table = self._tables[dtype]
            table.fill(some)
            programs = max(1, min(self._programs, table.length))
            _step_kernel[(programs,)](
                table.rows,
                table.gammas,
                table.length,
                self._held,
                loss,
                self._held if found_inf is None else found_inf,
                self._push,
                self._arrived,
                self._constants,
                LAW=with_law,
                BOUND=self._kind,
                SELF_SET=self._self_set,
                SCALER=found_inf is not None,
                REST=self._rest,
                MEANS=self._momentum > 0,
                WORK=_WORK[dtype],
                STORED=_STORED[dtype],
                NOISE=NOISE_BITS.get(dtype, 0),
                ALIGNED=table.aligned,
                FIELDS=_FIELDS,
                COLUMNS=_COLUMNS,
                BLOCK=_BLOCK,
                num_warps=8,
            )
            with_law = False


_Row = tuple[Tensor, Tensor, Tensor, int, float, bool]


class _Table:
    """Where the pieces of all tensors of one type lie, on the device; written anew only when something has moved."""

    def __init__(self, dtype: torch.dtype, device: torch.device) -> None:
        self._widths = (dtype.itemsize, dtype.itemsize, WORK[dtype].itemsize)  # of parameter, gradient, mean
        self._device = device
        self._known: list[tuple[tuple[int, ...], int, int, float, bool]] | None = None
        self._staging: list[Tensor] = []
        self.rows = torch.zeros(_COLUMNS, dtype=torch.int64, device=device)
        self.gammas = torch.zeros(1, dtype=torch.float64, device=device)
        self.length = 0
        self.aligned = True

    def fill(self, tensors: list[_Row]) -> None:
        known: list[tuple[tuple[int, ...], int, int, float, bool]] = [
            ((p.data_ptr(), g.data_ptr(), m.data_ptr()), p.numel(), number, gamma2, maximize)
            for p, g, m, number, gamma2, maximize in tensors
        ]
        if known == self._known:
            return
        self._known = known
        self.aligned = all(pointer % 16 == 0 for pointers, *_ in known for pointer in pointers)
        parts, gammas = [], []
        for pointers, size, number, gamma2, maximize in known:
            start = torch.arange(0, size, _BLOCK, device="cpu")
            part = torch.empty(len(start), _COLUMNS, dtype=torch.int64, device="cpu")
            for column, (pointer, width) in enumerate(zip(pointers, self._widths, strict=True)):
                part[:, column] = pointer + start * width
            part[:, 3] = (size - start).clamp(max=_BLOCK)
            part[:, 4] = start
            part[:, 5] = number * _GOLDEN & 0xFFFFFFFF
            part[:, 6] = int(maximize)
            parts.append(part)
            gammas.append(torch.full((len(start),), gamma2, dtype=torch.float64, device="cpu"))
        self.length = sum(map(len, parts))
        if self.length:
            self.rows, self.gammas = self._moved(torch.cat(parts)), self._moved(torch.cat(gammas))

    def _moved(self, table: Tensor) -> Tensor:
        """On the device, without waiting for it. What a captured graph copies from must stay."""
        if self._device.type == "cpu":
            return table
        self._staging = [*self._staging[-1:], table.pin_memory()]
        return self._staging[-1].to(self._device, non_blocking=True)


def _factors(law: Law) -> list[float]:
    """What gamma2 is multiplied by where the loss rose, fell, or did neither, and when a change is sure."""
    match law.rule:
        case AutoGamma2(growth=growth, shrink=shrink, fade=fade, certainty=certainty):
            return [shrink, growth, fade, certainty**2]
        case BackOff(backoff=backoff):
            return [backoff, 1.0, 1.0, 0.0]
        case other:
            raise TypeError(f"the kernel does not know {type(other).__name__}")


def _processors(device: torch.device) -> int:
    return torch.cuda.get_device_properties(device).multi_processor_count if device.type == "cuda" else 1


@triton.jit
def _mixed(x):  # type: ignore[no-untyped-def]
    x = (x ^ (x >> 16)) * 0x45D9F3B
    x = (x ^ (x >> 16)) * 0x45D9F3B
    return x ^ (x >> 16)


@triton.jit  # type: ignore[untyped-decorator]
def _step_kernel(  # type: ignore[no-untyped-def]
    rows,
    gammas,
    length,
    held,
    loss_pointer,
    found_inf,
    push_pointer,
    arrived,
    constants,
    LAW: tl.constexpr,
    BOUND: tl.constexpr,
    SELF_SET: tl.constexpr,
    SCALER: tl.constexpr,
    REST: tl.constexpr,
    MEANS: tl.constexpr,
    WORK: tl.constexpr,
    STORED: tl.constexpr,
    NOISE: tl.constexpr,
    ALIGNED: tl.constexpr,
    FIELDS: tl.constexpr,
    COLUMNS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    program = tl.program_id(0)
    if LAW:
        # LawState: loss, upper, lower, omega, gamma2_factor, mean, total, count, statuses, opened, steps, nonfinite,
        # scatter, error; origin, level and spread stay as they are where U is the first loss.
        loss = tl.load(loss_pointer)
        old_loss = tl.load(held)
        old_upper = tl.load(held + 1)
        old_lower = tl.load(held + 2)
        old_decay = tl.load(held + 4)
        old_mean = tl.load(held + 5)
        old_total = tl.load(held + 6)
        old_count = tl.load(held + 7)
        old_statuses = tl.load(held + 8)
        old_opened = tl.load(held + 9)
        old_steps = tl.load(held + 10)
        old_nonfinite = tl.load(held + 11)
        old_scatter = tl.load(held + 12)
        old_error = tl.load(held + 13)
        steps_per_status = tl.load(constants)
        eps = tl.load(constants + 1)
        number = tl.load(constants + 2)
        shrink = tl.load(constants + 4)

        finite = (loss - loss) == 0.0
        skipped = False
        if SCALER:
            skipped = tl.load(found_inf) > 0
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
        factor = tl.where(change > 0.0, shrink, 1.0)
        if SELF_SET:
            sure = change * change > tl.load(constants + 7) * (error + old_error)
            other = tl.where(sure & (change > 0.0), shrink, tl.load(constants + 6))
            factor = tl.where(sure & (change < 0.0), tl.load(constants + 5), other)
        moved_on = old_decay * factor
        if SELF_SET:
            bounded = (mean > 0.0) & (upper > 0.0)
            most = tl.sqrt(tl.where(bounded, upper, 1.0) / tl.where(bounded, mean, 1.0))
            moved_on = tl.where(moved_on > most, most, moved_on)
        decay = tl.where(complete & (old_statuses > 0.0), moved_on, old_decay)
        statuses = old_statuses + 1.0
        if BOUND == 0:  # Eq. 3
            weight = number / tl.log(statuses + 10.0)
            bound = weight * old_lower + (1.0 - weight) * mean
        elif BOUND == 1:
            bound = old_lower + (mean - old_lower) / statuses
        elif BOUND == 2:
            bound = number * old_lower + (1.0 - number) * mean
        else:
            bound = 0.0 * old_lower
        lower = tl.where(complete, bound, old_lower)
        gap = loss - lower  # Eq. 4
        opened = (gap >= eps) & (loss <= upper) & finite
        omega = tl.where(opened, gap, 0.0)
        decay = tl.where(finite, decay, old_decay)
        push = decay * omega
        if SELF_SET:
            push = decay * tl.sqrt(omega / tl.where(upper > 0.0, upper, 1.0))
            push = tl.where(omega > 0.0, tl.where(push < 1.0, push, 1.0), 0.0)
        push = tl.where(skipped, 0.0, push)
        steps = tl.where(skipped, old_steps, old_steps + 1.0)

        # All programs read the state before any writes it.
        if tl.atomic_add(arrived, 1) == tl.num_programs(0) - 1:
            tl.store(arrived, 0)
            tl.store(push_pointer, push)
            tl.store(push_pointer + 1, steps)
            if skipped:
                tl.store(held, old_loss)
            else:
                tl.store(held, tl.where(finite, loss, old_loss))
                tl.store(held + 1, tl.where(finite, upper, old_upper))
                tl.store(held + 2, tl.where(finite, lower, old_lower))
                tl.store(held + 3, omega)
                tl.store(held + 4, decay)
                tl.store(held + 5, tl.where(finite & complete, mean, old_mean))
                tl.store(held + 6, tl.where(finite, tl.where(complete, 0.0, total), old_total))
                tl.store(held + 7, tl.where(finite, tl.where(complete, 0.0, count), old_count))
                tl.store(held + 8, tl.where(finite & complete, statuses, old_statuses))
                tl.store(held + 9, tl.where(opened, old_opened + 1.0, old_opened))
                tl.store(held + 10, steps)
                tl.store(held + 11, tl.where(finite, old_nonfinite, old_nonfinite + 1.0))
                tl.store(held + 12, tl.where(finite, tl.where(complete, 0.0, scatter), old_scatter))
                tl.store(held + 13, tl.where(finite & complete, error, old_error))
    else:
        push = tl.load(push_pointer)
        steps = tl.load(push_pointer + 1)

    if push != 0.0:
        xi = tl.load(constants + 3).to(WORK)
        places = tl.arange(0, BLOCK)
        for row in range(program, length, tl.num_programs(0)):
            record = rows + tl.cast(row, tl.int64) * COLUMNS
            size = tl.load(record + 3)
            p_pointer = tl.load(record).to(tl.pointer_type(STORED))
            g_pointer = tl.load(record + 1).to(tl.pointer_type(STORED))
            if ALIGNED:
                p_pointer = tl.multiple_of(p_pointer, 16)
                g_pointer = tl.multiple_of(g_pointer, 16)
            amount = (push * tl.load(gammas + row)).to(WORK)
            mask = places < size
            p = tl.load(p_pointer + places, mask=mask, other=0)
            g = tl.load(g_pointer + places, mask=mask, other=0)
            if NOISE == 16:  # bfloat16 is the upper half of float32
                p = (p.to(tl.uint32) << 16).to(tl.float32, bitcast=True)
                g = (g.to(tl.uint32) << 16).to(tl.float32, bitcast=True)
            p = p.to(WORK)
            g = g.to(WORK)
            if MEANS:
                m_pointer = tl.load(record + 2).to(tl.pointer_type(WORK))
                if ALIGNED:
                    m_pointer = tl.multiple_of(m_pointer, 16)
                m = tl.load(m_pointer + places, mask=mask, other=0)
                g = m + tl.load(constants + 8).to(WORK) * (g - m)
                tl.store(m_pointer + places, g, mask=mask)
            g = tl.where(tl.load(record + 6) != 0, -g, g)
            phi = tl.where(g >= 0, g + xi, g - xi)  # Eq. 5
            # In float32 the operator is rounded in its own way on GPUs, other than torch's.
            pushed = tl.div_rn(amount, phi) if tl.float32 == WORK else amount / phi
            if REST:
                pushed = tl.where(g == 0, 0.0, pushed)
            p = p - pushed
            if NOISE != 0:
                key = _mixed(_mixed(steps.to(tl.int64).to(tl.uint32)) + tl.load(record + 5).to(tl.uint32))
                noise = _mixed(key + (tl.load(record + 4) + places).to(tl.uint32))
                lift = tl.where(mask, 0.0, 0.0)
                if NOISE == 13:  # float16 has subnormals
                    small = tl.where(p >= 0, 6.103515625e-05, -6.103515625e-05)
                    lift = tl.where(tl.abs(p) < 6.103515625e-05, small, 0.0)
                lifted = p + lift
                bits = lifted.to(tl.uint32, bitcast=True)
                bits = ((bits + (noise & ((1 << NOISE) - 1))) >> NOISE) << NOISE
                p = tl.where(p != p, p, bits.to(tl.float32, bitcast=True) - lift)
            if NOISE == 16:
                p = p.to(tl.uint32, bitcast=True) >> 16
            tl.store(p_pointer + places, p.to(STORED), mask=mask)
