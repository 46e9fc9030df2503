"""The traps of attaching a reciprocal of gradients to somebody else's optimizer, numbered as in the design.

Each test says what would happen without its guard. Trap 4, ranks that drift apart, is in `test_distributed`; the rest
of trap 11, other hyperparameters and strict keys, is in `test_checkpoint`.
"""

from __future__ import annotations

import copy
import math
import pickle
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch.distributed.checkpoint.state_dict import get_optimizer_state_dict
from torch.optim.optimizer import Optimizer

import reference
from lossaware import LGA
from lossaware.correction import Correction
from support import flat, parameters, set_gradients, torch_optimizer

GAMMA2, XI = 1e-3, 0.01
rng = np.random.default_rng(0)
X = rng.normal(size=12)
GRADIENTS = list(rng.normal(size=(6, 12)))
LOSSES = [2.0, 1.5, 1.0, 1.75, 0.5, 1.25]


def attach(optimizer: Any, **kwargs: Any) -> Any:
    return LGA(optimizer, **{"steps_per_epoch": 4, "gamma2": GAMMA2, "xi": XI, **kwargs})


def sgd(*params: torch.Tensor, **kwargs: Any) -> Any:
    return torch.optim.SGD(params, **{"lr": 0.1, **kwargs})


def numpy(tensor: torch.Tensor) -> reference.Array:
    array: reference.Array = tensor.detach().double().numpy().copy()
    return array


def push(omega: float, g: reference.Array, gamma2: float = GAMMA2) -> reference.Array:
    return gamma2 * omega / reference.phi(g, XI)


def final(
    gradients: list[reference.Array], losses: list[float | None], name: str = "sgd", **kwargs: Any
) -> reference.Array:
    """Where the reference ends from X with LGA."""
    judge = reference.OPTIMIZERS[name](**{"lr": 0.1, **kwargs})
    return list(reference.trajectory(judge, X, gradients, losses, lga=reference.Law(4, GAMMA2)))[-1]


@pytest.fixture(autouse=True)
def _no_missing_loss() -> Iterator[None]:
    """A loss that gets lost on its way only warns: here that is a failure, where the test does not expect it."""
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message="LGA got no loss")
        yield


# 1. No loss: exactly the base step --------------------------------------------------------------------------------


@pytest.mark.parametrize("name", reference.OPTIMIZERS)
def test_1_without_a_loss_the_step_is_the_bases_bit_for_bit(name: str) -> None:
    """Unguarded: the Omega of the step before would push the parameters once more."""
    ours, theirs = (parameters(X, (12,), dtype=torch.float32) for _ in range(2))
    optimizer, base = torch_optimizer(name, ours), torch_optimizer(name, theirs)
    lga = attach(optimizer)
    set_gradients(ours, GRADIENTS[0])
    set_gradients(theirs, GRADIENTS[0])
    optimizer.step(loss=2.0)
    base.step()
    assert lga.status.omega == 2.0
    assert not torch.equal(ours[0], theirs[0])
    with torch.no_grad():
        theirs[0].copy_(ours[0])
    with pytest.warns(UserWarning, match="no loss"):
        optimizer.step()
    base.step()
    assert torch.equal(ours[0], theirs[0])


@pytest.mark.parametrize("cls", [torch.optim.SGD, torch.optim.Adam])
def test_1_asking_for_a_checkpoint_moves_nothing(cls: Any) -> None:
    """torch.distributed.checkpoint calls step() with zero gradients and lr 0 to make the state.

    Unguarded: 1 / phi(0) = 1 / xi, so that every weight would fall by gamma2 * Omega / xi = 0.2.
    """
    model = torch.nn.Linear(3, 2)
    optimizer = cls(model.parameters(), lr=0.1)
    lga = attach(optimizer)
    if cls is torch.optim.SGD:  # it has no state, so torch steps whenever there are no gradients
        model(torch.ones(1, 3)).sum().backward()
        optimizer.step(loss=2.0)
        optimizer.zero_grad()
    before = [p.detach().clone() for p in model.parameters()]
    steps = lga.status.steps
    with pytest.warns(UserWarning, match="no loss"):
        get_optimizer_state_dict(model, optimizer)
    assert lga.status.steps == steps + 1  # it did step
    assert all(torch.equal(p, b) for p, b in zip(model.parameters(), before, strict=True))


