"""gamma2 "agreement" in JAX: steps equal to the reference's and torch's, also inside optax's wrappers."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

import reference
from lossaware import LGA
from support import agreement, enable_x64, needs, parameters, set_gradients, torch_optimizer
from support import flat as of_torch
from support.agreement import RULE, SHAPES, parts

jax = needs("jax")
optax = needs("optax")

import jax.numpy as jnp  # noqa: E402

from lossaware.optax import loss_aware, multi_steps, status  # noqa: E402
from support.optax_problem import flat, stepper  # noqa: E402

BASES: dict[str, Callable[[float], Any]] = {
    "sgd": optax.sgd,
    "momentum": lambda lr: optax.sgd(lr, momentum=0.9),
    "adamw": lambda lr: optax.adamw(lr, weight_decay=1e-2),
}


def problem() -> tuple[reference.Array, list[reference.Array], list[float]]:
    """As for torch, with an infinite gradient."""
    x, gradients, losses = agreement.problem(seed=3)
    gradients[30][5] = math.inf
    return x, gradients, losses


def arrays(vector: reference.Array) -> list[Any]:
    return [jnp.asarray(part) for part in parts(vector)]


@pytest.mark.parametrize(("name", "lr"), [("sgd", 1e-5), ("sgd", 10.0), ("momentum", 1e-2), ("adamw", 10.0)])
def test_steps_are_the_references_and_the_companions(name: str, lr: float) -> None:
    x, gradients, losses = problem()
    judge = reference.Agreement(parts(x.copy()), [reference.OPTIMIZERS[name](lr=lr) for _ in SHAPES], status_steps=10)
    tensors = parameters(x, *SHAPES, dtype=torch.float64)
    optimizer = torch_optimizer(name, tensors, lr=lr)
    lga = LGA(optimizer, gamma2=RULE)
    with enable_x64(True):
        solver = loss_aware(BASES[name](lr), gamma2=RULE)
        params = arrays(x)
        state, step = solver.init(params), stepper(solver)
        for g, loss in zip(gradients, losses, strict=True):
            params, state = step(params, state, arrays(g), loss)
            set_gradients(tensors, g)
            optimizer.step(loss=loss)
            with np.errstate(invalid="ignore"):
                judge.step(parts(g), loss, lr)
            expected = np.concatenate([t.ravel() for t in judge.tensors])
            np.testing.assert_allclose(flat(params), expected, rtol=1e-8, atol=1e-11)
            np.testing.assert_allclose(flat(params), of_torch(tensors), rtol=1e-8, atol=1e-11)
        assert status(state).gamma2 == pytest.approx(judge.m)
        assert vars(status(state)) == pytest.approx(vars(lga.status), rel=1e-6, abs=1e-9)
        assert type(status(state)) is type(lga.status)
    assert judge.m != judge.initial
    assert lga.status.nonfinite_losses == 2


def test_it_needs_no_epochs_and_says_where_it_pushes() -> None:
    solver = loss_aware(optax.sgd(1e-6), gamma2="agreement")
    params = {"kernel": jnp.ones((3, 2)), "bias": jnp.zeros(2)}
    state = solver.init(params)
    assert status(state).gate == "no step yet with a finite loss and finite gradients"
    updates, state = solver.update(jax.tree.map(jnp.ones_like, params), state, params, value=-3.0)
    assert status(state).gate == "open"
    assert float(updates["bias"][0]) == pytest.approx(-6e-4, rel=1e-3)  # in the scale of the kernel next to it
    updates, state = solver.update(jax.tree.map(jnp.zeros_like, params), state, params, value=-3.0)
    assert not flat(updates).any()
    assert status(state).gate.startswith("closed")


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_a_rate_that_is_too_large_is_bounded_from_the_first_step_on(dtype: Any) -> None:
    solver = loss_aware(optax.sgd(1e3), gamma2="agreement")
    params = {"kernel": jnp.ones((30, 2), dtype)}
    state = solver.init(params)
    for _ in range(3):
        updates, state = solver.update({"kernel": jnp.full((30, 2), 5.0, dtype)}, state, params, value=1.0)
        assert 0 < np.abs(flat(updates)).max() <= 0.02
        assert updates["kernel"].dtype == dtype


def test_accumulated_micro_batches_are_one_step() -> None:
    x, gradients, _ = problem()
    one, two = loss_aware(optax.adam(1e-3), gamma2=RULE), loss_aware(optax.adam(1e-3), gamma2=RULE)
    many = multi_steps(two, every_k_schedule=2)
    a = b = arrays(x)
    state, of_many = one.init(a), many.init(b)
    for k in range(0, 12, 2):
        mean = (gradients[k] + gradients[k + 1]) / 2
        a, state = stepper(one)(a, state, arrays(mean), 1.0 + k)
        for g in gradients[k : k + 2]:
            b, of_many = stepper(many)(b, of_many, arrays(g), 1.0 + k)
    np.testing.assert_allclose(flat(a), flat(b), rtol=1e-4, atol=1e-6)


def test_complex_parameters_are_refused() -> None:
    with pytest.raises(ValueError, match="gamma2 'agreement' only supports real parameters in JAX: one is complex"):
        loss_aware(optax.sgd(1e-3), gamma2="agreement").init(jnp.ones(3, jnp.complex64))
