"""Subsets of examples, always the same ones, for smaller studies."""

import torch
from torch import Tensor

from lossaware.errors import UsageError
from lossaware.studies.specs.task import Batch


def check_counts(task: str, **counts: int | None) -> None:
    """Check numbers of examples.

    Raises:
        UsageError: A number is neither None nor an integer of at least 1.
    """
    for option, count in counts.items():
        if count is not None and (isinstance(count, bool) or not isinstance(count, int) or count < 1):
            raise UsageError(f"task {task!r}: {option} must be an integer of at least 1, got {count!r}")


def spread(total: int, count: int | None, option: str) -> Tensor:
    """Indices of ``count`` of ``total`` examples, evenly spaced in the stored order; all of them for None.

    If the classes are stored one after the other, each keeps its share.

    Args:
        total: Number of examples.
        count: Number of indices, at least 1.
        option: Name of the count, for messages.

    Returns:
        int64 (count), increasing.

    Raises:
        UsageError: ``count`` exceeds ``total``.
    """
    if count is None:
        return torch.arange(total)
    if count > total:
        raise UsageError(f"{option} must be at most {total}, the number of examples, got {count}")
    return torch.arange(count) * total // count


def part_of(tensors: Batch, count: int | None, option: str) -> Batch:
    """The examples that `spread` selects, of each tensor (examples, ...)."""
    if count is None:
        return tensors
    chosen = spread(len(tensors[0]), count, option)
    return tuple(tensor[chosen] for tensor in tensors)
