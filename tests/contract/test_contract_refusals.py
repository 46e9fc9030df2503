"""Unsupported cases are refused with one line, before anything has changed."""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch
from cases import DTYPES, GAMMAS, Case
from layouts import REFUSED as SHARING
from option_sets import FOREACH, OPTION_SETS, REFUSED
from runs import Run

from lossaware import LGA

BY_OPTIMIZER = [((name, "default"), "float32") for name in OPTION_SETS if name not in REFUSED]
BY_DTYPE = [(("SGD", "default"), dtype) for dtype in DTYPES if dtype != "float32"]


@pytest.mark.parametrize("gamma2", GAMMAS)
@pytest.mark.parametrize("layout", SHARING)
@pytest.mark.parametrize(("base", "dtype"), [*BY_OPTIMIZER, *BY_DTYPE], ids=lambda v: v if isinstance(v, str) else v[0])
def test_elements_that_share_memory(base: tuple[str, str], dtype: str, layout: str, gamma2: str) -> None:
    run = Run(Case(base, "loop", dtype, layout, "C", gamma2))
    with pytest.raises(
        ValueError, match=r"^elements of a parameter must not share memory, .*; create the parameter from a"
    ):
        run.attach()
    assert not run.optimizer._optimizer_step_post_hooks  # it has not changed


@pytest.mark.parametrize("gamma2", GAMMAS)
@pytest.mark.parametrize("optimizer", sorted(FOREACH - {"Adafactor"}))
def test_differentiable_steps(optimizer: str, gamma2: str) -> None:
    """Without the check: values are correct, but derivatives through a step are those of the base alone."""
    p = torch.nn.Parameter(torch.ones(3))
    base: Any = getattr(torch.optim, optimizer)([p], differentiable=True, foreach=False)
    with pytest.raises(ValueError, match=r"^differentiable of parameter group 0 must be False, as LGA.* got True$"):
        LGA(base, steps_per_epoch=3, gamma2="auto" if gamma2 == "auto" else 1e-8)
    assert not base._optimizer_step_post_hooks


def test_differentiable_groups_that_come_later() -> None:
    p, q = (torch.nn.Parameter(torch.ones(3)) for _ in range(2))
    optimizer: Any = torch.optim.SGD([p])
    lga = LGA(optimizer, steps_per_epoch=3)
    optimizer.add_param_group({"params": [q], "differentiable": True})
    for parameter in (p, q):
        parameter.grad = torch.ones(3)
    with pytest.raises(ValueError, match="differentiable of parameter group 1"):
        optimizer.step(loss=1.0)
    assert torch.equal(p, torch.ones(3))
    assert lga.status.steps == 0
    optimizer.param_groups[1]["gamma2"] = 0  # without LGA's correction, the base's derivatives are correct
    q.requires_grad_(False)
    optimizer.step(loss=1.0)
    assert lga.status.steps == 1


@pytest.mark.parametrize("optimizer", sorted(REFUSED))
def test_optimizers_that_lga_cannot_go_with(optimizer: str) -> None:
    for options in OPTION_SETS[optimizer].values():
        base = getattr(torch.optim, optimizer)([torch.nn.Parameter(torch.ones(3))], **options)
        with pytest.raises(ValueError, match=f"^LGA does not support {re.escape(optimizer)}, "):
            LGA(base, steps_per_epoch=3)
