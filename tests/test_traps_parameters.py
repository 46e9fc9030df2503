"""Traps 6 and 7: parameters and bases of every kind, and gradients that are exactly 0."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch.optim.optimizer import Optimizer

import reference
from support import flat, parameters, set_gradients, torch_optimizer
from support.traps import GAMMA2, GRADIENTS, LOSSES, XI, X, attach, final, numpy, push, sgd

# A missing loss only causes a warning; here the warning is an error unless the test expects it.
pytestmark = pytest.mark.filterwarnings("error:LGA got no loss")


# 6. Parameters and bases of every kind ----------------------------------------------------------------------------


@pytest.mark.parametrize("name", reference.OPTIMIZERS)
def test_6_maximize_pushes_the_way_the_base_goes(name: str) -> None:
    """Without the check: the base would climb and LGA would push down again."""
    params = parameters(X, (12,))
    optimizer = torch_optimizer(name, params, lr=0.1, maximize=True)
    attach(optimizer)
    set_gradients(params, GRADIENTS[0])
    optimizer.step(loss=2.0)
    np.testing.assert_allclose(
        flat(params), final(GRADIENTS[:1], [2.0], name, maximize=True), rtol=0, atol=1e-6
    )  # 1e-6: torch stores some scalars in float32
    up = flat(params) > X
    np.testing.assert_array_equal(up, GRADIENTS[0] > 0)


def test_6_groups_have_their_own_gamma2_and_back_off_together() -> None:
    """Without the check: one gamma2 for all; or a group's own would never be backed off."""
    params = parameters(X, (4,), (4,), (4,))
    groups: list[dict[str, Any]] = [
        {"params": [params[0]]},
        {"params": [params[1]], "gamma2": 5e-3, "lr": 0.01},
        {"params": [params[2]], "gamma2": 0.0},
    ]
    optimizer: Any = torch.optim.SGD(groups, lr=0.1)
    lga = attach(optimizer, steps_per_epoch=1, backoff=0.5, lower_bound="momentum")
    x, rates = X.copy(), np.repeat([0.1, 0.01, 0.1], 4)
    law = reference.Law(1, lower_bound=reference.momentum(), backoff=0.5)
    for g, loss in zip(GRADIENTS, LOSSES, strict=True):
        set_gradients(params, g)
        optimizer.step(loss=loss)
        gamma2 = np.repeat([GAMMA2, 5e-3, 0.0], 4)
        x = x - rates * g - gamma2 * law.correction(law.omega(loss), g, 1.0)
        np.testing.assert_allclose(flat(params), x, rtol=1e-12)
    assert law.factor == 0.25
    assert lga.status.gamma2 == GAMMA2 / 4
    assert [group.get("gamma2") for group in optimizer.param_groups] == [None, 5e-3, 0.0]  # the user's numbers stay


def test_6_a_group_added_later_is_corrected_too() -> None:
    """Without the check: a list of parameters made when attaching would not have it."""
    first, second = parameters(X, (6,), (6,))
    optimizer = sgd(first)
    attach(optimizer)
    optimizer.add_param_group({"params": [second], "gamma2": 2 * GAMMA2})
    set_gradients([first, second], GRADIENTS[0])
    optimizer.step(loss=2.0)
    gamma2 = np.repeat([GAMMA2, 2 * GAMMA2], 6)
    expected = X - 0.1 * GRADIENTS[0] - gamma2 * push(2.0, GRADIENTS[0], 1.0)
    np.testing.assert_allclose(flat([first, second]), expected, rtol=1e-12)


def test_6_frozen_and_unused_parameters_stay() -> None:
    """Without the check: a missing gradient is an error, or a zero one that 1 / xi blows up."""
    model = torch.nn.ModuleList(torch.nn.Linear(2, 2) for _ in range(3))
    model[1].requires_grad_(False)
    optimizer = sgd(*model.parameters())
    attach(optimizer)
    before = [p.detach().clone() for p in model.parameters()]
    model[1](model[0](torch.ones(1, 2))).sum().backward()  # model[2] is not used
    optimizer.step(loss=2.0)
    moved = [not torch.equal(p, b) for p, b in zip(model.parameters(), before, strict=True)]
    assert moved == [True, True, False, False, False, False]


