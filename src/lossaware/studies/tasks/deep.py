"""Twelve plain layers on scikit-learn's digits: no normalisation and no skip connections."""

from functools import partial

from torch import nn

from lossaware.errors import UsageError
from lossaware.studies.models.classification import classification
from lossaware.studies.specs.task import Task
from lossaware.studies.tasks.digits import load

SUMMARY = "Digits of 8 x 8 (part of scikit-learn) with twelve plain layers, without normalisation"


def build(depth: int = 12) -> Task:
    """Digits with a deep network. A step that is too large destroys its gradients.

    Args:
        depth: Layers with weights, at least 2.
    """
    if type(depth) is not int or depth < 2:
        raise UsageError(f"task 'deep': depth must be an integer of at least 2, got {depth!r}")
    return Task(
        name="deep",
        summary=SUMMARY,
        model=partial(network, depth),
        data=load,
        measure=classification,
        epochs=12,
        batch_size=32,
        gamma2=1e-6,
    )


def network(depth: int) -> nn.Sequential:
    """Hidden layers of 64 units with ReLU, initialised as in He et al. (2015): (batch, 64) to (batch, 10)."""
    layers: list[nn.Module] = []
    for _ in range(depth - 1):
        layers += [nn.Linear(64, 64), nn.ReLU()]
    net = nn.Sequential(*layers, nn.Linear(64, 10))
    for module in net:
        if isinstance(module, nn.Linear):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
            nn.init.zeros_(module.bias)
    return net
