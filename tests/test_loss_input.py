"""The mean of the ranks' losses, with ranks that are not there."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import pytest
import torch
import torch.distributed as dist

from lossaware.loss_input import mean_over_ranks

Mean = Callable[[Sequence[float]], float]


@pytest.fixture
def mean_of(monkeypatch: pytest.MonkeyPatch) -> Mean:
    """`mean_over_ranks` for ranks with these losses, of which the first asks."""

    def mean_of(losses: Sequence[float]) -> float:
        def gather(output: torch.Tensor, own: torch.Tensor, group: object = None) -> None:
            assert own.tolist() == pytest.approx([losses[0]], nan_ok=True)
            output.copy_(torch.tensor(losses, dtype=output.dtype))

        for name in ("all_gather_single", "all_gather_into_tensor"):
            monkeypatch.setattr(dist, name, gather, raising=False)
        monkeypatch.setattr(dist, "is_initialized", lambda: True)
        monkeypatch.setattr(dist, "get_world_size", lambda group=None: len(losses))
        monkeypatch.setattr(dist, "get_backend", lambda group=None: "gloo")
        return float(mean_over_ranks(losses[0], None, lambda: torch.device("cpu")))

    return mean_of


def test_the_mean_is_rounded_once(mean_of: Mean) -> None:
    """So it depends on no order: 1 is lost in a sum from left to right."""
    assert mean_of([1e16, 1.0, -1e16, 1.0]) == 0.5
    assert mean_of([2.0, 1.0]) == 1.5
    assert mean_of([3.0]) == 3.0


@pytest.mark.parametrize("losses", [[math.nan, 1.0], [1.0, math.nan], [math.inf, 1.0], [-math.inf, math.inf]], ids=str)
def test_a_loss_that_is_not_finite_makes_the_mean_nan(mean_of: Mean, losses: list[float]) -> None:
    """Without the check: an error of the sum where one is infinite and another is minus infinite."""
    assert math.isnan(mean_of(losses))
