"""Six steps and their reference, on which the traps are shown."""

from typing import Any

import numpy as np
import torch

import reference
from lossaware import LGA

GAMMA2, XI = 1e-3, 0.01
rng = np.random.default_rng(0)
X = rng.normal(size=12)
GRADIENTS = list(rng.normal(size=(6, 12)))
LOSSES = [2.0, 1.5, 1.0, 1.75, 0.5, 1.25]


def attach(optimizer: Any, **kwargs: Any) -> Any:
    return LGA(optimizer, **{"steps_per_epoch": 4, "gamma2": GAMMA2, "xi": XI, **kwargs})


def sgd(*params: torch.Tensor, **kwargs: Any) -> Any:
    return torch.optim.SGD(params, **{"lr": 0.1, **kwargs})


def numpy(tensor: torch.Tensor) -> reference.Array:
    array: reference.Array = tensor.detach().double().numpy().copy()
    return array


def push(omega: float, g: reference.Array, gamma2: float = GAMMA2) -> reference.Array:
    return gamma2 * omega / reference.phi(g, XI)


def final(
    gradients: list[reference.Array], losses: list[float | None], name: str = "sgd", **kwargs: Any
) -> reference.Array:
    """The position at which the reference with LGA ends, from X."""
    judge = reference.OPTIMIZERS[name](**{"lr": 0.1, **kwargs})
    return list(reference.trajectory(judge, X, gradients, losses, lga=reference.Law(4, GAMMA2)))[-1]
