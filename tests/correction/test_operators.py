"""Passes over whole tensors, as in a graph, are those over flat memory; also if the host does not know the amount."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from lossaware.correction import WORK, update_mean
from lossaware.correction.operators import (
    Push,
    push_flat,
    push_whole,
    update_mean_flat,
    update_mean_rounded,
    update_mean_where,
)
from lossaware.correction.rounding import noise_key
from support.pushes import DTYPES, XI, same_bits

AMOUNTS: dict[str, Callable[[], float | Tensor]] = {
    "number": lambda: 0.3,
    "tensor": lambda: torch.tensor([0.3], dtype=torch.float64),
    "zero": lambda: torch.zeros((), dtype=torch.float64),
}


def problem(dtype: torch.dtype, count: int = 5) -> tuple[Tensor, Tensor]:
    """A parameter and a gradient, which has a 0 and a NaN."""
    generator = torch.Generator().manual_seed(0)
    p, g = (torch.randn(4, count, generator=generator, dtype=torch.float64) for _ in range(2))
    g[0, :2] = torch.tensor([0.0, torch.nan])
    return p.to(dtype), g.to(dtype)


@pytest.mark.parametrize("amount", AMOUNTS)
@pytest.mark.parametrize("rest", [False, True], ids=["push", "rest"])
@pytest.mark.parametrize("dtype", [*DTYPES, torch.complex64], ids=str)
def test_whole_tensors_are_pushed_as_flat_ones(dtype: torch.dtype, rest: bool, amount: str) -> None:
    push = Push(AMOUNTS[amount](), XI, maximize=False, rest=rest)
    key = noise_key(7, 1) if dtype in (torch.bfloat16, torch.float16) else None
    p, g = problem(dtype)
    before = p.clone()
    push_whole(p, g, push, key)
    flat = before.clone()
    reals, gradients = (torch.view_as_real(one) if dtype.is_complex else one for one in (flat, g))
    push_flat(reals.view(-1), gradients.reshape(-1), push, key)
    assert same_bits(p, flat)
    assert torch.equal(p, before) == (amount == "zero")


def test_of_a_view_of_conjugates_the_numbers_are_pushed() -> None:
    p, g = torch.ones(3, dtype=torch.complex64), torch.full((3,), 1 + 1j)
    push_whole(p.conj(), g.conj(), Push(1.0, 1.0, maximize=False, rest=False), None)
    torch.testing.assert_close(p, torch.full((3,), 0.5 - 0.5j))


@pytest.mark.parametrize("pushes", [False, True])
@pytest.mark.parametrize("amount", AMOUNTS)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.complex64], ids=str)
def test_means_of_whole_tensors_are_those_of_flat_ones(dtype: torch.dtype, amount: str, pushes: bool) -> None:
    """Without the check: a step whose gate is shut would change them, to NaN here."""
    mean, g = problem(dtype)
    before, flat = mean.clone(), mean.clone().view(-1)
    update_mean_where(mean, g, Push(AMOUNTS[amount](), XI, False, False, weight=0.1, pushes=pushes))
    update_mean_flat(flat, g.view(-1), 0.1)
    expected = before if amount == "zero" and not pushes else flat.view_as(mean)
    assert torch.equal(mean.isnan(), expected.isnan())
    assert same_bits(mean.nan_to_num(), expected.nan_to_num())


@pytest.mark.parametrize("pushes", [False, True])
@pytest.mark.parametrize("amount", AMOUNTS)
def test_means_of_16_bits_are_returned_before_they_are_rounded(amount: str, pushes: bool) -> None:
    wide, g = problem(torch.float32, 2000)
    mean = wide.to(torch.bfloat16)
    before, expected = mean.clone(), mean.float()
    returned = update_mean_rounded(mean, g, Push(AMOUNTS[amount](), XI, False, False, weight=0.1, pushes=pushes), 5)
    if amount == "zero" and not pushes:
        assert torch.equal(returned, expected)
        assert torch.equal(mean, before)
        return
    update_mean_flat(expected.view(-1), g.view(-1), 0.1)
    assert same_bits(returned.nan_to_num(), expected.nan_to_num())
    off = ((mean.float() - expected) / expected)[~expected.isnan()]
    assert 0 < off.abs().max() <= 2.0**-7
    assert abs(off.mean()) < 1e-4  # up or down at random


@pytest.mark.parametrize("dtype", [torch.float32, torch.complex64], ids=str)
def test_a_mean_between_other_numbers_is_updated_in_its_place(dtype: torch.dtype) -> None:
    memory = torch.zeros(8, dtype=WORK[dtype])
    update_mean(memory[::2], torch.ones(4, dtype=dtype), 0.25)
    assert memory.tolist() == [0.25, 0.0] * 4
