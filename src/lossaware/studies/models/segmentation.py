"""The convolutional encoder and decoder that the paper's segmentation task trains (A.5), and what is measured of it."""

from collections.abc import Mapping
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional

from lossaware.studies.specs.task import Batch


def encoder_decoder(width: int = 64) -> nn.Sequential:
    """Five stages down, five up, a 1 x 1 convolution to 2 channels: background and object.

    Gives logits (batch, 2, height, width) from images (batch, 3, height, width) whose sides are multiples of 32.
    Initialised as torch does by default, as the code that the paper names.

    Args:
        width: Channels after the first stage, a multiple of 4; all others go with it. The paper's network has 64.
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
    """How well a model finds the pixels of an object.

    Args:
        model: Gives logits (batch, 2, height, width) from the images.
        batch: Images (batch, 3, height, width) and uint8 masks (batch, height, width), 1 for object.

    Returns:
        ``"loss"``, the mean binary cross-entropy in nats of the sigmoids with the one-hot masks; ``"accuracy"``, the
        share of pixels put right; ``"iou"``, the intersection over union of the object, a mean over the images.
    """
    images, objects = batch
    logits = model(images)
    found = logits.detach().argmax(dim=1)
    both = (found & objects).sum(dim=(1, 2))
    either = (found | objects).sum(dim=(1, 2))
    # An image without object, where none was found, is all right.
    overlap = torch.where(either == 0, 1.0, both / either.clamp(min=1))
    return {
        "loss": functional.binary_cross_entropy_with_logits(logits, one_hot(objects)),
        "accuracy": (found == objects).float().mean(),
        "iou": overlap.mean(),
    }
