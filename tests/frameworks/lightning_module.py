"""A Lightning module and a quiet Trainer, for the tests with one process and with several."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import lightning.pytorch as pl
import torch
from loop import Attached, Batch, attached, loss_of, net, record, sgd

from lossaware import LGA


class Module(pl.LightningModule):  # type: ignore[misc]  # mypy does not look into Lightning
    """A user's module; LGA is attached in configure_optimizers or by the callback."""

    def __init__(self, fused: bool = False, with_lga: bool = True) -> None:
        super().__init__()
        self.net = net()
        self.fused = fused
        self.with_lga = with_lga

    def training_step(self, batch: Batch, index: int) -> torch.Tensor:
        return loss_of(self.net, batch)

    def configure_optimizers(self) -> Any:
        if self.with_lga:
            self.run: Attached = attached(self, fused=self.fused)
            return self.run.optimizer
        self.optimizer = sgd(self.parameters(), fused=self.fused)
        return self.optimizer

    def on_train_start(self) -> None:
        """The callback has already attached LGA, so the records include its corrections."""
        lga = LGA.of(self.optimizers().optimizer) if not self.with_lga and self.automatic_optimization else None
        if lga is not None:
            self.run = Attached(self.optimizer, lga, record(self.optimizer))


def make_trainer(**kwargs: Any) -> Any:
    options = {
        "accelerator": "cpu",
        "devices": 1,
        "max_epochs": 1,
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
    }
    return pl.Trainer(**{**options, **kwargs})


def loader(data: Sequence[Batch]) -> Any:
    """The batches of the plain loop, one by one, as a loader that may be iterated again."""
    return torch.utils.data.DataLoader(data, batch_size=None)  # type: ignore[arg-type]  # a list has all it needs
