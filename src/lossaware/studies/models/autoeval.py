"""A classifier that also predicts the rotation of its input (Deng et al., 2021), with losses and accuracies."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional

from lossaware.studies.models.lenet import lenet5
from lossaware.studies.specs.task import Batch

TURNS = 4


class AutoEval(nn.Module):
    """LeNet-5 with a second head: 10 classes, and 4 rotations by multiples of 90 degrees.

    Returns logits (batch, 10) and (batch, 4) for images (batch, 1, 28, 28). It has 62,046 parameters with ``pad`` 2,
    44,766 with 0, and torch's default initialisation.

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
        """Logits of the classes and of the rotations."""
        features = self.features(images)
        return self.classes(features), self.turns(features)


def turned(images: Tensor, turns: Tensor) -> Tensor:
    """Each image, rotated counter-clockwise.

    Args:
        images: (batch, channels, side, side).
        turns: (batch), int64: rotation in units of 90 degrees, 0 to 3.
    """
    every = torch.stack([torch.rot90(images, quarter, dims=(-2, -1)) for quarter in range(TURNS)])
    return every[turns, torch.arange(len(images), device=images.device)]


def turn_at_random(batch: Batch, generator: torch.Generator) -> Batch:
    """The batch and one random rotation per image, from which rotations are learned."""
    images = batch[0]
    return (*batch, torch.randint(TURNS, (len(images),), generator=generator).to(images.device, non_blocking=True))


def autoeval(model: nn.Module, batch: Batch) -> Mapping[str, Tensor]:
    """Both losses and both accuracies.

    As in Deng et al., classes are predicted from upright images, rotations from rotated ones: one random rotation per
    image if the batch has it (in training), otherwise all four (in evaluation).

    Args:
        model: An `AutoEval`.
        batch: Images (batch, 1, 28, 28), int64 labels (batch), and optionally int64 rotations (batch).

    Returns:
        ``"loss_cls"`` and ``"loss_rot"``, mean cross-entropies in nats; ``"loss"``, their sum; ``"accuracy"`` and
        ``"accuracy_rot"``, the shares of images whose class and whose rotation are predicted correctly.
    """
    images, labels = batch[:2]
    if len(batch) > 2:
        turns, rotated = batch[2], turned(images, batch[2])
    else:
        turns = torch.arange(TURNS, device=images.device).repeat_interleave(len(images))
        rotated = turned(images.repeat(TURNS, 1, 1, 1), turns)
    classes, _ = model(images)
    _, predicted = model(rotated)
    loss_cls = functional.cross_entropy(classes, labels)
    loss_rot = functional.cross_entropy(predicted, turns)
    return {
        "loss": loss_cls + loss_rot,
        "loss_cls": loss_cls,
        "loss_rot": loss_rot,
        "accuracy": (classes.detach().argmax(dim=1) == labels).float().mean(),
        "accuracy_rot": (predicted.detach().argmax(dim=1) == turns).float().mean(),
    }
