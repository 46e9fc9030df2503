"""LGA on every optimizer and implementation of torch, compared with the NumPy reference step by step."""

from __future__ import annotations

import math
from dataclasses import astuple
from typing import Any

import numpy as np
import pytest
import torch

import reference
from lossaware import LGA
from support import FUSED_ON_CPU, default_dtype, flat, parameters, set_gradients, torch_optimizer
from support.problem import GAMMA2, LOWER_BOUNDS, STEPS, make_problem

SHAPES = ((5, 3), (), (7,))
XI = 0.01

IMPLEMENTATIONS = {"loop": {"foreach": False}, "foreach": {"foreach": True}, "fused": {"fused": True}}
BASES = [
    (name, implementation)
    for name in reference.OPTIMIZERS
    for implementation in IMPLEMENTATIONS
    if implementation != "fused" or name in FUSED_ON_CPU
]

# Arguments with which the base changes the gradient before LGA reads it. The second is a trap in torch itself:
# SGD's foreach step with Nesterov's momentum adds the momentum buffer into p.grad.
ARGUMENTS = [
    ("momentum", {"weight_decay": 0.1}),
    ("momentum", {"nesterov": True}),
    ("momentum", {"nesterov": True, "weight_decay": 0.1, "maximize": True}),
    ("asgd", {"t0": 4, "lambd": 0.1}),
    ("rmsprop", {"weight_decay": 0.1}),
    ("adam", {"weight_decay": 0.1, "maximize": True}),
    ("adamax", {"weight_decay": 0.1}),
    ("adadelta", {"maximize": True}),
    ("adagrad", {"weight_decay": 0.1, "lr_decay": 0.1}),
]


def check_status(lga: LGA, law: reference.Law, omega: float, loss: float) -> None:
    status = lga.status
    assert status.loss == pytest.approx(loss, rel=1e-12, abs=1e-15)
    assert status.lower_bound == pytest.approx(law.lower, rel=1e-12, abs=1e-15)
    assert status.upper_bound == pytest.approx(law.upper, rel=1e-12, abs=1e-15)
    assert status.omega == pytest.approx(omega, rel=1e-12, abs=1e-15)
    assert status.gamma2 == pytest.approx(law.gamma2 * law.factor, rel=1e-12)
    assert status.statuses == law.statuses


def check_float64(name: str, implementation: str, bound: str, steps_per_epoch: int, arguments: dict[str, Any]) -> None:
    x, gradients, losses = astuple(make_problem(seed=0))
    theirs, ours = LOWER_BOUNDS[bound]
    law = reference.Law(steps_per_epoch, GAMMA2, xi=XI, lower_bound=ours, backoff=0.7)
    shadow = reference.Law(steps_per_epoch, lower_bound=ours)  # the same law once more, to see Omega step by step
    judge = reference.OPTIMIZERS[name](**arguments)
    base_alone = list(reference.trajectory(reference.OPTIMIZERS[name](**arguments), x, gradients, losses))
    with default_dtype(torch.float64):
        params = parameters(x, *SHAPES)
        optimizer = torch_optimizer(name, params, **IMPLEMENTATIONS[implementation], **arguments)
        lga = LGA(optimizer, steps_per_epoch=steps_per_epoch, gamma2=GAMMA2, xi=XI, lower_bound=theirs, backoff=0.7)
        for t, expected in enumerate(reference.trajectory(judge, x, gradients, losses, lga=law)):
            set_gradients(params, gradients[t])
            optimizer.step(loss=losses[t])
            np.testing.assert_allclose(flat(params), expected, rtol=0, atol=1e-12 * np.abs(expected).max())
            check_status(lga, law, shadow.omega(losses[t]), losses[t])
    if isinstance(judge, reference.ASGD):
        ax = flat([optimizer.state[p]["ax"] for p in params])
        np.testing.assert_allclose(ax, judge.ax, rtol=0, atol=1e-12 * np.abs(ax).max())
    # That the comparison had something to compare: every branch of the law was taken, and the correction was felt.
    backoffs = round(math.log(law.factor) / math.log(0.7))
    assert min(law.open_steps, law.closed_below, law.closed_above) >= 2
    assert 2 <= backoffs <= law.statuses - 1 - 2
    assert np.abs(expected - base_alone[-1]).max() > 0.05
    assert lga.status.open_share == pytest.approx(law.open_steps / STEPS, rel=1e-12)


