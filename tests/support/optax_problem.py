"""A problem to compare the JAX form with the reference and with LGA for torch."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

import reference
from support import needs
from support.problem import Problem, make_problem

jax = needs("jax")
optax = needs("optax")

import jax.numpy as jnp  # noqa: E402


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


def float32_problem() -> Problem:
    """A problem whose numbers float32 holds exactly."""
    problem = make_problem(seed=1)
    x, gradients, losses = (
        np.asarray(a, np.float32).astype(np.float64) for a in (problem.x, problem.gradients, problem.losses)
    )
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
