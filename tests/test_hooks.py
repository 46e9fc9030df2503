"""Other hooks in addition to LGA's: it reads the same gradients as the base's step."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch.optim.optimizer import (
    register_optimizer_step_post_hook,
    register_optimizer_step_pre_hook,
)

from lossaware import LGA, UsageError
from support import needs_torch

LR, GAMMA2, LOSS = 0.5, 1.0, 1.0


class Plain(torch.optim.Optimizer):
    """A custom gradient descent, whose gradients are copied, because it might change them."""

    def __init__(self, params: Any, lr: float) -> None:
        super().__init__(params, {"lr": lr})

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            for p in group["params"]:
                p.sub_(p.grad, alpha=group["lr"])


def nesterov(params: Any, lr: float) -> Any:
    return torch.optim.SGD(params, lr=lr, momentum=0.9, nesterov=True)


BASES: dict[str, Callable[..., Any]] = {"SGD": torch.optim.SGD, "Nesterov": nesterov, "of one's own": Plain}


def clip(optimizer: Any, *_: Any) -> None:
    for group in optimizer.param_groups:
        for p in group["params"]:
            p.grad.clamp_(-0.01, 0.01)


def drop(optimizer: Any, *_: Any) -> None:
    optimizer.zero_grad()


def zero(optimizer: Any, *_: Any) -> None:
    optimizer.zero_grad(set_to_none=False)


def step_with(
    make: Callable[..., Any], register: Callable[[Any, Callable[[], Any]], Any], gradient: float = 0.99
) -> tuple[float, Any, Any]:
    """Where one step takes a parameter from 0; `register` registers hooks, and calls its second argument to attach."""
    p = torch.nn.Parameter(torch.zeros(1, dtype=torch.float64))
    optimizer = make([p], lr=LR)
    attached: list[Any] = []
    register(optimizer, lambda: attached.append(LGA(optimizer, steps_per_epoch=4, gamma2=GAMMA2)))
    p.grad = torch.full_like(p, gradient)
    optimizer.step(loss=LOSS)
    return float(p.detach()), optimizer, attached[0]


def expected(make: Callable[..., Any], gradient: float = 0.99) -> float:
    factor = 1.9 if make is nesterov else 1.0
    return -LR * factor * gradient - GAMMA2 * LOSS / (gradient + 0.01)


@pytest.mark.parametrize("base", BASES)
@pytest.mark.parametrize("first", [True, False], ids=["hook first", "LGA first"])
@pytest.mark.parametrize("hook", [drop, zero], ids=["to None", "to zero"])
def test_a_post_hook_that_clears_gradients(base: str, first: bool, hook: Callable[..., None]) -> None:
    """Without the check: no push although the status shows Omega = 1, or a push by a gradient of 0."""

    def register(optimizer: Any, attach: Callable[[], Any]) -> None:
        if not first:
            attach()
        optimizer.register_step_post_hook(hook)
        if first:
            attach()

    assert step_with(BASES[base], register)[0] == pytest.approx(expected(BASES[base]), rel=1e-12)


@pytest.mark.parametrize("base", BASES)
@pytest.mark.parametrize("first", [True, False], ids=["hook first", "LGA first"])
def test_a_pre_hook_that_clips(base: str, first: bool) -> None:
    """Without the check: a base whose gradients are copied would be corrected by gradients from before the clipping."""

    def register(optimizer: Any, attach: Callable[[], Any]) -> None:
        if not first:
            attach()
        optimizer.register_step_pre_hook(clip)
        if first:
            attach()

    assert step_with(BASES[base], register)[0] == pytest.approx(expected(BASES[base], 0.01), rel=1e-12)


@pytest.mark.parametrize("base", BASES)
def test_torchs_global_hooks(base: str) -> None:
    handles: list[Any] = []

    def register(optimizer: Any, attach: Callable[[], Any]) -> None:
        attach()
        handles.append(register_optimizer_step_pre_hook(clip))
        handles.append(register_optimizer_step_post_hook(zero))

    try:
        assert step_with(BASES[base], register)[0] == pytest.approx(expected(BASES[base], 0.01), rel=1e-12)
    finally:
        for handle in handles:
            handle.remove()


def test_a_hook_put_after_by_other_means_is_refused_before_anything_moves() -> None:
    """Without the check: gradients might be changed after LGA has copied them."""
    p = torch.nn.Parameter(torch.ones(1))
    optimizer: Any = Plain([p], lr=LR)
    LGA(optimizer, steps_per_epoch=4, gamma2=GAMMA2)
    handle = torch.optim.Optimizer.register_step_pre_hook(optimizer, clip)
    p.grad = torch.ones(1)
    with pytest.raises(RuntimeError, match=r"^Plain has a step pre hook after LGA's, clip, .*: register it by"):
        optimizer.step(loss=LOSS)
    assert float(p.detach()) == 1.0
    handle.remove()
    optimizer.step(loss=LOSS)
    assert float(p.detach()) < 1.0


def test_hooks_are_removed_and_kept_as_without_lga() -> None:
    p = torch.nn.Parameter(torch.zeros(1))
    optimizer: Any = torch.optim.SGD([p], lr=LR)
    lga = LGA(optimizer, steps_per_epoch=4)
    calls: list[str] = []
    handles = [
        optimizer.register_step_pre_hook(lambda *_: calls.append("pre")),
        optimizer.register_step_post_hook(lambda *_: calls.append("post")),
    ]
    p.grad = torch.ones(1)
    optimizer.step(loss=LOSS)
    lga.detach()
    assert "register_step_pre_hook" not in vars(optimizer)
    optimizer.step()
    for handle in handles:
        handle.remove()
    optimizer.step()
    assert calls == ["pre", "post"] * 2


class Late(Plain):
    """Writes into its gradients from its third step on, in one of several ways."""

    def __init__(self, params: Any, lr: float, write: Callable[[torch.Tensor], None]) -> None:
        super().__init__(params, lr)
        self.write, self.steps = write, 0

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> None:  # type: ignore[override]
        self.steps += 1
        for group in self.param_groups:
            for p in group["params"]:
                p.sub_(p.grad, alpha=group["lr"])
                if self.steps > 2:
                    self.write(p)


def in_place(p: torch.Tensor) -> None:
    assert p.grad is not None
    p.grad.mul_(100.0)


def through_data(p: torch.Tensor) -> None:
    assert p.grad is not None
    p.grad.data.mul_(100.0)


def one_element_through_data(p: torch.Tensor) -> None:
    assert p.grad is not None
    p.grad.data[-1] = 100.0


def replaced(p: torch.Tensor) -> None:
    assert p.grad is not None
    p.grad = p.grad * 100.0


def dropped(p: torch.Tensor) -> None:
    p.grad = None


@pytest.mark.parametrize("write", [in_place, through_data, one_element_through_data, replaced, dropped])
@pytest.mark.parametrize("gamma2", [1e-3, "auto"])
def test_a_base_that_begins_to_change_gradients(write: Callable[[torch.Tensor], None], gamma2: Any) -> None:
    """Without the check: phi would then read other gradients, or none."""
    ends = []
    bases: tuple[Callable[[Any], Any], ...] = (
        lambda params: Late(params, 0.1, write),
        lambda params: Plain(params, 0.1),
    )
    for make in bases:
        p = torch.nn.Parameter(torch.ones(5, dtype=torch.float64))
        optimizer = make([p])
        LGA(optimizer, steps_per_epoch=4, gamma2=gamma2)
        for step in range(6):
            p.grad = torch.linspace(-1.0, 1.0, 5, dtype=torch.float64) * (step + 1)
            optimizer.step(loss=2.0 - 0.1 * step)
        ends.append(p.detach().numpy().copy())
    np.testing.assert_array_equal(ends[0], ends[1])


@pytest.fixture
def global_hook(request: pytest.FixtureRequest) -> Iterator[list[int]]:
    calls: list[int] = []
    handle = request.param(lambda *_: calls.append(1))
    yield calls
    handle.remove()


@pytest.mark.parametrize(
    "global_hook",
    [register_optimizer_step_pre_hook, register_optimizer_step_post_hook],
    indirect=True,
    ids=["pre", "post"],
)
def test_a_compiled_step_refuses_torchs_global_hooks(global_hook: list[int]) -> None:
    """Without the check: they would not run, without a word."""
    needs_torch("2.7", "lga.compile()")
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=LR)
    with pytest.raises(UsageError, match=r"^SGD has step hooks that a compiled step would not run, such as "):
        LGA(optimizer, steps_per_epoch=4).compile()


def test_a_base_that_gives_parameters_other_memory_is_measured() -> None:
    """Unguarded: an update of 0 is reported, read from the memory of before."""

    class Rebinding(Plain):
        def step(self, closure: Callable[[], Any] | None = None) -> None:  # type: ignore[override]
            for group in self.param_groups:
                for p in group["params"]:
                    p.data = p.data - group["lr"] * p.grad

    p = torch.nn.Parameter(torch.ones(4))
    optimizer: Any = Rebinding([p], lr=LR)
    lga = LGA(optimizer, steps_per_epoch=10, gamma2=GAMMA2, xi=1.0)
    lga.measure_every(1)
    p.grad = torch.ones(4)
    optimizer.step(loss=LOSS)
    assert p.tolist() == [0.0] * 4
    assert lga.measurement is not None
    assert (lga.measurement.update_norm, lga.measurement.correction_norm) == (1.0, 1.0)
