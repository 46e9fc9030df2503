"""Whether a loss is divided by the number of items in a batch, which the Transformers Trainer passes to it."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

_READS = {"item", "tolist", "numpy", "__array__", "__float__", "__int__", "__index__"}
"""Methods of a tensor that give its value to Python, where it can no longer be watched."""


class WatchedCount(Tensor):
    """A number of items that knows whether something was computed from it that has a gradient.

    What is computed from it without a gradient, such as its inverse or a copy on another device, is watched, too.
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
        """Run the operator on plain tensors, and see where its result goes."""
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
    """The number of items to pass in place of this one; None where it cannot be watched.

    Args:
        count: A tensor of one element; or a Python number, or a tensor of several for several devices.
    """
    return _watched(count.detach(), []) if isinstance(count, Tensor) and count.numel() == 1 else None


def _watched(count: Tensor, uses: list[Any]) -> WatchedCount:
    made = count.as_subclass(WatchedCount)
    made._uses = uses
    return made
