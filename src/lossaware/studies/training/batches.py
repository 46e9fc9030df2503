"""The batches of a run: on its device, in the order of its seed, augmented."""

from collections.abc import Iterator
from typing import Any

import torch

from lossaware.studies.specs.examples import Examples, moved
from lossaware.studies.specs.run_spec import RunSpec
from lossaware.studies.specs.task import Data
from lossaware.studies.training.reproducible import derived


class Resident:
    """Examples on a device. Examples in memory are moved once, others batch by batch."""

    def __init__(self, examples: Any, device: torch.device) -> None:
        self._device = device
        self._examples: Examples = examples.to(device) if self._moves and hasattr(examples, "to") else examples

    @property
    def _moves(self) -> bool:
        return self._device.type != "cpu"

    def batches(self, size: int, generator: torch.Generator | None) -> Iterator[Any]:
        """See `Examples.batches`."""
        batches = self._examples.batches(size, generator)
        return (moved(batch, self._device) for batch in batches) if self._moves else batches


class Batches:
    """The training batches of each epoch. Their order and augmentation depend on the seed only."""

    def __init__(self, spec: RunSpec, data: Data, device: torch.device) -> None:
        self._size = spec.batch_size
        self._examples = Resident(data.train, device)
        self._augment = data.augment
        self.generators = {
            purpose: torch.Generator().manual_seed(derived(spec.seed, purpose)) for purpose in ("order", "augmentation")
        }

    def __iter__(self) -> Iterator[Any]:
        batches = self._examples.batches(self._size, self.generators["order"])
        augment, generator = self._augment, self.generators["augmentation"]
        if augment is None:
            return batches
        return (augment(batch, generator) for batch in batches)
