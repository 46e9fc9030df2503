"""Trap 3: a gradient scaler, which scales gradients and skips steps."""

import math
from typing import Any

import numpy as np
import pytest
import torch

import reference
from lossaware.correction import Correction
from support import flat, parameters, torch_optimizer
from support.traps import GRADIENTS, LOSSES, XI, X, attach, final

# A missing loss only causes a warning; here the warning is an error unless the test expects it.
pytestmark = pytest.mark.filterwarnings("error:LGA got no loss")


SCALE = 2.0**16  # a power of two: scaling back is exact


def amp_bases() -> list[tuple[str, dict[str, Any]]]:
    names: list[tuple[str, dict[str, Any]]] = [("sgd", {}), ("momentum", {"nesterov": True}), ("adamw", {})]
    return [(name, {**kwargs, "fused": fused}) for name, kwargs in names for fused in (False, True)]


def amp_run(
    name: str, kwargs: dict[str, Any], *, channel: str, broken: dict[int, float] | None = None, clip: bool = False
) -> tuple[reference.Array, Any]:
    """Six steps under a GradScaler; `broken` gives steps something to have in one element of their gradients."""
    broken = broken or {}
    params = parameters(X.astype(np.float32), (12,), dtype=torch.float32)
    optimizer = torch_optimizer(name, params, lr=0.1, **kwargs)
    lga = attach(optimizer)
    scaler = torch.amp.GradScaler("cpu", init_scale=SCALE)
    for t, value in enumerate(LOSSES):
        g = torch.tensor(GRADIENTS[t], dtype=torch.float32)
        g[5] = broken.get(t, g[5])
        loss: Any = ((params[0] - params[0].detach()) * g).sum() + value
        optimizer.zero_grad()
        if channel == "observe":
            lga.observe(value)
        scaler.scale(loss).backward()
        if channel == "observe after backward":
            lga.observe(value)
        before = params[0].detach().clone()
        status = lga.status
        if clip:
            scaler.unscale_(optimizer)
            torch.nn.utils.clip_grad_norm_(params, 0.5)
        scaler.step(optimizer, **({"loss": value} if channel == "step(loss=)" else {}))
        scaler.update()
        if t in broken:
            assert torch.equal(params[0], before)
            assert repr(lga.status) == repr(status)  # repr: NaN is not equal to itself
    return flat(params), lga


AMP_CHANNELS = ["step(loss=)", "observe", "observe after backward"]


@pytest.mark.parametrize("channel", AMP_CHANNELS)
@pytest.mark.parametrize(("name", "kwargs"), amp_bases(), ids=str)
def test_3_phi_reads_unscaled_gradients(name: str, kwargs: dict[str, Any], channel: str) -> None:
    """Without the check: a fused step unscales inside its kernel, after LGA has read the gradients.

    Phi would read gradients 65536 times too large, and the correction would silently be almost 0.
    """
    result, lga = amp_run(name, kwargs, channel=channel)
    judged = {key: value for key, value in kwargs.items() if key != "fused"}
    np.testing.assert_allclose(result, final(GRADIENTS, list(LOSSES), name, **judged), rtol=0, atol=2e-6)
    assert lga.status.steps == 6


@pytest.mark.parametrize("broken", [math.inf, math.nan])
@pytest.mark.parametrize("channel", AMP_CHANNELS)
@pytest.mark.parametrize(("name", "kwargs"), amp_bases(), ids=str)
def test_3_where_the_scaler_skips_nothing_moves(name: str, kwargs: dict[str, Any], channel: str, broken: float) -> None:
    """Without the check: a fused base skips inside its kernel.

    LGA would push by gamma2 * Omega / phi(NaN) = NaN and count the loss. Other bases are not called, and the observed
    losses of the step would count in the next one.
    """
    # Torch's own fused momentum does not survive an overflow in its very first step: the buffer stays uninitialised.
    skipped = (1, 3) if name == "momentum" else (0, 3)
    result, lga = amp_run(name, kwargs, channel=channel, broken=dict.fromkeys(skipped, broken))
    taken = [t for t in range(6) if t not in skipped]
    judged = {key: value for key, value in kwargs.items() if key != "fused"}
    expected = final([GRADIENTS[t] for t in taken], [LOSSES[t] for t in taken], name, **judged)
    np.testing.assert_allclose(result, expected, rtol=0, atol=2e-6)
    assert (lga.status.steps, lga.status.upper_bound) == (4, LOSSES[taken[0]])


@pytest.mark.parametrize("fused", [False, True])
def test_3_unscaled_and_clipped_by_hand(fused: bool) -> None:
    """unscale_ before the step leaves grad_scale None: unguarded, LGA would unscale a second time or fail."""
    result, _ = amp_run("sgd", {"fused": fused}, channel="step(loss=)", clip=True)
    clipped = [g * 0.5 / np.linalg.norm(g) for g in GRADIENTS]
    np.testing.assert_allclose(result, final(clipped, list(LOSSES)), rtol=0, atol=2e-6)


@pytest.mark.parametrize("broken", [math.inf, -math.inf, math.nan])
def test_3_an_amount_of_zero_on_the_device_leaves_parameters_alone(broken: float) -> None:
    """If the host does not know that the scaler skipped, the amount is 0 on the device.

    Without the check: 0 / phi(NaN) is NaN, also in the parameters.
    """
    p, g = torch.tensor(X), torch.tensor(GRADIENTS[0])
    g[5] = broken
    Correction(XI, "push").apply([(p, g)], torch.zeros((), dtype=torch.float64))
    assert torch.equal(p, torch.tensor(X))
