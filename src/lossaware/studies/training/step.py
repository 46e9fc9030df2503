"""A training step on one batch, or on several with accumulated gradients."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils import clip_grad_norm_
from torch.optim import Optimizer

from lossaware.studies.specs.optimizers import make_capturable, takes_loss
from lossaware.studies.training.loop_options import LoopOptions
from lossaware.studies.training.ranks import SingleProcess

Step = Callable[[Any], Mapping[str, Tensor]]
"""Trains on a batch and returns its measures."""


class PlainStep:
    """A training step on one batch. It does not read values from the device, so the host does not wait for it."""

    def __init__(
        self,
        measure: Callable[[Any], Mapping[str, Tensor]],
        optimizer: Optimizer,
        give_loss: bool,
        device: torch.device,
        ranks: SingleProcess,
        options: LoopOptions,
    ) -> None:
        self._measure = measure
        self._ranks = ranks
        self._optimizer: Any = optimizer
        self._give_loss = give_loss or takes_loss(optimizer)
        self._options = options
        self._total: Tensor | None = None  # the mean loss of a step's batches so far
        if device.type == "cuda":
            make_capturable(optimizer)

    def __call__(self, batch: Any) -> Mapping[str, Tensor]:
        """The measures of the batch, before the step."""
        return self.part(batch)

    def part(self, batch: Any, *, of: int = 1, begins: bool = True, ends: bool = True) -> Mapping[str, Tensor]:
        """The measures of one of several batches of a step.

        Args:
            batch: The batch.
            of: Number of batches of the step, which uses the mean of their gradients and losses.
            begins: Whether it is the first one.
            ends: Whether it is the last one.
        """
        measures = self._measure(batch)
        loss = measures["loss"]
        if begins:
            self._optimizer.zero_grad()
            self._total = None
        (loss if of == 1 else loss / of).backward()
        total = loss.detach() if of == 1 else loss.detach() / of
        self._total = total if self._total is None else self._total + total
        if ends:
            self._make(self._total)
        return {name: value.detach() for name, value in measures.items()}

    def _make(self, loss: Tensor) -> None:
        if (largest := self._options.clip) is not None:
            clip_grad_norm_([p for group in self._optimizer.param_groups for p in group["params"]], largest)
        if self._give_loss:
            self._optimizer.step(loss=self._ranks.mean(loss))
        else:
            self._optimizer.step()


class Accumulated:
    """Steps with several batches each; the last step of an epoch may have fewer.

    Args:
        step: The step.
        group: Number of batches per step.
        count: Number of batches per epoch.
    """

    def __init__(self, step: PlainStep, group: int, count: int) -> None:
        self._step = step
        self._group = group
        self._count = count
        self._next = 0

    def __call__(self, batch: Any) -> Mapping[str, Tensor]:
        """See `Step`."""
        place = self._next % self._group
        size = min(self._group, self._count - self._next + place)
        self._next = (self._next + 1) % self._count
        return self._step.part(batch, of=size, begins=place == 0, ends=place == size - 1)
