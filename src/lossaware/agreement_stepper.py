"""The steps of `lossaware.agreement.Agreement` on torch's tensors: agreement, bound on the base's step, and push."""

import math
import weakref
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.optim import ASGD, Optimizer

from lossaware.agreement import Agreement
from lossaware.correction import Correction
from lossaware.correction.memory import as_reals
from lossaware.errors import UsageError
from lossaware.gamma2 import SMALLEST_SCALE
from lossaware.gradient_mean import MEAN, GradientMean
from lossaware.groups import Group, GroupSizes
from lossaware.law_state import HOST
from lossaware.loss_value import LossValue
from lossaware.settings import Settings
from lossaware.stepper import GradientOf, Stepper

Active = list[tuple[Group, list[float]]]
"""The groups that LGA is not switched off for, with the scale of each of their tensors."""

SAMPLE = 1000
"""Elements of a tensor whose movement tells the root mean square of the base's step."""
FEW_MEDIANS = 5.0
"""A vector has the scale of the matrix before it, unless that is so many times the median of all."""


class AgreementStepper(Stepper):
    """Bounds the base's steps, and pushes.

    Args:
        settings: The settings of LGA.
        rule: Its rule.
    """

    def __init__(self, settings: Settings, rule: Agreement) -> None:
        super().__init__(settings)
        self._agreement = rule
        self._bound = BaseBound()
        self.sizes: TensorScales = TensorScales(rule, settings.xi, self._bound.reach)
        self._means = GradientMean(rule.momentum)
        self._finite = True  # the gradients of the step in progress

    def make_correction(self) -> Correction:
        """A `Correction` that moves by half of its amount along a sign, and leaves elements whose sign is 0."""
        return Correction(1.0, "rest")

    # A step -----------------------------------------------------------------------------------------------------------

    def before_base(self, optimizer: Optimizer, has_loss: bool) -> None:
        """To be called when the gradients are there and the base has not stepped yet: bounds its step.

        Where a gradient is not finite, the gradients are set aside, so that nothing moves.

        Args:
            optimizer: The base optimizer.
            has_loss: Whether the step has a loss; without, it is the base's alone.
        """
        self._bound.end()  # of a step that failed
        if not has_loss:
            return
        active = self._bounded(optimizer)
        agreement = _agreement(optimizer, active)
        self._finite = math.isfinite(agreement)
        if self._finite:
            self._state = self._agreement.follow(self._state, agreement, HOST)
            self._bound.begin(active, self._share())
        else:
            self._bound.set_aside(active)

    def step(
        self,
        optimizer: Optimizer,
        loss: LossValue | None,
        found_inf: Tensor | None,
        gradients: Callable[[Optimizer], GradientOf],
    ) -> None:
        """Make the push, after the base's step.

        Args:
            optimizer: The base optimizer.
            loss: The loss of the step, None where it has none.
            found_inf: Of a gradient scaler: where it is above 0, nothing changes.
            gradients: Gives the gradients that the base's step began with.
        """
        moved = self._bound.end()
        active = self._bounded(optimizer)
        self._means.make(optimizer, (p for group, _ in active for p in group["params"]))
        if loss is None or (found_inf is not None and float(found_inf) > 0):
            return
        loss = float(loss) if self._finite else math.nan
        self._state = self._law.advance(self._state, loss)
        if not math.isfinite(loss):
            return
        self._correction.reseed(int(self._state.steps))
        gradient_of = gradients(optimizer)
        for group, scales in active:
            self._push(optimizer, group, scales, moved, gradient_of)

    def _share(self) -> float:
        """Of its scale, what a tensor may move by in this step."""
        return float(self._agreement.gamma2(self._state, 1.0, HOST))

    def _push(
        self,
        optimizer: Optimizer,
        group: Group,
        scales: list[float],
        moved: dict[int, float],
        gradient_of: GradientOf,
    ) -> None:
        share, maximize = self._share(), bool(group.get("maximize", False))
        found = [(p, g, s) for p, s in zip(group["params"], scales, strict=True) if (g := gradient_of(p)) is not None]
        read = self._means.take_in(optimizer, [(p, g) for p, g, _ in found], 1.0)
        for (p, g, scale), (_, mean) in zip(found, read, strict=True):
            amount = share * scale - moved.get(id(p), 0.0)
            if not amount > 0:
                continue
            direction = _direction(mean, g)
            self._correction.apply([(p, direction)], 2 * amount, maximize=maximize)
            if isinstance(optimizer, ASGD):  # see Stepper
                state = optimizer.state[p]
                mu = float(1 / (state["step"] - 1 - group["t0"]).clamp(min=1))
                self._correction.apply([(state["ax"], direction)], 2 * mu * amount, maximize=maximize)

    def _bounded(self, optimizer: Optimizer) -> Active:
        groups = optimizer.param_groups
        of_tensors = self.sizes.of_tensors(groups)
        return [(group, s) for group, s in zip(groups, of_tensors, strict=True) if group.get("gamma2") != 0]


