"""A compiled push without masks: the bits of the eager push."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product

import pytest
import torch
from torch import Tensor

from lossaware.correction.operators import Push, push_whole
from support import needs_torch


@pytest.fixture(autouse=True)
def fresh_compiler() -> Iterator[None]:
    needs_torch("2.7", "lga.compile()")
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def test_without_masks_the_bits_are_the_same() -> None:
    """Near 0, at the ends of the range, and elsewhere."""
    cases = list(product((torch.float32, torch.float64), (False, True), (0.01, 1.0)))

    def numbers(dtype: torch.dtype) -> Tensor:
        end = torch.finfo(dtype)
        smallest = end.smallest_normal * end.eps
        some = [0.0, smallest, 3 * smallest, end.smallest_normal, 1e-30, 0.01, 1.0, 3e4, end.max, torch.inf, torch.nan]
        either = torch.tensor(some, dtype=dtype)
        return torch.cat([either, -either, torch.randn(50, dtype=dtype, generator=torch.Generator().manual_seed(0))])

    def pushed(compiled: bool) -> list[Tensor]:
        parameters = [torch.full_like(numbers(dtype), 0.3) for dtype, _, _ in cases]
        amount = torch.tensor(1e-3, dtype=torch.float64)

        def push_all(gradients: list[Tensor]) -> None:
            for p, g, (_, rest, xi) in zip(parameters, gradients, cases, strict=True):
                push_whole(p, g, Push(amount, xi, False, rest, pushes=True), None)

        run = torch.compile(push_all, dynamic=False) if compiled else push_all
        run([numbers(dtype) for dtype, _, _ in cases])
        return parameters

    for ours, eager in zip(pushed(True), pushed(False), strict=True):
        torch.testing.assert_close(ours, eager, rtol=0, atol=0, equal_nan=True)