# 2. A loss that is not finite -------------------------------------------------------------------------------------


@pytest.mark.parametrize("as_tensor", [False, True], ids=["float", "tensor"])
@pytest.mark.parametrize("broken", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("when", [0, 2])
def test_2_a_loss_that_is_not_finite_makes_no_correction_and_no_status(
    broken: float, when: int, as_tensor: bool
) -> None:
    """Unguarded: U, L and every parameter would be NaN for good; with inf, U would be inf and never close the gate."""
    losses: list[Any] = [*LOSSES[:when], broken, *LOSSES[when + 1 :]]
    params = parameters(X, (12,))
    optimizer = sgd(*params)
    lga = attach(optimizer)
    for g, loss in zip(GRADIENTS, losses, strict=True):
        before = flat(params).copy()
        set_gradients(params, g)
        optimizer.step(loss=torch.tensor(loss, dtype=torch.float64) if as_tensor else loss)
        if not math.isfinite(loss):
            np.testing.assert_allclose(flat(params), before - 0.1 * g, rtol=1e-15)
            assert lga.status.omega == 0
    np.testing.assert_allclose(flat(params), final(GRADIENTS, losses), rtol=1e-12)
    assert (lga.status.nonfinite_losses, lga.status.statuses, lga.status.steps) == (1, 1, 6)
    assert lga.status.upper_bound == next(f for f in losses if math.isfinite(f))


def test_2_one_broken_micro_batch_breaks_the_steps_loss() -> None:
    params = parameters(X, (12,))
    optimizer = sgd(*params)
    lga = attach(optimizer)
    set_gradients(params, GRADIENTS[0])
    for loss in (1.0, math.nan, 2.0):
        lga.observe(loss)
    optimizer.step()
    np.testing.assert_allclose(flat(params), X - 0.1 * GRADIENTS[0], rtol=1e-15)
    assert (lga.status.nonfinite_losses, lga.status.steps) == (1, 1)


# 3. Automatic mixed precision -------------------------------------------------------------------------------------

SCALE = 2.0**16  # a power of two: scaling back is exact


def amp_bases() -> list[tuple[str, dict[str, Any]]]:
    names: list[tuple[str, dict[str, Any]]] = [("sgd", {}), ("momentum", {"nesterov": True}), ("adamw", {})]
    return [(name, {**kwargs, "fused": fused}) for name, kwargs in names for fused in (False, True)]


def amp_run(
    name: str, kwargs: dict[str, Any], *, channel: str, broken: dict[int, float] | None = None, clip: bool = False
) -> tuple[reference.Array, Any]:
    """Six steps under a GradScaler; `broken` gives steps something to have in one element of their gradients."""
    broken = broken or {}
    params = parameters(X.astype(np.float32), (12,), dtype=torch.float32)
    optimizer = torch_optimizer(name, params, lr=0.1, **kwargs)
    lga = attach(optimizer)
    scaler = torch.amp.GradScaler("cpu", init_scale=SCALE)
    for t, value in enumerate(LOSSES):
        g = torch.tensor(GRADIENTS[t], dtype=torch.float32)
        g[5] = broken.get(t, g[5])
        loss: Any = ((params[0] - params[0].detach()) * g).sum() + value
        optimizer.zero_grad()
        if channel == "observe":
            lga.observe(value)
        scaler.scale(loss).backward()
        if channel == "observe after backward":
            lga.observe(value)
        before = params[0].detach().clone()
        status = lga.status
        if clip:
            scaler.unscale_(optimizer)
            torch.nn.utils.clip_grad_norm_(params, 0.5)
        scaler.step(optimizer, **({"loss": value} if channel == "step(loss=)" else {}))
        scaler.update()
        if t in broken:
            assert torch.equal(params[0], before)
            assert repr(lga.status) == repr(status)  # repr: NaN is not equal to itself
    return flat(params), lga


AMP_CHANNELS = ["step(loss=)", "observe", "observe after backward"]


@pytest.mark.parametrize("channel", AMP_CHANNELS)
@pytest.mark.parametrize(("name", "kwargs"), amp_bases(), ids=str)
def test_3_phi_reads_unscaled_gradients(name: str, kwargs: dict[str, Any], channel: str) -> None:
    """Unguarded: a fused step unscales inside its kernel, after LGA has looked.

    Phi would read gradients 65536 times too large, and the correction would all but vanish without a word.
    """
    found, lga = amp_run(name, kwargs, channel=channel)
    judged = {key: value for key, value in kwargs.items() if key != "fused"}
    np.testing.assert_allclose(found, final(GRADIENTS, list(LOSSES), name, **judged), rtol=0, atol=2e-6)
    assert lga.status.steps == 6


@pytest.mark.parametrize("broken", [math.inf, math.nan])
@pytest.mark.parametrize("channel", AMP_CHANNELS)
@pytest.mark.parametrize(("name", "kwargs"), amp_bases(), ids=str)
def test_3_where_the_scaler_skips_nothing_moves(name: str, kwargs: dict[str, Any], channel: str, broken: float) -> None:
    """Unguarded: a fused base skips inside its kernel, unseen.

    LGA would push by gamma2 * Omega / phi(NaN) = NaN and count the loss. An ordinary base is not even called, and what
    was observed for the step would be taken for part of the next one.
    """
    # Torch's own fused momentum does not survive an overflow in its very first step: the buffer stays uninitialised.
    skipped = (1, 3) if name == "momentum" else (0, 3)
    found, lga = amp_run(name, kwargs, channel=channel, broken=dict.fromkeys(skipped, broken))
    kept = [t for t in range(6) if t not in skipped]
    judged = {key: value for key, value in kwargs.items() if key != "fused"}
    expected = final([GRADIENTS[t] for t in kept], [LOSSES[t] for t in kept], name, **judged)
    np.testing.assert_allclose(found, expected, rtol=0, atol=2e-6)
    assert (lga.status.steps, lga.status.upper_bound) == (4, LOSSES[kept[0]])


@pytest.mark.parametrize("fused", [False, True])
def test_3_unscaled_and_clipped_by_hand(fused: bool) -> None:
    """unscale_ before the step leaves grad_scale None: unguarded, LGA would unscale a second time or fail."""
    found, _ = amp_run("sgd", {"fused": fused}, channel="step(loss=)", clip=True)
    clipped = [g * 0.5 / np.linalg.norm(g) for g in GRADIENTS]
    np.testing.assert_allclose(found, final(clipped, list(LOSSES)), rtol=0, atol=2e-6)


@pytest.mark.parametrize("broken", [math.inf, -math.inf, math.nan])
def test_3_an_amount_of_zero_on_the_device_leaves_parameters_alone(broken: float) -> None:
    """Where the host does not know that the scaler skipped, the amount is a zero on the device.

    Unguarded: 0 / phi(NaN) is NaN, in the parameters too.
    """
    p, g = torch.tensor(X), torch.tensor(GRADIENTS[0])
    g[5] = broken
    Correction(XI, "push").apply([(p, g)], torch.zeros((), dtype=torch.float64))
    assert torch.equal(p, torch.tensor(X))


# 5. Bases that write into gradients or drop them ------------------------------------------------------------------


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
    """Unguarded: phi would read gradient plus half the parameter."""
    params = parameters(X, (12,))
    optimizer = DecaysInPlace(params)
    lga = attach(optimizer)
    for g, loss in zip(GRADIENTS, LOSSES, strict=True):
        by(optimizer, lga, loss, lambda g=g: set_gradients(params, g))
    np.testing.assert_allclose(flat(params), final(GRADIENTS, list(LOSSES), weight_decay=0.5), rtol=1e-12)


@pytest.mark.parametrize("base", [ReplacesGradients, DecaysThroughData])
def test_5_gradients_from_before_the_base_replaced_them(base: type[Optimizer]) -> None:
    params = parameters(X, (12,))
    optimizer: Any = base(params)
    attach(optimizer)
    for g, loss in zip(GRADIENTS, LOSSES, strict=True):
        set_gradients(params, g)
        optimizer.step(loss=loss)
    np.testing.assert_allclose(flat(params), final(GRADIENTS, list(LOSSES), weight_decay=0.5), rtol=1e-12)


def test_5_a_step_without_gradients_does_not_tell_what_a_base_does() -> None:
    """Unguarded: it would pass for one that writes into none, and be refused when it does."""
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
    """Unguarded: what the first step looked like would be believed from then on."""
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
    """Unguarded: no gradient, no correction, no word about it."""
    params = parameters(X, (12,))
    optimizer: Any = DropsGradients(params, start=start)
    attach(optimizer)
    for g, loss in zip(GRADIENTS, LOSSES, strict=True):
        set_gradients(params, g)
        optimizer.step(loss=loss)
    assert params[0].grad is None
    np.testing.assert_allclose(flat(params), final(GRADIENTS, list(LOSSES)), rtol=1e-12)


def test_5_torchs_own_nesterov_writes_into_gradients() -> None:
    """SGD's foreach step adds the momentum buffer into p.grad. Unguarded: phi would read that sum."""
    params = parameters(X, (12,))
    optimizer = sgd(*params, momentum=0.9, nesterov=True, foreach=True)
    attach(optimizer)
    set_gradients(params, GRADIENTS[0])
    optimizer.step(loss=2.0)
    assert not np.allclose(flat([p.grad for p in params if p.grad is not None]), GRADIENTS[0])  # it still does
    np.testing.assert_allclose(flat(params), X - 0.19 * GRADIENTS[0] - push(2.0, GRADIENTS[0]), rtol=1e-12)


def test_5_also_in_a_group_that_is_added_later() -> None:
    """Unguarded: what the groups looked like when LGA was attached would be believed for ever."""
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
    """Unguarded: the inner step would find no loss, or the outer one would correct once more."""
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
    assert lga.status.steps == 6


# 6. Parameters and bases of every kind ----------------------------------------------------------------------------


@pytest.mark.parametrize("name", reference.OPTIMIZERS)
def test_6_maximize_pushes_the_way_the_base_goes(name: str) -> None:
    """Unguarded: the base would climb and LGA would push down again."""
    params = parameters(X, (12,))
    optimizer = torch_optimizer(name, params, lr=0.1, maximize=True)
    attach(optimizer)
    set_gradients(params, GRADIENTS[0])
    optimizer.step(loss=2.0)
    np.testing.assert_allclose(
        flat(params), final(GRADIENTS[:1], [2.0], name, maximize=True), rtol=0, atol=1e-6
    )  # 1e-6: torch keeps some scalars in float32
    up = flat(params) > X
    np.testing.assert_array_equal(up, GRADIENTS[0] > 0)


def test_6_groups_have_their_own_gamma2_and_back_off_together() -> None:
    """Unguarded: one gamma2 for all; or a group's own would never be backed off."""
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
    """Unguarded: a list of parameters made when attaching would not have it."""
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
    """Unguarded: a missing gradient is an error, or a zero one that 1 / xi blows up."""
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
    """Unguarded: once a use."""
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
    """Unguarded: every row of the table would fall by gamma2 * Omega / xi.

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
    """Unguarded: complex numbers have no order to take a sign by."""
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
    """Unguarded: one step of it moves through many losses and gradients, of which LGA would take some."""
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
    """Unguarded: attached without an error, and never called."""
    with pytest.raises(ValueError, match=r"Wrapper.*hooks"):
        attach(Wrapper(sgd(*parameters(X, (12,)))))


@pytest.mark.parametrize("foreach", [False, True])
def test_6_asgds_average_has_the_correction_in_it(foreach: bool) -> None:
    """Unguarded: ax would average parameters that never were."""
    params = parameters(X, (12,))
    optimizer = torch_optimizer("asgd", params, lr=0.1, t0=1, foreach=foreach)
    attach(optimizer)
    judge = reference.ASGD(lr=0.1, t0=1)
    steps = reference.trajectory(judge, X, GRADIENTS, list(LOSSES), lga=reference.Law(4, GAMMA2))
    for t, expected in enumerate(steps):
        set_gradients(params, GRADIENTS[t])
        optimizer.step(loss=LOSSES[t])
        # 1e-7: eta and mu are in float32 where that is the default. The correction is up to 0.2.
        np.testing.assert_allclose(flat(params), expected, rtol=0, atol=1e-7)
        np.testing.assert_allclose(numpy(optimizer.state[params[0]]["ax"]), judge.ax, rtol=0, atol=1e-7)
    assert np.abs(judge.ax - expected).max() > 0.01  # the average is no copy of the parameters


LAYOUTS: dict[str, Callable[[], torch.Tensor]] = {
    "contiguous": lambda: torch.randn(6, 10, dtype=torch.float64),
    "transposed": lambda: torch.randn(10, 6, dtype=torch.float64).t(),
    "every other": lambda: torch.randn(12, 10, dtype=torch.float64)[::2],
    "channels_last": lambda: torch.randn(2, 3, 4, 5, dtype=torch.float64).to(memory_format=torch.channels_last),
    "scalar": lambda: torch.randn((), dtype=torch.float64),
    "empty": lambda: torch.randn(0, 4, dtype=torch.float64),
    "200,001 elements": lambda: torch.randn(200_001, dtype=torch.float64),
}


@pytest.mark.parametrize("gradient", ["alike", "contiguous", "expanded"])
@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
def test_6_every_memory_layout(layout: Callable[[], torch.Tensor], gradient: str) -> None:
    """Unguarded: element i in memory of one would meet element i in memory of the other, or a copy would be pushed."""
    torch.manual_seed(0)
    p = torch.nn.Parameter(layout())
    g = torch.randn_like(p)  # in the layout of p
    g = {"alike": g, "contiguous": g.contiguous(), "expanded": g.new_tensor(0.3).expand(p.shape)}[gradient]
    optimizer = sgd(p, foreach=False)
    attach(optimizer)
    p.grad = g
    before = numpy(p)
    optimizer.step(loss=2.0)
    np.testing.assert_allclose(numpy(p), before - 0.1 * numpy(g) - push(2.0, numpy(g)), rtol=1e-12, atol=1e-15)


# 7. Exactly zero gradients ----------------------------------------------------------------------------------------


def test_7_a_zero_gradient_is_pushed_downwards_as_the_paper_says() -> None:
    """Eq. 5: phi(0) = +xi, of either sign of zero.

    Unguarded: torch.sign(0) = 0 would leave it, and copysign would send -0.0 upwards.
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
    """Unguarded: a padding row would fall by gamma2 * Omega / xi = 0.2 every step."""
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


# 8. Parameters of 16 bits -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("dtype", "kept"), [(torch.bfloat16, 0.0041), (torch.float16, 0.0328)])
def test_8_a_push_far_below_the_resolution_moves_the_mean(dtype: torch.dtype, kept: float) -> None:
    """A push of 1e-6 on a weight of 0.05, whose unit in the last place is 2.4e-4 (bfloat16) or 3.1e-5 (float16).

    Unguarded: rounding to nearest gives 0.05 again, every time, and LGA would do nothing at all.
    """
    n, steps = 200_000, 4
    p = torch.nn.Parameter(torch.full((n,), 0.05, dtype=dtype))
    start = float(p.detach()[0])
    optimizer = sgd(p, lr=0.0)
    attach(optimizer, gamma2=1e-6 * 0.51 / 2.0)  # with Omega = 2 and a gradient of 0.5 that is a push of 1e-6
    p.grad = torch.full_like(p, 0.5)
    changed = []
    for _ in range(steps):
        before = p.detach().clone()
        optimizer.step(loss=2.0)
        changed.append(p.detach() != before)
    share = 1e-6 / (torch.finfo(dtype).eps * 2.0**-5)  # of elements that fall by one unit, if the mean is right
    assert share == pytest.approx(kept, rel=0.01)
    moved = start - numpy(p).mean()
    noise = math.sqrt(share / (n * steps)) / share  # relative standard deviation
    assert moved / (steps * 1e-6) == pytest.approx(1.0, abs=5 * noise)
    # Each step draws anew: elements that moved in both of two steps are as rare as chance has it.
    both = float((changed[0] & changed[1]).double().mean())
    assert both < 2 * share**2 + 20 / n


def test_8_negative_weights_and_upward_pushes_are_unbiased_too() -> None:
    """Unguarded: noise added before cutting bits off rounds towards zero on one side and away on the other."""
    values = torch.tensor([0.05, -0.05, 1.7, -1.7]).repeat_interleave(100_000).to(torch.bfloat16)
    for sign in (1.0, -1.0):
        p = torch.nn.Parameter(values.clone())
        optimizer = sgd(p, lr=0.0)
        attach(optimizer, gamma2=1e-4 * 0.51 / 2.0)
        p.grad = torch.full_like(p, 0.5 * sign)
        optimizer.step(loss=2.0)
        moved = (numpy(values) - numpy(p)).reshape(4, -1).mean(axis=1) * sign
        units = np.array([2.0**-12, 2.0**-12, 2.0**-7, 2.0**-7])
        noise = np.sqrt(1e-4 / units / 100_000) * units
        assert (np.abs(moved - 1e-4) < 5 * noise).all()


def test_8_the_rounding_is_the_same_in_every_run() -> None:
    """Unguarded: it would follow the global generator, and runs and ranks would differ."""
    runs = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        p = torch.nn.Parameter(torch.linspace(-1, 1, 10_000).to(torch.bfloat16))
        optimizer = sgd(p)
        attach(optimizer)
        for loss in LOSSES:
            p.grad = torch.linspace(-1, 1, 10_000).sin().to(torch.bfloat16)
            optimizer.step(loss=loss)
        runs.append((p.detach().clone(), torch.rand(())))
    assert torch.equal(runs[0][0], runs[1][0])
    torch.manual_seed(0)
    assert torch.equal(runs[0][1], torch.rand(()))  # and the global generator is left alone


# 9. Clipping ------------------------------------------------------------------------------------------------------


def test_9_phi_reads_gradients_as_they_are_when_the_optimizer_steps() -> None:
    """Clipped before the step: the correction is that of the clipped gradients, and larger.

    Unguarded, LGA could as well have read them in backward; this is the documented order.
    """
    params = parameters(X, (12,))
    optimizer = sgd(*params)
    attach(optimizer)
    clipped = []
    for g, loss in zip(GRADIENTS, LOSSES, strict=True):
        set_gradients(params, g)
        torch.nn.utils.clip_grad_value_(params, 0.05)
        clipped.append(np.clip(g, -0.05, 0.05))
        optimizer.step(loss=loss)
    np.testing.assert_allclose(flat(params), final(clipped, list(LOSSES)), rtol=1e-12)
    assert np.abs(push(2.0, clipped[0])).sum() > 2 * np.abs(push(2.0, GRADIENTS[0])).sum()


# 10. Copies -------------------------------------------------------------------------------------------------------

COPIES: dict[str, Callable[[Any], Any]] = {
    "copy": copy.copy,
    "deepcopy": copy.deepcopy,
    "pickle": pickle.dumps,
    "deepcopy of the pair": lambda optimizer: copy.deepcopy({"model": torch.nn.Linear(1, 1), "optimizer": optimizer}),
}


@pytest.mark.parametrize("make", COPIES.values(), ids=COPIES)
@pytest.mark.parametrize("name", ["sgd", "adam"])
def test_10_copies_are_refused(name: str, make: Callable[[Any], Any]) -> None:
    """Unguarded: torch copies state and groups but no hooks, so the copy would train on without LGA, in silence."""
    params = parameters(X, (12,))
    optimizer = torch_optimizer(name, params, lr=0.1)
    lga = attach(optimizer)
    set_gradients(params, GRADIENTS[0])
    optimizer.step(loss=2.0)
    with pytest.raises(TypeError, match=r"LGA.*detach") as raised:
        make(optimizer)
    assert "\n" not in str(raised.value)
    optimizer.step(loss=2.0)  # the refusal has broken nothing
    assert lga.status.steps == 2
    lga.detach()
    make(optimizer)


@pytest.mark.parametrize("make", [copy.deepcopy, pickle.dumps])
def test_10_copies_of_the_companion_are_refused(make: Callable[[Any], Any]) -> None:
    """Unguarded: a second LGA that believes it is attached."""
    lga = attach(sgd(*parameters(X, (12,))))
    with pytest.raises(TypeError):
        make(lga)


def test_10_the_state_dict_of_the_optimizer_is_not_touched() -> None:
    optimizer = torch_optimizer("adam", parameters(X, (12,)))
    attach(optimizer)
    other = torch_optimizer("adam", parameters(X, (12,)))
    other.load_state_dict(pickle.loads(pickle.dumps(optimizer.state_dict())))
    copy.deepcopy(optimizer.state_dict())


# 11. Steps that do not divide, and resuming in between ------------------------------------------------------------


def test_11_a_run_that_the_status_interval_does_not_divide() -> None:
    """20 steps of 7: two statuses, and six losses that wait; an epoch's end means nothing to the law."""
    losses = [float(f) for f in np.random.default_rng(1).uniform(0.2, 2.0, size=20)]
    params = parameters(X, (12,))
    optimizer = sgd(*params)
    lga = attach(optimizer, steps_per_epoch=7)
    law = reference.Law(7, GAMMA2)
    gradients = list(np.random.default_rng(2).normal(size=(20, 12)))
    for t, expected in enumerate(reference.trajectory(reference.SGD(lr=0.1), X, gradients, losses, lga=law)):
        set_gradients(params, gradients[t])
        optimizer.step(loss=losses[t])
        np.testing.assert_allclose(flat(params), expected, rtol=1e-12)
    assert (lga.status.statuses, len(law.pending)) == (2, 6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", ["momentum", "adamw", "asgd"])
def test_11_resuming_in_the_middle_of_an_epoch_is_bit_exact(name: str, dtype: torch.dtype) -> None:
    """Unguarded: the losses since the last status, or the rounding's place in its sequence, would begin anew."""
    gradients = list(np.random.default_rng(1).normal(size=(20, 500)))
    losses = [float(f) for f in np.random.default_rng(2).uniform(0.2, 2.0, size=20)]
    x = np.random.default_rng(3).normal(size=500)

    def run(stop: int | None) -> tuple[torch.Tensor, str]:
        params = parameters(x, (500,), dtype=dtype)
        optimizer = torch_optimizer(name, params)
        lga = attach(optimizer, steps_per_epoch=7)
        for t in range(20):
            if t == stop:
                kept = pickle.dumps((params[0].detach(), optimizer.state_dict(), lga.state_dict()))
                values, optimizer_state, lga_state = pickle.loads(kept)
                params = [torch.nn.Parameter(values)]
                optimizer = torch_optimizer(name, params)
                lga = attach(optimizer, steps_per_epoch=7)
                optimizer.load_state_dict(optimizer_state)
                lga.load_state_dict(lga_state)
            set_gradients(params, gradients[t])
            optimizer.step(loss=losses[t])
        return params[0].detach(), repr(lga.status)

    straight, straight_status = run(None)
    for stop in (0, 3, 7, 10):
        resumed, status = run(stop)
        assert torch.equal(resumed, straight)
        assert status == straight_status
