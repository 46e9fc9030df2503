"""Complex tensors that are conjugated, and real ones that are negated, by a bit and not in memory."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from runs import AUTO, values
from torch import Tensor

import reference
from lossaware import LGA
from lossaware.correction import native

XI, GAMMA2 = 0.01, 0.01


def tensor(seed: int) -> Tensor:
    return torch.randn(3, 4, dtype=torch.complex128, generator=torch.Generator().manual_seed(seed))


def push(p: Tensor, g: Tensor, gamma2: Any) -> reference.Array:
    """Of a first step with loss 1."""
    if gamma2 == "auto":
        scale = float(np.sqrt((values(p) ** 2).sum() / p.numel()))
        judge = reference.SelfSet(3, scale)
        return judge.correction(judge.share(1.0), values(g))
    law = reference.Law(3, GAMMA2, xi=XI)
    return law.correction(law.omega(1.0), values(g))


@pytest.fixture(params=["C", "operators"], autouse=True)
def _way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param == "operators":
        monkeypatch.setattr(native, "library", lambda: None)


@pytest.mark.parametrize("gamma2", ["fixed", "auto"])
@pytest.mark.parametrize("of_gradient", ["conjugated", "plain"])
@pytest.mark.parametrize("of_parameter", ["conjugated", "plain"])
def test_conjugated_by_a_bit(of_parameter: str, of_gradient: str, gamma2: str) -> None:
    """Also with the meter: without the check, it fails after the parameters have changed."""
    p = torch.nn.Parameter(tensor(0).conj() if of_parameter == "conjugated" else tensor(0))
    p.grad = tensor(1).conj() if of_gradient == "conjugated" else tensor(1)
    assert p.is_conj() == (of_parameter == "conjugated")
    assert p.grad.is_conj() == (of_gradient == "conjugated")
    before, g = values(p), p.grad.clone()
    optimizer: Any = torch.optim.SGD([p], lr=0.1)
    size: Any = {"gamma2": AUTO} if gamma2 == "auto" else {"gamma2": GAMMA2, "xi": XI}
    lga = LGA(optimizer, steps_per_epoch=3, **size)
    lga.measure_every(1)
    expected = push(p, g, gamma2)
    optimizer.step(loss=1.0)
    np.testing.assert_allclose(values(p), before - 0.1 * values(g) - expected, rtol=1e-12, atol=1e-15)
    measured = lga.measurement
    assert measured is not None
    assert measured.correction_norm == pytest.approx(float(np.linalg.norm(expected)), rel=1e-9)
    assert measured.update_norm == pytest.approx(0.1 * float(np.linalg.norm(values(g))), rel=1e-9)


@pytest.mark.parametrize("gamma2", ["fixed", "auto"])
def test_negated_by_a_bit(gamma2: str) -> None:
    """As autograd returns it for the imaginary part of a conjugated tensor."""
    a, b = (torch.nn.Parameter(tensor(i).real.clone()) for i in range(2))
    a.grad, b.grad = tensor(2).real.clone(), tensor(2).conj().imag
    assert b.grad.is_neg()
    g, before = b.grad.clone(), values(b)
    optimizer: Any = torch.optim.SGD([{"params": [a]}, {"params": [b]}], lr=0.1)
    size: Any = {"gamma2": AUTO} if gamma2 == "auto" else {"gamma2": GAMMA2, "xi": XI}
    lga = LGA(optimizer, steps_per_epoch=3, **size)
    lga.measure_every(1)
    expected = push(b, g, gamma2)
    optimizer.step(loss=1.0)
    np.testing.assert_allclose(values(b), before - 0.1 * values(g) - expected, rtol=1e-12, atol=1e-15)
    assert lga.measurement is not None
