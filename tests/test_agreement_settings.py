"""gamma2 "agreement": checkpoints, refusals, and the warning of a run without pushes."""

from __future__ import annotations

import copy
import math
import warnings
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from lossaware import LGA, UsageError
from lossaware.agreement import Agreement
from lossaware.gradient_mean import MEAN
from support import flat, parameters, set_gradients, torch_optimizer
from support.agreement import RULE, SHAPES, attached, problem


@pytest.mark.parametrize("name", ["sgd", "adamw"])
def test_a_checkpoint_resumes_bitwise(name: str) -> None:
    _, gradients, values = problem()
    params, optimizer, lga = attached(name, lr=1e-1)
    for g, loss in zip(gradients[:50], values[:50], strict=True):
        set_gradients(params, g)
        optimizer.step(loss=loss)
    saved = copy.deepcopy((flat(params), optimizer.state_dict(), lga.state_dict()))
    others = parameters(saved[0], *SHAPES)  # of other scales than those at the start
    second = torch_optimizer(name, others, lr=1e-1)
    resumed = LGA(second, gamma2=RULE)
    second.load_state_dict(saved[1])
    resumed.load_state_dict(saved[2])
    for g, loss in zip(gradients[50:], values[50:], strict=True):
        for some, one in ((params, optimizer), (others, second)):
            set_gradients(some, g)
            one.step(loss=loss)
    assert np.array_equal(flat(params), flat(others))
    assert lga.status == resumed.status


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"scales": [1.0]}, "has the scales of 1 tensors of a group, here are 4"),
        ({"scales": [1.0, 1.0, 1.0, -1.0]}, r"scales of group 0 in LGA's state_dict must be above 0: got"),
        ({"scales": None}, r"scales of group 0 in LGA's state_dict must be above 0: got None"),
        ({"reach": math.inf}, r"reach of group 0 in LGA's state_dict must be above 0: got \[inf\]"),
    ],
)
def test_a_checkpoint_that_does_not_fit_is_refused(change: dict[str, Any], message: str) -> None:
    _, optimizer, lga = attached()
    assert optimizer is lga.optimizer
    state = lga.state_dict()
    state["groups"][0].update(change)
    with pytest.raises(ValueError, match=message):
        lga.load_state_dict(state)


