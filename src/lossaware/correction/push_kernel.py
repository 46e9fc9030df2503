"""The pass on a GPU: one Triton launch for all parameters of one type, and their running means if phi reads them.

It has the same arithmetic as `operators` and the same noise as `rounding`, bit for bit. This module needs Triton.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from lossaware.correction.memory import WORK
from lossaware.correction.rounding import GOLDEN, MASK, NOISE_BITS

BLOCK = 8192
"""Elements per iteration of a program."""
PROGRAMS_PER_PROCESSOR = 8
COLUMNS = 7
"""Columns of a row: addresses of parameter, gradient and mean, elements, first position, noise key, maximize."""
WORKED = {torch.float32: tl.float32, torch.float64: tl.float64, torch.bfloat16: tl.float32, torch.float16: tl.float32}
"""Triton's type for the arithmetic of each type of parameters."""
STORED = {torch.float32: tl.float32, torch.float64: tl.float64, torch.bfloat16: tl.uint16, torch.float16: tl.float16}
"""Triton's type for the memory of each type of parameters."""


class Pushed(NamedTuple):
    """A parameter to push."""

    parameter: Tensor
    gradient: Tensor
    mean: Tensor | None
    """The running mean of the gradients, in the type of the arithmetic, if phi reads means; changed in place."""
    number: int
    """Number of the parameter in the step; with the number of the step it determines the rounding of 16 bits."""
    size: float
    """The group's size, of which the correction is a multiple."""
    maximize: bool


class PushKernel:
    """Pushes parameters on one GPU.

    Args:
        xi: The stability constant of Eq. 5.
        rest: Whether elements with a gradient of exactly 0 are not moved.
        momentum: Weight of the earlier gradients in their means; 0 if phi reads the gradients.
        device: The GPU.
    """

    def __init__(self, xi: float, rest: bool, momentum: float, device: torch.device) -> None:
        self._rest = rest
        self._momentum = momentum
        self._device = device
        self._constants = torch.tensor([xi, 1 - momentum], dtype=torch.float64, device=device)
        processors = torch.cuda.get_device_properties(device).multi_processor_count if device.type == "cuda" else 1
        self.programs = PROGRAMS_PER_PROCESSOR * processors
        """Maximum number of programs per launch."""
        self._tables: dict[torch.dtype, _Table] = {}

    def takes(self, parameter: Tensor, gradient: Tensor, mean: Tensor | None = None) -> bool:
        """Whether all are plain contiguous tensors on its device, of supported types.

        A gradient must have the parameter's type, and a mean that of the arithmetic, float32 for types of 16 bits.
        """
        if parameter.dtype not in STORED or (mean is not None and mean.dtype != WORK[parameter.dtype]):
            return False
        return gradient.dtype == parameter.dtype and all(
            type(tensor) is Tensor
            and tensor.device == self._device
            and tensor.layout is torch.strided
            and tensor.is_contiguous()
            and not tensor.is_neg()
            for tensor in (parameter, gradient, *([] if mean is None else [mean]))
        )

    def push(self, parameters: Sequence[Pushed], step: Tensor) -> None:
        """``p <- p - step_size * size / phi(g)`` for all parameters; nothing if the step size is 0.

        Args:
            parameters: The parameters; `takes` must be true for each.
            step: The step size and the number of the step, as float64 on the device.
        """
        by_type: dict[torch.dtype, list[Pushed]] = {}
        for pushed in parameters:
            by_type.setdefault(pushed.parameter.dtype, []).append(pushed)
        for dtype, some in by_type.items():
            if dtype not in self._tables:
                self._tables[dtype] = _Table(dtype, self._device)
            table = self._tables[dtype]
            table.fill(some)
            if table.length == 0:
                continue
            _push_kernel[(min(self.programs, table.length),)](
                table.rows,
                table.sizes,
                table.length,
                step,
                self._constants,
                REST=self._rest,
                MEANS=self._momentum > 0,
                WORK=WORKED[dtype],
                STORED=STORED[dtype],
                NOISE=NOISE_BITS.get(dtype, 0),
                ALIGNED=table.aligned,
                COLUMNS=COLUMNS,
                BLOCK=BLOCK,
                num_warps=8,
                enable_fp_fusion=False,  # each operation of the mean is rounded, as in the other implementations
            )


_Known = tuple[tuple[int, int, int], int, int, float, bool]


