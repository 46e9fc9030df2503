"""Bounds the base's own step by a smaller learning rate during the step."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from lossaware.correction.memory import as_reals
from lossaware.groups import Group

Active = list[tuple[Group, list[float]]]
"""The groups with LGA switched on, with the scale of each of their tensors."""

SAMPLE = 1000
"""Elements of a tensor that are sampled to estimate the root mean square of the base's step."""


@dataclass
class GroupMemory:
    """State of a group from earlier steps, for checkpoints.

    Attributes:
        reach: The largest movement of a tensor in the last step, as a share of its scale, divided by the learning
            rate; None before the first step.
        rate: The largest learning rate of the group so far.
    """

    reach: float | None = None
    rate: float = 0.0


class Memories:
    """The `GroupMemory` of each group, identified by its first parameter."""

    def __init__(self) -> None:
        self._of: dict[int, GroupMemory] = {}

    def of(self, group: Group) -> GroupMemory:
        """The memory of a group, a new one if it does not exist."""
        return self._of.setdefault(_key(group), GroupMemory())

    def put(self, group: Group, memory: GroupMemory) -> None:
        """Replace the memory of a group."""
        self._of[_key(group)] = memory

    def forget(self, parameter: Tensor) -> None:
        """Drop the memory of a deleted group whose first parameter had the ``id`` of this one."""
        self._of.pop(id(parameter), None)


def _key(group: Group) -> int:
    return id(group["params"][0]) if group["params"] else 0


class BaseBound:
    """Reduces the base's rate during its step, so that each tensor moves by at most its share of its scale.

    The movement at a rate is estimated from the last step, by a sample of each tensor. In the first step the parameters
    are copied, and the excess is reverted. Outside the step, ``lr`` is the user's value. A group without ``lr`` is not
    bounded.
    """

    def __init__(self) -> None:
        self.memories = Memories()
        self._rates: list[tuple[Group, Any]] = []
        self._gradients: list[tuple[Tensor, Tensor]] = []
        self._samples: list[_Bounded] = []

    def begin(self, active: Active, share: float) -> list[float]:
        """Before the base's step: reduce the rates.

        Args:
            active: The groups to bound, with the scale of each tensor.
            share: Maximum movement of a tensor, as a share of its scale, at the largest rate of its group so far; at a
                smaller rate it is smaller in proportion.

        Returns:
            The maximum movement of each group.
        """
        shares = []
        for group, scales in active:
            memory, rate = self.memories.of(group), float(group.get("lr", 0.0))
            memory.rate = max(memory.rate, rate, float(group.get("initial_lr", 0.0)))
            own = share * rate / memory.rate if memory.rate > 0 else share
            shares.append(own)
            moving = [(p, scale) for p, scale in zip(group["params"], scales, strict=True) if p.grad is not None]
            first = rate > 0 and memory.reach is None
            copies = [p.detach().clone() for p, _ in moving] if first else []
            if memory.reach is not None and memory.reach * rate > own:
                self._rates.append((group, group["lr"]))
                group["lr"] = group["lr"] * (own / (memory.reach * rate))
                rate = own / memory.reach
            samples = [_sample(p) for p, _ in moving]
            self._samples.append(_Bounded(group, rate, own, moving, samples, copies))
        return shares

    def remove_gradients(self, active: Active) -> None:
        """Before the base's step: remove the gradients, so that the base does not change the parameters."""
        for group, _ in active:
            for p in group["params"]:
                if p.grad is not None:
                    self._gradients.append((p, p.grad))
                    p.grad = None

    def restore(self) -> None:
        """Restore the user's rates and gradients, also after a failed step."""
        for group, rate in self._rates:
            group["lr"] = rate
        for p, g in self._gradients:
            p.grad = g
        self._rates, self._gradients = [], []

    def end(self) -> dict[int, float]:
        """After the base's step: restore, and measure the movement.

        Returns:
            The root mean square of each tensor's movement, by its id.
        """
        self.restore()
        moved: dict[int, float] = {}
        for bounded in self._samples:
            reach = bounded.measure(moved)
            if bounded.rate > 0 and 0 < reach < math.inf:
                self.memories.of(bounded.group).reach = reach / bounded.rate
        self._samples = []
        return moved

    def drop(self) -> None:
        """Restore after a failed step, which is not measured."""
        self.restore()
        self._samples = []


@dataclass
class _Bounded:
    """A group during the base's step: its rate, its share, its tensors with a gradient, and their earlier values."""

    group: Group
    rate: float
    share: float
    moving: list[tuple[Tensor, float]]
    samples: list[Tensor]
    copies: list[Tensor]

    def measure(self, moved: dict[int, float]) -> float:
        """Measure the movement of each tensor, and revert the excess if there are copies.

        Returns:
            The largest movement of a tensor, as a share of its scale.
        """
        reach = 0.0
        for (p, scale), before in zip(self.moving, self.samples, strict=True):
            moved[id(p)] = size = rms(_sample(p).sub_(before))
            reach = max(reach, size / scale) if math.isfinite(size) else math.inf
        if reach > self.share:
            ratio = self.share / reach  # 0 where it is infinite
            for p, before in self._pairs():
                _reduce_movement(p, before, ratio)
                moved[id(p)] = moved[id(p)] * ratio if ratio else 0.0
        return reach

    def _pairs(self) -> Iterator[tuple[Tensor, Tensor]]:
        return ((p, before) for (p, _), before in zip(self.moving, self.copies, strict=bool(self.copies)))


@torch.no_grad()
def _reduce_movement(p: Tensor, before: Tensor, ratio: float) -> None:
    """Reduce a tensor's movement to this share of it."""
    p.copy_(before + (p - before) * ratio if ratio else before)


def _sample(p: Tensor) -> Tensor:
    """A copy of up to `SAMPLE` elements, evenly spaced over rows and columns."""
    values = as_reals(p.detach()).reshape(-1)
    stride, row = max(1, math.ceil(len(values) / SAMPLE)), max(1, len(values) // max(p.shape[0] if p.dim() else 1, 1))
    while math.gcd(stride, row) > 1:
        stride += 1
    sample = values[::stride] if stride < len(values) else values[:1]
    return sample.to(torch.promote_types(sample.dtype, torch.float32), copy=True)


def rms(tensor: Tensor) -> float:
    """Root mean square of the elements of a tensor; for complex ones, of real and imaginary parts."""
    values = as_reals(tensor.detach())
    norm = float(torch.linalg.vector_norm(values, dtype=torch.promote_types(values.dtype, torch.float32)))
    return norm / math.sqrt(max(values.numel(), 1))
