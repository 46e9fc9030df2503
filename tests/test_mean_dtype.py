"""Running means in bfloat16: half the memory, the same pushes but for the rounding of what is stored."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import reference
from lossaware import LGA, AutoGamma2
from lossaware.correction import Correction, Means, native
from lossaware.gradient_mean import MEAN
from support import needs
from support.pushes import needs_library

RULE = AutoGamma2(steps_at_least=4, mean_dtype="bfloat16")
WAYS = ["C", "operators", "device", "compiled"]


def attached(p: nn.Parameter, rule: AutoGamma2 = RULE) -> tuple[Any, LGA]:
    optimizer = torch.optim.SGD([p], lr=0.0)
    return optimizer, LGA(optimizer, steps_per_epoch=40, gamma2=rule)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_pushes_are_the_references_by_the_stored_means(
    dtype: torch.dtype, way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if way == "operators":
        monkeypatch.setattr(native, "library", lambda: None)
    rng = np.random.default_rng(0)
    p = nn.Parameter(torch.tensor(rng.normal(size=(40, 50))).to(dtype))
    optimizer, lga = attached(p)
    if way == "device":
        lga._stepper.state_on(torch.device("cpu"))
    step: Any = lga.compile(backend="eager") if way == "compiled" else lambda loss: optimizer.step(loss=loss)
    law = reference.SelfSet(4, scale=float(p.detach().double().square().mean().sqrt()))
    for loss in (2.0, 1.5, 1.9, 0.7, 0.4, 0.6):
        p.grad = torch.tensor(rng.normal(size=(40, 50))).to(dtype)
        before = p.detach().double().numpy().copy()
        step(loss if way != "device" else torch.tensor(loss))
        moved = before - law.correction(law.share(loss), p.grad.double().numpy())
        unit = 0.0 if dtype is torch.float32 else torch.finfo(dtype).eps * np.maximum(np.abs(moved), 2.0**-14)
        off = np.abs(p.detach().double().numpy() - moved)
        assert (
            (off <= 1e-6 + unit) | (np.abs(law.mean) < 1e-7)
        ).all()  # of such a mean the sign is a matter of rounding
        stored = optimizer.state[p][MEAN]
        assert stored.dtype is torch.bfloat16
        exact, law.mean = law.mean, stored.double().numpy()
        off = ((law.mean - exact) / np.abs(exact))[np.abs(exact) > 1e-6]
        assert np.abs(off).max() <= 2.0**-7
        assert abs(off.mean()) < 2.0**-12


@pytest.mark.parametrize("way", WAYS)
def test_a_small_decay_does_not_stall(way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Unguarded, by rounding to nearest, a thousandth less is the same number again, and the mean stays 1."""
    if way == "operators":
        monkeypatch.setattr(native, "library", lambda: None)
    p = nn.Parameter(torch.ones(4000))
    optimizer, lga = attached(p, AutoGamma2(momentum=0.999, mean_dtype="bfloat16"))
    if way == "device":
        lga._stepper.state_on(torch.device("cpu"))
    optimizer.state[p][MEAN] = torch.ones(4000, dtype=torch.bfloat16)
    step: Any = lga.compile(backend="eager") if way == "compiled" else lambda loss: optimizer.step(loss=loss)
    for _ in range(50):
        p.grad = torch.zeros(4000)
        step(2.0 if way != "device" else torch.tensor(2.0))
    assert float(optimizer.state[p][MEAN].float().mean()) == pytest.approx(0.999**50, abs=1e-3)


