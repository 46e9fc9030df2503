"""Running means of gradients: in float32 for parameters of 16 bits, in every kind of step, and in checkpoints."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import reference
from lossaware import LGA, AutoGamma2
from lossaware.correction import WORK, native
from lossaware.gradient_mean import MEAN
from support import needs

NARROW = [torch.float16, torch.bfloat16]
SMALL = 2e-7  # of float16 three times the smallest number; a tenth of it rounds to 0
RULE = AutoGamma2(reach=0.02, steps_at_least=4)
WAYS = ["C", "operators", "device", "compiled"]


def stepped(p: nn.Parameter, way: str, monkeypatch: pytest.MonkeyPatch) -> tuple[Any, Any]:
    """A step over the parameter by one of the ways, and its optimizer."""
    if way == "operators":
        monkeypatch.setattr(native, "library", lambda: None)
    optimizer: Any = torch.optim.SGD([p], lr=0.0)
    lga = LGA(optimizer, steps_per_epoch=40, gamma2=RULE)
    if way == "compiled":
        return lga.compile(backend="eager"), optimizer
    as_loss = torch.tensor if way == "device" else float
    if way == "device":
        lga._stepper.state_on(torch.device("cpu"))
    return lambda loss: optimizer.step(loss=as_loss(loss)), optimizer


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("dtype", NARROW, ids=str)
def test_a_small_constant_gradient_pushes(dtype: torch.dtype, way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    p = nn.Parameter(torch.ones(4000, dtype=dtype))
    step, optimizer = stepped(p, way, monkeypatch)
    for _ in range(3):
        p.grad = torch.full_like(p, SMALL)
        step(2.0)
    mean = optimizer.state[p][MEAN]
    torch.testing.assert_close(mean, torch.full((4000,), float(p.grad[0]) * (1 - 0.9**3)))  # type: ignore[index]
    assert float(p.detach().float().mean()) == pytest.approx(1 - 3 * 0.02, abs=1e-3)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("dtype", [*NARROW, torch.float32, torch.complex64], ids=str)
def test_means_and_pushes_are_the_references(dtype: torch.dtype, way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    p = nn.Parameter(torch.tensor(rng.normal(size=4000)).to(dtype))
    x = p.detach().to(torch.complex128).real.numpy().copy()
    law = reference.SelfSet(4, scale=float(np.sqrt(np.mean(x**2))))
    step, optimizer = stepped(p, way, monkeypatch)
    positions = [x]
    for loss in (2.0, 1.5, 1.9, 0.7, 0.4, 0.6, 0.3, 0.2, 0.25):
        p.grad = torch.tensor(rng.normal(size=4000) * 10.0 ** rng.uniform(-7, 1, size=4000)).to(dtype)
        step(loss)
        positions.append(positions[-1] - law.correction(law.share(loss), p.grad.to(torch.complex128).real.numpy()))
    mean = optimizer.state[p][MEAN]
    assert mean.dtype is WORK[dtype]
    np.testing.assert_allclose(mean.to(torch.complex128).real.numpy(), law.mean, rtol=1e-5, atol=1e-6)
    off = p.detach().to(torch.complex128).real.numpy() - positions[-1]
    if dtype not in NARROW:
        assert np.abs(off).max() < 2e-6
        return
    unit = torch.finfo(dtype).eps * np.maximum(2.0 ** np.floor(np.log2(np.max(np.abs(positions), axis=0))), 2.0**-14)
    assert (np.abs(off) <= 9 * unit).all()  # nine roundings,
    assert abs(float(np.mean(off / unit))) < 0.1  # up or down at random


def test_complex_numbers_of_16_bits() -> None:
    p = nn.Parameter(torch.ones(4000, dtype=torch.complex32))
    optimizer: Any = torch.optim.SGD([p], lr=0.0)
    LGA(optimizer, steps_per_epoch=40, gamma2=RULE)
    p.grad = torch.complex(torch.full((4000,), SMALL), torch.zeros(4000)).to(torch.complex32)
    optimizer.step(loss=2.0)
    assert optimizer.state[p][MEAN].dtype is torch.complex64
    moved = torch.view_as_real(p.detach()).float().mean(0)
    torch.testing.assert_close(moved, torch.tensor([0.98, 0.0]), rtol=0, atol=1e-3)


# Checkpoints ----------------------------------------------------------------------------------------------------------


def fresh(dtype: torch.dtype, start: Tensor | None = None) -> tuple[nn.Parameter, Any, LGA]:
    p = nn.Parameter(torch.linspace(-1, 1, 501).to(dtype) if start is None else start.clone())
    optimizer = torch.optim.SGD([p], lr=1e-3, momentum=0.9)
    return p, optimizer, LGA(optimizer, steps_per_epoch=40, gamma2=RULE)


def run(p: nn.Parameter, optimizer: Any, steps: range) -> None:
    for step in steps:
        generator = torch.Generator().manual_seed(step)
        p.grad = (torch.randn(501, generator=generator) * 10.0 ** -torch.linspace(0, 7, 501)).to(p.dtype)
        optimizer.step(loss=2.0 / (1 + step))


@pytest.mark.parametrize("dtype", NARROW, ids=str)
def test_a_run_resumes_with_the_same_bits(dtype: torch.dtype) -> None:
    p, optimizer, lga = fresh(dtype)
    run(p, optimizer, range(7))
    file = io.BytesIO()
    torch.save([p.detach(), optimizer.state_dict(), lga.state_dict()], file)
    file.seek(0)
    start, of_optimizer, of_lga = torch.load(file, weights_only=True)
    resumed, other, restored = fresh(dtype, start)
    other.load_state_dict(of_optimizer)
    restored.load_state_dict(of_lga)
    assert torch.equal(other.state[resumed][MEAN], optimizer.state[p][MEAN])
    run(p, optimizer, range(7, 12))
    run(resumed, other, range(7, 12))
    assert torch.equal(resumed, p)
    assert torch.equal(other.state[resumed][MEAN], optimizer.state[p][MEAN])


def narrowed(optimizer: Any, dtype: torch.dtype) -> dict[str, Any]:
    """A checkpoint of the optimizer before means were stored in float32."""
    state_dict: dict[str, Any] = optimizer.state_dict()
    narrow = {key: {**one, MEAN: one[MEAN].to(dtype)} for key, one in state_dict["state"].items()}
    return {**state_dict, "state": narrow}


@pytest.mark.parametrize("attached", ["before", "after"])
@pytest.mark.parametrize("compiled", [False, True], ids=["eager", "compiled"])
@pytest.mark.parametrize("dtype", NARROW, ids=str)
def test_means_of_16_bits_load(dtype: torch.dtype, compiled: bool, attached: str) -> None:
    """Those of an older version; and those that torch has narrowed, as it loaded them before LGA was attached."""
    p, optimizer, lga = fresh(dtype)
    run(p, optimizer, range(3))
    old = narrowed(optimizer, dtype)
    resumed, other, restored = fresh(dtype, p.detach())
    if attached == "after":
        restored.detach()
    other.load_state_dict(old)
    if attached == "after":
        restored = LGA(other, steps_per_epoch=40, gamma2=RULE)
    restored.load_state_dict(lga.state_dict())
    step = restored.compile(backend="eager") if compiled else lambda loss: other.step(loss=loss)
    resumed.grad = torch.full_like(resumed, SMALL)
    step(0.1)
    expected = torch.lerp(old["state"][0][MEAN].float(), resumed.grad.float(), 0.1)
    assert other.state[resumed][MEAN].dtype is torch.float32
    torch.testing.assert_close(other.state[resumed][MEAN], expected)


def test_a_checkpoint_that_does_not_fit_changes_nothing() -> None:
    p, optimizer, _ = fresh(torch.float16)
    run(p, optimizer, range(3))
    mean, wrong = optimizer.state[p][MEAN].clone(), optimizer.state_dict()
    wrong["param_groups"].append(wrong["param_groups"][0])
    with pytest.raises(ValueError, match="number of parameter groups"):
        optimizer.load_state_dict(wrong)
    assert torch.equal(optimizer.state[p][MEAN], mean)
    assert isinstance(wrong["state"][0][MEAN], Tensor)


def test_a_checkpoint_of_the_base_alone_loads() -> None:
    """Its parameters do not have means; and other optimizers keep more than parameters' state in it."""
    p, optimizer, lga = fresh(torch.float16)
    lga.detach()
    run_alone = p.detach().clone().requires_grad_()
    base = torch.optim.SGD([run_alone], lr=1e-3, momentum=0.9)
    run_alone.grad = torch.ones_like(run_alone)
    base.step()
    state_dict = base.state_dict()
    mean = torch.ones(2, dtype=torch.float16)
    state_dict["state"].update({"calls": 3, "removed": {MEAN: mean}})
    LGA(optimizer, steps_per_epoch=40, gamma2=RULE)
    optimizer.load_state_dict(state_dict)
    assert MEAN not in optimizer.state[p]
    assert optimizer.state["calls"] == 3
    assert optimizer.state["removed"][MEAN].dtype is torch.float16
    run(p, optimizer, range(2))
    assert optimizer.state[p][MEAN].any()


