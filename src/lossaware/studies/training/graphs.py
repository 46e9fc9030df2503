"""The training step as a CUDA graph, recorded once and replayed: small networks do not wait for Python.

A graph repeats the recorded operations, with the same addresses and the same numbers from the host. So each batch is
copied to the recorded one's memory, and a new learning rate needs a new graph. An optimizer that counts its steps on
the host cannot be detected; so only optimizers that are known to count on the GPU are recorded.
"""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.optim import SGD, Optimizer

from lossaware.errors import UsageError
from lossaware.studies.specs.examples import Batch, is_plain
from lossaware.studies.specs.options import where

Step = Callable[[Batch], Mapping[str, Tensor]]
"""Trains on a batch and returns its measures."""

Replay = Callable[[], Mapping[str, Tensor]]
"""Repeats the recorded operations and returns the same tensors, overwritten."""

WARM_UP = 3
"""Steps before the recorded one: in these, optimizers and libraries allocate their state."""


def can_record(optimizer: Optimizer) -> bool:
    """Whether a step can be recorded: of torch's SGD, and of torch's optimizers that count their steps on the GPU."""
    return type(optimizer).__module__.startswith("torch.optim.") and all(
        group.get("capturable", type(optimizer) is SGD) for group in optimizer.param_groups
    )


class RecordedStep:
    """A step that is recorded for batches of one size. Batches of other sizes, as an epoch's last, run eagerly.

    Args:
        step: The step; it must keep the gradients' memory and must not read from the device.
        optimizer: Its optimizer; see `can_record`.
        size: Number of examples of the batches to record.
        record: Records a function without arguments, without executing it.
    """

    def __init__(
        self, step: Step, optimizer: Optimizer, size: int, record: "Callable[[Replay], Replay] | None" = None
    ) -> None:
        self._step = step
        self._optimizer = optimizer
        self._size = size
        self._record = record or recorded
        self._warm = 0
        self._held: Batch = ()
        self._settings: list[Any] = []
        self._replay: Replay | None = None

    def __call__(self, batch: Batch) -> Mapping[str, Tensor]:
        """See `Step`."""
        if not is_plain(batch) or len(batch[0]) != self._size:
            return self._step(batch)
        if self._warm < WARM_UP:
            self._warm += 1
            return on_side_stream(lambda: self._step(batch))
        settings = [
            value for group in self._optimizer.param_groups for name, value in group.items() if name != "params"
        ]
        if self._replay is None or settings != self._settings:
            self._held, self._settings = tuple(tensor.clone() for tensor in batch), settings
            self._replay = self._record(lambda: self._step(self._held))
        for held, new in zip(self._held, batch, strict=True):
            held.copy_(new)
        return {name: value.clone() for name, value in self._replay().items()}


def recorded(function: Replay) -> Replay:
    """The function as a CUDA graph.

    Raises:
        UsageError: An operation cannot be recorded, such as reading a number from the device.
    """
    graph = torch.cuda.CUDAGraph()
    try:
        with torch.cuda.graph(graph):
            outputs = function()
    except RuntimeError as error:
        raise UsageError(
            f"the training step cannot be recorded as a CUDA graph ({where(error)}); run without graphs"
        ) from None

    def replay() -> Mapping[str, Tensor]:
        graph.replay()
        return outputs

    return replay


def on_side_stream(function: Replay) -> Mapping[str, Tensor]:
    """Run the function on a side stream, as torch requires before a recording. On a CPU, run it directly."""
    if not torch.cuda.is_available():
        return function()
    here, stream = torch.cuda.current_stream(), torch.cuda.Stream()
    stream.wait_stream(here)
    with torch.cuda.stream(stream):
        outputs = function()
    here.wait_stream(stream)
    return outputs
