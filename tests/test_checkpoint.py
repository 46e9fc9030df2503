"""The content of LGA's checkpoints, and refusals on loading."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from lossaware import LGA, Average, Momentum, Progressive
from support import flat, parameters, set_gradients, torch_optimizer

GRADIENTS = list(np.random.default_rng(0).normal(size=(20, 300)))
LOSSES = [float(f) for f in np.random.default_rng(1).uniform(0.2, 2.0, size=20)]
LOSSES[5] = math.nan
X = np.random.default_rng(2).normal(size=300)


def make(params: list[torch.nn.Parameter], name: str = "adam", **kwargs: Any) -> tuple[Any, Any]:
    optimizer = torch_optimizer(name, params)
    return optimizer, LGA(optimizer, **{"steps_per_epoch": 7, "gamma2": 1e-3, "backoff": 0.5, **kwargs})


def train(optimizer: Any, params: list[torch.nn.Parameter], begin: int, end: int) -> None:
    for t in range(begin, end):
        set_gradients(params, GRADIENTS[t])
        optimizer.step(loss=LOSSES[t])


def trained(steps: int = 10, **kwargs: Any) -> Any:
    params = parameters(X, (300,))
    optimizer, lga = make(params, **kwargs)
    train(optimizer, params, 0, steps)
    return lga


@pytest.mark.parametrize("name", ["sgd", "adam", "asgd"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("stop", [0, 6, 7, 10])
def test_a_checkpoint_on_disk_resumes_bitwise(tmp_path: Path, name: str, dtype: torch.dtype, stop: int) -> None:
    """Before any step, just before a status, just after one, and in the middle; read under weights_only."""
    whole = parameters(X, (300,), dtype=dtype)
    optimizer, straight = make(whole, name)
    train(optimizer, whole, 0, 20)

    params = parameters(X, (300,), dtype=dtype)
    optimizer, lga = make(params, name)
    train(optimizer, params, 0, stop)
    torch.save({"p": params[0].detach(), "optimizer": optimizer.state_dict(), "lga": lga.state_dict()}, tmp_path / "c")
    checkpoint = torch.load(tmp_path / "c", weights_only=True)
    params = [torch.nn.Parameter(checkpoint["p"])]
    optimizer, resumed = make(params, name)
    optimizer.load_state_dict(checkpoint["optimizer"])
    resumed.load_state_dict(checkpoint["lga"])
    train(optimizer, params, stop, 20)

    assert torch.equal(params[0], whole[0])
    assert repr(resumed.status) == repr(straight.status)
    assert repr(resumed.state_dict()) == repr(straight.state_dict())
    assert resumed.status.statuses == 2  # 19 finite losses, 7 a status


def test_the_order_of_loading_does_not_matter() -> None:
    results = []
    for lga_first in (False, True):
        params = parameters(X, (300,))
        optimizer, lga = make(params)
        train(optimizer, params, 0, 10)
        state, lga_state = copy.deepcopy(optimizer.state_dict()), copy.deepcopy(lga.state_dict())
        fresh, fresh_lga = make(params := [torch.nn.Parameter(params[0].detach().clone())])
        if lga_first:
            fresh_lga.load_state_dict(lga_state)
        fresh.load_state_dict(state)
        if not lga_first:
            fresh_lga.load_state_dict(lga_state)
        train(fresh, params, 10, 20)
        results.append(flat(params))
    np.testing.assert_array_equal(results[0], results[1])


def leaves(value: Any) -> list[Any]:
    if isinstance(value, dict):
        return [leaf for item in value.values() for leaf in leaves(item)]
    return [leaf for item in value for leaf in leaves(item)] if isinstance(value, (list, tuple)) else [value]


def test_a_state_dict_is_plain_and_a_copy() -> None:
    params = parameters(X, (300,))
    optimizer, lga = make(params, lower_bound=Momentum(0.8))
    train(optimizer, params, 0, 10)
    state = lga.state_dict()
    assert {type(leaf) for leaf in leaves(state)} <= {int, float, str, bool, type(None), torch.Tensor}
    before = repr(state)
    train(optimizer, params, 10, 20)
    assert repr(state) == before  # the saved state does not change during training


def test_loading_does_not_keep_a_reference_to_its_argument() -> None:
    state = trained().state_dict()
    before = repr(state)
    params = parameters(X, (300,))
    optimizer, lga = make(params)
    lga.load_state_dict(state)
    train(optimizer, params, 10, 20)
    assert repr(state) == before


def test_losses_observed_before_loading_do_not_count() -> None:
    """It belongs to gradients that are in no checkpoint."""
    (p,) = parameters(GRADIENTS[0], (len(GRADIENTS[0]),))
    optimizer: Any = torch_optimizer("sgd", [p])
    lga = LGA(optimizer, steps_per_epoch=10)
    state = lga.state_dict()
    lga.observe(50.0)
    lga.load_state_dict(state)
    lga.observe(1.5)
    set_gradients([p], GRADIENTS[0])
    optimizer.step()
    assert lga.status.loss == 1.5


def test_an_older_status_is_restored_exactly() -> None:
    params = parameters(X, (300,))
    optimizer, lga = make(params)
    train(optimizer, params, 0, 9)
    state, status = lga.state_dict(), lga.status
    train(optimizer, params, 9, 20)
    assert lga.status != status
    lga.load_state_dict(state)
    assert lga.status == status


OTHERS: dict[str, tuple[dict[str, Any], str]] = {
    "steps_per_epoch": ({"steps_per_epoch": 8}, r"steps_per_epoch is 7 .* but 8 here"),
    "gamma2": ({"gamma2": 1e-4}, r"gamma2 is 0\.001 .* but 0\.0001 here"),
    "eps": ({"eps": 0.2}, r"eps is 0\.1 .* but 0\.2 here"),
    "xi": ({"xi": 0.02}, r"xi is 0\.01 .* but 0\.02 here"),
    "backoff": ({"backoff": 0.1}, r"backoff is 0\.5 .* but 0\.1 here"),
    "lower_bound": ({"lower_bound": "average"}, r"lower_bound is .*Progressive.* but .*Average.* here"),
    "log_base": ({"lower_bound": Progressive(math.e)}, r"lower_bound is .*10.* but .*2\.718.* here"),
    "zero_gradient": ({"zero_gradient": "rest"}, r"zero_gradient is 'push' .* but 'rest' here"),
}


@pytest.mark.parametrize(("kwargs", "message"), OTHERS.values(), ids=OTHERS)
def test_other_hyperparameters_are_refused(kwargs: dict[str, Any], message: str) -> None:
    state = trained().state_dict()
    _, other = make(parameters(X, (300,)), **kwargs)
    before = repr(other.state_dict())
    with pytest.raises(ValueError, match=message) as raised:
        other.load_state_dict(state)
    assert "\n" not in str(raised.value)
    assert repr(other.state_dict()) == before


def test_the_same_hyperparameters_in_another_form_are_the_same() -> None:
    state = trained(lower_bound="average", gamma2=1).state_dict()
    _, same = make(parameters(X, (300,)), lower_bound=Average(), gamma2=1.0)
    same.load_state_dict(state)
    assert same.status.steps == 10


def first_dict(state: dict[str, Any]) -> dict[str, Any]:
    return next(value for value in state.values() if isinstance(value, dict) and "gamma2" not in value)


BROKEN: dict[str, tuple[Callable[[dict[str, Any]], Any], str]] = {
    "a key too many": (lambda state: state.update(momentum=1), "momentum"),
    "a key too few": (lambda state: state.popitem(), "missing"),
    "a key too many inside": (lambda state: first_dict(state).update(momentum=1), "momentum"),
    "a key too few inside": (lambda state: first_dict(state).popitem(), "missing"),
    "a hyperparameter too few": (lambda state: state["hyperparameters"].popitem(), "missing"),
    "nothing": (lambda state: state.clear(), "missing"),
    "text for a number": (lambda state: first_dict(state).update(upper="high"), "upper.*'high'"),
    "a counter that is not a number": (lambda state: state["state"].update(steps=math.nan), "steps.*nan"),
    "a counter without an end": (lambda state: state.update(steps_without_loss=math.inf), "steps_without_loss.*inf"),
    "a counter below 0": (lambda state: state["state"].update(count=-1.0), "count.*-1.0"),
    "a part of a step": (lambda state: state["state"].update(statuses=0.5), "statuses.*0.5"),
    "a list for a dictionary": (lambda state: state.update(hyperparameters=[]), "hyperparameters.*list"),
}


@pytest.mark.parametrize(("edit", "named"), BROKEN.values(), ids=BROKEN)
def test_a_state_dict_that_does_not_fit_is_refused_and_changes_nothing(
    edit: Callable[[dict[str, Any]], Any], named: str
) -> None:
    state = copy.deepcopy(trained().state_dict())
    edit(state)
    _, lga = make(parameters(X, (300,)))
    before = repr(lga.state_dict())
    with pytest.raises(ValueError, match=named) as raised:
        lga.load_state_dict(state)
    assert "\n" not in str(raised.value)
    assert repr(lga.state_dict()) == before


@pytest.mark.parametrize("thing", [None, [], "checkpoint.pt"])
def test_an_invalid_state_dict_is_refused(thing: Any) -> None:
    with pytest.raises((TypeError, ValueError), match="dict"):
        trained(steps=0).load_state_dict(thing)


def test_the_optimizers_state_dict_is_that_of_the_base_and_keeps_a_groups_gamma2() -> None:
    def groups() -> Any:
        first, second = parameters(X, (100,), (200,))
        return [{"params": [first]}, {"params": [second], "gamma2": 0.0}]

    optimizer: Any = torch.optim.Adam(groups())
    LGA(optimizer, steps_per_epoch=7)
    plain = torch.optim.Adam(groups())
    assert optimizer.state_dict() == plain.state_dict()
    optimizer.load_state_dict(plain.state_dict())
    assert optimizer.param_groups[1]["gamma2"] == 0.0


# Older versions -------------------------------------------------------------------------------------------------------

OLD: dict[str, Any] = {
    "hyperparameters": {
        "steps_per_epoch": 3,
        "gamma2": 0.001,
        "eps": 0.1,
        "xi": 0.01,
        "lower_bound": "Progressive(log_base=10.0)",
        "backoff": 0.5,
        "zero_gradient": "push",
    },
    "state": {
        "loss": 2.795824096527455,
        "upper": 2.0,
        "lower": 2.045355478440836,
        "omega": 0.0,
        "decay": 0.0001220703125,
        "mean": 2.0521745856212132,
        "total": 3.9140394777126737,
        "count": 2.0,
        "statuses": 26.0,
        "opened": 12.0,
        "steps": 80.0,
        "nonfinite": 0.0,
        "scatter": 1.4071855008961143,
        "error": 0.22963384595031003,
    },
    "scales": [],
    "steps_without_loss": 0,
}
"""Written by the first version after 80 steps of `old_run`."""
OLD_AUTO: dict[str, Any] = {
    "hyperparameters": {
        **OLD["hyperparameters"],
        "gamma2": "SelfSet(reach=0.02, momentum=0.9, growth=1.3, shrink=0.6, fade=0.93, certainty=1.0, "
        "statuses_per_epoch=10, steps_at_least=25)",
        "eps": 0.0,
        "xi": 1.0,
        "lower_bound": "Zero()",
        "zero_gradient": "rest",
    },
    "state": {
        **OLD["state"],
        "lower": 0.0,
        "decay": 0.8649000000000001,
        "mean": 2.0062643117894052,
        "total": 10.070563234576314,
        "count": 5.0,
        "statuses": 3.0,
        "opened": 42.0,
        "scatter": 2.79585391043339,
        "error": 0.020595382015883602,
    },
    "scales": [1.0, 3.0],
    "steps_without_loss": 0,
}
OLDS: dict[str, tuple[Any, dict[str, Any], list[float], float, list[float], int]] = {
    "fixed": (1e-3, OLD, [1.0164469336462374, 3.0164469336462383], 0.0, [1.020461995002194, 3.0204619950021954], 33),
    "auto": (
        *("auto", OLD_AUTO, [1.0093043255314393, 2.957021603202619], -0.025408858515588714),
        *([1.0408863165900792, 3.0437374536666253], 4),
    ),
}
"""gamma2, the state_dict, parameters and mean at step 80; parameters and statuses that the first version ended with."""


def old_run(gamma2: Any, values: list[float], start: int = 0, steps: int = 100) -> Any:
    """Returns the parameters, LGA, the optimizer, and a function that makes the steps."""
    filled = [torch.full((n,), v, dtype=torch.float64) for n, v in zip((2, 3), values, strict=True)]
    params = [torch.nn.Parameter(tensor) for tensor in filled]
    optimizer: Any = torch.optim.SGD([{"params": [p]} for p in params], lr=0.1)
    lga = LGA(optimizer, steps_per_epoch=3, gamma2=gamma2, backoff=0.5)

    def resume() -> list[float]:
        for step in range(start, steps):
            for p in params:
                p.grad = torch.full_like(p, math.cos(step))
            optimizer.step(loss=2 + math.sin(2 * step))
        return [float(p.detach()[0]) for p in params]

    return params, lga, optimizer, resume


@pytest.mark.parametrize("case", OLDS.values(), ids=OLDS)
def test_a_checkpoint_of_the_first_version_resumes_with_the_same_numbers(case: Any) -> None:
    gamma2, state, values, mean, expected, statuses = case
    state, before = copy.deepcopy(state), copy.deepcopy(state)
    params, lga, optimizer, resume = old_run(gamma2, values, start=80)
    if gamma2 == "auto":
        for p in params:
            optimizer.state[p]["lossaware_mean"] = torch.full_like(p, mean, requires_grad=False)
    lga.load_state_dict(state)
    assert state == before
    assert resume() == pytest.approx(expected, rel=1e-13)
    assert lga.status.statuses == statuses
    assert lga.status.steps == 100


@pytest.mark.parametrize("case", OLDS.values(), ids=OLDS)
def test_the_numbers_are_those_of_the_first_version(case: Any) -> None:
    _, lga, _, resume = old_run(case[0], [1.0, 3.0])
    assert resume() == pytest.approx(case[4], rel=1e-13)
    assert lga.status.statuses == case[5]


@pytest.mark.parametrize(
    ("edit", "named"),
    [
        (lambda old: old["state"].pop("decay"), "missing gamma2_factor"),
        (lambda old: old["state"].update(speed=1.0), "unknown speed"),
        (lambda old: old.update(scales=[1.0]), "scales of 1 parameter groups, here are 2"),
        (lambda old: old.update(scales=[1.0, 0.0]), "scale of a group .* above 0: got 0.0"),
        (lambda old: old["hyperparameters"].pop("gamma2"), "missing gamma2"),
        (lambda old: old.update(state=None), "must be a dictionary: got NoneType"),
    ],
)
def test_a_broken_checkpoint_of_the_first_version_is_refused(edit: Callable[[Any], Any], named: str) -> None:
    old = copy.deepcopy(OLD_AUTO)
    edit(old)
    _params, lga, _optimizer, _ = old_run("auto", [1.0, 3.0])
    before = lga.state_dict()
    with pytest.raises(ValueError, match=named):
        lga.load_state_dict(old)
    assert repr(lga.state_dict()) == repr(before)
