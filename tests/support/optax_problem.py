"""A problem on which the JAX form is held to the reference and to the companion for torch."""

from __future__ import annotations

import math
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

import reference
from lossaware import Average, Momentum, Progressive
from support import needs

jax = needs("jax")
optax = needs("optax")

import jax.numpy as jnp  # noqa: E402

STEPS = 36
SIZE = 23
GAMMA2 = 1e-3  # a push of up to GAMMA2 * Omega / xi = 0.2 a step: far more than most bases move

LOWER_BOUNDS: dict[str, tuple[Any, reference.LowerBound]] = {
    "progressive": ("progressive", reference.progressive(10.0)),
    "progressive-e": (Progressive(log_base=math.e), reference.progressive(math.e)),
    "average": (Average(), reference.average()),
    "momentum": (Momentum(beta=0.8), reference.momentum(0.8)),
}


def rmsprop(learning_rate: float) -> Any:
    """Optax's with torch's conventions: eps outside the root."""
    return optax.rmsprop(learning_rate, decay=0.99, eps=1e-8, eps_in_sqrt=False)


BASES: dict[str, Callable[[], Any]] = {
    "sgd": lambda: optax.sgd(1e-3),
    "momentum": lambda: optax.sgd(1e-3, momentum=0.9),
    "rmsprop": lambda: rmsprop(1e-2),
    "adam": lambda: optax.adam(1e-3),
    "adamw": lambda: optax.adamw(1e-3, weight_decay=1e-2),
}


@dataclass
class Problem:
    """Where to begin, a gradient a step (large, small, +0.0 and -0.0), and losses that do to the law all there is."""

    x: reference.Array
    gradients: reference.Array
    losses: list[float]


def make_problem() -> Problem:
    rng = np.random.default_rng(1)
    losses = rng.uniform(0.02, 2.6, size=STEPS)
    losses[0] = 2.2
    gradients = rng.normal(size=(STEPS, SIZE)) * 10.0 ** rng.uniform(-4, 0, size=(STEPS, SIZE))
    gradients[rng.random(size=gradients.shape) < 0.1] = 0.0
    gradients[rng.random(size=gradients.shape) < 0.05] = -0.0
    x, gradients, losses = (a.astype(np.float32).astype(np.float64) for a in (rng.normal(size=SIZE), gradients, losses))
    return Problem(x, gradients, losses.tolist())


def tree(vector: Any) -> dict[str, Any]:
    """A flat vector as a tree of parameters."""
    vector = jnp.asarray(vector)
    return {"matrix": vector[:15].reshape(5, 3), "scalar": vector[15], "vector": vector[16:]}


def flat(params: Any) -> reference.Array:
    return np.concatenate([np.asarray(leaf, np.float64).ravel() for leaf in jax.tree.leaves(params)])


def stepper(solver: Any) -> Any:
    """A compiled training step on given gradients."""

    def step(params: Any, state: Any, grads: Any, value: Any) -> Any:
        updates, state = solver.update(grads, state, params, value=value)
        return optax.apply_updates(params, updates), state

    return jax.jit(step)


def walk(solver: Any, problem: Problem, losses: list[float] | None = None) -> Iterator[tuple[Any, Any]]:
    """Yields the parameters and the state after each step."""
    params = tree(problem.x)
    state, step = solver.init(params), stepper(solver)
    for gradient, loss in zip(problem.gradients, losses or problem.losses, strict=True):
        params, state = step(params, state, tree(gradient), loss)
        yield params, state


def run_python(code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, **environment}, capture_output=True, text=True, check=False
    )
