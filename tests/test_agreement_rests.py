"""gamma2 "agreement" makes no push where only the base should move; kinds of parameters."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from lossaware import LGA
from lossaware.agreement import Agreement
from support import flat, parameters, set_gradients, torch_optimizer
from support.agreement import SHAPES, attached, problem


def test_rows_without_a_gradient_at_this_step_are_not_pushed() -> None:
    table = nn.Embedding(10, 4)
    optimizer: Any = torch.optim.SGD(table.parameters(), lr=1e-3)
    LGA(optimizer, gamma2="agreement")
    for rows in ([0, 1], [2, 3], [0, 1]):
        before = table.weight.detach().clone()
        optimizer.zero_grad()
        loss = table(torch.tensor(rows)).square().sum()
        loss.backward()
        optimizer.step(loss=loss)
        moved = (table.weight != before).any(dim=1)
        assert moved.nonzero().flatten().tolist() == rows


def test_a_step_without_a_loss_is_the_bases_alone() -> None:
    _, gradients, _ = problem()
    params, optimizer, lga = attached("momentum", lr=1e-1)
    base_only = parameters(problem()[0], *SHAPES)
    base = torch_optimizer("momentum", base_only, lr=1e-1)
    with pytest.warns(UserWarning, match="got no loss"):
        optimizer.step()  # which does not have a gradient either
    for g in gradients[:3]:
        for some, one in ((params, optimizer), (base_only, base)):
            set_gradients(some, g)
            one.step()
    assert np.array_equal(flat(params), flat(base_only))
    assert lga.status.steps_without_loss == 4


def test_a_group_that_is_switched_off_is_the_bases_alone() -> None:
    one, two, base_only = (nn.Parameter(torch.ones(3, 2)) for _ in range(3))
    groups: list[dict[str, Any]] = [{"params": [one]}, {"params": [two], "gamma2": 0}]
    optimizer: Any = torch.optim.AdamW(groups, lr=1e-1)
    base = torch.optim.AdamW([base_only], lr=1e-1)
    LGA(optimizer, gamma2="agreement")
    for step in range(5):
        for p in (one, two, base_only):
            p.grad = torch.full((3, 2), 1.0 + step)
        if step == 3:
            one.grad = torch.full((3, 2), math.nan)  # which concerns only the other group
        optimizer.step(loss=1.0)
        base.step()
        assert torch.equal(two, base_only)
    assert not torch.equal(one, two)


def test_frozen_parameters_and_new_removed_and_reordered_groups() -> None:
    a, b, frozen, c = (nn.Parameter(torch.full((4, 4), float(k))) for k in (1, 2, 3, 4))
    frozen.requires_grad_(False)
    optimizer: Any = torch.optim.SGD([{"params": [a, frozen]}, {"params": [b]}], lr=0.0)
    LGA(optimizer, gamma2=Agreement(initial=1e-3, smallest=1e-3, largest=1e-3))

    def moved(*some: nn.Parameter) -> list[float]:
        before = [p.detach().clone() for p in some]
        for p in some:
            p.grad = torch.ones(4, 4)
        optimizer.step(loss=1.0)
        return [round(float((old - p).max()) / 1e-3, 3) for p, old in zip(some, before, strict=True)]

    assert moved(a, b) == [2.0, 2.0]  # the median of three is 2
    assert torch.equal(frozen, torch.full((4, 4), 3.0))
    optimizer.add_param_group({"params": [c]})
    assert moved(a, b, c) == [2.0, 2.0, 4.0]
    optimizer.param_groups.reverse()
    assert moved(a, b, c) == [2.0, 2.0, 4.0]
    optimizer.param_groups.pop(1)
    b.grad = None
    assert moved(a, c) == [2.0, 4.0]


# The base's rate ------------------------------------------------------------------------------------------------------


def test_where_the_base_ascends_the_push_does_too() -> None:
    _, gradients, values = problem()
    down, up = attached(lr=1e-2), attached(lr=1e-2, maximize=True)
    for g, loss in zip(gradients, values, strict=True):
        set_gradients(down[0], g)
        set_gradients(up[0], -g)
        for _, optimizer, _ in (down, up):
            optimizer.step(loss=loss)
    np.testing.assert_allclose(flat(down[0]), flat(up[0]))


def test_complex_parameters_move_as_pairs_of_reals() -> None:
    torch.manual_seed(0)
    z = nn.Parameter(torch.randn(3, 4, dtype=torch.complex128))
    x = nn.Parameter(torch.view_as_real(z.detach()).clone())
    pairs: list[tuple[nn.Parameter, Any]] = [(p, torch.optim.SGD([p], lr=1e-2)) for p in (z, x)]
    for _, optimizer in pairs:
        LGA(optimizer, gamma2="agreement")
    for _ in range(20):
        g = torch.randn(3, 4, dtype=torch.complex128)
        for (p, optimizer), own in zip(pairs, (g, torch.view_as_real(g)), strict=True):
            p.grad = own.clone()
            optimizer.step(loss=1.0)
    torch.testing.assert_close(torch.view_as_real(z), x)


def test_of_sparse_gradients_the_stored_rows_alone_are_pushed() -> None:
    table = nn.Embedding(6, 3, sparse=True)
    optimizer: Any = torch.optim.SGD(table.parameters(), lr=0.0)
    LGA(optimizer, gamma2="agreement")
    before = table.weight.detach().clone()
    loss = table(torch.tensor([1, 4, 4])).sum()
    loss.backward()
    optimizer.step(loss=loss)
    assert (table.weight != before).any(dim=1).nonzero().flatten().tolist() == [1, 4]
    assert (table.weight <= before).all()


def test_parameters_of_16_bits_are_rounded_so_that_the_mean_is_kept() -> None:
    p = nn.Parameter(torch.full((200, 200), 1.0, dtype=torch.bfloat16))
    optimizer: Any = torch.optim.SGD([p], lr=0.0)
    LGA(optimizer, gamma2=Agreement(initial=1e-3, smallest=1e-3, largest=1e-3))
    p.grad = torch.ones_like(p)
    optimizer.step(loss=1.0)
    assert 1 - float(p.detach().double().mean()) == pytest.approx(1e-3, rel=0.05)
