"""The judge is judged: its optimizers against torch's own for-loops, its law against numbers worked out by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

import reference
from support import default_dtype, torch_optimizer

VARIANTS = [
    *((name, {}) for name in reference.OPTIMIZERS),
    ("momentum", {"nesterov": True}),
    ("momentum", {"dampening": 0.3}),
    ("sgd", {"weight_decay": 0.1, "maximize": True}),
    ("asgd", {"t0": 3, "lambd": 0.1}),
    ("adamw", {"weight_decay": 0.3}),
    ("adam", {"weight_decay": 0.3, "maximize": True}),
    ("adagrad", {"lr_decay": 0.2}),
]


@pytest.mark.parametrize(
    ("name", "kwargs"), VARIANTS, ids=lambda v: v if isinstance(v, str) else "-".join(v) or "default"
)
def test_the_base_optimizers_are_torchs(name: str, kwargs: dict[str, object]) -> None:
    rng = np.random.default_rng(0)
    x, gradients = rng.normal(size=9), list(rng.normal(size=(30, 9)))
    judge = reference.OPTIMIZERS[name](**kwargs)
    with default_dtype(torch.float64):
        p = torch.nn.Parameter(torch.tensor(x))
        optimizer = torch_optimizer(name, [p], **kwargs)
        for g, expected in zip(gradients, reference.trajectory(judge, x, gradients, [None] * 30), strict=True):
            p.grad = torch.tensor(g)
            optimizer.step()
            np.testing.assert_allclose(p.detach().numpy(), expected, rtol=0, atol=1e-13)
    if isinstance(judge, reference.ASGD):
        np.testing.assert_allclose(optimizer.state[p]["ax"].numpy(), judge.ax, rtol=0, atol=1e-13)
        assert (judge.mu < 1) == ("t0" in kwargs)


def test_the_law_by_hand_with_one_status_per_step() -> None:
    """Algorithm 1 to the letter, log base 10: w_1 = 1 / log10(11), w_2 = 1 / log10(12), w_3 = 1 / log10(13)."""
    law = reference.Law(steps_per_epoch=1, gamma2=1.0)
    w1, w2, w3 = (1 / math.log10(n) for n in (11, 12, 13))
    lower1 = (1 - w1) * 2.0
    assert law.omega(2.0) == pytest.approx(2.0 - lower1, rel=1e-15)  # f = U, and U is inside the gate
    assert (law.upper, law.factor) == (2.0, 1.0)  # the first status has no previous one
    lower2 = w2 * lower1 + (1 - w2) * 2.5
    assert law.omega(2.5) == 0.0  # above U
    assert law.lower == pytest.approx(lower2, rel=1e-15)
    assert law.factor == 0.1
    lower3 = w3 * lower2 + (1 - w3) * 0.3
    assert law.omega(0.3) == (0.3 - law.lower if 0.3 - lower3 >= 0.1 else 0.0)
    assert law.lower == pytest.approx(lower3, rel=1e-15)
    assert (law.factor, law.statuses) == (0.1, 3)


def test_the_law_by_hand_with_three_steps_per_status() -> None:
    law = reference.Law(steps_per_epoch=3, gamma2=1.0, lower_bound=reference.average(), backoff=0.5)
    assert [law.omega(f) for f in (3.0, 2.0)] == [3.0, 2.0]  # L_0 = 0
    assert law.omega(math.nan) == 0.0
    assert law.omega(1.0) == 0.0  # the status (3 + 2 + 1) / 3 = 2 is taken in before the gate of its last step
    assert (law.lower, law.statuses, law.upper) == (2.0, 1, 3.0)
    assert [law.omega(f) for f in (3.0, 2.05)] == [1.0, 0.0]  # 2.05 - 2 < eps
    assert law.omega(2.5) == 2.5 - (2.0 + (3.0 + 2.05 + 2.5) / 3) / 2
    assert law.factor == 0.5  # that status' mean, 2.516, was above 2


def test_phi_and_the_correction_by_hand() -> None:
    g = np.array([0.5, 0.0, -0.0, -0.5])
    np.testing.assert_array_equal(reference.phi(g, 0.01), [0.51, 0.01, 0.01, -0.51])
    law = reference.Law(steps_per_epoch=1, gamma2=0.1)
    np.testing.assert_allclose(law.correction(2.0, g), [0.2 / 0.51, 20.0, 20.0, -0.2 / 0.51], rtol=1e-15)
    law.zero_gradient = "rest"
    np.testing.assert_allclose(law.correction(2.0, g), [0.2 / 0.51, 0.0, 0.0, -0.2 / 0.51], rtol=1e-15)
