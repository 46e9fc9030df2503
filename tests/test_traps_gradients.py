"""Trap 5: base optimizers that write into gradients, replace them or drop them."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch.optim.optimizer import Optimizer

import reference
from support import flat, parameters, set_gradients
from support.traps import GAMMA2, GRADIENTS, LOSSES, X, attach, final, push, sgd

# A missing loss only causes a warning; here the warning is an error unless the test expects it.
pytestmark = pytest.mark.filterwarnings("error:LGA got no loss")


class DecaysInPlace(Optimizer):
    """Adds weight decay into p.grad, as schedule-free's SGD does, from step number `start` on."""

    def __init__(self, params: Any, lr: float = 0.1, start: int = 0) -> None:
        super().__init__(params, {"lr": lr})
        self.t, self.start = 0, start

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for p in group["params"]:
                if self.t >= self.start:
                    p.grad.add_(p, alpha=0.5)
                p.add_(p.grad, alpha=-group["lr"])
        self.t += 1
        return loss


class ReplacesGradients(DecaysInPlace):
    """The same with another tensor in p.grad afterwards."""

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        for group in self.param_groups:
            for p in group["params"]:
                p.grad = p.grad + 0.5 * p
                p.add_(p.grad, alpha=-group["lr"])


class DecaysThroughData(DecaysInPlace):
    """The same through `.data`, as Prodigy does, which counts up no version of the tensor."""

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is not None:
                    p.grad.data.add_(p.data, alpha=0.5)
                    p.add_(p.grad, alpha=-group["lr"])


class DropsGradients(Optimizer):
    """Sets p.grad to None in its step, as HeavyBall does to save memory, from step number `start` on."""

    def __init__(self, params: Any, start: int = 0) -> None:
        super().__init__(params, {"lr": 0.1})
        self.t, self.start = 0, start

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            for p in group["params"]:
                p.add_(p.grad, alpha=-group["lr"])
                if self.t >= self.start:
                    p.grad = None
        self.t += 1


def by_loss(optimizer: Any, lga: Any, loss: float, make_gradients: Callable[[], None]) -> None:
    make_gradients()
    optimizer.step(loss=loss)


def by_closure(optimizer: Any, lga: Any, loss: float, make_gradients: Callable[[], None]) -> None:
    def closure() -> float:
        make_gradients()
        return loss

    optimizer.step(closure)


@pytest.mark.parametrize("by", [by_loss, by_closure])
def test_5_gradients_from_before_the_base_wrote_into_them(by: Callable[..., None]) -> None:
    """Without the check: phi would read gradient plus half the parameter."""
    params = parameters(X, (12,))
    optimizer = DecaysInPlace(params)
    lga = attach(optimizer)
    for g, loss in zip(GRADIENTS, LOSSES, strict=True):
        by(optimizer, lga, loss, lambda g=g: set_gradients(params, g))
    np.testing.assert_allclose(flat(params), final(GRADIENTS, list(LOSSES), weight_decay=0.5), rtol=1e-12)


@pytest.mark.parametrize("base", [ReplacesGradients, DecaysThroughData])
def test_5_gradients_from_before_the_base_replaced_them(base: type[DecaysInPlace]) -> None:
    params = parameters(X, (12,))
    optimizer: Any = base(params)
    attach(optimizer)
    for g, loss in zip(GRADIENTS, LOSSES, strict=True):
        set_gradients(params, g)
        optimizer.step(loss=loss)
    np.testing.assert_allclose(flat(params), final(GRADIENTS, list(LOSSES), weight_decay=0.5), rtol=1e-12)


def test_5_a_step_without_gradients_does_not_classify_the_base() -> None:
    """Without the check: it would be treated as one that does not change gradients, and be refused when it does."""
    params = parameters(X, (12,))
    optimizer: Any = DecaysThroughData(params)
    lga = attach(optimizer)
    optimizer.step(loss=LOSSES[0])
    assert torch.equal(params[0], parameters(X, (12,))[0])
    set_gradients(params, GRADIENTS[0])
    optimizer.step(loss=LOSSES[0])
    x = X - 0.1 * (GRADIENTS[0] + 0.5 * X) - GAMMA2 * lga.status.omega / reference.phi(GRADIENTS[0], lga.xi)
    np.testing.assert_allclose(flat(params), x, rtol=1e-12)


