"""The JAX form on several devices, and in Flax NNX."""

from __future__ import annotations

import doctest
import re
import runpy
from pathlib import Path
from typing import Any

import pytest

from support import needs

jax = needs("jax")
optax = needs("optax")

import jax.numpy as jnp  # noqa: E402

import lossaware.optax  # noqa: E402
from lossaware.optax import (  # noqa: E402
    loss_aware,
    multi_steps,
    status,
)
from support.optax_problem import float32_problem, run_python  # noqa: E402
from support.problem import GAMMA2, Problem  # noqa: E402


@pytest.fixture(scope="module")
def problem() -> Problem:
    return float32_problem()


def test_the_loss_is_averaged_over_a_mapped_axis() -> None:
    solver = loss_aware(optax.sgd(0.1), steps_per_epoch=10, axis_name="devices")
    state = solver.init(jnp.ones(3))
    _, states = jax.vmap(lambda value: solver.update(jnp.ones(3), state, value=value), axis_name="devices")(
        jnp.array([1.0, 2.0, 6.0])
    )
    assert states.law.loss.tolist() == [3.0, 3.0, 3.0]
    with pytest.raises(ValueError, match=r"one replica: got scalars of shape \(3,\); pass jax\.tree\.map"):
        status(states)
    assert status(jax.tree.map(lambda x: x[0], states)).loss == 3.0


TWO_DEVICES = """
import jax, jax.numpy as jnp, optax
from jax.sharding import PartitionSpec as P
from lossaware.optax import loss_aware, status

solver = loss_aware(optax.sgd(0.1), steps_per_epoch=2, gamma2=1e-3, axis_name="devices")
mesh = jax.make_mesh((2,), ("devices",), axis_types=(jax.sharding.AxisType.Auto,))
x = jax.random.normal(jax.random.key(0), (8, 3))
loss_of = lambda params, x: jnp.mean((x @ params - 1) ** 2)

@jax.jit
@jax.shard_map(mesh=mesh, in_specs=(P(), P(), P("devices")), out_specs=(P(), P()))
def step(params, state, x):
    own = jax.lax.pcast(params, "devices", to="varying")
    value, grads = jax.value_and_grad(loss_of)(own, x)
    updates, state = solver.update(jax.lax.pmean(grads, "devices"), state, params, value=value)
    return optax.apply_updates(params, updates), state

params = jnp.zeros(3)
state = solver.init(params)
alone = loss_aware(optax.sgd(0.1), steps_per_epoch=2, gamma2=1e-3)
one, one_state = params, state
for _ in range(5):
    params, state = step(params, state, x)
    value, grads = jax.value_and_grad(loss_of)(one, x)
    updates, one_state = alone.update(grads, one_state, one, value=value)
    one = optax.apply_updates(one, updates)
replicas = [part.data for part in params.addressable_shards]
assert len(replicas) == 2 and (replicas[0] == jax.device_put(replicas[1], replicas[0].device)).all()
assert jnp.allclose(params, one, rtol=1e-5, atol=1e-6), (params, one)
assert abs(status(state).loss - status(one_state).loss) < 1e-6
print("same", status(state).open_share > 0)
"""


@pytest.mark.skipif(not hasattr(jax.lax, "pcast"), reason="this version of jax has no shard_map with varying values")
def test_two_devices_train_as_one_and_stay_equal() -> None:
    result = run_python(TWO_DEVICES, XLA_FLAGS="--xla_force_host_platform_device_count=2", JAX_PLATFORMS="cpu")
    assert result.stdout == "same True\n", result.stderr


def test_the_examples_in_the_docstrings() -> None:
    assert doctest.testmod(lossaware.optax) == doctest.TestResults(failed=0, attempted=20)


def test_flax_nnx_passes_the_loss_and_compiles_once() -> None:
    nnx = needs("flax.nnx")
    traces = 0

    def traced(model: Any, optimizer: Any, x: Any) -> Any:
        nonlocal traces
        traces += 1
        loss, grads = nnx.value_and_grad(lambda model: (model(x) ** 2).mean())(model)
        optimizer.update(model, grads, value=loss)
        return loss

    step = nnx.jit(traced)
    model = nnx.Linear(3, 2, rngs=nnx.Rngs(0))
    solver = multi_steps(loss_aware(optax.adam(1e-2), steps_per_epoch=2, gamma2=GAMMA2), 2)
    optimizer = nnx.Optimizer(model, solver, wrt=nnx.Param)
    x = jnp.ones((4, 3))
    params = {name: jnp.asarray(getattr(model, name)[...]) for name in ("kernel", "bias")}

    def by_hand(params: Any, state: Any) -> Any:
        value, grads = jax.value_and_grad(lambda p: ((x @ p["kernel"] + p["bias"]) ** 2).mean())(params)
        updates, state = solver.update(grads, state, params, value=value)
        return optax.apply_updates(params, updates), state, value

    compiled = jax.jit(by_hand)
    state = solver.init(params)
    for _ in range(6):
        params, state, value = compiled(params, state)
        assert float(step(model, optimizer, x)) == pytest.approx(float(value), rel=1e-5)
    assert traces == 1
    assert vars(status(optimizer.opt_state)) == pytest.approx(vars(status(state)), rel=1e-5)
    assert status(optimizer.opt_state).steps == 3


def test_the_flax_nnx_example(capsys: pytest.CaptureFixture[str]) -> None:
    needs("flax.nnx")
    example = runpy.run_path(str(Path(__file__).parent.parent / "examples" / "flax_nnx.py"))
    example["main"](epochs=2)
    match = re.search(
        r"after 2 epochs: SGD (\d\.\d+), with LGA (\d\.\d+)\nStatus\(.* statuses=2,", capsys.readouterr().out
    )
    assert match is not None
    plain, aware = map(float, match.groups())
    assert 0.1 < plain < aware
