"""Sets of examples: tensors in memory, torch's datasets and loaders, or other sources of batches."""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any, Protocol, Self

import torch
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset

from lossaware.errors import UsageError

Batch = tuple[Tensor, ...]
"""The tensors of one batch, with the examples along the first dimension."""


class Examples(Protocol):
    """A set of examples, iterated in batches, in memory or not.

    If it has a method ``to(device)``, it is moved to the run's device; otherwise its batches are moved. If it has a
    method ``steps(size)``, this is the number of batches of an epoch; otherwise it is ``len(self) / size``.
    """

    def __len__(self) -> int:
        """Number of examples."""

    def batches(self, size: int, generator: torch.Generator | None) -> Iterator[Batch]:
        """All examples once, ``size`` at a time; the last batch may be smaller.

        Args:
            size: Examples per batch, at least 1.
            generator: The source of the random order; None keeps the stored order.
        """


@dataclass(frozen=True)
class InMemory:
    """Examples in memory: ``tensors[k][i]`` is part k of example i."""

    tensors: Batch

    def __post_init__(self) -> None:
        lengths = {len(tensor) for tensor in self.tensors}
        if len(lengths) != 1:
            raise ValueError(f"all tensors of a set must have the same number of examples: got {sorted(lengths)}")

    def __len__(self) -> int:
        return len(self.tensors[0])

    def to(self, device: torch.device) -> Self:
        """The same examples on that device."""
        return replace(self, tensors=tuple(tensor.to(device) for tensor in self.tensors))

    def batches(self, size: int, generator: torch.Generator | None) -> Iterator[Batch]:
        """See `Examples.batches`."""
        if generator is None:
            yield from zip(*(torch.split(tensor, size) for tensor in self.tensors), strict=True)
            return
        # The order is drawn on the CPU, so that it is the same on each device.
        order = torch.randperm(len(self), generator=generator).to(self.tensors[0].device, non_blocking=True)
        for chosen in torch.split(order, size):
            yield tuple(tensor[chosen] for tensor in self.tensors)


@dataclass(frozen=True)
class FromDataset:
    """A torch dataset: map-style, shuffled by the run's generator, or iterable, in its own order.

    Attributes:
        dataset: The dataset.
        collate: Makes a batch from a list of examples; None is torch's ``default_collate``.
    """

    dataset: Any
    collate: Callable[[list[Any]], Any] | None = None

    def __len__(self) -> int:
        return len(self.dataset)

    def batches(self, size: int, generator: torch.Generator | None) -> Iterator[Any]:
        """See `Examples.batches`."""
        is_shuffled = generator is not None and not isinstance(self.dataset, IterableDataset)
        return iter(
            DataLoader(
                self.dataset,
                batch_size=size,
                shuffle=is_shuffled,
                generator=generator or _fixed(),
                collate_fn=self.collate,
            )
        )


@dataclass(frozen=True)
class FromLoader:
    """A ``DataLoader`` with its batch size, workers and sampler. The run's generator determines a random order.

    Attributes:
        loader: The loader.
    """

    loader: DataLoader[Any]

    def __len__(self) -> int:
        return len(self.loader.dataset)  # type: ignore[arg-type]

    def steps(self, size: int) -> int:
        """Number of batches per epoch."""
        return len(self.loader)

    def batches(self, size: int, generator: torch.Generator | None) -> Iterator[Any]:
        """See `Examples.batches`.

        Raises:
            UsageError: The loader's batch size differs from the run's.
        """
        if generator is not None and self.loader.batch_size not in (None, size):
            raise UsageError(
                f"the training DataLoader has batches of {self.loader.batch_size} examples, but the run has batches of "
                f"{size}: set Task(batch_size={self.loader.batch_size}), or --batch-size {self.loader.batch_size}"
            )
        self.loader.generator = source = generator or _fixed()
        samplers: list[Any] = [self.loader.sampler, getattr(self.loader.batch_sampler, "sampler", None)]
        for sampler in samplers:
            if hasattr(sampler, "generator"):
                sampler.generator = source
        return iter(self.loader)