# JAX ------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_optax_pushes_along_a_small_constant_gradient(dtype: str) -> None:
    jax, optax = needs("jax"), needs("optax")
    jnp = jax.numpy

    from lossaware.optax import loss_aware

    solver = loss_aware(optax.sgd(0.0), steps_per_epoch=40, gamma2=RULE)
    params = jnp.ones(5, dtype)
    state = solver.init(params)
    assert state.mean.dtype == jnp.float32
    update = jax.jit(lambda g, s: solver.update(g, s, params, value=2.0))
    g = jnp.full(5, SMALL, dtype)
    for _ in range(3):
        updates, state = update(g, state)
    assert update._cache_size() == 1
    np.testing.assert_allclose(np.asarray(state.mean), float(g[0]) * (1 - 0.9**3), rtol=1e-5)
    assert updates.dtype == dtype
    np.testing.assert_allclose(np.asarray(updates, float), -0.02, rtol=0.01)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_optax_widens_the_means_of_an_older_version(dtype: str) -> None:
    jax, optax = needs("jax"), needs("optax")
    jnp = jax.numpy

    from lossaware.optax import loss_aware

    solver = loss_aware(optax.sgd(0.0), steps_per_epoch=40, gamma2=RULE)
    params = jnp.ones(5, dtype)
    old = solver.init(params)._replace(mean=jnp.full(5, 0.5, dtype))
    _, state = solver.update(jnp.full(5, SMALL, dtype), old, params, value=2.0)
    assert state.mean.dtype == jnp.float32
    np.testing.assert_allclose(np.asarray(state.mean), 0.45, rtol=1e-5)


