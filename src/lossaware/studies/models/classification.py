"""Loss and accuracy of a classifier."""

from collections.abc import Mapping

from torch import Tensor, nn
from torch.nn import functional

from lossaware.studies.specs.task import Batch


def classification(model: nn.Module, batch: Batch) -> Mapping[str, Tensor]:
    """Cross-entropy and accuracy of a model on a batch of inputs and class labels.

    Args:
        model: Returns (batch, classes) for the inputs.
        batch: Inputs (batch, ...) and int64 labels (batch).

    Returns:
        ``"loss"``, the mean cross-entropy in nats, and ``"accuracy"``, the share of examples whose largest output
        is their class.
    """
    inputs, labels = batch
    outputs = model(inputs)
    return {
        "loss": functional.cross_entropy(outputs, labels),
        "accuracy": (outputs.detach().argmax(dim=1) == labels).float().mean(),
    }