def test_5_a_base_that_writes_only_later() -> None:
    """Without the check: LGA would rely on the first step in all later ones."""
    params = parameters(X, (12,))
    optimizer: Any = DecaysInPlace(params, start=2)
    attach(optimizer)
    judge, law, x = reference.SGD(lr=0.1), reference.Law(4, GAMMA2), X
    for t, (g, loss) in enumerate(zip(GRADIENTS, LOSSES, strict=True)):
        set_gradients(params, g)
        judge.weight_decay = 0.0 if t < 2 else 0.5
        x = judge.step(x, g) - law.correction(law.omega(loss), g)
        optimizer.step(loss=loss)
        np.testing.assert_allclose(flat(params), x, rtol=1e-12)


@pytest.mark.parametrize("start", [0, 2])
def test_5_a_base_that_drops_its_gradients(start: int) -> None:
    """Without the check: no gradient, no correction, no word about it."""
    params = parameters(X, (12,))
    optimizer: Any = DropsGradients(params, start=start)
    attach(optimizer)
    for g, loss in zip(GRADIENTS, LOSSES, strict=True):
        set_gradients(params, g)
        optimizer.step(loss=loss)
    assert params[0].grad is None
    np.testing.assert_allclose(flat(params), final(GRADIENTS, list(LOSSES)), rtol=1e-12)


def test_5_torchs_own_nesterov_writes_into_gradients() -> None:
    """SGD's foreach step adds the momentum buffer into p.grad. Without the check: phi would read that sum."""
    params = parameters(X, (12,))
    optimizer = sgd(*params, momentum=0.9, nesterov=True, foreach=True)
    attach(optimizer)
    set_gradients(params, GRADIENTS[0])
    optimizer.step(loss=2.0)
    assert not np.allclose(flat([p.grad for p in params if p.grad is not None]), GRADIENTS[0])  # it still does
    np.testing.assert_allclose(flat(params), X - 0.19 * GRADIENTS[0] - push(2.0, GRADIENTS[0]), rtol=1e-12)


def test_5_also_in_a_group_that_is_added_later() -> None:
    """Without the check: LGA would rely on the groups at the time of attaching."""
    first, second = parameters(X, (6,), (6,))
    optimizer = sgd(first, foreach=True)
    attach(optimizer)
    optimizer.add_param_group({"params": [second], "momentum": 0.9, "nesterov": True})
    for g, loss in zip(GRADIENTS[:2], LOSSES, strict=False):
        set_gradients([first, second], g)
        optimizer.step(loss=loss)
    judges = (reference.SGD(lr=0.1), slice(6)), (reference.SGD(lr=0.1, momentum=0.9, nesterov=True), slice(6, 12))
    plain, nesterov = (
        reference.trajectory(judge, X[part], [g[part] for g in GRADIENTS], LOSSES[:2], lga=reference.Law(4, GAMMA2))
        for judge, part in judges
    )
    np.testing.assert_allclose(flat([first]), list(plain)[-1], rtol=1e-12)
    np.testing.assert_allclose(flat([second]), list(nesterov)[-1], rtol=1e-12)


class CallsSuper(torch.optim.SGD):
    """An optimizer whose step calls its parent's step: torch runs the step hooks for both."""

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        return super().step(closure)


@pytest.mark.parametrize("channel", ["step(loss=)", "observe", "closure"])
def test_5_a_step_within_a_step_is_corrected_once(channel: str) -> None:
    """Without the check: the inner step would find no loss, or the outer one would correct once more."""
    torch.optim.SGD([torch.zeros(1)])  # torch gives a class its hooks when the first instance is made
    params = parameters(X, (12,))
    optimizer: Any = CallsSuper(params, lr=0.1)
    lga = attach(optimizer)
    for g, loss in zip(GRADIENTS, LOSSES, strict=True):
        set_gradients(params, g)
        if channel == "observe":
            lga.observe(loss)
        channels: dict[str, dict[str, Any]] = {"step(loss=)": {"loss": loss}, "closure": {"closure": lambda f=loss: f}}
        optimizer.step(**channels.get(channel, {}))
    np.testing.assert_allclose(flat(params), final(GRADIENTS, list(LOSSES)), rtol=1e-12)
