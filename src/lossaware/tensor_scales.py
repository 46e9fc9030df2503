"""The scale of each tensor at the start, the unit of steps in `lossaware.agreement`, with its checkpoints."""

import math
import weakref
from collections.abc import Sequence
from functools import partial
from typing import Any

from torch import Tensor

from lossaware.agreement import FEW_MEDIANS
from lossaware.base_bound import GroupMemory, Memories, rms
from lossaware.errors import UsageError
from lossaware.gamma2 import SMALLEST_SCALE, Gamma2Rule
from lossaware.groups import Group, GroupSizes


class TensorScales(GroupSizes):
    """The scale of each tensor at the start.

    The scale of a matrix is the root mean square of its elements, or the median of those of all matrices if that is
    larger. A vector, which usually starts at 0 or 1, has the scale of the matrix before it, or the median if that is
    large, as for embeddings.

    Args:
        rule: The rule for gamma2.
        xi: Not used; see `GroupSizes`.
        memories: The memories of `lossaware.base_bound.BaseBound`, which are saved in the same checkpoints.
    """

    def __init__(self, rule: Gamma2Rule, xi: float, memories: Memories) -> None:
        super().__init__(rule, xi)
        self._tensors: dict[int, tuple[weakref.ref[Tensor], float]] = {}
        self._memories = memories

    def of_tensors(self, groups: Sequence[Group]) -> list[list[float]]:
        """The scale of each tensor of each group. New tensors are measured now."""
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
                    kind = "sharded" if hasattr(p, "to_local") else f"on {p.device}"
                    raise UsageError(f"gamma2 'agreement' only supports unsharded parameters on the CPU: one is {kind}")
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
                self._memories.forget(p)

    def _set(self, p: Tensor, scale: float) -> None:
        self._tensors[id(p)] = weakref.ref(p, partial(_forget, self._tensors, id(p))), scale

    def state(self, groups: Sequence[Group]) -> list[dict[str, Any]]:
        """See `GroupSizes.state`."""
        of_tensors = self.of_tensors(groups)
        return [
            {**entry, "scales": scales, "reach": memory.reach, "rate": memory.rate}
            for entry, scales, memory in zip(
                super().state(groups), of_tensors, map(self._memories.of, groups), strict=True
            )
        ]

    def match(self, state: Any, groups: Sequence[Group]) -> list[Any]:
        """See `GroupSizes.match`.

        Returns:
            The checkpoint's entry for each group.
        """
        current = self.state(groups)
        super().match(state, groups)
        for index, entry in enumerate(state):
            if not isinstance(entry, dict):
                raise ValueError(f"group {index} in LGA's state_dict must be a dictionary: got {entry!r}")
            for name, values in (("scales", entry.get("scales")), *((n, [entry.get(n)]) for n in ("reach", "rate"))):
                if not isinstance(values, list) or not all(_fits(name, value) for value in values):
                    raise ValueError(f"{name} of group {index} in LGA's state_dict must be above 0: got {values!r}")
        numbered = [{**entry, "scale": index + 1} for index, entry in enumerate(state)]
        entries = [state[int(place) - 1] for place in super().match(numbered, groups)]
        for entry, own in zip(entries, current, strict=True):
            if len(entry["scales"]) != len(own["scales"]):
                raise ValueError(
                    f"LGA's state_dict has the scales of {len(entry['scales'])} tensors of a group, here are "
                    f"{len(own['scales'])}"
                )
        return entries

    def load(self, scales: Sequence[Any], groups: Sequence[Group]) -> None:
        """See `GroupSizes.load`."""
        super().load([entry["scale"] for entry in scales], groups)
        for entry, group in zip(scales, groups, strict=True):
            for p, scale in zip(group["params"], entry["scales"], strict=True):
                self._set(p, float(scale))
            self._memories.put(group, GroupMemory(entry["reach"], float(entry["rate"])))


def _forget(scales: dict[int, Any], key: int, _: Any) -> None:
    scales.pop(key, None)


def _fits(name: str, value: Any) -> bool:
    if name == "reach" and value is None:  # before the first step
        return True
    least = 0 if name == "rate" else 5e-324
    return type(value) in (int, float) and least <= value < math.inf