def _agreement(optimizer: Optimizer, active: Active) -> float:
    """How far the gradients agree with the means before them, from -1 to 1; NaN where a gradient is not finite."""
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
    if not math.isfinite(total):
        return math.nan
    return max(-1.0, min(1.0, along / total)) if total > 0 else 0.0


def _direction(mean: Tensor, g: Tensor) -> Tensor:
    """The sign of the mean where this step has a gradient, else 0; of real and imaginary parts each."""
    if g.is_sparse:
        g = g.coalesce()
        return torch.sparse_coo_tensor(g.indices(), g.values().sign(), g.shape, is_coalesced=True)
    signs = as_reals(mean).sign().mul_(as_reals(g) != 0)
    return torch.view_as_complex(signs) if mean.is_complex() else signs


class BaseBound:
    """Makes the base's rate smaller while it steps, so that it moves no tensor by more than its share of its scale.

    How far the base moves at a rate is known from its last step, by a sample of each tensor. Of the first step alone a
    copy is kept, and what is too much taken back. The group's ``lr`` is what the user set at all other times. A group
    without ``lr`` is not bounded.
    """

    def __init__(self) -> None:
        self.reach: dict[int, float] = {}
        """Of each group: the most that a tensor moved in its last step, as a share of its scale, if the rate were 1."""
        self._rates: list[tuple[Group, Any]] = []
        self._gradients: list[tuple[Tensor, Tensor]] = []
        self._samples: list[tuple[Group, float, list[tuple[Tensor, float, Tensor]]]] = []
        self._copies: dict[int, list[tuple[Tensor, Tensor]]] = {}  # by the key of the group
        self._share = 0.0

    def begin(self, active: Active, share: float) -> None:
        """Before the base's step: hold the rates.

        Args:
            active: The groups that are bounded, with the scale of each tensor.
            share: Of its scale, what a tensor may move by.
        """
        self._share = share
        for group, scales in active:
            rate = float(group.get("lr", 0.0))
            reach = self.reach.get(group_key(group))
            if rate > 0 and reach is None:
                moving = [p for p in group["params"] if p.grad is not None]
                self._copies[group_key(group)] = [(p, p.detach().clone()) for p in moving]
            elif rate > 0 and reach is not None and reach * rate > share:
                self._rates.append((group, group["lr"]))
                group["lr"] = group["lr"] * (share / (reach * rate))
                rate = share / reach
            found = zip(group["params"], scales, strict=True)
            samples = [(p, scale, _sample(p)) for p, scale in found if p.grad is not None]
            self._samples.append((group, rate, samples))

    def set_aside(self, active: Active) -> None:
        """Before the base's step: take its gradients away, so that it leaves the parameters as they are."""
        for group, _ in active:
            for p in group["params"]:
                if p.grad is not None:
                    self._gradients.append((p, p.grad))
                    p.grad = None

    def end(self) -> dict[int, float]:
        """After the base's step, or where it failed: all is as the user set it.

        Returns:
            The root mean square of what each tensor was moved by, by its id.
        """
        for group, rate in self._rates:
            group["lr"] = rate
        for p, g in self._gradients:
            p.grad = g
        moved = {}
        for group, rate, samples in self._samples:
            reach = 0.0
            for p, scale, before in samples:
                moved[id(p)] = size = rms(_sample(p).sub_(before))
                reach = max(reach, size / scale)
            if rate > 0 and 0 < reach < math.inf:
                self.reach[group_key(group)] = reach / rate
            if reach > self._share or not math.isfinite(reach):
                kept = self._share / reach if math.isfinite(reach) else 0.0
                for p, before in self._copies.get(group_key(group), ()):
                    _take_back(p, before, kept)
                    moved[id(p)] = moved[id(p)] * kept if kept else 0.0
        self._rates, self._gradients, self._samples, self._copies = [], [], [], {}
        return moved


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


