"""The convolutional encoder and decoder of the paper's segmentation task (A.5), with loss and accuracies."""

from collections.abc import Mapping
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional

from lossaware.studies.specs.task import Batch


def encoder_decoder(width: int = 64) -> nn.Sequential:
    """Five stages down, five up, and a 1 x 1 convolution to 2 channels: background and object.

    Returns logits (batch, 2, height, width) for images (batch, 3, height, width) whose sides are multiples of 32.
    It has torch's default initialisation, as in the code that the paper cites.

    Args:
        width: Channels after the first stage, a multiple of 4; the others are proportional. 64 in the paper.
    """
    w = width
    down = ((3, w), (w, 2 * w), (2 * w, 4 * w, 4 * w), (4 * w, 8 * w, 8 * w), (8 * w, 8 * w, 8 * w))
    up = (8 * w, 4 * w, 2 * w, w, w // 2, w // 4)
    stages: list[nn.Module] = []
    for channels in down:
        for inputs, outputs in pairwise(channels):
            stages += [nn.Conv2d(inputs, outputs, 3, padding=1), nn.BatchNorm2d(outputs), nn.ReLU(inplace=True)]
        stages.append(nn.MaxPool2d(2))
    for inputs, outputs in pairwise(up):
        stages += [
            nn.ConvTranspose2d(inputs, outputs, 3, stride=2, padding=1, output_padding=1),
            nn.BatchNorm2d(outputs),
            nn.ReLU(inplace=True),
        ]
    return nn.Sequential(*stages, nn.Conv2d(up[-1], 2, 1))


def one_hot(objects: Tensor) -> Tensor:
    """Masks (batch, height, width), 1 for object, as (batch, 2, height, width): background, object."""
    return torch.stack([1 - objects, objects], dim=1).float()


def segmentation(model: nn.Module, batch: Batch) -> Mapping[str, Tensor]:
    """Loss and accuracies of a model that segments an object.

    Args:
        model: Returns logits (batch, 2, height, width) for the images.
        batch: Images (batch, 3, height, width) and uint8 masks (batch, height, width), 1 for object.

    Returns:
        ``"loss"``, the mean binary cross-entropy in nats of the sigmoids with the one-hot masks; ``"accuracy"``, the
        share of correct pixels; ``"iou"``, the intersection over union of the object, a mean over the images.
    """
    images, objects = batch
    logits = model(images)
    predicted = logits.detach().argmax(dim=1)
    both = (predicted & objects).sum(dim=(1, 2))
    either = (predicted | objects).sum(dim=(1, 2))
    # An image without object, in which none is predicted, is correct.
    overlap = torch.where(either == 0, 1.0, both / either.clamp(min=1))
    return {
        "loss": functional.binary_cross_entropy_with_logits(logits, one_hot(objects)),
        "accuracy": (predicted == objects).float().mean(),
        "iou": overlap.mean(),
    }
