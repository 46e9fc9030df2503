"""Known traps of adding a correction by reciprocal gradients to any optimizer, numbered as in the design.

Each test describes the result without its check. Trap 4, ranks that drift apart, is in `test_distributed`; the rest
of trap 11, other hyperparameters and strict keys, is in `test_checkpoint`.
"""

import copy
import math
import pickle
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch.distributed.checkpoint.state_dict import get_optimizer_state_dict

import reference
from support import flat, parameters, set_gradients, torch_optimizer
from support.traps import GAMMA2, GRADIENTS, LOSSES, X, attach, final, push, sgd

# A missing loss only causes a warning; here the warning is an error unless the test expects it.
pytestmark = pytest.mark.filterwarnings("error:LGA got no loss")


@pytest.mark.parametrize("name", reference.OPTIMIZERS)
def test_1_without_a_loss_the_step_is_the_bases_bit_for_bit(name: str) -> None:
    """Without the check: the Omega of the step before would push the parameters once more."""
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
    """torch.distributed.checkpoint calls step() with zero gradients and lr 0 to create the state.

    Without the check: 1 / phi(0) = 1 / xi, so that every weight would fall by gamma2 * Omega / xi = 0.2.
    """
    model = torch.nn.Linear(3, 2)
    optimizer = cls(model.parameters(), lr=0.1)
    lga = attach(optimizer)
    if cls is torch.optim.SGD:  # it does not have state, so torch makes a step whenever there are no gradients
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
    """Without the check: U, L and all parameters would become NaN; with inf, U would never close the gate."""
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


# 9. Clipping ------------------------------------------------------------------------------------------------------


def test_9_phi_reads_gradients_when_the_optimizer_steps() -> None:
    """Clipped before the step: the correction is that of the clipped gradients, and larger.

    Without the check, LGA could as well have read them in backward; this is the documented order.
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
    """Without the check: torch copies state and groups, but not hooks, so the copy would silently lack LGA."""
    params = parameters(X, (12,))
    optimizer = torch_optimizer(name, params, lr=0.1)
    lga = attach(optimizer)
    set_gradients(params, GRADIENTS[0])
    optimizer.step(loss=2.0)
    with pytest.raises(TypeError, match=r"LGA.*detach") as raised:
        make(optimizer)
    assert "\n" not in str(raised.value)
    optimizer.step(loss=2.0)  # the refusal has changed nothing
    assert lga.status.steps == 2
    lga.detach()
    make(optimizer)


@pytest.mark.parametrize("make", [copy.deepcopy, pickle.dumps])
def test_10_copies_of_the_companion_are_refused(make: Callable[[Any], Any]) -> None:
    """Without the check: a second LGA that believes it is attached."""
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
    """20 steps, 7 per status: two statuses and six pending losses; the end of an epoch does not affect the law."""
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
    """Without the check: the losses since the last status, or the random numbers of the rounding, would start again."""
    gradients = list(np.random.default_rng(1).normal(size=(20, 500)))
    losses = [float(f) for f in np.random.default_rng(2).uniform(0.2, 2.0, size=20)]
    x = np.random.default_rng(3).normal(size=500)

    def run(stop: int | None) -> tuple[torch.Tensor, str]:
        params = parameters(x, (500,), dtype=dtype)
        optimizer = torch_optimizer(name, params)
        lga = attach(optimizer, steps_per_epoch=7)
        for t in range(20):
            if t == stop:
                pickled = pickle.dumps((params[0].detach(), optimizer.state_dict(), lga.state_dict()))
                values, optimizer_state, lga_state = pickle.loads(pickled)
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
