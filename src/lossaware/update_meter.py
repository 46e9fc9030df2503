"""Size of the correction relative to the base optimizer's update, measured on a sample of the parameters."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.optim import Optimizer

from lossaware.loss_value import wide

SAMPLE = 1 << 16
"""Number of sampled elements, over all parameters; smaller models are measured exactly."""


@dataclass(frozen=True)
class Measurement:
    """The effect of one step on the parameters.

    Attributes:
        step: The optimizer step, counted from 1 since the start of measuring.
        update_norm: Euclidean norm of the base optimizer's change.
        correction_norm: Euclidean norm of LGA's change after it.
    """

    step: int
    update_norm: float
    correction_norm: float

    @property
    def ratio(self) -> float:
        """``correction_norm / update_norm``; 0 without a correction, infinite if the base did not change anything."""
        if self.correction_norm == 0.0:
            return 0.0
        return self.correction_norm / self.update_norm if self.update_norm > 0.0 else math.inf


class UpdateMeter:
    """Reads a sample of the parameters before the base step, after it, and after the correction.

    The model is not copied: at each measurement, elements of each parameter tensor are drawn with replacement, as many
    as its share of `SAMPLE`. Their squared changes, weighted by the number of elements that each represents, are
    unbiased estimates of the squared norms. For a sharded parameter, this rank's part is measured.

    Args:
        every: Measure every ``every``-th step, at least 1; None for no measurements.

    Raises:
        ValueError: It is not an integer of at least 1.
    """

    def __init__(self, every: int | None) -> None:
        if every is not None and (isinstance(every, bool) or not isinstance(every, int) or every < 1):
            raise ValueError(f"steps must be an integer of at least 1, or None: got {every!r}")
        self._every = every
        self.is_on = every is not None
        """Whether steps are measured; an attribute for speed, as it is read at each step."""
        self._step = 0
        self._before: list[_Sample] | None = None
        self._middle: list[Tensor] = []
        self._squares: tuple[int, float | Tensor, float | Tensor] | None = None

    def before_step(self, optimizer: Optimizer) -> None:
        """Call before the base step, when gradients may not exist yet."""
        if self._every is not None:
            self._step += 1
            self._before = self._draw(optimizer) if self._step % self._every == 0 else None

    def after_base(self) -> None:
        """Call between the base step and the correction."""
        if self._before is not None:
            self._middle = [sample.read() for sample in self._before]

    def after_correction(self) -> None:
        """Call after the correction."""
        if self._before is None:
            return
        samples, self._before = self._before, None
        update = sum(s.weight * (m - s.values).square().sum() for s, m in zip(samples, self._middle, strict=True))
        pushed = sum(s.weight * (s.read() - m).square().sum() for s, m in zip(samples, self._middle, strict=True))
        self._squares = self._step, update, pushed
        self._middle = []

    def read(self) -> Measurement | None:
        """The last measurement; None before the first. Waits for the device."""
        if self._squares is None:
            return None
        step, update, correction = self._squares
        return Measurement(step, math.sqrt(update), math.sqrt(correction))

    def _draw(self, optimizer: Optimizer) -> "list[_Sample]":
        parameters = [p for group in optimizer.param_groups for p in group["params"] if p.requires_grad]
        parameters = [p.to_local() if hasattr(p, "to_local") else p for p in parameters]
        total = sum(p.numel() for p in parameters)
        generators: dict[torch.device, torch.Generator] = {}
        samples = []
        for p in parameters:
            if not p.numel():
                continue
            if p.device not in generators:
                generators[p.device] = torch.Generator(p.device).manual_seed(self._step)
            share = p.numel() if total <= SAMPLE else math.ceil(SAMPLE * p.numel() / total)
            samples.append(_Sample(p, share, generators[p.device]))
        return samples


class _Sample:
    """Some elements of one parameter, or all of them."""

    def __init__(self, parameter: Tensor, size: int, generator: torch.Generator) -> None:
        self._parameter = parameter
        self._where: tuple[Tensor, ...] | None = None
        if size < parameter.numel():
            drawn = torch.randint(parameter.numel(), (size,), generator=generator, device=parameter.device)
            self._where = torch.unravel_index(drawn, parameter.shape)
        self.weight = parameter.numel() / size
        self.values = self.read()

    def read(self) -> Tensor:
        """A copy of the present elements, as reals in a wide type."""
        values = self._parameter.detach()  # now, since a base may give the parameter other memory
        values = values if self._where is None else values[self._where]
        if values.is_complex():
            values = torch.view_as_real(values.resolve_conj())
        return values.to(wide(values.device), copy=True)