@pytest.mark.parametrize("steps_per_epoch", [1, 7])
@pytest.mark.parametrize("bound", LOWER_BOUNDS)
@pytest.mark.parametrize(("name", "implementation"), BASES)
def test_float64_to_1e_12(name: str, implementation: str, bound: str, steps_per_epoch: int) -> None:
    check_float64(name, implementation, bound, steps_per_epoch, {})


@pytest.mark.parametrize(
    ("name", "arguments", "implementation"),
    [(*case, implementation) for case in ARGUMENTS for name, implementation in BASES if name == case[0]],
    ids=lambda v: v if isinstance(v, str) else "-".join(v),
)
def test_float64_with_other_arguments(name: str, arguments: dict[str, Any], implementation: str) -> None:
    check_float64(name, implementation, "progressive", 7, arguments)


@pytest.mark.parametrize("steps_per_epoch", [1, 7])
@pytest.mark.parametrize(("name", "implementation"), BASES)
def test_float32(name: str, implementation: str, steps_per_epoch: int) -> None:
    """Over 36 steps within 2e-6 of the largest parameter: some 16 units in its last place."""
    x, gradients, losses = astuple(make_problem(seed=0))
    x, gradients = x.astype(np.float32).astype(np.float64), [g.astype(np.float32).astype(np.float64) for g in gradients]
    law = reference.Law(steps_per_epoch, GAMMA2, xi=XI, backoff=0.7)
    params = parameters(x, *SHAPES, dtype=torch.float32)
    optimizer = torch_optimizer(name, params, **IMPLEMENTATIONS[implementation])
    LGA(optimizer, steps_per_epoch=steps_per_epoch, gamma2=GAMMA2, xi=XI, backoff=0.7)
    for t, expected in enumerate(reference.trajectory(reference.OPTIMIZERS[name](), x, gradients, losses, lga=law)):
        set_gradients(params, gradients[t])
        optimizer.step(loss=torch.tensor(losses[t], dtype=torch.float64))
        np.testing.assert_allclose(flat(params), expected, rtol=0, atol=2e-6 * np.abs(expected).max())


def spacing(x: reference.Array, dtype: torch.dtype) -> reference.Array:
    """The distance from each number to the next larger in magnitude that `dtype` can hold."""
    return torch.finfo(dtype).eps * 2.0 ** np.floor(np.log2(np.maximum(np.abs(x), torch.finfo(dtype).tiny)))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=["bfloat16", "float16"])
@pytest.mark.parametrize(("name", "implementation"), BASES)
def test_low_precision(name: str, implementation: str, dtype: torch.dtype) -> None:
    """Each step is within one unit in the last place of torch's own step in that precision plus the exact correction.

    This is stricter than a tolerance on a trajectory, in which the base's own rounding would be most of the difference.
    A copy of the optimizer, set to the same parameters before each step, gives the step of the base.
    """
    x, gradients, losses = astuple(make_problem(seed=0))
    law = reference.Law(7, GAMMA2, xi=XI, backoff=0.7)
    params, twins = (parameters(x, *SHAPES, dtype=dtype) for _ in range(2))
    # The default eps of 1e-8 is 0 in float16, and 0 / 0 where a gradient is 0.
    arguments = {
        **IMPLEMENTATIONS[implementation],
        **({"eps": 1e-3} if hasattr(reference.OPTIMIZERS[name], "eps") else {}),
    }
    optimizer, base = (torch_optimizer(name, p, **arguments) for p in (params, twins))
    LGA(optimizer, steps_per_epoch=7, gamma2=GAMMA2, xi=XI, backoff=0.7)
    moved = 0.0
    for gradient, loss in zip(gradients, losses, strict=True):
        with torch.no_grad():
            for p, twin in zip(params, twins, strict=True):
                twin.copy_(p)
        set_gradients(params, gradient)
        set_gradients(twins, gradient)
        gradient_read = flat([p.grad for p in params if p.grad is not None])
        optimizer.step(loss=loss)
        base.step()
        omega = law.omega(loss)
        after_base, after = flat(twins), flat(params)
        if omega == 0:
            np.testing.assert_array_equal(after, after_base)
            continue
        expected = after_base - law.correction(omega, gradient_read)
        one_unit = spacing(np.maximum(np.abs(expected), np.abs(after)), dtype)
        assert (np.abs(after - expected) <= 1.001 * one_unit).all()
        moved = max(moved, float(np.abs(after - after_base).max()))
    assert moved > 0.05
    assert law.open_steps < STEPS
