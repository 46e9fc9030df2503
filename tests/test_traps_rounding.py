"""Trap 8: parameters of 16 bits."""

import math

import numpy as np
import pytest
import torch

from support.traps import LOSSES, attach, numpy, sgd

# A missing loss only causes a warning; here the warning is an error unless the test expects it.
pytestmark = pytest.mark.filterwarnings("error:LGA got no loss")


@pytest.mark.parametrize(("dtype", "rounding"), [(torch.bfloat16, 0.0041), (torch.float16, 0.0328)])
def test_8_a_push_far_below_the_resolution_moves_the_mean(dtype: torch.dtype, rounding: float) -> None:
    """A push of 1e-6 on a weight of 0.05, whose unit in the last place is 2.4e-4 (bfloat16) or 3.1e-5 (float16).

    Without the check: rounding to nearest always gives 0.05, and LGA would have no effect.
    """
    n, steps = 200_000, 4
    p = torch.nn.Parameter(torch.full((n,), 0.05, dtype=dtype))
    start = float(p.detach()[0])
    optimizer = sgd(p, lr=0.0)
    attach(optimizer, gamma2=1e-6 * 0.51 / 2.0)  # with Omega = 2 and a gradient of 0.5 that is a push of 1e-6
    p.grad = torch.full_like(p, 0.5)
    changed = []
    for _ in range(steps):
        before = p.detach().clone()
        optimizer.step(loss=2.0)
        changed.append(p.detach() != before)
    share = 1e-6 / (torch.finfo(dtype).eps * 2.0**-5)  # of elements that fall by one unit, if the mean is right
    assert share == pytest.approx(rounding, rel=0.01)
    moved = start - numpy(p).mean()
    noise = math.sqrt(share / (n * steps)) / share  # relative standard deviation
    assert moved / (steps * 1e-6) == pytest.approx(1.0, abs=5 * noise)
    # Each step draws new numbers: elements that changed in both steps are as frequent as by chance.
    both = float((changed[0] & changed[1]).double().mean())
    assert both < 2 * share**2 + 20 / n


def test_8_negative_weights_and_upward_pushes_are_unbiased_too() -> None:
    """Without the check: noise added before cutting bits off rounds towards zero on one side and away on the other."""
    values = torch.tensor([0.05, -0.05, 1.7, -1.7]).repeat_interleave(100_000).to(torch.bfloat16)
    for sign in (1.0, -1.0):
        p = torch.nn.Parameter(values.clone())
        optimizer = sgd(p, lr=0.0)
        attach(optimizer, gamma2=1e-4 * 0.51 / 2.0)
        p.grad = torch.full_like(p, 0.5 * sign)
        optimizer.step(loss=2.0)
        moved = (numpy(values) - numpy(p)).reshape(4, -1).mean(axis=1) * sign
        units = np.array([2.0**-12, 2.0**-12, 2.0**-7, 2.0**-7])
        noise = np.sqrt(1e-4 / units / 100_000) * units
        assert (np.abs(moved - 1e-4) < 5 * noise).all()


def test_8_the_rounding_is_the_same_in_every_run() -> None:
    """Without the check: it would follow the global generator, and runs and ranks would differ."""
    runs = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        p = torch.nn.Parameter(torch.linspace(-1, 1, 10_000).to(torch.bfloat16))
        optimizer = sgd(p)
        attach(optimizer)
        for loss in LOSSES:
            p.grad = torch.linspace(-1, 1, 10_000).sin().to(torch.bfloat16)
            optimizer.step(loss=loss)
        runs.append((p.detach().clone(), torch.rand(())))
    assert torch.equal(runs[0][0], runs[1][0])
    torch.manual_seed(0)
    assert torch.equal(runs[0][1], torch.rand(()))  # and the global generator is not used