@dataclass(frozen=True)
class Limited:
    """The first batches of a set as an epoch.

    Attributes:
        examples: The set.
        count: Number of batches.
    """

    examples: Examples
    count: int

    def __len__(self) -> int:
        return len(self.examples)

    def steps(self, size: int) -> int:
        """Number of batches per epoch."""
        try:
            return min(self.count, steps_of(self.examples, size))
        except UsageError:
            return self.count

    def batches(self, size: int, generator: torch.Generator | None) -> Iterator[Any]:
        """See `Examples.batches`."""
        return islice(self.examples.batches(size, generator), self.count)


def as_examples(source: Any, collate: Callable[[list[Any]], Any] | None, limit: int | None = None) -> Any:
    """A user's source of examples as `Examples`; unchanged if it is neither a dataset nor a loader.

    Args:
        source: `Examples`, a ``DataLoader``, or a dataset, map-style or iterable.
        collate: Makes a batch from a list of examples of a dataset.
        limit: Number of batches per epoch; None is all.
    """
    examples = source
    if isinstance(source, DataLoader):
        if collate is not None:
            raise UsageError("collate is for datasets; a DataLoader has its own: DataLoader(..., collate_fn=...)")
        examples = FromLoader(source)
    elif (
        not hasattr(source, "batches")
        and not isinstance(source, str | bytes)
        and (isinstance(source, IterableDataset) or (hasattr(source, "__getitem__") and hasattr(source, "__len__")))
    ):
        examples = FromDataset(source, collate)
    return examples if limit is None else Limited(examples, limit)


def steps_of(examples: Any, size: int) -> int:
    """Number of batches per epoch of a set.

    Raises:
        UsageError: It is not known.
    """
    try:
        steps: int = examples.steps(size) if hasattr(examples, "steps") else math.ceil(len(examples) / size)
    except TypeError:
        raise UsageError(
            "the training set has no length, as an iterable one: set the number of batches per epoch, for example "
            "Data(..., batches_per_epoch=100)"
        ) from None
    return steps


def size_of(batch: Any) -> int:
    """Number of examples of a batch: the length of its first tensor.

    Raises:
        UsageError: It does not have a tensor with a dimension.
    """
    for tensor in _tensors(batch):
        if tensor.dim():
            return len(tensor)
    raise UsageError(f"a batch of type {type(batch).__name__} has no tensor whose length is its number of examples")


def moved(batch: Any, device: torch.device) -> Any:
    """The batch on a device: tensors, also in tuples, lists and dicts, and objects with a method ``to``."""
    if isinstance(batch, Tensor):
        return batch.to(device, non_blocking=True)
    if hasattr(batch, "to"):
        return batch.to(device)
    if isinstance(batch, tuple):
        parts = [moved(part, device) for part in batch]
        return type(batch)(*parts) if hasattr(batch, "_fields") else tuple(parts)
    if isinstance(batch, list):
        return [moved(part, device) for part in batch]
    if isinstance(batch, Mapping):
        return {name: moved(part, device) for name, part in batch.items()}
    return batch


def is_plain(batch: Any) -> bool:
    """Whether a batch is a tuple of tensors."""
    return type(batch) is tuple and all(isinstance(part, Tensor) for part in batch)


def _tensors(batch: Any) -> Iterator[Tensor]:
    if isinstance(batch, Tensor):
        yield batch
    elif isinstance(batch, Mapping):
        for part in batch.values():
            yield from _tensors(part)
    elif isinstance(batch, Sequence) and not isinstance(batch, str | bytes):
        for part in batch:
            yield from _tensors(part)
    elif isinstance(batch, Iterable):
        return
    elif hasattr(batch, "__dict__"):  # a data class
        for part in vars(batch).values():
            yield from _tensors(part)


def _fixed() -> torch.Generator:
    """A generator for loaders that need one without a random order, so that torch's own is not used."""
    return torch.Generator().manual_seed(0)
