"""A task: its model, its data, and the measures of a batch."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from lossaware.errors import UsageError
from lossaware.studies.specs.data_folder import DataSource, FilesRead, path_of, reading
from lossaware.studies.specs.examples import Batch, Examples, FromDataset, FromLoader, InMemory, Limited, as_examples
from lossaware.studies.specs.options import where

__all__ = ["Batch", "Data", "Examples", "InMemory", "Source", "Subject", "Task"]

Source = Any
"""A user's set of examples: `Examples`, a ``DataLoader``, or a torch dataset."""


@dataclass(frozen=True)
class Data:
    """The sets of a task.

    Each is a set of `InMemory` tensors, a dataset, whose examples ``collate`` combines into batches, a ``DataLoader``,
    which keeps its own batches, or your own `Examples`. The run's seed determines the order of training. Batches may
    be nested tuples, lists or dicts of tensors; the first tensor's length is the number of examples.

    Attributes:
        train: Training set, used in random order. An iterable dataset keeps its own order.
        test: Test set, measured after each epoch.
        augment: Called with a training batch and the run's generator; returns the changed batch. None: no augmentation.
        files: The data files that were read, and whether they were verified; set when the task loads them.
        validation: Validation set, measured after each epoch, too. The best learning rate is then chosen on it, and its
            score on the test set is shown.
        collate: Makes a batch from a list of a dataset's examples; None is torch's ``default_collate``.
        batches_per_epoch: Number of training batches per epoch; None is all. Required for an iterable set without
            length.
    """

    train: Source
    test: Source
    augment: Callable[[Any, torch.Generator], Any] | None = None
    files: tuple[FilesRead, ...] = ()
    validation: Source = None
    collate: Callable[[list[Any]], Any] | None = None
    batches_per_epoch: int | None = None

    def __post_init__(self) -> None:
        limit = self.batches_per_epoch
        if limit is not None and (isinstance(limit, bool) or not isinstance(limit, int) or limit < 1):
            raise UsageError(f"Data: batches_per_epoch must be an integer of at least 1, got {limit!r}")
        for name, most in (("train", limit), ("test", None), ("validation", None)):
            if (source := getattr(self, name)) is not None and not isinstance(source, _WRAPPED):
                object.__setattr__(self, name, as_examples(source, self.collate, most))


_WRAPPED = (FromDataset, FromLoader, Limited)
"""Types that are not wrapped again when `Data` is copied."""


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
    """A training task: its model, its data and the measures of a batch.

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
    measure: Callable[[nn.Module, Any], Mapping[str, Tensor]]
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
            sizes = {
                name: _length(examples)
                for name, examples in (("training", data.train), ("test", data.test), ("validation", data.validation))
                if examples is not None
            }
            data = replace(data, files=current.files)
        except UsageError:
            raise
        except Exception as error:
            raise UsageError(f"task {self.name!r}: its data cannot be loaded: {where(error)}") from error
        for name, size in sizes.items():
            if size == 0:
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


def _length(examples: Any) -> int | None:
    """The number of examples; None if unknown.

    Raises:
        UsageError: The value is not a set of examples.
    """
    if not hasattr(examples, "batches"):
        raise UsageError(
            f"a set of examples must be InMemory tensors, a dataset, a DataLoader, or have batches(size, generator), "
            f"got {type(examples).__name__}"
        )
    try:
        return len(examples)
    except TypeError:
        return None