@needs_library
@pytest.mark.parametrize("rest", [False, True], ids=["push", "rest"])
@pytest.mark.parametrize("amount", [0.5, 0.0, 2.0**-151], ids=["large", "zero", "too small for float32"])
def test_c_and_operators_give_the_same_bits(amount: float, rest: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    ends: list[list[Tensor]] = []
    for way in ("C", "operators"):
        if way == "operators":
            monkeypatch.setattr(native, "library", lambda: None)
        generator = torch.Generator().manual_seed(0)
        shapes = ((70_000,), (30, 7), (0,), (1,))
        p, g, m = ([torch.randn(s, generator=generator) for s in shapes] for _ in range(3))
        g[1][0] = 0.0
        means = [mean.to(torch.bfloat16) for mean in m]
        means[1][0] = 0.0
        p[1], g[1], means[1] = (one[1].t() for one in (p, g, means))
        correction = Correction(0.01, "rest" if rest else "push")
        for seed in (3, 2**32 + 5):
            correction.reseed(seed)
            correction.apply(zip(p, g, strict=True), amount, maximize=seed > 3, means=Means(means, 0.1))
        ends.append([*p, *means])
    assert all(torch.equal(a, b) for a, b in zip(*ends, strict=True))


def test_a_run_goes_on_to_the_same_bits() -> None:
    """Unguarded: torch loads the mean in the parameter's dtype."""

    def run(p: nn.Parameter, optimizer: Any, steps: range) -> None:
        for step in steps:
            p.grad = torch.randn(501, generator=torch.Generator().manual_seed(step))
            optimizer.step(loss=2.0 / (1 + step))

    p = nn.Parameter(torch.linspace(-1, 1, 501))
    optimizer, lga = attached(p)
    run(p, optimizer, range(7))
    file = io.BytesIO()
    torch.save([p.detach(), optimizer.state_dict(), lga.state_dict()], file)
    file.seek(0)
    start, of_optimizer, of_lga = torch.load(file, weights_only=True)
    resumed = nn.Parameter(start)
    other, restored = attached(resumed)
    other.load_state_dict(of_optimizer)
    restored.load_state_dict(of_lga)
    run(p, optimizer, range(7, 12))
    run(resumed, other, range(7, 12))
    assert torch.equal(resumed, p)
    assert other.state[resumed][MEAN].dtype is torch.bfloat16
    assert torch.equal(other.state[resumed][MEAN], optimizer.state[p][MEAN])
    _, wide = attached(nn.Parameter(start.clone()), AutoGamma2(steps_at_least=4))
    with pytest.raises(ValueError, match="mean_dtype='bfloat16'"):
        wide.load_state_dict(of_lga)


@pytest.mark.parametrize("dtype", [torch.float64, torch.complex64], ids=str)
def test_wider_parameters_are_refused_before_anything_moved(dtype: torch.dtype) -> None:
    with pytest.raises(ValueError, match=rf"mean_dtype 'bfloat16' is for .*: got {dtype}; leave it out"):
        attached(nn.Parameter(torch.ones(3, dtype=dtype)))


def test_other_dtypes_and_jax_are_refused() -> None:
    with pytest.raises(ValueError, match="mean_dtype must be None or 'bfloat16': got 'float16'"):
        AutoGamma2(mean_dtype="float16")
    optax = needs("optax")
    from lossaware.optax import loss_aware

    with pytest.raises(ValueError, match="mean_dtype is for torch, and must be left out in JAX: got 'bfloat16'"):
        loss_aware(optax.sgd(0.1), steps_per_epoch=4, gamma2=RULE)


def test_torchs_dtype_means_the_same_and_the_default_is_not_shown() -> None:
    """As checkpoints of versions without the setting have the rule's text without it."""
    assert AutoGamma2(mean_dtype=torch.bfloat16) == AutoGamma2(mean_dtype="bfloat16")
    assert "mean_dtype" not in repr(AutoGamma2())
    assert repr(AutoGamma2(mean_dtype=torch.bfloat16)).endswith("steps_at_least=25, mean_dtype='bfloat16')")


def test_wider_parameters_of_a_later_group_are_refused() -> None:
    optimizer, _ = attached(nn.Parameter(torch.ones(3)))
    later = nn.Parameter(torch.ones(3, dtype=torch.float64))
    optimizer.add_param_group({"params": [later]})
    later.grad = torch.ones(3, dtype=torch.float64)
    with pytest.raises(ValueError, match=r"mean_dtype 'bfloat16' is for .*: got torch\.float64; leave it out"):
        optimizer.step(loss=1.0)
