"""A task: its model, its data, and the measures of a batch."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol, Self

import torch
from torch import Tensor, nn

from lossaware.errors import UsageError
from lossaware.studies.specs.data_folder import DataSource, FilesRead, path_of, reading
from lossaware.studies.specs.options import where

Batch = tuple[Tensor, ...]
"""The tensors of one batch, with the examples along the first dimension."""


class Examples(Protocol):
    """A set of examples, iterated in batches, in memory or not.

    If it has a method ``to(device)``, it is moved to the run's device; otherwise its batches are moved.
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
class Data:
    """The two sets of a task.

    Attributes:
        train: Training set, used in random order.
        test: Test set, measured after each epoch.
        augment: Changes a training batch at random, given the batch and the run's generator. None: no augmentation.
        files: The data files that were read, and whether they were verified; set by `Task.load`.
    """

    train: Examples
    test: Examples
    augment: Callable[[Batch, torch.Generator], Batch] | None = None
    files: tuple[FilesRead, ...] = ()


class Subject(Protocol):
    """Description of a task or training function for reports; the fields are those of `Task`."""

    @property
    def name(self) -> str:
        """See `Task`."""

    @property
    def summary(self) -> str:
        """See `Task`."""

    @property
    def score(self) -> str:
        """See `Task`."""

    @property
    def higher_is_better(self) -> bool:
        """See `Task`."""

    @property
    def percent(self) -> bool:
        """See `Task`."""


@dataclass(frozen=True)
class Task:
    """A training task: how to make its model, load its data and measure a batch.

    Attributes:
        name: Short name, as on the command line.
        summary: One line for lists.
        model: Makes the model, randomly initialised from torch's global generator.
        data: Loads the data, given the user's folder or None. Raises `UsageError` if the folder is required, or
            if its content is not valid.
        measure: Given the model and a batch, returns scalar tensors by name, each a mean over the batch.
            ``"loss"`` is required; training minimises it. In training mode the graph is kept.
        score: Name of the measure that rates the model.
        higher_is_better: Whether a larger score is better.
        percent: Whether the score is a share, shown as a percentage.
        epochs: Default number of passes over the training set.
        batch_size: Default number of examples per step.
        test_batch_size: Examples per batch in tests; below a thousand if those need much memory.
        gamma2: Default of LGA's gamma2. The paper uses 1e-8 for 10 classes, 1e-9 for 100, 1e-10 for 200.
    """

    name: str
    summary: str
    model: Callable[[], nn.Module]
    data: Callable[[Path | None], Data]
    measure: Callable[[nn.Module, Batch], Mapping[str, Tensor]]
    score: str = "accuracy"
    higher_is_better: bool = True
    percent: bool = True
    epochs: int = 20
    batch_size: int = 64
    test_batch_size: int = 1000
    gamma2: float = 1e-8

    def load(self, folder: DataSource) -> Data:
        """The task's data, with the files that were read.

        Raises:
            UsageError: `data` fails, or a set is empty.
        """
        try:
            with reading(folder) as current:
                data = self.data(path_of(folder))
            sizes = {"training": len(data.train), "test": len(data.test)}
            data = replace(data, files=current.files)
        except UsageError:
            raise
        except Exception as error:
            raise UsageError(f"task {self.name!r}: its data cannot be loaded: {where(error)}") from error
        for name, size in sizes.items():
            if not size:
                raise UsageError(f"task {self.name!r}: its {name} set is empty")
        return data

    def make_model(self) -> nn.Module:
        """The task's model.

        Raises:
            UsageError: `model` fails, or does not return a module.
        """
        if isinstance(self.model, nn.Module):
            raise UsageError(
                f"task {self.name!r}: model must be a function that makes one, so that each seed has its own: "
                f"got a {type(self.model).__name__}; write model=lambda: {type(self.model).__name__}(...)"
            )
        try:
            model = self.model()
        except UsageError:
            raise
        except Exception as error:
            raise UsageError(f"task {self.name!r}: its model cannot be made: {where(error)}") from error
        if not isinstance(model, nn.Module):
            raise UsageError(f"task {self.name!r}: its model must be a torch.nn.Module, got {type(model).__name__}")
        return model
