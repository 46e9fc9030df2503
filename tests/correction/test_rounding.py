"""Parameters of 16 bits: no push is lost, and the noise depends only on step, tensor and position."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from lossaware.correction import Correction
from lossaware.correction.rounding import noise_key, round_to
from support.pushes import VIEWS


@pytest.mark.parametrize("value", [0.05, -3.0, 3e-5, -5.9e-8], ids=["usual", "large", "subnormal", "smallest"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.usefixtures("way")
def test_rounding_keeps_the_mean(dtype: torch.dtype, value: float) -> None:
    """Without the check: a push of a hundredth of a unit in the last place is lost each time."""
    n, start = 400_000, torch.tensor(value, dtype=dtype).double()
    p, g = torch.full((n,), value, dtype=dtype), torch.full((n,), 0.5, dtype=dtype)
    spacing = float((torch.nextafter(start.to(dtype), torch.tensor(9.0, dtype=dtype)) - start.to(dtype)).abs())
    push = 0.01 * spacing
    correction = Correction(0.5, "push")
    correction.reseed(1)
    correction.apply([(p, g)], push)
    moved = (start - p.double()) / push
    # A share of 0.01 moves by a whole unit: standard error of the mean 10 / sqrt(n) = 0.016 of the push.
    assert moved.mean().item() == pytest.approx(1.0, abs=5 * 10 / n**0.5)
    assert len(p.unique()) == 2


def test_noise_differs_between_steps_tensors_and_places() -> None:
    p = torch.full((4096,), 0.05, dtype=torch.bfloat16)
    g = torch.ones(4096, dtype=torch.bfloat16)

    def ups(seed: int) -> tuple[Tensor, Tensor]:
        one, two = p.clone(), p.clone()
        correction = Correction(1.0, "push")
        correction.reseed(seed)
        correction.apply([(one, g), (two, g)], 2 * 1.2e-4)
        return one != p, two != p

    drawn = [*ups(1), *ups(2)]
    drawn_again = [*ups(1), *ups(2)]
    assert all(torch.equal(a, b) for a, b in zip(drawn, drawn_again, strict=True))
    shares = torch.stack(drawn).double()
    assert ((shares.mean(1) > 0.4) & (shares.mean(1) < 0.6)).all()
    # Five standard errors of a correlation of 4,096 independent draws.
    assert (torch.corrcoef(shares) - torch.eye(4)).abs().max() < 5 / 64
    assert torch.corrcoef(torch.stack([shares[0, 1:], shares[0, :-1]]))[0, 1].abs() < 5 / 64


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.usefixtures("way")
def test_the_noise_goes_by_the_order_in_memory(dtype: torch.dtype) -> None:
    """Dimensions by decreasing stride, with any gaps between the elements."""
    for view in VIEWS.values():
        result = view(torch.full((60,), 0.05, dtype=dtype))
        order = sorted(range(result.dim()), key=result.stride, reverse=True)
        plain = torch.full([result.shape[i] for i in order], 0.05, dtype=dtype)
        for p in (result, plain):
            correction = Correction(1.0, "push")
            correction.reseed(7)
            correction.apply([(p, torch.ones(p.shape, dtype=dtype))], 2 * 1e-5)
        assert torch.equal(result.permute(order), plain)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_a_value_is_rounded_to_one_of_its_neighbours(dtype: torch.dtype) -> None:
    """Over all exponents; representable values do not change, nor do infinities and NaN."""
    exact = torch.arange(1 << 16).to(torch.uint16).view(dtype)
    places, key = torch.arange(1 << 16), noise_key(1, 1)
    rounded = round_to(dtype, exact.float(), places, key)
    assert torch.equal(rounded.view(torch.int16)[~exact.isnan()], exact.view(torch.int16)[~exact.isnan()])
    assert torch.equal(rounded.isnan(), exact.isnan())
    finite = exact[exact.isfinite() & (exact >= 0)].sort().values
    low, high = finite[:-1], finite[1:]
    for share in (0.01, 0.5, 0.99):
        between = (low.double() + share * (high.double() - low.double())).float()
        result = round_to(dtype, between, torch.arange(len(between)), key)
        assert ((result == low) | (result == high)).all()
        assert (result == high).double().mean().item() == pytest.approx(share, abs=0.02)
        negative = round_to(dtype, -between, torch.arange(len(between)), key)
        assert torch.equal(negative, -result)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.usefixtures("way")
def test_a_nan_gradient_gives_nan_for_any_bits(dtype: torch.dtype) -> None:
    """Without the check: the noise carries the bits of some NaN over, to -0.0 and 0.0."""
    g = torch.tensor([0x7FFFFFFF, -1, 0x7FC00000], dtype=torch.int32).repeat(50).view(torch.float32)
    p = torch.ones(len(g), dtype=dtype)
    Correction(0.01, "push").apply([(p, g)], 0.1)
    assert p.isnan().all()
