"""State of parameter groups: their own gamma2, and the scale of their parameters at the start.

Groups are identified by their parameters, not by their position, so they can be added, removed and reordered.
"""

import math
import weakref
from collections.abc import Iterable, Sequence
from functools import partial
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.optim import Optimizer

from lossaware.correction.memory import as_reals
from lossaware.gamma2 import SMALLEST_SCALE, Gamma2Rule
from lossaware.settings import check

Group = dict[str, Any]
"""An entry of ``optimizer.param_groups``."""


class GroupSizes:
    """The size of each group, of which its correction is a multiple.

    Args:
        rule: The rule for gamma2.
        xi: The stability constant of Eq. 5.
    """

    def __init__(self, rule: Gamma2Rule, xi: float) -> None:
        self._rule = rule
        self._xi = xi
        self._usual = None if rule.uses_scale else self._size(1.0)
        self._scales: dict[int, tuple[weakref.ref[Tensor], float]] = {}  # by the parameter's id
        self._own: list[Any] = []  # of the groups, while the optimizer loads a checkpoint
        self.last: list[float] = []

    def of(self, groups: Sequence[Group]) -> list[float]:
        """The size of each group, 0 if LGA is switched off. New groups are measured now.

        Raises:
            ValueError: A group's own gamma2 is out of its range, or not allowed; or the group is differentiable.
        """
        sizes = []
        for index, group in enumerate(groups):
            own = group.get("gamma2")
            size = self._usual
            if size is None:
                size = self._size(self._scale(group["params"]))
            if own is not None:
                usual = own.__class__ is float and self._rule.own_gamma2 and 0.0 <= own < math.inf
                size = own if usual else self._checked(index, own)
            if group.get("differentiable") and size != 0:
                raise ValueError(
                    f"differentiable of parameter group {index} must be False, as LGA's correction has no derivative, "
                    "or the group's gamma2 must be 0: got True"
                )
            sizes.append(size)
        self.last = sizes
        return sizes

    def _size(self, scale: float) -> float:
        return check(f"group_size of {type(self._rule).__name__}", self._rule.group_size(scale, self._xi))

    def _checked(self, index: int, own: Any) -> float:
        number = check(f"gamma2 of parameter group {index}", own)
        if number != 0 and not self._rule.own_gamma2:
            raise ValueError(
                f"gamma2 of parameter group {index} must be 0, which switches LGA off there, or absent, as "
                f"{type(self._rule).__name__} sets it: got {number!r}"
            )
        return number

    # Scales -----------------------------------------------------------------------------------------------------------

    def _scale(self, parameters: Sequence[Tensor]) -> float:
        """The stored scale of the first known parameter. If none is known, the scale is measured now and stored."""
        for p in parameters:
            known = self._scales.get(id(p))
            if known is not None and known[0]() is p:
                return known[1]
        scale = scale_of(parameters)
        self._remember(parameters, scale)
        return scale

    def _remember(self, parameters: Iterable[Tensor], scale: float) -> None:
        scales = self._scales
        for p in parameters:
            scales[id(p)] = weakref.ref(p, partial(_forget, scales, id(p))), scale

    def state(self, groups: Sequence[Group]) -> list[dict[str, Any]]:
        """State for checkpoints: one dictionary of plain values per group; empty if the rule does not use scales."""
        if not self._rule.uses_scale:
            return []
        return [
            {
                "scale": self._scale(group["params"]),
                "elements": [p.numel() for p in group["params"]],
                "names": list(group["param_names"]) if "param_names" in group else None,
            }
            for group in groups
        ]

    def match(self, state: Any, groups: Sequence[Group]) -> list[float]:
        """The checkpoint's scales of these groups, for `load`.

        Groups are identified by the names of their parameters if the optimizer has them, otherwise by their numbers of
        elements; if these are ambiguous, by their position.

        Raises:
            ValueError: The checkpoint does not match.
        """
        here = self.state(groups)
        name = "groups in LGA's state_dict"
        if not isinstance(state, list):
            raise ValueError(f"{name} must be a list: got {type(state).__name__}")
        scales: list[Any] = [saved.get("scale") if isinstance(saved, dict) else saved for saved in state]
        for scale in scales:
            if isinstance(scale, bool) or not isinstance(scale, (int, float)) or not 0 < scale < math.inf:
                raise ValueError(f"the scale of a group in LGA's state_dict must be a number above 0: got {scale!r}")
        if len(state) != len(here):
            raise ValueError(f"LGA's state_dict has the scales of {len(state)} parameter groups, here are {len(here)}")
        if not all(
            isinstance(saved, dict) and saved.get("elements") for saved in state
        ):  # from before parameters were written
            return scales
        key = "names" if all(group.get("names") for group in [*state, *here]) else "elements"
        saved_keys, keys = [group[key] for group in state], [group[key] for group in here]
        if saved_keys == keys:
            return scales
        if sorted(saved_keys) != sorted(keys) or any(keys.count(one) > 1 for one in keys):
            raise ValueError(
                f"{name} have parameters with {key} {saved_keys}, here they have {keys}: attach LGA to an optimizer "
                "with the groups that the state belongs to"
            )
        return [scales[saved_keys.index(one)] for one in keys]

    def load(self, scales: Sequence[float], groups: Sequence[Group]) -> None:
        """Set the scales from `match`."""
        for group, scale in zip(groups, scales, strict=False):  # empty if the rule does not use scales
            self._remember(group["params"], float(scale))

    # A group's own gamma2 ---------------------------------------------------------------------------------------------

    def before_load(self, optimizer: Optimizer) -> None:
        """Call before the optimizer loads a checkpoint, which replaces all entries of its groups."""
        self._own = [group.get("gamma2") for group in optimizer.param_groups]

    def after_load(self, optimizer: Optimizer) -> None:
        """Restore a group's own gamma2 if the checkpoint does not have it, as it was written without LGA."""
        for group, own in zip(optimizer.param_groups, self._own, strict=False):
            if own is not None:
                group.setdefault("gamma2", own)
        self._own = []


def _forget(scales: dict[int, Any], key: int, _: Any) -> None:
    scales.pop(key, None)


def scale_of(parameters: Sequence[Tensor]) -> float:
    """Root mean square of all elements, at least `SMALLEST_SCALE`; for sharded parameters, over all ranks.

    With parameters flattened by `FullyShardedDataParallel`, each rank has only its part, so all ranks must call this.

    Raises:
        ValueError: A parameter has no values.
    """
    total, count = 0.0, 0
    for p in parameters:
        if p.is_meta:
            raise ValueError(
                f"parameters must have values when their scale is measured: got some on the device {p.device}; attach "
                "LGA after they are there, as after to_empty() and initialization"
            )
        reals = as_reals(p.detach().resolve_conj())
        norm: Any = reals.norm(dtype=torch.promote_types(reals.dtype, torch.float32))
        total += float(norm.full_tensor() if hasattr(norm, "full_tensor") else norm) ** 2
        count += p.numel() - getattr(p, "_shard_numel_padded", 0)  # padding of FSDP's flat parameters
    if any(getattr(p, "_fsdp_flattened", False) for p in parameters):
        sums = torch.tensor([total, count], dtype=torch.float64, device=parameters[0].device)
        dist.all_reduce(sums)
        total, count = sums.tolist()
    return max(math.sqrt(total / max(count, 1)), SMALLEST_SCALE)