class TensorScales(GroupSizes):
    """The scale of each tensor at the start.

    A matrix has the root mean square of its elements, or the median of those of all matrices where that is larger. A
    vector, which mostly starts at 0 or 1, has the scale of the matrix before it, or the median where that is large, as
    of embeddings.

    Args:
        rule: The rule for gamma2.
        xi: Not used; see `GroupSizes`.
        reach: That of `BaseBound`, which goes into the same checkpoints.
    """

    def __init__(self, rule: Agreement, xi: float, reach: dict[int, float]) -> None:
        super().__init__(rule, xi)
        self._tensors: dict[int, tuple[weakref.ref[Tensor], float]] = {}
        self._reach = reach

    def of_tensors(self, groups: Sequence[Group]) -> list[list[float]]:
        """The scale of each tensor of each group. Tensors that are new are measured now."""
        if not all(self._knows(p) for group in groups for p in group["params"]):
            self._measure([p for group in groups for p in group["params"]])
        return [[self._tensors[id(p)][1] for p in group["params"]] for group in groups]

    def of(self, groups: Sequence[Group]) -> list[float]:
        """See `GroupSizes.of`.

        Raises:
            UsageError: A parameter is sharded, or not on the CPU.
        """
        for group in groups:
            for p in group["params"]:
                if p.device.type != "cpu" or hasattr(p, "to_local"):
                    what = "sharded" if hasattr(p, "to_local") else f"on {p.device}"
                    raise UsageError(f"gamma2 'agreement' takes whole parameters on the CPU so far: one is {what}")
        return super().of(groups)

    def _knows(self, p: Tensor) -> bool:
        known = self._tensors.get(id(p))
        return known is not None and known[0]() is p

    def _measure(self, parameters: Sequence[Tensor]) -> None:
        own = [rms(p) for p in parameters]
        matrices = sorted(size for p, size in zip(parameters, own, strict=True) if p.dim() > 1) or [max(own)]
        before = median = max(matrices[len(matrices) // 2], SMALLEST_SCALE)
        for p, size in zip(parameters, own, strict=True):
            if p.dim() > 1:
                before = scale = max(size, median)
            else:
                scale = before if before < FEW_MEDIANS * median else median
            if not self._knows(p):
                self._set(p, scale)
                self._reach.pop(id(p), None)  # of a tensor that is gone, and had this id

    def _set(self, p: Tensor, scale: float) -> None:
        tensors, key = self._tensors, id(p)
        tensors[key] = weakref.ref(p, lambda _: tensors.pop(key, None) and None), scale

    def state(self, groups: Sequence[Group]) -> list[dict[str, Any]]:
        """See `GroupSizes.state`."""
        of_tensors = self.of_tensors(groups)
        return [
            {**entry, "scales": scales, "reach": self._reach.get(group_key(group))}
            for entry, scales, group in zip(super().state(groups), of_tensors, groups, strict=True)
        ]

    def match(self, state: Any, groups: Sequence[Group]) -> list[Any]:
        """See `GroupSizes.match`.

        Returns:
            The entry of the checkpoint for each group.
        """
        here = self.state(groups)
        super().match(state, groups)
        for index, entry in enumerate(state):
            if not isinstance(entry, dict):
                raise ValueError(f"group {index} in LGA's state_dict must be a dictionary: got {entry!r}")
            for name, values in (("scales", entry.get("scales")), ("reach", [entry.get("reach")])):
                allowed = isinstance(values, list) and all(
                    (type(value) in (int, float) and 0 < value < math.inf) or (value is None and name == "reach")
                    for value in values
                )
                if not allowed:
                    raise ValueError(f"{name} of group {index} in LGA's state_dict must be above 0: got {values!r}")
        numbered = [{**entry, "scale": index + 1} for index, entry in enumerate(state)]
        found = [state[int(place) - 1] for place in super().match(numbered, groups)]
        for entry, own in zip(found, here, strict=True):
            if len(entry["scales"]) != len(own["scales"]):
                raise ValueError(
                    f"LGA's state_dict has the scales of {len(entry['scales'])} tensors of a group, here are "
                    f"{len(own['scales'])}"
                )
        return found

    def load(self, scales: Sequence[Any], groups: Sequence[Group]) -> None:
        """See `GroupSizes.load`."""
        super().load([entry["scale"] for entry in scales], groups)
        for entry, group in zip(scales, groups, strict=True):
            for p, scale in zip(group["params"], entry["scales"], strict=True):
                self._set(p, float(scale))
            self._reach.pop(group_key(group), None)
            if entry["reach"] is not None:
                self._reach[group_key(group)] = float(entry["reach"])


def group_key(group: Group) -> int:
    """What a group is known by: its first parameter."""
    return id(group["params"][0]) if group["params"] else 0


def rms(tensor: Tensor) -> float:
    """Root mean square of the elements of a tensor; of a complex one, of its real and imaginary parts."""
    values = as_reals(tensor.detach())
    norm = float(torch.linalg.vector_norm(values, dtype=torch.promote_types(values.dtype, torch.float32)))
    return norm / math.sqrt(max(values.numel(), 1))