class _Table:
    """The addresses of the blocks of all tensors of one type, on the device; only written again after a change."""

    def __init__(self, dtype: torch.dtype, device: torch.device) -> None:
        self._widths = (dtype.itemsize, dtype.itemsize, WORK[dtype].itemsize)  # of parameter, gradient, mean
        self._device = device
        self._known: list[_Known] | None = None
        self._staging: list[Tensor] = []
        self.rows = torch.zeros(COLUMNS, dtype=torch.int64, device=device)
        self.sizes = torch.zeros(1, dtype=torch.float64, device=device)
        self.length = 0
        self.aligned = True

    def fill(self, parameters: list[Pushed]) -> None:
        known: list[_Known] = [
            (
                (p.data_ptr(), g.data_ptr(), 0 if mean is None else mean.data_ptr()),
                p.numel(),
                number,
                size,
                maximize,
            )
            for p, g, mean, number, size, maximize in parameters
        ]
        if known == self._known:
            return
        self._known = known
        self.aligned = all(pointer % 16 == 0 for pointers, *_ in known for pointer in pointers)
        parts, sizes = [], []
        for pointers, elements, number, size, maximize in known:
            start = torch.arange(0, elements, BLOCK, device="cpu")
            part = torch.empty(len(start), COLUMNS, dtype=torch.int64, device="cpu")
            for column, (pointer, width) in enumerate(zip(pointers, self._widths, strict=True)):
                part[:, column] = pointer + start * width
            part[:, 3] = (elements - start).clamp(max=BLOCK)
            part[:, 4] = start
            part[:, 5] = number * GOLDEN & MASK
            part[:, 6] = int(maximize)
            parts.append(part)
            sizes.append(torch.full((len(start),), size, dtype=torch.float64, device="cpu"))
        self.length = sum(map(len, parts))
        if self.length:
            self.rows, self.sizes = self._moved(torch.cat(parts)), self._moved(torch.cat(sizes))

    def _moved(self, table: Tensor) -> Tensor:
        """The table on the device, without waiting. The staging memory is kept, as a captured graph copies from it."""
        if self._device.type == "cpu":
            return table
        self._staging = [*self._staging[-1:], table.pin_memory()]
        return self._staging[-1].to(self._device, non_blocking=True)


@triton.jit
def _mixed(x):  # type: ignore[no-untyped-def]
    x = (x ^ (x >> 16)) * 0x45D9F3B
    x = (x ^ (x >> 16)) * 0x45D9F3B
    return x ^ (x >> 16)


@triton.jit  # type: ignore[untyped-decorator]
def _rounded(values, noise, NOISE: tl.constexpr):  # type: ignore[no-untyped-def]
    """Round up or down at random to a value of the type, still in float32; see `lossaware.correction.rounding`."""
    lift = 0.0
    if NOISE == 13:  # float16 has subnormals
        small = tl.where(values >= 0, 6.103515625e-05, -6.103515625e-05)
        lift = tl.where(tl.abs(values) < 6.103515625e-05, small, 0.0)
    bits = (values + lift).to(tl.uint32, bitcast=True)
    bits = ((bits + (noise & ((1 << NOISE) - 1))) >> NOISE) << NOISE
    return tl.where(values != values, values, bits.to(tl.float32, bitcast=True) - lift)  # bits of NaN would overflow


@triton.jit  # type: ignore[untyped-decorator]
def _loaded(pointer, places, mask, WORK: tl.constexpr, NOISE: tl.constexpr):  # type: ignore[no-untyped-def]
    values = tl.load(pointer + places, mask=mask, other=0)
    if NOISE == 16:  # bfloat16 is the upper half of float32
        values = (values.to(tl.uint32) << 16).to(tl.float32, bitcast=True)
    return values.to(WORK)


@triton.jit  # type: ignore[untyped-decorator]
def _push_kernel(  # type: ignore[no-untyped-def]
    rows,
    sizes,
    length,
    step,
    constants,
    REST: tl.constexpr,
    MEANS: tl.constexpr,
    WORK: tl.constexpr,
    STORED: tl.constexpr,
    NOISE: tl.constexpr,
    ALIGNED: tl.constexpr,
    COLUMNS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    step_size = tl.load(step)
    if step_size != 0.0:
        seed = _mixed(tl.load(step + 1).to(tl.int64).to(tl.uint32))
        xi = tl.load(constants).to(WORK)
        weight = tl.load(constants + 1).to(WORK)
        places = tl.arange(0, BLOCK)
        for row in range(tl.program_id(0), length, tl.num_programs(0)):
            record = rows + tl.cast(row, tl.int64) * COLUMNS
            mask = places < tl.load(record + 3)
            p_pointer = tl.load(record).to(tl.pointer_type(STORED))
            g_pointer = tl.load(record + 1).to(tl.pointer_type(STORED))
            if ALIGNED:
                p_pointer = tl.multiple_of(p_pointer, 16)
                g_pointer = tl.multiple_of(g_pointer, 16)
            p = _loaded(p_pointer, places, mask, WORK, NOISE)
            d = _loaded(g_pointer, places, mask, WORK, NOISE)
            if MEANS:
                m_pointer = tl.load(record + 2).to(tl.pointer_type(WORK))
                if ALIGNED:
                    m_pointer = tl.multiple_of(m_pointer, 16)
                m = tl.load(m_pointer + places, mask=mask, other=0)
                d = m + weight * (d - m)
                tl.store(m_pointer + places, d, mask=mask)
            d = tl.where(tl.load(record + 6) != 0, -d, d)
            phi = tl.where(d >= 0, d + xi, d - xi)  # Eq. 5
            amount = (step_size * tl.load(sizes + row)).to(WORK)
            # In float32 Triton's division on GPUs is rounded differently from torch's.
            moved = tl.div_rn(amount, phi) if tl.float32 == WORK else amount / phi
            if REST:
                moved = tl.where(d == 0, 0.0, moved)
            p = p - moved
            if NOISE != 0:
                key = _mixed(seed + tl.load(record + 5).to(tl.uint32))
                p = _rounded(p, _mixed(key + (tl.load(record + 4) + places).to(tl.uint32)), NOISE)
            if NOISE == 16:
                p = p.to(tl.uint32, bitcast=True) >> 16
            tl.store(p_pointer + places, p.to(STORED), mask=mask)
