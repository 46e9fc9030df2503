"""A problem for which the steps of each implementation are compared with the reference."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

import reference
from lossaware import Average, Momentum, Progressive

STEPS = 36
SIZE = 23
GAMMA2 = 1e-3
"""The correction is up to GAMMA2 * Omega / xi = 0.2 per step, far more than the step of most bases."""

LOWER_BOUNDS: dict[str, tuple[Any, reference.LowerBound]] = {
    "progressive": ("progressive", reference.progressive(10.0)),
    "progressive-e": (Progressive(log_base=math.e), reference.progressive(math.e)),
    "average": (Average(), reference.average()),
    "momentum": (Momentum(beta=0.8), reference.momentum(0.8)),
}


@dataclass
class Problem:
    """Initial parameters, and a gradient (large, small, +0.0 and -0.0) and a loss per step.

    The losses open and close the gate, rise and fall.
    """

    x: reference.Array
    gradients: reference.Array
    losses: list[float]


def make_problem(seed: int) -> Problem:
    """A problem in float64."""
    rng = np.random.default_rng(seed)
    losses = rng.uniform(0.02, 2.6, size=STEPS)
    losses[0] = 2.2
    gradients = rng.normal(size=(STEPS, SIZE)) * 10.0 ** rng.uniform(-4, 0, size=(STEPS, SIZE))
    gradients[rng.random(size=gradients.shape) < 0.1] = 0.0
    gradients[rng.random(size=gradients.shape) < 0.05] = -0.0
    return Problem(rng.normal(size=SIZE), gradients, losses.tolist())