def test_6_tied_parameters_are_pushed_once() -> None:
    """Without the check: once a use."""
    torch.manual_seed(0)
    first, last = (torch.nn.Linear(3, 3, bias=False, dtype=torch.float64) for _ in range(2))
    last.weight = first.weight
    model = torch.nn.Sequential(first, torch.nn.Tanh(), last)
    optimizer = sgd(*model.parameters())
    attach(optimizer)
    before = numpy(first.weight)
    model(torch.ones(1, 3, dtype=torch.float64)).sum().backward()
    assert first.weight.grad is not None
    g = numpy(first.weight.grad)
    optimizer.step(loss=2.0)
    np.testing.assert_allclose(numpy(last.weight), before - 0.1 * g - push(2.0, g), rtol=1e-12)


SPARSE_BASES = [torch.optim.SGD, torch.optim.Adagrad, torch.optim.SparseAdam]


@pytest.mark.parametrize("cls", SPARSE_BASES, ids=lambda cls: cls.__name__)
def test_6_sparse_gradients_touch_their_stored_rows_only(cls: Any) -> None:
    """Without the check: every row of the table would fall by gamma2 * Omega / xi.

    And a row that a batch holds twice would be pushed by the sum of two reciprocals, not the reciprocal of the sum.
    """
    torch.manual_seed(0)
    ours, theirs = (torch.nn.Embedding(6, 4, sparse=True, dtype=torch.float64) for _ in range(2))
    theirs.load_state_dict(ours.state_dict())
    optimizer, base = cls(ours.parameters(), lr=0.1), cls(theirs.parameters(), lr=0.1)
    attach(optimizer)
    weights = torch.randn(4, 4, dtype=torch.float64)
    for model in (ours, theirs):
        (model(torch.tensor([3, 1, 3, 4])) * weights).sum().backward()
    before = numpy(ours.weight)
    assert ours.weight.grad is not None
    assert not ours.weight.grad.is_coalesced()
    g = numpy(ours.weight.grad.to_dense())
    optimizer.step(loss=2.0)
    base.step()
    stored = [1, 3, 4]
    expected = numpy(theirs.weight)
    expected[stored] -= push(2.0, g[stored])
    np.testing.assert_allclose(numpy(ours.weight), expected, rtol=1e-12)
    np.testing.assert_array_equal(numpy(ours.weight)[[0, 2, 5]], before[[0, 2, 5]])


@pytest.mark.parametrize("name", ["sgd", "adam"])
def test_6_complex_parameters_are_pairs_of_reals(name: str) -> None:
    """Without the check: complex numbers do not have a sign."""
    p = torch.nn.Parameter(torch.tensor(X[:6] + 1j * X[6:]))
    twin = torch.nn.Parameter(p.detach().clone())
    optimizer, base = torch_optimizer(name, [p]), torch_optimizer(name, [twin])
    attach(optimizer)
    g = GRADIENTS[0]
    p.grad = torch.tensor(g[:6] + 1j * g[6:])
    twin.grad = p.grad.clone()
    optimizer.step(loss=2.0)
    base.step()
    expected = twin.detach().numpy() - (push(2.0, g[:6]) + 1j * push(2.0, g[6:]))
    np.testing.assert_allclose(p.detach().numpy(), expected, rtol=1e-12)


def test_6_lbfgs_is_refused() -> None:
    """Without the check: one step of it moves through many losses and gradients, of which LGA would take some."""
    with pytest.raises(ValueError, match="LBFGS"):
        attach(torch.optim.LBFGS(parameters(X, (12,))))


class Wrapper(Optimizer):
    """An optimizer that holds another and skips Optimizer.__init__, as many do: it never runs step hooks."""

    def __init__(self, inner: Optimizer) -> None:
        self.inner = inner
        self.param_groups = inner.param_groups

    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        self.inner.step()


def test_6_wrappers_without_hooks_are_refused() -> None:
    """Without the check: attached without an error, and never called."""
    with pytest.raises(ValueError, match=r"Wrapper.*hooks"):
        attach(Wrapper(sgd(*parameters(X, (12,)))))


