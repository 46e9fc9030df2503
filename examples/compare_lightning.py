"""Does LGA help in a Lightning Trainer? The optimizer comes from the trial; the callback passes the losses.

    lossaware compare compare_lightning.py:train --direction maximize --lrs 1e-4,1e-3 --seeds 6

It needs ``pip install -e '.[studies,lightning]'`` in a clone of the repository.
"""

import lightning
import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import lossaware
from lossaware.recipes.lightning import LossAware, steps_per_epoch


class Digits(lightning.LightningModule):
    """A network with one hidden layer."""

    def __init__(self, trial: lossaware.Trial) -> None:
        super().__init__()
        self.trial = trial
        self.network = nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))

    def training_step(self, batch: list[Tensor], _: int) -> Tensor:
        """The mean loss."""
        images, labels = batch
        return nn.functional.cross_entropy(self.network(images), labels)

    def validation_step(self, batch: list[Tensor], _: int) -> None:
        """The accuracy."""
        images, labels = batch
        self.log("accuracy", (self.network(images).argmax(1) == labels).float().mean())

    def on_validation_epoch_end(self) -> None:
        """Report the measured values, except in the check before training."""
        if not self.trainer.sanity_checking:
            self.trial.report(self.current_epoch, accuracy=self.trainer.callback_metrics["accuracy"])

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """The base of this arm, with LGA or without."""
        optimizer = torch.optim.AdamW(self.parameters(), lr=self.trial.lr)
        self.trial.attach(optimizer, steps_per_epoch=steps_per_epoch(self.trainer), gamma2="auto")
        return optimizer


def train(trial: lossaware.Trial, epochs: int = 5) -> float:
    """Handwritten digits, by Lightning."""
    images, labels = load_digits(return_X_y=True)
    data = TensorDataset(torch.tensor(images / 16, dtype=torch.float32), torch.tensor(labels))
    training, testing = torch.utils.data.random_split(data, [1437, 360], torch.Generator().manual_seed(0))
    trainer = lightning.Trainer(
        max_epochs=epochs,
        callbacks=[LossAware()],
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(Digits(trial), DataLoader(training, batch_size=64, shuffle=True), DataLoader(testing, batch_size=400))
    return float(trainer.callback_metrics["accuracy"])
