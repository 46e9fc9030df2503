"""Detect whether a loss is divided by the number of items, which the Transformers Trainer passes to the loss."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

_READS = {"item", "tolist", "numpy", "__array__", "__float__", "__int__", "__index__"}
"""Tensor methods that return the value to Python, where it can no longer be watched."""


class WatchedCount(Tensor):
    """A number of items that records whether a result with a gradient was computed from it.

    Results without a gradient, such as its inverse or a copy on another device, are watched too.
    """

    _uses: list[Any]

    @property
    def is_used(self) -> bool:
        """Whether a result with a gradient was computed from it, or its value was read."""
        return bool(self._uses)

    @classmethod
    def __torch_function__(
        cls, func: Callable[..., Any], types: Sequence[type], args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Run the operator on plain tensors, and record how its result is used."""
        kwargs = kwargs or {}
        counts = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, WatchedCount)]
        with torch._C.DisableTorchFunctionSubclass():
            result = func(*args, **kwargs)
            if isinstance(result, Tensor) and not isinstance(result, WatchedCount) and not result.requires_grad:
                return _watched(result, counts[0]._uses)
        if isinstance(result, Tensor) or getattr(func, "__name__", "") in _READS:
            for count in counts:
                count._uses.append(func)
        return result


def watched_count(count: Any) -> WatchedCount | None:
    """Return a watched copy of the number of items, or None if it cannot be watched.

    Args:
        count: A tensor of one element. A Python number, or a tensor of several elements, cannot be watched.
    """
    return _watched(count.detach(), []) if isinstance(count, Tensor) and count.numel() == 1 else None


def _watched(count: Tensor, uses: list[Any]) -> WatchedCount:
    watched = count.as_subclass(WatchedCount)
    watched._uses = uses
    return watched