@pytest.mark.parametrize("maximize", [False, True])
@pytest.mark.parametrize("state", ["on the host", "on the device"])
@pytest.mark.parametrize("foreach", [False, True])
def test_6_asgds_average_has_the_correction_in_it(foreach: bool, state: str, maximize: bool) -> None:
    """Without the check: ax would average parameters that never were."""
    params = parameters(X, (12,))
    optimizer = torch_optimizer("asgd", params, lr=0.1, t0=1, foreach=foreach, maximize=maximize)
    lga = attach(optimizer)
    if state == "on the device":
        lga._stepper.state_on(torch.device("cpu"))
    judge = reference.ASGD(lr=0.1, t0=1, maximize=maximize)
    steps = reference.trajectory(judge, X, GRADIENTS, list(LOSSES), lga=reference.Law(4, GAMMA2))
    for t, expected in enumerate(steps):
        set_gradients(params, GRADIENTS[t])
        optimizer.step(loss=LOSSES[t])
        # 1e-7: eta and mu are in float32 where that is the default. The correction is up to 0.2.
        np.testing.assert_allclose(flat(params), expected, rtol=0, atol=1e-7)
        np.testing.assert_allclose(numpy(optimizer.state[params[0]]["ax"]), judge.ax, rtol=0, atol=1e-7)
    assert np.abs(judge.ax - expected).max() > 0.01  # the average is not a copy of the parameters


LAYOUTS: dict[str, Callable[[], torch.Tensor]] = {
    "contiguous": lambda: torch.randn(6, 10, dtype=torch.float64),
    "transposed": lambda: torch.randn(10, 6, dtype=torch.float64).t(),
    "every other": lambda: torch.randn(12, 10, dtype=torch.float64)[::2],
    "channels_last": lambda: torch.randn(2, 3, 4, 5, dtype=torch.float64).to(memory_format=torch.channels_last),
    "scalar": lambda: torch.randn((), dtype=torch.float64),
    "empty": lambda: torch.randn(0, 4, dtype=torch.float64),
    "200,001 elements": lambda: torch.randn(200_001, dtype=torch.float64),
}


@pytest.mark.parametrize("gradient", ["same", "contiguous", "expanded"])
@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
def test_6_every_memory_layout(layout: Callable[[], torch.Tensor], gradient: str) -> None:
    """Without the check: elements would be matched by their order in memory, or a copy would be pushed."""
    torch.manual_seed(0)
    p = torch.nn.Parameter(layout())
    g = torch.randn_like(p)  # in the layout of p
    g = {"same": g, "contiguous": g.contiguous(), "expanded": g.new_tensor(0.3).expand(p.shape)}[gradient]
    optimizer = sgd(p, foreach=False)
    attach(optimizer)
    p.grad = g
    before = numpy(p)
    optimizer.step(loss=2.0)
    np.testing.assert_allclose(numpy(p), before - 0.1 * numpy(g) - push(2.0, numpy(g)), rtol=1e-12, atol=1e-15)


# 7. Exactly zero gradients ----------------------------------------------------------------------------------------


def test_7_a_zero_gradient_is_pushed_downwards_as_the_paper_says() -> None:
    """Eq. 5: phi(0) = +xi, of either sign of zero.

    Without the check: torch.sign(0) = 0 would leave it, and copysign would send -0.0 upwards.
    """
    p = torch.nn.Parameter(torch.tensor([1.0, 1.0, 1.0], dtype=torch.float64))
    optimizer = sgd(p)
    attach(optimizer)
    p.grad = torch.tensor([0.0, -0.0, 1e-300], dtype=torch.float64)
    optimizer.step(loss=2.0)
    np.testing.assert_allclose(numpy(p), np.full(3, 1.0 - GAMMA2 * 2.0 / XI), rtol=1e-14)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
@pytest.mark.parametrize("maximize", [False, True])
def test_7_rest_leaves_padding_rows_and_pruned_weights(dtype: torch.dtype, maximize: bool) -> None:
    """Without the check: a padding row would fall by gamma2 * Omega / xi = 0.2 every step."""
    table = torch.nn.Embedding(5, 4, padding_idx=0, dtype=dtype)
    optimizer = sgd(table.weight, maximize=maximize)
    attach(optimizer, zero_gradient="rest")
    before = numpy(table.weight)
    (table(torch.tensor([0, 2, 3])) * 0.5).sum().backward()
    optimizer.step(loss=2.0)
    moved = (numpy(table.weight) != before).any(axis=1)
    assert moved.tolist() == [False, False, True, True, False]
    if dtype == torch.float64:
        sign = -1 if maximize else 1
        expected = before[2] - sign * (0.1 * 0.5 + GAMMA2 * 2.0 / (0.5 + XI))
        np.testing.assert_allclose(numpy(table.weight)[2], expected, rtol=1e-12)
