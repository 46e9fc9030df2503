"""A classifier that also tells by how much its input was turned (Deng et al., 2021), and what is measured of it."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional

from lossaware.studies.models.lenet import lenet5
from lossaware.studies.specs.task import Batch

TURNS = 4


class AutoEval(nn.Module):
    """LeNet-5 whose last layer has a second one beside it: 10 classes, and 4 turns of 90 degrees.

    Gives logits (batch, 10) and (batch, 4) from images (batch, 1, 28, 28): 62,046 parameters with ``pad`` 2, 44,766
    with 0. Initialised as `lenet5`, which is torch's default.

    Args:
        pad: See `lenet5`.
    """

    def __init__(self, pad: int = 2) -> None:
        super().__init__()
        *features, classes = lenet5(pad)
        self.features = nn.Sequential(*features)
        self.classes = classes
        self.turns = nn.Linear(84, TURNS)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Logits of the classes and of the turns."""
        features = self.features(images)
        return self.classes(features), self.turns(features)


def turned(images: Tensor, turns: Tensor) -> Tensor:
    """Each image turned counter-clockwise.

    Args:
        images: (batch, channels, side, side).
        turns: (batch), int64: how many times 90 degrees, 0 to 3.
    """
    every = torch.stack([torch.rot90(images, quarter, dims=(-2, -1)) for quarter in range(TURNS)])
    return every[turns, torch.arange(len(images), device=images.device)]


def turn_at_random(batch: Batch, generator: torch.Generator) -> Batch:
    """The batch with one random turn an image beside it, which is what the rotation is learned from."""
    images = batch[0]
    return (*batch, torch.randint(TURNS, (len(images),), generator=generator).to(images.device, non_blocking=True))


def autoeval(model: nn.Module, batch: Batch) -> Mapping[str, Tensor]:
    """Both losses and both accuracies.

    The classes are told from upright images, the turns from turned ones, as Deng et al. do: one random turn an image
    where the batch brings it (in training), all four otherwise (in tests).

    Args:
        model: An `AutoEval`.
        batch: Images (batch, 1, 28, 28), int64 labels (batch), and perhaps int64 turns (batch).

    Returns:
        ``"loss_cls"`` and ``"loss_rot"``, mean cross-entropies in nats; ``"loss"``, their sum; ``"accuracy"`` and
        ``"accuracy_rot"``, the shares of images whose class and whose turn are told.
    """
    images, labels = batch[:2]
    if len(batch) > 2:
        turns, rotated = batch[2], turned(images, batch[2])
    else:
        turns = torch.arange(TURNS, device=images.device).repeat_interleave(len(images))
        rotated = turned(images.repeat(TURNS, 1, 1, 1), turns)
    classes, _ = model(images)
    _, told = model(rotated)
    loss_cls = functional.cross_entropy(classes, labels)
    loss_rot = functional.cross_entropy(told, turns)
    return {
        "loss": loss_cls + loss_rot,
        "loss_cls": loss_cls,
        "loss_rot": loss_rot,
        "accuracy": (classes.detach().argmax(dim=1) == labels).float().mean(),
        "accuracy_rot": (told.detach().argmax(dim=1) == turns).float().mean(),
    }
