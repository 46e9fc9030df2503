"""Fewer examples than there are, always the same ones, so that a study can be made smaller."""

import torch
from torch import Tensor

from lossaware.errors import UsageError
from lossaware.studies.specs.task import Batch


def check_counts(task: str, **counts: int | None) -> None:
    """Refuses numbers of examples that can never be.

    Raises:
        UsageError: One is neither None nor a whole number of at least 1.
    """
    for option, count in counts.items():
        if count is not None and (isinstance(count, bool) or not isinstance(count, int) or count < 1):
            raise UsageError(f"task {task!r}: {option} must be a whole number of at least 1, got {count!r}")


def spread(total: int, count: int | None, option: str) -> Tensor:
    """Indices of ``count`` of ``total`` examples, evenly spaced through the stored order; all of them for None.

    Where the classes are stored one after the other, each keeps its share.

    Args:
        total: How many there are.
        count: How many are wanted, at least 1.
        option: What the count is called, for messages.

    Returns:
        int64 (count), rising.

    Raises:
        UsageError: There are not so many.
    """
    if count is None:
        return torch.arange(total)
    if count > total:
        raise UsageError(f"{option} must be at most {total}, as there are no more examples, got {count}")
    return torch.arange(count) * total // count


def part_of(tensors: Batch, count: int | None, option: str) -> Batch:
    """The examples that `spread` names, of each tensor (examples, ...)."""
    if count is None:
        return tensors
    chosen = spread(len(tensors[0]), count, option)
    return tuple(tensor[chosen] for tensor in tensors)
