"""Parameter groups that come, go and change places, and their own gamma2."""

from __future__ import annotations

import gc
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from lossaware import LGA, AutoGamma2
from lossaware.groups import scale_of

REACH = AutoGamma2().reach


def filled(value: float, size: int = 4) -> nn.Parameter:
    return nn.Parameter(torch.full((size,), value, dtype=torch.float64))


def make_lga(*values: float, gamma2: Any = "auto", **group: Any) -> tuple[list[nn.Parameter], Any, LGA]:
    params = [filled(value, size) for size, value in enumerate(values, 2)]
    optimizer = torch.optim.SGD([{"params": [p], **group} for p in params], lr=0.0)
    return params, optimizer, LGA(optimizer, steps_per_epoch=1000, gamma2=gamma2)


def moves(optimizer: Any, params: list[nn.Parameter], loss: float = 2.0) -> list[float]:
    """The distance by which a step with tiny gradients moves each parameter down."""
    before = [p.detach().clone() for p in params]
    for p in params:
        p.grad = torch.full_like(p, 1e-12)
    optimizer.step(loss=loss)
    return [float((b - p.detach())[0]) for b, p in zip(before, params, strict=True)]


# Scales ---------------------------------------------------------------------------------------------------------------


CHANGES: dict[str, Callable[[Any], Any]] = {
    "nothing": lambda optimizer: None,
    "reversed": lambda optimizer: optimizer.param_groups.reverse(),
    "the first removed": lambda optimizer: optimizer.param_groups.pop(0),
    "the middle removed": lambda optimizer: optimizer.param_groups.pop(1),
    "removed and added again": lambda optimizer: optimizer.add_param_group(optimizer.param_groups.pop(0)),
    "sorted": lambda optimizer: optimizer.param_groups.sort(key=lambda group: -float(group["params"][0].detach()[0])),
    "copied entries": lambda optimizer: optimizer.load_state_dict(optimizer.state_dict()),
    "merged": lambda optimizer: optimizer.param_groups[0]["params"].extend(optimizer.param_groups.pop(1)["params"]),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_a_parameter_keeps_the_scale_it_was_measured_with(change: Callable[[Any], Any]) -> None:
    params, optimizer, _lga = make_lga(0.1, 1.0, 10.0)
    assert moves(optimizer, params) == pytest.approx([REACH * 0.1, REACH, REACH * 10], rel=1e-6)
    with torch.no_grad():
        for p in params:
            p.mul_(7.0)  # scales are those of the start
    merged = change is CHANGES["merged"]
    change(optimizer)
    present = [p for group in optimizer.param_groups for p in group["params"]]
    scales = {id(p): scale for p, scale in zip(params, (0.1, 0.1 if merged else 1.0, 10.0), strict=True)}
    assert moves(optimizer, present) == pytest.approx([REACH * scales[id(p)] for p in present], rel=1e-6)


def test_a_new_group_is_measured_when_it_comes_also_in_place_of_another() -> None:
    params, optimizer, _lga = make_lga(0.1, 1.0)
    moves(optimizer, params)
    optimizer.param_groups.pop(0)
    new = filled(5.0)
    optimizer.add_param_group({"params": [new]})
    assert moves(optimizer, [params[1], new]) == pytest.approx([REACH, REACH * 5], rel=1e-6)


def test_a_deleted_parameter_has_no_scale() -> None:
    params, optimizer, lga = make_lga(0.1, 1.0)
    optimizer.param_groups.pop(0)
    optimizer.state.clear()
    del params[0]
    gc.collect()
    assert len(lga._stepper.sizes._scales) == 1


def test_the_scale_of_one_element_is_that_element() -> None:
    assert scale_of([torch.tensor([-3.0])]) == 3.0


def test_empty_groups_have_a_size_too() -> None:
    groups: list[dict[str, Any]] = [{"params": []}, {"params": [p := filled(1.0)]}]
    optimizer = torch.optim.SGD(groups, lr=0.0)
    LGA(optimizer, steps_per_epoch=10, gamma2="auto")
    assert moves(optimizer, [p]) == pytest.approx([REACH], rel=1e-6)


# Checkpoints ----------------------------------------------------------------------------------------------------------


def named(*order: str, sizes: dict[str, int] | None = None) -> tuple[Any, LGA]:
    """An optimizer made from named parameters, whose scales are 1, 2, 3, ... in the order of the alphabet."""
    sizes = sizes or {}
    groups = [{"params": [(name, filled(ord(name) - 96.0, sizes.get(name, 3)))]} for name in order]
    optimizer = torch.optim.SGD(groups, lr=0.0)
    return optimizer, LGA(optimizer, steps_per_epoch=10, gamma2="auto")


def scales(lga: LGA) -> list[float]:
    return [group["scale"] for group in lga.state_dict()["groups"]]


def forget(optimizer: Any, lga: LGA) -> None:
    """As if the model was trained before LGA is attached: its own measurement must not count."""
    lga._stepper.sizes._scales.clear()
    with torch.no_grad():
        for group in optimizer.param_groups:
            for p in group["params"]:
                p.fill_(0.5)


def test_groups_of_named_parameters_are_found_in_any_order() -> None:
    _optimizer, lga = named("a", "b", "c")
    state = lga.state_dict()
    optimizer, other = named("c", "a", "b")
    forget(optimizer, other)
    other.load_state_dict(state)
    assert scales(other) == pytest.approx([3.0, 1.0, 2.0])


@pytest.mark.parametrize("strip", ["here", "there", "both"])
def test_groups_without_names_are_found_by_their_sizes(strip: str) -> None:
    _optimizer, lga = named("a", "b", sizes={"a": 3, "b": 5})
    state = lga.state_dict()
    optimizer, other = named("b", "a", sizes={"a": 3, "b": 5})
    forget(optimizer, other)
    if strip != "there":
        for group in optimizer.param_groups:
            del group["param_names"]
    if strip != "here":
        for saved in state["groups"]:
            saved["names"] = None
    other.load_state_dict(state)
    assert scales(other) == pytest.approx([2.0, 1.0])


def test_groups_of_equal_sizes_without_names_are_found_by_their_place() -> None:
    params, _optimizer, lga = make_lga(1.0, 2.0)
    del params
    state = lga.state_dict()
    for saved in state["groups"]:
        saved["elements"] = [3]
    p, q = filled(0.5, 3), filled(0.5, 3)
    optimizer = torch.optim.SGD([{"params": [p]}, {"params": [q]}], lr=0.0)
    other = LGA(optimizer, steps_per_epoch=1000, gamma2="auto")
    other.load_state_dict(state)
    assert moves(optimizer, [p, q]) == pytest.approx([REACH, REACH * 2], rel=1e-6)


def test_groups_of_equal_sizes_in_another_order_are_refused() -> None:
    """Without the check: a group gets the scale of another of its size."""
    _optimizer, lga = make_sized(2, 2, 3)
    _other_optimizer, other = make_sized(3, 2, 2)
    with pytest.raises(ValueError, match=r"elements \[\[2\], \[2\], \[3\]\], here they have \[\[3\], \[2\], \[2\]\]"):
        other.load_state_dict(lga.state_dict())


def make_sized(*sizes: int) -> tuple[Any, LGA]:
    optimizer = torch.optim.SGD([{"params": [filled(1.0, size)]} for size in sizes], lr=0.0)
    return optimizer, LGA(optimizer, steps_per_epoch=1000, gamma2="auto")


@pytest.mark.parametrize(
    ("order", "sizes", "message"),
    [
        (("a", "d"), {}, r"names \[\['a'\], \['b'\]\], here they have \[\['a'\], \['d'\]\]"),
        (("a",), {}, "scales of 2 parameter groups, here are 1"),
    ],
)
def test_a_checkpoint_of_other_groups_is_refused(order: tuple[str, ...], sizes: Any, message: str) -> None:
    _optimizer, lga = named("a", "b")
    state = lga.state_dict()
    _other_optimizer, other = named(*order, sizes=sizes)
    before = other.state_dict()
    with pytest.raises(ValueError, match=message) as raised:
        other.load_state_dict(state)
    assert "\n" not in str(raised.value)
    assert repr(other.state_dict()) == repr(before)


@pytest.mark.parametrize(
    "groups",
    [None, {}, [1.0, "x"], [{"scale": math.nan}, {"scale": 1.0}], [{}, {}], [True, 1.0], [math.inf, 1.0], [0.0, 1.0]],
)
def test_invalid_scales_are_refused(groups: Any) -> None:
    _params, _optimizer, lga = make_lga(1.0, 2.0)
    with pytest.raises(ValueError, match=r"groups in LGA's state_dict|scale of a group in LGA's state_dict"):
        lga.load_state_dict({**lga.state_dict(), "groups": groups})


# A group's own gamma2 -------------------------------------------------------------------------------------------------

BAD = [-1.0, math.nan, math.inf, "much", True, [1.0]]


@pytest.mark.parametrize("way", ["step", "observe", "closure", "compiled"])
@pytest.mark.parametrize("how", ["added", "changed"])
@pytest.mark.parametrize("own", BAD, ids=str)
def test_a_bad_gamma2_is_refused_before_anything_moves(own: Any, how: str, way: str) -> None:
    p, q = filled(1.0), filled(2.0)
    optimizer: Any = torch.optim.SGD([p], lr=0.1)
    lga = LGA(optimizer, steps_per_epoch=10, gamma2=1e-3)
    compiled = lga.compile(backend="eager") if way == "compiled" else None
    if compiled is not None:
        p.grad = torch.zeros_like(p)
        for _ in range(2):
            compiled(0.01)
    optimizer.add_param_group({"params": [q], "gamma2": own} if how == "added" else {"params": [q]})
    if how == "changed":
        optimizer.param_groups[1]["gamma2"] = own
    p.grad, q.grad = torch.ones_like(p), torch.ones_like(q)
    before = p.detach().clone(), q.detach().clone(), repr(lga.state_dict())
    if way == "observe":
        lga.observe(2.0)
    steps: dict[str, Callable[[], Any]] = {
        "step": lambda: optimizer.step(loss=2.0),
        "observe": lambda: optimizer.step(),
        "closure": lambda: optimizer.step(lambda: 2.0),
        "compiled": lambda: compiled(2.0) if compiled is not None else None,
    }
    with pytest.raises(ValueError, match="gamma2 of parameter group 1 must be") as raised:
        steps[way]()
    assert "\n" not in str(raised.value)
    assert torch.equal(p.detach(), before[0])
    assert torch.equal(q.detach(), before[1])
    assert repr(lga.state_dict()) == before[2]
    optimizer.param_groups[1]["gamma2"] = 0.0  # and then the step can be made
    steps[way]()
    assert not torch.equal(p.detach(), before[0])
    assert torch.equal(q.detach(), before[1] - 0.1)


def test_with_auto_a_groups_own_number_is_refused_when_it_comes() -> None:
    params, optimizer, _lga = make_lga(1.0)
    optimizer.add_param_group({"params": [new := filled(1.0)], "gamma2": 1e-8})
    with pytest.raises(ValueError, match=r"gamma2 of parameter group 1 must be 0, .* got 1e-08"):
        moves(optimizer, [*params, new])
    assert float(params[0].detach()[0]) == 1.0


@pytest.mark.parametrize("own", [1, 2.5e-3, 0, 0.0, torch.tensor(1e-3).item()])
def test_valid_values_of_a_groups_gamma2(own: Any) -> None:
    p = filled(1.0)
    optimizer = torch.optim.SGD([{"params": [p], "gamma2": own}], lr=0.0)
    LGA(optimizer, steps_per_epoch=10, gamma2=5.0, xi=1.0)
    assert moves(optimizer, [p]) == pytest.approx([2.0 * own], rel=1e-9)


@pytest.mark.parametrize("own", [0.0, 1e-3])
def test_a_groups_gamma2_survives_a_checkpoint_that_was_written_without(own: float) -> None:
    """As one of before LGA: the optimizer takes the entries of its groups from the checkpoint."""
    plain = torch.optim.SGD([{"params": [filled(1.0)]}, {"params": [filled(1.0)]}], lr=0.0)
    p, q = filled(1.0), filled(1.0)
    groups: list[dict[str, Any]] = [{"params": [p]}, {"params": [q], "gamma2": own}]
    optimizer = torch.optim.SGD(groups, lr=0.0)
    LGA(optimizer, steps_per_epoch=10, gamma2=5e-3, xi=1.0)
    optimizer.load_state_dict(plain.state_dict())
    assert moves(optimizer, [p, q]) == pytest.approx([1e-2, 2 * own], rel=1e-9)


def test_a_groups_gamma2_in_a_checkpoint_counts() -> None:
    def group(p: nn.Parameter, own: float) -> Any:
        return torch.optim.SGD([{"params": [p], "gamma2": own}], lr=0.0)

    p = filled(1.0)
    optimizer = group(p, 1e-3)
    LGA(optimizer, steps_per_epoch=10, gamma2=5e-3, xi=1.0)
    optimizer.load_state_dict(group(filled(1.0), 2e-3).state_dict())
    assert moves(optimizer, [p]) == pytest.approx([4e-3], rel=1e-9)
    optimizer.load_state_dict(group(filled(1.0), -1.0).state_dict())
    with pytest.raises(ValueError, match="gamma2 of parameter group 0 must be"):
        moves(optimizer, [p])


def test_after_detach_a_checkpoint_is_read_unchanged() -> None:
    p = filled(1.0)
    optimizer = torch.optim.SGD([{"params": [p], "gamma2": 0.0}], lr=0.0)
    LGA(optimizer, steps_per_epoch=10).detach()
    optimizer.load_state_dict(torch.optim.SGD([filled(1.0)], lr=0.0).state_dict())
    assert "gamma2" not in optimizer.param_groups[0]


def test_groups_that_a_closure_adds_replaces_and_removes() -> None:
    """As where a layer is thawed within it. Unguarded: "zip() argument 2 is shorter", after the base's step."""
    first, second = filled(1.0), filled(1.0)
    optimizer: Any = torch.optim.SGD([first], lr=0.0)
    lga = LGA(optimizer, steps_per_epoch=1000, gamma2=1e-2)

    def step(change: Callable[[], object]) -> tuple[bool, bool]:
        before = [p.detach().clone() for p in (first, second)]

        def closure() -> float:
            change()
            first.grad, second.grad = torch.ones_like(first), torch.ones_like(second)
            return 1.0

        optimizer.step(closure)
        moved = [not torch.equal(b, p.detach()) for b, p in zip(before, (first, second), strict=True)]
        return moved[0], moved[1]

    groups = optimizer.param_groups
    assert step(lambda: None) == (True, False)
    assert step(lambda: optimizer.add_param_group({"params": [second], "gamma2": 0.0})) == (True, False)
    assert step(groups.reverse) == (True, False)
    assert step(lambda: groups.pop(0)) == (True, False)
    assert lga.status.steps == 4
