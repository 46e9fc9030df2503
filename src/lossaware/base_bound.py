"""Bounds the base's own step: its learning rate is made smaller while it steps."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from lossaware.correction.memory import as_reals
from lossaware.groups import Group

Active = list[tuple[Group, list[float]]]
"""The groups that LGA is not switched off for, with the scale of each of their tensors."""

SAMPLE = 1000
"""Elements of a tensor whose movement tells the root mean square of the base's step."""


@dataclass
class GroupMemory:
    """What is known of a group from the steps before, for its checkpoints.

    Attributes:
        reach: The most that a tensor moved by in its last step, as a share of its scale, if the rate were 1; None
            before the first step.
        rate: The largest learning rate that the group has had.
    """

    reach: float | None = None
    rate: float = 0.0


class Memories:
    """The `GroupMemory` of each group, which is known by its first parameter."""

    def __init__(self) -> None:
        self._of: dict[int, GroupMemory] = {}

    def of(self, group: Group) -> GroupMemory:
        """That of a group, a new one where there is none."""
        return self._of.setdefault(_key(group), GroupMemory())

    def put(self, group: Group, memory: GroupMemory) -> None:
        """Replace that of a group."""
        self._of[_key(group)] = memory

    def forget(self, parameter: Tensor) -> None:
        """Drop that of a group whose first parameter is gone, and had the ``id`` of this one."""
        self._of.pop(id(parameter), None)


def _key(group: Group) -> int:
    return id(group["params"][0]) if group["params"] else 0


class BaseBound:
    """Makes the base's rate smaller while it steps, so that it moves no tensor by more than its share of its scale.

    How far the base moves at a rate is known from its last step, by a sample of each tensor. Of the first step alone a
    copy is kept, and what is too much taken back. The group's ``lr`` is what the user set at all other times. A group
    without ``lr`` is not bounded.
    """

    def __init__(self) -> None:
        self.memories = Memories()
        self._rates: list[tuple[Group, Any]] = []
        self._gradients: list[tuple[Tensor, Tensor]] = []
        self._samples: list[_Bounded] = []

    def begin(self, active: Active, share: float) -> list[float]:
        """Before the base's step: hold the rates.

        Args:
            active: The groups that are bounded, with the scale of each tensor.
            share: Of its scale, what a tensor may move by at the largest rate that its group has had; in proportion to
                the rate below that.

        Returns:
            What each group may move by.
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

    def set_aside(self, active: Active) -> None:
        """Before the base's step: take its gradients away, so that it leaves the parameters as they are."""
        for group, _ in active:
            for p in group["params"]:
                if p.grad is not None:
                    self._gradients.append((p, p.grad))
                    p.grad = None

    def restore(self) -> None:
        """Rates and gradients are as the user set them, also after a step that failed."""
        for group, rate in self._rates:
            group["lr"] = rate
        for p, g in self._gradients:
            p.grad = g
        self._rates, self._gradients = [], []

    def end(self) -> dict[int, float]:
        """After the base's step: restore, and see how far it went.

        Returns:
            The root mean square of what each tensor was moved by, by its id.
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
        """Restore after a step that failed, of which nothing is to be learnt."""
        self.restore()
        self._samples = []


@dataclass
class _Bounded:
    """A group during the base's step: its rate, its share, its tensors with a gradient, and what they were."""

    group: Group
    rate: float
    share: float
    moving: list[tuple[Tensor, float]]
    samples: list[Tensor]
    copies: list[Tensor]

    def measure(self, moved: dict[int, float]) -> float:
        """Fill in how far each tensor went, taking back what is too much where there are copies.

        Returns:
            How far the base went, as a share of the scale of the tensor that went furthest.
        """
        reach = 0.0
        for (p, scale), before in zip(self.moving, self.samples, strict=True):
            moved[id(p)] = size = rms(_sample(p).sub_(before))
            reach = max(reach, size / scale) if math.isfinite(size) else math.inf
        if reach > self.share:
            kept = self.share / reach  # 0 where it is infinite
            for p, before in self._pairs():
                _take_back(p, before, kept)
                moved[id(p)] = moved[id(p)] * kept if kept else 0.0
        return reach

    def _pairs(self) -> Iterator[tuple[Tensor, Tensor]]:
        return ((p, before) for (p, _), before in zip(self.moving, self.copies, strict=bool(self.copies)))


@torch.no_grad()
def _take_back(p: Tensor, before: Tensor, kept: float) -> None:
    """Leave so much of what moved a tensor."""
    p.copy_(before + (p - before) * kept if kept else before)


def _sample(p: Tensor) -> Tensor:
    """A copy of up to `SAMPLE` elements, evenly spaced, of all rows and columns alike."""
    values = as_reals(p.detach()).reshape(-1)
    stride, row = max(1, math.ceil(len(values) / SAMPLE)), max(1, len(values) // max(p.shape[0] if p.dim() else 1, 1))
    while math.gcd(stride, row) > 1:
        stride += 1
    sample = values[::stride] if stride < len(values) else values[:1]
    return sample.to(torch.promote_types(sample.dtype, torch.float32), copy=True)


def rms(tensor: Tensor) -> float:
    """Root mean square of the elements of a tensor; of a complex one, of its real and imaginary parts."""
    values = as_reals(tensor.detach())
    norm = float(torch.linalg.vector_norm(values, dtype=torch.promote_types(values.dtype, torch.float32)))
    return norm / math.sqrt(max(values.numel(), 1))
