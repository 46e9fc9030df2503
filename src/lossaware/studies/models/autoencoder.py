"""The two autoencoders of Table 12 and their loss.

Both return logits. The sigmoid that the paper names is part of the loss, which is numerically more accurate. Both
have torch's default initialisation.
"""

from collections.abc import Mapping

from torch import Tensor, nn
from torch.nn import functional

from lossaware.studies.specs.task import Batch


def dense_autoencoder() -> nn.Sequential:
    """Layers of 784-256-64-256-784 units with ReLU, for images of 1 x 28 x 28: 435,536 parameters.

    The paper does not state its network for MNIST; this is a simple one.
    """
    return nn.Sequential(
        nn.Flatten(),
        nn.Linear(784, 256),
        nn.ReLU(),
        nn.Linear(256, 64),
        nn.ReLU(),
        nn.Linear(64, 256),
        nn.ReLU(),
        nn.Linear(256, 784),
        nn.Unflatten(1, (1, 28, 28)),
    )


def convolutional_autoencoder() -> nn.Sequential:
    """Convolutions 3-12-24-48 with kernel 4 and stride 2, and back, for images of 3 x 32 x 32: 47,355 parameters."""
    return nn.Sequential(
        nn.Conv2d(3, 12, 4, stride=2, padding=1),
        nn.ReLU(),
        nn.Conv2d(12, 24, 4, stride=2, padding=1),
        nn.ReLU(),
        nn.Conv2d(24, 48, 4, stride=2, padding=1),
        nn.ReLU(),
        nn.ConvTranspose2d(48, 24, 4, stride=2, padding=1),
        nn.ReLU(),
        nn.ConvTranspose2d(24, 12, 4, stride=2, padding=1),
        nn.ReLU(),
        nn.ConvTranspose2d(12, 3, 4, stride=2, padding=1),
    )


def reconstruction(model: nn.Module, batch: Batch) -> Mapping[str, Tensor]:
    """Reconstruction loss of a model.

    Args:
        model: Returns logits of the inputs' shape.
        batch: Inputs (batch, ...) in [0, 1]; further tensors are ignored.

    Returns:
        ``"loss"``, the mean binary cross-entropy of the sigmoids with the inputs, in nats per value.
    """
    inputs = batch[0]
    return {"loss": functional.binary_cross_entropy_with_logits(model(inputs), inputs)}
