"""A variational autoencoder on scikit-learn's digits."""

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

from lossaware.studies.specs.task import Batch, Data, InMemory, Task
from lossaware.studies.tasks import digits

SUMMARY = "Digits of 8 x 8 (part of scikit-learn) reconstructed by a variational autoencoder"
CODE = 8


class VariationalAutoencoder(nn.Module):
    """64-128-8-128-64 with rectified units (Kingma and Welling, 2014)."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 2 * CODE))
        self.decoder = nn.Sequential(nn.Linear(CODE, 128), nn.ReLU(), nn.Linear(128, 64))

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Logits of the images (batch, 64), and mean and log variance of their codes."""
        mean, log_variance = self.encoder(images).chunk(2, dim=1)
        # The mean itself in evaluation, so that the same weights give the same values.
        noise = torch.randn_like(mean) if self.training else torch.zeros_like(mean)
        return self.decoder(mean + noise * (log_variance / 2).exp()), mean, log_variance


def build() -> Task:
    """Variational autoencoder. Its loss, the negative evidence bound in nats per image, does not come near 0."""
    return Task(
        name="vae",
        summary=SUMMARY,
        model=VariationalAutoencoder,
        data=load,
        measure=evidence_bound,
        score="loss",
        higher_is_better=False,
        percent=False,
        epochs=15,
        batch_size=32,
        gamma2=1e-6,
    )


def load(folder: Path | None = None) -> Data:
    """The images of the task ``digits``, scaled to [0, 1]. Does not use the folder."""
    train, test = (part.tensors[0] for part in digits.read())
    low, high = train.min(), train.max()
    first, second = (InMemory((((part - low) / (high - low)).clamp(0, 1),)) for part in (train, test))
    return Data(train=first, test=second)


def evidence_bound(model: nn.Module, batch: Batch) -> Mapping[str, Tensor]:
    """Negative evidence lower bound of images (batch, 64), and its two terms."""
    (images,) = batch
    logits, mean, log_variance = model(images)
    reconstruction = functional.binary_cross_entropy_with_logits(logits, images, reduction="sum") / len(images)
    divergence = -0.5 * (1 + log_variance - mean.square() - log_variance.exp()).sum() / len(images)
    return {
        "loss": reconstruction + divergence,
        "reconstruction": reconstruction.detach(),
        "divergence": divergence.detach(),
    }