@pytest.mark.filterwarnings("ignore:Using backward.. with create_graph")
def test_means_of_gradients_with_a_graph_do_not_have_one() -> None:
    """Without the check: each mean holds the graphs of all steps so far."""
    p = torch.nn.Parameter(torch.ones(3))
    optimizer: Any = torch.optim.SGD([p], lr=0.1)
    LGA(optimizer, steps_per_epoch=4, gamma2="auto")
    for _ in range(2):
        loss = (p**3).sum()
        p.grad = None
        loss.backward(create_graph=True)
        assert p.grad is not None
        assert p.grad.requires_grad
        optimizer.step(loss=loss)
        mean = optimizer.state[p][MEAN]
        assert mean.any()
        assert not mean.requires_grad
    p.grad = None


def test_a_sparse_gradient_comes_before_others() -> None:
    """It does not have a mean. Without the check: later means would stay 0."""
    table, weight = (torch.nn.Parameter(torch.ones(4, 3)) for _ in range(2))
    optimizer: Any = torch.optim.SGD([table, weight], lr=0.0)
    LGA(optimizer, steps_per_epoch=4, gamma2="auto")
    table.grad = torch.ones(4, 3).to_sparse(1)
    weight.grad = torch.ones(4, 3)
    optimizer.step(loss=1.0)
    assert MEAN not in optimizer.state[table]
    assert optimizer.state[weight][MEAN].any()
    assert (table < 1).all()
    assert (weight < 1).all()


def test_a_first_step_in_inference_mode(monkeypatch: pytest.MonkeyPatch) -> None:
    """Unguarded: torch refuses the change of a mean that was made there, after the base's next step."""
    monkeypatch.setattr(native, "library", lambda: None)
    p = torch.nn.Parameter(torch.ones(3))
    optimizer: Any = torch.optim.SGD([p], lr=0.0)
    LGA(optimizer, steps_per_epoch=10, gamma2="auto")
    p.grad = torch.ones(3)
    with torch.inference_mode():
        optimizer.step(loss=2.0)
    before = p.detach().clone()
    optimizer.step(loss=2.0)
    assert (p < before).all()
