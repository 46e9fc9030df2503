"""What a task is: a model, its data, and what is measured of a batch."""

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
"""The tensors of one batch; each has the examples along its first dimension."""


class Examples(Protocol):
    """A set of examples that can be walked through in batches, in memory or not.

    One that has a method ``to(device)`` is asked for itself on the run's device; the batches of others are moved there.
    """

    def __len__(self) -> int:
        """Number of examples."""

    def batches(self, size: int, generator: torch.Generator | None) -> Iterator[Batch]:
        """All examples once, ``size`` at a time; the last batch may be smaller.

        Args:
            size: Examples a batch, at least 1.
            generator: The source of the random order; None keeps the stored order.
        """


@dataclass(frozen=True)
class InMemory:
    """Examples held as tensors, ``tensors[k][i]`` being part k of example i."""

    tensors: Batch

    def __post_init__(self) -> None:
        lengths = {len(tensor) for tensor in self.tensors}
        if len(lengths) != 1:
            raise ValueError(f"all tensors of a set must have as many examples: got {sorted(lengths)}")

    def __len__(self) -> int:
        return len(self.tensors[0])

    def to(self, device: torch.device) -> Self:
        """The same examples, held on that device."""
        return replace(self, tensors=tuple(tensor.to(device) for tensor in self.tensors))

    def batches(self, size: int, generator: torch.Generator | None) -> Iterator[Batch]:
        """See `Examples.batches`."""
        if generator is None:
            yield from zip(*(torch.split(tensor, size) for tensor in self.tensors), strict=True)
            return
        # The order is drawn on the CPU, so that every device sees the same one.
        order = torch.randperm(len(self), generator=generator).to(self.tensors[0].device, non_blocking=True)
        for chosen in torch.split(order, size):
            yield tuple(tensor[chosen] for tensor in self.tensors)


@dataclass(frozen=True)
class Data:
    """The two sets of a task.

    Attributes:
        train: What is trained on, in random order.
        test: What is measured after each epoch, never trained on.
        augment: Changes a training batch at random; gets the batch and the run's generator. None: no augmentation.
        files: The data files that were read and whether they were verified, filled in when a task's data is loaded.
    """

    train: Examples
    test: Examples
    augment: Callable[[Batch, torch.Generator], Batch] | None = None
    files: tuple[FilesRead, ...] = ()


class Subject(Protocol):
    """What a report says of that which is trained; the fields are those of `Task`."""

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
    """Something to train: how to make its model, get its data and measure a batch.

    Attributes:
        name: Short name, as on the command line.
        summary: One line for lists.
        model: Makes the model, randomly initialised from torch's global generator.
        data: Loads the data; gets the folder that the user named, or None. Raises `UsageError` where the
            folder is needed or what lies there is not what it should be.
        measure: Gets the model and a batch; returns scalar tensors by name, each a mean over the batch.
            ``"loss"`` is required and is what is trained on. In training mode the graph is kept.
        score: Name of the measure that says how good the model is.
        higher_is_better: Whether a larger score is better.
        percent: Whether the score is a share, shown as a percentage.
        epochs: Passes over the training set, unless said otherwise.
        batch_size: Examples a step, unless said otherwise.
        test_batch_size: Examples at a time in tests; less than a thousand where those need much memory.
        gamma2: LGA's gamma2, unless said otherwise. The paper takes 1e-8 for 10 classes, 1e-9 for 100, 1e-10 for 200.
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
        """Its data, with the files that they were read from.

        Raises:
            UsageError: See `data`; or it fails otherwise; or a set has no example.
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
                raise UsageError(f"task {self.name!r}: its {name} set has no example")
        return data

    def make_model(self) -> nn.Module:
        """Its model.

        Raises:
            UsageError: `model` fails, or returns something else.
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
