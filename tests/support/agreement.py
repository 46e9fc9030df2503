"""A problem on which gamma2 by agreement is tested."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch import nn

import reference
from lossaware import LGA
from lossaware.agreement import Agreement
from support import parameters, torch_optimizer

SHAPES = ((6, 4), (6,), (), (3, 2, 2))
SIZE = 43
STEPS = 120
RULE = Agreement(status_steps=10)


def problem(seed: int = 0) -> tuple[reference.Array, list[reference.Array], list[float]]:
    """Initial parameters, a gradient for each step, and losses that fall, are level and rise, one of them NaN."""
    rng = np.random.default_rng(seed)
    level = np.concatenate([np.linspace(2.0, -0.6, STEPS // 2), np.full(STEPS // 4, -0.6), np.linspace(-0.6, 1.2, 30)])
    values = level + rng.normal(scale=0.05, size=STEPS)
    values[9] = math.nan
    trend = rng.normal(size=SIZE)
    gradients = (trend + rng.normal(size=(STEPS, SIZE))) * 10.0 ** rng.uniform(-2, 0, size=(STEPS, SIZE))
    gradients[rng.random(size=gradients.shape) < 0.1] = 0.0
    return rng.normal(size=SIZE), list(gradients), [float(f) for f in values]


def parts(flat_array: reference.Array) -> list[reference.Array]:
    sizes = np.cumsum([int(np.prod(shape)) for shape in SHAPES])[:-1]
    return [part.reshape(shape) for part, shape in zip(np.split(flat_array, sizes), SHAPES, strict=True)]


def attached(
    name: str = "sgd", lr: float = 1e-3, rule: Any = RULE, dtype: torch.dtype = torch.float64, **options: Any
) -> tuple[list[nn.Parameter], Any, LGA]:
    params = parameters(problem()[0], *SHAPES, dtype=dtype)
    optimizer = torch_optimizer(name, params, lr=lr, **options)
    return params, optimizer, LGA(optimizer, gamma2=rule)