def test_steps_per_epoch_is_needed_by_other_rules_alone() -> None:
    optimizer = torch.optim.SGD(parameters(problem()[0], *SHAPES), lr=1e-3)
    with pytest.raises(TypeError, match="steps_per_epoch is missing"):
        LGA(optimizer)  # type: ignore[call-overload]
    LGA(optimizer, gamma2="agreement").detach()
    LGA(optimizer, gamma2="agreement", steps_per_epoch=100)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"initial": 0.0}, "initial must be above 0 and at most 1: got 0.0"),
        ({"smallest": 1e-3}, "smallest must be above 0 and at most initial: got 0.001"),
        ({"largest": 1.5}, "largest must be at least initial and at most 1: got 1.5"),
        ({"largest": 1e-5}, "largest must be at least initial and at most 1: got 1e-05"),
        ({"momentum": 0.0}, "momentum must be above 0 and below 1: got 0.0"),
        ({"rate": 0.0}, "rate must be above 0 and at most 1: got 0.0"),
        ({"early": -1.0}, "early must be from 0 to 100: got -1.0"),
        ({"shrink": 0.0}, "shrink must be above 0 and at most 1: got 0.0"),
        ({"fade": 2.0}, "fade must be above 0 and at most 1: got 2.0"),
        ({"certainty": math.nan}, "certainty must be from 0 to 10: got nan"),
        ({"status_steps": 1}, "status_steps must be an integer of at least 2: got 1"),
    ],
)
def test_values_out_of_range_are_errors(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Agreement(**arguments)


def test_compiled_steps_say_that_they_have_it_not() -> None:
    _, optimizer, lga = attached()
    assert optimizer is lga.optimizer
    with pytest.raises(UsageError, match="Agreement has no compiled step so far"):
        lga.compile()


def test_parameters_elsewhere_than_on_the_cpu_are_refused() -> None:
    p = nn.Parameter(torch.empty(2, 2, device="meta"))
    optimizer: Any = torch.optim.SGD([p], lr=1e-3)
    with pytest.raises(
        UsageError, match="gamma2 'agreement' only supports unsharded parameters on the CPU: one is on meta"
    ):
        LGA(optimizer, gamma2="agreement")


def test_several_ranks_are_refused_before_anything_moves() -> None:
    """Of a backend that needs no second process."""
    from torch.testing._internal.distributed.fake_pg import FakeStore

    params, optimizer, lga = attached()
    set_gradients(params, problem()[1][0])
    before = flat(params)
    torch.distributed.init_process_group("fake", store=FakeStore(), rank=0, world_size=2)
    try:
        with pytest.raises(UsageError, match="gamma2 'agreement' does not support several ranks"):
            optimizer.step(loss=1.0)
    finally:
        torch.distributed.destroy_process_group()
    assert np.array_equal(flat(params), before)
    assert lga.status.steps == 0


@pytest.mark.parametrize(
    ("name", "value"), [("eps", 0.1), ("xi", 0.01), ("lower_bound", "progressive"), ("zero_gradient", "push")]
)
def test_settings_that_it_does_not_read_are_refused(name: str, value: Any) -> None:
    optimizer = torch.optim.SGD(parameters(problem()[0], *SHAPES), lr=1e-3)
    with pytest.raises(ValueError, match=f"{name} must not be set, because Agreement does not use it: got {value!r}"):
        LGA(optimizer, gamma2="agreement", **{name: value})
    LGA(optimizer, gamma2="agreement", zero_gradient="rest", eps=0.0)  # which it has anyhow


# Messages -------------------------------------------------------------------------------------------------------------


def run_steps(gradient: float, loss: float, steps: int = 250, lr: float = 1e-9) -> tuple[list[str], Any, float]:
    """The warnings and the status of a run of one tensor, and how far it went."""
    p = nn.Parameter(torch.ones(3, 3))
    optimizer: Any = torch.optim.SGD([p], lr=lr)
    lga = LGA(optimizer, gamma2="agreement")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for _ in range(steps):
            p.grad = torch.full_like(p, gradient)
            optimizer.step(loss=loss)
    return [str(warning.message) for warning in caught], lga.status, float((p.detach() - 1).abs().max())


@pytest.mark.parametrize(
    ("gradient", "loss", "reason"),
    [
        (0.0, 1.0, "all gradients were 0"),
        (1.0, math.nan, "no loss was finite"),
        (math.inf, 1.0, "no gradient was finite"),
    ],
)
def test_a_run_without_pushes_warns_once(gradient: float, loss: float, reason: str) -> None:
    messages, status, moved = run_steps(gradient, loss)
    assert messages == [f"LGA has made no correction in 100 steps: in the last of them {reason}"]
    assert moved < 1e-6
    assert status.omega == 0
    assert status.gate == (
        "closed: the base moved as far as a step may, or all gradients were 0"
        if gradient == 0
        else "no step yet with a finite loss and finite gradients"
    )


@pytest.mark.parametrize("loss", [1.0, 0.0, -5.0])
def test_a_run_that_pushes_says_nothing(loss: float) -> None:
    messages, status, moved = run_steps(1.0, loss)
    assert messages == []
    assert moved > 0.1
    assert (status.gate, status.open_share) == ("open", 1.0)
    assert status.omega == pytest.approx(1.0, abs=1e-4)


def test_where_the_base_takes_all_the_gate_is_closed() -> None:
    messages, status, moved = run_steps(1.0, 1.0, lr=1e3)
    assert messages == []
    assert moved > 0.1
    assert status.omega == pytest.approx(0.0, abs=0.3)
    assert status.upper_bound == 1.0


def test_the_ends_of_the_ranges_are_allowed() -> None:
    Agreement(initial=0.01, smallest=0.01, largest=0.01)
    ends = {"largest": 1.0, "rate": 1.0, "shrink": 1.0, "fade": 1.0}
    for some in ({"early": 0, "certainty": 0, "status_steps": 2}, {"early": 100, "certainty": 10}, ends):
        Agreement(**some)
    for name in ("rate", "shrink", "fade"):
        with pytest.raises(ValueError, match=f"{name} must be above 0 and at most 1: got 0"):
            Agreement(**{name: 0})


def test_a_base_that_moves_at_the_rate_0() -> None:
    """Its reach, a movement as a share of the rate, is not known. Without the check: a division by 0."""

    class Drifts(torch.optim.SGD):
        @torch.no_grad()
        def step(self, closure: Any = None) -> Any:
            for group in self.param_groups:
                for p in group["params"]:
                    p.mul_(0.999)

    p = nn.Parameter(torch.ones(4))
    optimizer: Any = Drifts([p], lr=0.0)
    lga = LGA(optimizer, gamma2="agreement")
    for _ in range(3):
        p.grad = torch.ones(4)
        optimizer.step(loss=1.0)
    assert lga.status.steps == 3
    assert torch.isfinite(p).all()


def test_a_step_without_a_loss_makes_the_means() -> None:
    """So a checkpoint can be loaded into them."""
    p = nn.Parameter(torch.ones(4))
    optimizer = torch.optim.SGD([p], lr=0.1)
    LGA(optimizer, gamma2="agreement")
    p.grad = torch.ones(4)
    with pytest.warns(UserWarning, match="no loss for this step"):
        optimizer.step()
    assert MEAN in optimizer.state[p]


def test_where_a_scaler_skips_the_step_nothing_changes() -> None:
    p = nn.Parameter(torch.ones(4))
    optimizer: Any = torch.optim.SGD([p], lr=1e-9, fused=True)
    lga = LGA(optimizer, gamma2="agreement")
    for found_inf, gradient, steps in ((0.0, 1.0, 1), (1.0, math.inf, 1), (0.0, 1.0, 2)):
        before = p.detach().clone()
        optimizer.found_inf = torch.tensor(found_inf)
        p.grad = torch.full((4,), gradient)
        optimizer.step(loss=1.0)
        assert torch.equal(p, before) == bool(found_inf)
        assert (lga.status.steps, lga.status.nonfinite_losses) == (steps, 0)


def test_where_all_groups_are_switched_off_the_gate_is_closed() -> None:
    p = nn.Parameter(torch.ones(4))
    optimizer: Any = torch.optim.SGD([{"params": [p], "gamma2": 0}], lr=0.1)
    lga = LGA(optimizer, gamma2="agreement")
    p.grad = torch.ones(4)
    optimizer.step(loss=1.0)
    assert (lga.status.omega, lga.status.open_share) == (0.0, 0.0)
