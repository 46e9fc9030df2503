"""LGA for JAX, held to the plain NumPy reference and to the companion for torch; and inside all that optax wraps."""

from __future__ import annotations

import doctest
import math
import os
import re
import runpy
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import reference
import support
from lossaware import LGA, Average, Momentum, Progressive
from lossaware.extras import how_to_install
from support import enable_x64, needs

jax = needs("jax")
optax = needs("optax")

import jax.numpy as jnp  # noqa: E402

import lossaware.optax  # noqa: E402
from lossaware.optax import (  # noqa: E402
    LossAwareState,
    apply_updates_stochastically,
    loss_aware,
    multi_steps,
    status,
)

STEPS = 36
SIZE = 23
GAMMA2 = 1e-3  # a push of up to GAMMA2 * Omega / xi = 0.2 a step: far more than most bases move

LOWER_BOUNDS: dict[str, tuple[Any, reference.LowerBound]] = {
    "progressive": ("progressive", reference.progressive(10.0)),
    "progressive-e": (Progressive(log_base=math.e), reference.progressive(math.e)),
    "average": (Average(), reference.average()),
    "momentum": (Momentum(beta=0.8), reference.momentum(0.8)),
}


def rmsprop(learning_rate: float) -> Any:
    """Optax's with torch's conventions: eps outside the root."""
    return optax.rmsprop(learning_rate, decay=0.99, eps=1e-8, eps_in_sqrt=False)


BASES: dict[str, Callable[[], Any]] = {
    "sgd": lambda: optax.sgd(1e-3),
    "momentum": lambda: optax.sgd(1e-3, momentum=0.9),
    "rmsprop": lambda: rmsprop(1e-2),
    "adam": lambda: optax.adam(1e-3),
    "adamw": lambda: optax.adamw(1e-3, weight_decay=1e-2),
}


@dataclass
class Problem:
    """Where to begin, a gradient a step (large, small, +0.0 and -0.0), and losses that do to the law all there is."""

    x: reference.Array
    gradients: reference.Array
    losses: list[float]


@pytest.fixture(scope="module")
def problem() -> Problem:
    rng = np.random.default_rng(1)
    losses = rng.uniform(0.02, 2.6, size=STEPS)
    losses[0] = 2.2
    gradients = rng.normal(size=(STEPS, SIZE)) * 10.0 ** rng.uniform(-4, 0, size=(STEPS, SIZE))
    gradients[rng.random(size=gradients.shape) < 0.1] = 0.0
    gradients[rng.random(size=gradients.shape) < 0.05] = -0.0
    x, gradients, losses = (a.astype(np.float32).astype(np.float64) for a in (rng.normal(size=SIZE), gradients, losses))
    return Problem(x, gradients, losses.tolist())


def tree(vector: Any) -> dict[str, Any]:
    """A flat vector as a tree of parameters."""
    vector = jnp.asarray(vector)
    return {"matrix": vector[:15].reshape(5, 3), "scalar": vector[15], "vector": vector[16:]}


def flat(params: Any) -> reference.Array:
    return np.concatenate([np.asarray(leaf, np.float64).ravel() for leaf in jax.tree.leaves(params)])


def stepper(solver: Any) -> Any:
    """A compiled training step on given gradients."""

    def step(params: Any, state: Any, grads: Any, value: Any) -> Any:
        updates, state = solver.update(grads, state, params, value=value)
        return optax.apply_updates(params, updates), state

    return jax.jit(step)


def walk(solver: Any, problem: Problem, losses: list[float] | None = None) -> Iterator[tuple[Any, Any]]:
    """Yields the parameters and the state after each step."""
    params = tree(problem.x)
    state, step = solver.init(params), stepper(solver)
    for gradient, loss in zip(problem.gradients, losses or problem.losses, strict=True):
        params, state = step(params, state, tree(gradient), loss)
        yield params, state


# ------------------------------------------------------------------------------------------------------ trajectories


def check_trajectory(
    problem: Problem, name: str, bound: str, steps_per_epoch: int, zero_gradient: str = "push", *, double: bool = False
) -> None:
    close = 1e-12 if double else 2e-6  # of the largest parameter: in float32 some 16 units in its last place
    theirs, ours = LOWER_BOUNDS[bound]
    settings: dict[str, Any] = {
        "steps_per_epoch": steps_per_epoch, "gamma2": GAMMA2, "backoff": 0.7, "zero_gradient": zero_gradient
    }  # fmt: skip
    law = reference.Law(**settings, lower_bound=ours)
    make, gradients, losses = reference.OPTIMIZERS[name], list(problem.gradients), problem.losses
    judge = reference.trajectory(make(), problem.x, gradients, losses, lga=law)
    (parameter,) = support.parameters(problem.x, (SIZE,), dtype=torch.float64 if double else torch.float32)
    torchs = support.torch_optimizer(name, [parameter])
    companion = LGA(torchs, **settings, lower_bound=theirs)

    solver = loss_aware(BASES[name](), **settings, lower_bound=theirs)
    for t, ((params, state), expected) in enumerate(zip(walk(solver, problem), judge, strict=True)):
        support.set_gradients([parameter], gradients[t])
        torchs.step(loss=losses[t])
        scale = np.abs(expected).max()
        np.testing.assert_allclose(flat(params), expected, rtol=0, atol=close * scale)
        np.testing.assert_allclose(flat(params), support.flat([parameter]), rtol=0, atol=2 * close * scale)
        seen = status(state)
        assert vars(seen) == pytest.approx(vars(companion.status), rel=close, abs=close)
        assert seen.gamma2 == pytest.approx(GAMMA2 * law.factor, rel=close)
        assert seen.lower_bound == pytest.approx(law.lower, rel=close)
    # That the comparison had something to compare: every branch of the law was taken, and the correction was felt.
    alone = list(reference.trajectory(make(), problem.x, gradients, losses))[-1]
    assert min(law.open_steps, law.closed_below, law.closed_above) >= 1
    assert 1 <= round(math.log(law.factor) / math.log(0.7)) < law.statuses
    assert np.abs(expected - alone).max() > 0.05


@pytest.mark.parametrize(("name", "steps_per_epoch"), [*((name, 7) for name in BASES), ("sgd", 1)])
def test_trajectory_is_the_references_and_the_companions(name: str, steps_per_epoch: int, problem: Problem) -> None:
    check_trajectory(problem, name, "progressive", steps_per_epoch)


@pytest.mark.parametrize(
    ("name", "bound"),
    [*((name, "progressive") for name in BASES), *(("sgd", bound) for bound in list(LOWER_BOUNDS)[1:])],
)
def test_trajectory_in_float64_to_1e_12(name: str, bound: str, problem: Problem) -> None:
    with enable_x64(True):
        check_trajectory(problem, name, bound, 7, double=True)


def test_zero_gradients_can_rest(problem: Problem) -> None:
    check_trajectory(problem, "sgd", "progressive", 7, "rest")


def test_a_lower_bound_of_ones_own_runs_compiled(problem: Problem) -> None:
    class Decade:
        def update(self, lower: Any, loss: Any, count: Any) -> Any:
            return lower + (loss - lower) * 0.1 / count

    solver = loss_aware(optax.sgd(1e-3), steps_per_epoch=7, gamma2=GAMMA2, lower_bound=Decade())
    law = reference.Law(7, GAMMA2, lower_bound=lambda lower, loss, count: lower + (loss - lower) * 0.1 / count)
    judge = reference.trajectory(reference.SGD(), problem.x, list(problem.gradients), problem.losses, lga=law)
    for (params, _), expected in zip(walk(solver, problem), judge, strict=True):
        np.testing.assert_allclose(flat(params), expected, rtol=0, atol=1e-5)


# ---------------------------------------------------------------------------------------------- what must not happen


@pytest.mark.parametrize("loss", [math.nan, math.inf, -math.inf])
def test_a_loss_that_is_not_finite_leaves_the_base_step_and_the_law(loss: float, problem: Problem) -> None:
    solver = loss_aware(base := optax.adam(1e-3), steps_per_epoch=2, gamma2=GAMMA2)
    params = tree(problem.x)
    gradient = problem.gradients[1].copy()
    gradient[3] = math.nan  # as losses of that kind tend to bring along
    _, before = stepper(solver)(params, solver.init(params), tree(problem.gradients[0]), 2.0)
    after, state = stepper(solver)(params, before, tree(gradient), loss)
    alone, _ = stepper(optax.with_extra_args_support(base))(params, before.base, tree(gradient), loss)
    np.testing.assert_array_equal(flat(after), flat(alone))
    assert status(state).nonfinite_losses == 1
    assert status(state).omega == 0
    for field in ("loss", "upper", "lower", "gamma2_factor", "mean", "total", "count", "statuses", "opened"):
        assert getattr(state.law, field) == getattr(before.law, field), field


def test_a_closed_gate_is_the_base_step_bit_for_bit() -> None:
    """Also where the gradient is such that 0 / phi(g) is no number, and where the update is -0.0."""
    solver = loss_aware(optax.sgd(1.0), steps_per_epoch=1)
    gradients = jnp.array([0.0, -0.0, 1.0, -2.0, math.nan, math.inf])
    updates, state = solver.update(gradients, solver.init(jnp.zeros(6)), value=0.05)
    assert status(state).omega == 0
    np.testing.assert_array_equal(updates, -gradients)
    np.testing.assert_array_equal(np.signbit(updates[:4]), np.signbit(-gradients[:4]))


def test_nans_are_no_part_of_it() -> None:
    """Under jax_debug_nans a NaN that any compiled or single operation gives is an error."""
    solver = loss_aware(optax.sgd(0.1), steps_per_epoch=2)
    with jax.debug_nans(True):
        state = solver.init(jnp.ones(3))
        for step in (solver.update, jax.jit(solver.update)):
            for value in (1.0, 2.0, 3.0):
                _, state = step(jnp.ones(3), state, value=value)
    assert status(state).statuses == 3


def test_it_compiles_once(problem: Problem) -> None:
    """And its state keeps structure and types, so that scan can carry it: for parameters of any type."""
    solver = loss_aware(optax.adam(1e-3), steps_per_epoch=3)
    traces = 0

    def traced(params: Any, state: Any, value: Any) -> Any:
        nonlocal traces
        traces += 1
        updates, state = solver.update(params, state, params, value=value)
        return optax.apply_updates(params, updates), state

    step = jax.jit(traced)
    for dtype in (jnp.bfloat16, jnp.float32, jnp.float64):
        with enable_x64(dtype == jnp.float64):
            traces, params = 0, jnp.asarray(problem.x, dtype)
            state = solver.init(params)
            for t in range(6):
                before = jax.tree.map(lambda x: (x.shape, x.dtype, x.weak_type), (params, state))
                params, state = step(params, state, jnp.asarray(2.0 - t / 4, jnp.float32))
                assert jax.tree.map(lambda x: (x.shape, x.dtype, x.weak_type), (params, state)) == before
            assert traces == 1
            assert status(state).statuses == 2


def test_scan_carries_the_state(problem: Problem) -> None:
    solver = loss_aware(optax.sgd(1e-3), steps_per_epoch=7, gamma2=GAMMA2)

    def body(carry: Any, x: Any) -> Any:
        updates, state = solver.update(tree(x[0]), carry[1], carry[0], value=x[1])
        return (optax.apply_updates(carry[0], updates), state), None

    start = tree(problem.x)
    scanned, _ = jax.lax.scan(
        body, (start, solver.init(start)), (jnp.asarray(problem.gradients), jnp.asarray(problem.losses))
    )
    looped = list(walk(solver, problem))[-1]
    np.testing.assert_allclose(flat(scanned[0]), flat(looped[0]), rtol=0, atol=1e-6)
    assert vars(status(scanned[1])) == pytest.approx(vars(status(looped[1])), rel=1e-6)


def test_counters_count_beyond_what_float32_can() -> None:
    solver = loss_aware(optax.sgd(0.1), steps_per_epoch=1)
    state = solver.init(jnp.ones(3))
    many = jnp.int32(2**24)
    state = state._replace(law=state.law._replace(steps=many, statuses=many, opened=many))
    _, state = solver.update(jnp.ones(3), state, value=1.0)
    assert (status(state).steps, status(state).statuses) == (2**24 + 1, 2**24 + 1)


def test_complex_parameters_are_pairs_of_reals() -> None:
    settings: dict[str, Any] = {"steps_per_epoch": 5, "gamma2": GAMMA2}
    pairs, numbers = (loss_aware(optax.sgd(0.1), **settings) for _ in range(2))
    g = jnp.array([[0.5, -0.25], [0.0, 3.0]])
    as_pairs, _ = pairs.update(g, pairs.init(g), value=2.0)
    as_numbers, _ = numbers.update(g[:, 0] + 1j * g[:, 1], numbers.init(g[:, 0] + 0j), value=2.0)
    np.testing.assert_allclose(as_numbers.real, as_pairs[:, 0], rtol=1e-6)
    np.testing.assert_allclose(as_numbers.imag, as_pairs[:, 1], rtol=1e-6)


# ---------------------------------------------------------------------------------------------- inside optax's wrappers


def test_optax_multi_steps_forwards_the_last_loss_alone() -> None:
    """The fact about optax for which `multi_steps` is there; when it fails, that one may go."""
    solver = optax.MultiSteps(loss_aware(optax.sgd(0.1), steps_per_epoch=10), 2)
    state = solver.init(jnp.ones(3))
    for value in (1.0, 2.0):
        _, state = solver.update(jnp.ones(3), state, value=value)
    assert (status(state).steps, status(state).loss) == (1, 2.0)


def test_micro_batches_make_the_step_of_the_whole_batch(problem: Problem) -> None:
    inner = loss_aware(optax.adam(1e-3), steps_per_epoch=3, gamma2=GAMMA2)
    whole = Problem(
        problem.x, problem.gradients.reshape(12, 3, SIZE).mean(1), np.reshape(problem.losses, (12, 3)).mean(1).tolist()
    )
    after_each = list(walk(multi_steps(inner, 3), problem))
    for (params, state), (expected, expected_state) in zip(after_each[2::3], walk(inner, whole), strict=True):
        np.testing.assert_allclose(flat(params), flat(expected), rtol=0, atol=1e-5)
        assert vars(status(state)) == pytest.approx(vars(status(expected_state)), rel=1e-5)
    between = flat(after_each[3][0])
    np.testing.assert_array_equal(between, flat(after_each[2][0]))
    assert status(after_each[-1][1]).open_share > 0


def test_micro_batches_that_are_skipped_or_broken() -> None:
    inner = loss_aware(optax.sgd(0.1), steps_per_epoch=10)
    grads, bad = jnp.ones(3), jnp.array([1.0, math.nan, 1.0])

    def seen(skip: bool, *batches: tuple[Any, float]) -> Any:
        solver = multi_steps(inner, 2, should_skip_update_fn=optax.skip_not_finite if skip else None)
        state, step = solver.init(grads), jax.jit(solver.update)
        for g, value in batches:
            _, state = step(g, state, value=jnp.asarray(value))
        return status(state)

    assert seen(True, (grads, 1.0), (bad, 9.0), (grads, 2.0)).loss == 1.5
    assert seen(True, (bad, 9.0), (grads, 1.0), (bad, math.nan), (grads, 2.0)).loss == 1.5
    # A loss that is not finite takes its own step with it, and no other.
    broken = seen(False, (grads, math.nan), (grads, 1.0), (grads, 2.0), (grads, 4.0))
    assert (broken.nonfinite_losses, broken.steps, broken.loss) == (1, 2, 3.0)


def test_micro_batches_in_a_chain() -> None:
    solver = optax.chain(optax.scale(2.0), multi_steps(loss_aware(optax.sgd(0.1), steps_per_epoch=10), lambda n: 1 + n))
    state = solver.init(jnp.ones(3))
    losses = []
    for value in (1.0, 2.0, 4.0, 6.0, 7.0, 8.0):  # updates of one, two, and three micro-batches
        _, state = solver.update(jnp.ones(3), state, value=value)
        losses.append(status(state).loss)
    assert losses == [1.0, 1.0, 3.0, 3.0, 3.0, 7.0]


def test_injected_hyperparameters_can_be_scheduled_and_set(problem: Problem) -> None:
    """The correction of each step is that of a loss_aware with the gamma2 of the step."""
    schedule = optax.linear_schedule(1e-3, 5e-3, 4)
    injected = optax.inject_hyperparams(loss_aware)(optax.sgd(0.1), steps_per_epoch=10, gamma2=schedule, xi=0.02)
    step = jax.jit(injected.update)
    params, grads = tree(problem.x), tree(problem.gradients[0])
    state = injected.init(params)
    for t in range(6):
        xi = 0.02 if t < 3 else 0.05
        state.hyperparams["xi"] = jnp.float32(xi)
        updates, state = step(grads, state, params, value=2.0)
        fixed = loss_aware(optax.sgd(0.1), steps_per_epoch=10, gamma2=float(schedule(t)), xi=xi)
        expected, _ = fixed.update(grads, fixed.init(params), params, value=2.0)
        np.testing.assert_allclose(flat(updates), flat(expected), rtol=1e-6)
        assert status(state).gamma2 == pytest.approx(float(schedule(t)), rel=1e-6)
    assert status(state).steps == 6
    assert step._cache_size() == 1


def test_a_gamma2_that_adapts_by_itself_beside_injected_hyperparameters() -> None:
    """It is a text, which is no hyperparameter to inject."""
    injected = optax.inject_hyperparams(loss_aware)(optax.sgd(0.1), steps_per_epoch=10, gamma2="auto", xi=0.5)
    plain = loss_aware(optax.sgd(0.1), steps_per_epoch=10, gamma2="auto", xi=0.5)
    params, g = jnp.ones(3), jnp.array([1.0, -2.0, 0.0])
    updates, state = jax.jit(injected.update)(g, injected.init(params), params, value=2.0)
    expected, _ = plain.update(g, plain.init(params), params, value=2.0)
    np.testing.assert_allclose(updates, expected, rtol=1e-6)
    assert status(state).gamma2 > 0


def test_a_base_with_injected_learning_rate() -> None:
    solver = loss_aware(optax.inject_hyperparams(optax.sgd)(learning_rate=0.1), steps_per_epoch=10, gamma2=0.0)
    state = solver.init(jnp.ones(3))
    state.base.hyperparams["learning_rate"] = 0.5
    updates, _ = solver.update(jnp.ones(3), state, value=1.0)
    np.testing.assert_array_equal(updates, -0.5 * np.ones(3, np.float32))


def test_masked_parameters_are_left_to_others(problem: Problem) -> None:
    solver = loss_aware(optax.sgd(0.1), steps_per_epoch=10, gamma2=GAMMA2)
    mask = {"matrix": True, "scalar": False, "vector": True}
    masked = optax.masked(solver, mask)
    params, grads = tree(problem.x), tree(problem.gradients[0])
    inside, state = jax.jit(masked.update)(grads, masked.init(params), params, value=2.0)
    everywhere, _ = solver.update(grads, solver.init(params), params, value=2.0)
    for name, taken in mask.items():
        np.testing.assert_allclose(inside[name], (everywhere if taken else grads)[name], rtol=1e-6)
    assert status(state).omega == 2.0


def test_parameters_can_be_partitioned_and_frozen(problem: Problem) -> None:
    """Each part has a law of its own, which sees the same loss; frozen parameters do not move."""
    parts = {
        "strong": loss_aware(optax.sgd(0.1), steps_per_epoch=10, gamma2=1e-2),
        "weak": loss_aware(optax.adam(0.1), steps_per_epoch=10, gamma2=1e-4),
        "frozen": optax.set_to_zero(),
    }
    labels = {"matrix": "strong", "scalar": "weak", "vector": "frozen"}
    solver = optax.multi_transform(parts, labels)
    params, grads = tree(problem.x), tree(problem.gradients[0])
    updates, state = jax.jit(solver.update)(grads, solver.init(params), params, value=2.0)
    for name, label in labels.items():
        alone, _ = parts[label].update(grads[name], parts[label].init(params[name]), params[name], **(
            {} if label == "frozen" else {"value": 2.0}
        ))  # fmt: skip
        np.testing.assert_allclose(updates[name], alone, rtol=1e-6)
    assert np.count_nonzero(updates["vector"]) == 0
    assert status(state.inner_states["weak"]).gamma2 == pytest.approx(1e-4, rel=1e-6)
    with pytest.raises(ValueError, match=r"must hold one state of loss_aware: got 2; pass the part"):
        status(state)


def test_gradients_are_read_as_they_arrive(problem: Problem) -> None:
    """Clipped before, phi sees the clipped ones."""
    solver = loss_aware(optax.sgd(0.1), steps_per_epoch=10, gamma2=GAMMA2)
    chained = optax.chain(optax.clip(1e-3), solver)
    grads = tree(problem.gradients[0])
    updates, _ = chained.update(grads, chained.init(grads), value=2.0)
    clipped = jax.tree.map(lambda g: jnp.clip(g, -1e-3, 1e-3), grads)
    expected, _ = solver.update(clipped, solver.init(grads), value=2.0)
    np.testing.assert_array_equal(flat(updates), flat(expected))


def test_the_base_gets_the_loss_and_all_other_arguments() -> None:
    got: dict[str, Any] = {}

    def update(updates: Any, state: Any, params: Any = None, **extra: Any) -> Any:
        got.update(extra, params=params)
        return updates, state

    solver = loss_aware(
        optax.GradientTransformationExtraArgs(lambda params: optax.EmptyState(), update), steps_per_epoch=10
    )
    solver.update(jnp.ones(3), solver.init(jnp.ones(3)), "the parameters", value=2, grad="g", anything=3)
    assert got == {"value": 2.0, "params": "the parameters", "grad": "g", "anything": 3}

    plateau = optax.chain(optax.sgd(1.0), optax.contrib.reduce_on_plateau(patience=1))
    solver = loss_aware(plateau, steps_per_epoch=10, gamma2=0.0)
    state = solver.init(jnp.ones(3))
    sizes = []
    for value in (2.0, 1.0, 1.0):  # the last is the first that is no better
        updates, state = solver.update(jnp.ones(3), state, jnp.ones(3), value=value)
        sizes.append(float(-updates[0]))
    assert sizes == pytest.approx([1.0, 1.0, 0.1])


# ---------------------------------------------------------------------------------------------------------- devices


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


def run_python(code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, **environment}, capture_output=True, text=True, check=False
    )


@pytest.mark.skipif(not hasattr(jax.lax, "pcast"), reason="this version of jax has no shard_map with varying values")
def test_two_devices_train_as_one_and_stay_equal() -> None:
    done = run_python(TWO_DEVICES, XLA_FLAGS="--xla_force_host_platform_device_count=2", JAX_PLATFORMS="cpu")
    assert done.stdout == "same True\n", done.stderr


# ---------------------------------------------------------------------------------------------------- low precision


def test_updates_keep_their_type_and_small_ones_are_lost_in_rounding() -> None:
    """What the documentation says of bfloat16: to nearest nothing moves, stochastically the mean is right."""
    solver = loss_aware(optax.sgd(0.0), steps_per_epoch=10, gamma2=1e-6)
    params = jnp.full(200_000, 0.05, jnp.bfloat16)
    updates, _ = solver.update(jnp.zeros_like(params), solver.init(params), params, value=2.0)
    assert updates.dtype == jnp.bfloat16
    np.testing.assert_allclose(updates[0].astype(float), -2e-4, rtol=4e-3)
    small = updates / 2  # half a unit in the last place is 1.2e-4
    np.testing.assert_array_equal(optax.apply_updates(params, small), params)
    moved = apply_updates_stochastically(params, small, jax.random.key(0))
    assert float((moved.astype(jnp.float32) - params.astype(jnp.float32)).mean()) == pytest.approx(-1e-4, rel=0.02)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_stochastic_rounding_goes_to_a_neighbour_and_keeps_the_mean(dtype: str) -> None:
    rng = np.random.default_rng(0)
    params = jnp.asarray(rng.normal(size=500), dtype)
    update = jnp.asarray(rng.normal(size=500) * 1e-4, jnp.float32)
    exact = params.astype(jnp.float32) + update
    apply = jax.jit(jax.vmap(apply_updates_stochastically, in_axes=(None, None, 0)))
    moved = apply(params, update, jax.random.split(jax.random.key(1), 2000))
    assert moved.dtype == params.dtype
    unit = 2.0 ** jnp.floor(jnp.log2(jnp.abs(exact))) * jnp.finfo(dtype).eps
    far = jnp.abs(moved.astype(jnp.float32) - exact) / unit
    assert float(far.max()) < 1
    mean_error = jnp.abs(moved.astype(jnp.float32).mean(0) - exact) / unit
    assert float(mean_error.max()) < 5 * 0.5 / math.sqrt(2000)  # five standard errors, of a coin at worst


def test_stochastic_rounding_leaves_the_rest_alone() -> None:
    params: dict[str, Any] = {
        "wide": jnp.ones(3),
        "none": None,
        "special": jnp.array([math.inf, -math.inf, math.nan], jnp.bfloat16),
    }
    updates = {"wide": jnp.full(3, 1e-3), "none": None, "special": jnp.zeros(3, jnp.bfloat16)}
    moved = apply_updates_stochastically(params, updates, jax.random.key(0))
    np.testing.assert_array_equal(moved["wide"], optax.apply_updates(params["wide"], updates["wide"]))
    assert moved["none"] is None
    np.testing.assert_array_equal(moved["special"].astype(jnp.float32), params["special"].astype(jnp.float32))
    exact = jnp.arange(-300.0, 300.0).astype(jnp.bfloat16)  # what the type can hold stays what it is
    np.testing.assert_array_equal(apply_updates_stochastically(exact, jnp.zeros(600), jax.random.key(0)), exact)


# ----------------------------------------------------------------------------------------------------------- saving


def check_resume(problem: Problem, through_disk: Callable[[Any, Any], Any]) -> None:
    """Saved in the middle of a status, it goes on to the same bits."""
    solver = loss_aware(optax.adam(1e-3), steps_per_epoch=7, gamma2=GAMMA2)
    states = list(walk(solver, problem))
    step = stepper(solver)
    params, state = through_disk(states[9], (tree(problem.x), solver.init(tree(problem.x))))
    assert isinstance(state, LossAwareState)
    for gradient, loss in zip(problem.gradients[10:], problem.losses[10:], strict=True):
        params, state = step(params, state, tree(gradient), loss)
    np.testing.assert_array_equal(flat(params), flat(states[-1][0]))
    assert status(state) == status(states[-1][1])


def test_flax_saves_the_state(problem: Problem) -> None:
    serialization = needs("flax.serialization")
    check_resume(problem, lambda kept, like: serialization.from_bytes(like, serialization.to_bytes(kept)))


def test_orbax_saves_the_state(problem: Problem, tmp_path: Path) -> None:
    checkpoint = needs("orbax.checkpoint")

    def through_disk(kept: Any, like: Any) -> Any:
        with checkpoint.StandardCheckpointer() as checkpointer:
            checkpointer.save(tmp_path / "state", kept)
            checkpointer.wait_until_finished()
            return checkpointer.restore(tmp_path / "state", like)

    check_resume(problem, through_disk)


# -------------------------------------------------------------------------------------------------- status, and errors


def test_status_before_the_first_loss() -> None:
    seen = status(loss_aware(optax.sgd(0.1), steps_per_epoch=10, gamma2=1e-3).init(jnp.ones(3)))
    assert math.isnan(seen.loss)
    assert math.isnan(seen.upper_bound)
    assert (seen.steps, seen.open_share, seen.lower_bound) == (0, 0.0, 0.0)
    assert seen.gamma2 == pytest.approx(1e-3)


def test_status_of_something_else() -> None:
    with pytest.raises(ValueError, match=r"must hold one state of loss_aware: got 0$"):
        status(optax.adam(1e-3).init(jnp.ones(3)))


@pytest.mark.parametrize(
    ("value", "error", "message"),
    [
        (None, ValueError, r"call update\(grads, state, params, value=loss\)"),
        (jnp.ones(4), ValueError, r"got shape \(4,\) and float32; reduce it first"),
        (jnp.ones((1, 0)), ValueError, r"got shape \(1, 0\)"),
        (1j, ValueError, r"one real number, the loss: got shape \(\) and complex64"),
        ((1.0, {"accuracy": 0.5}), TypeError, r"got tuple; with has_aux=True, jax.value_and_grad gives \(loss, aux\)"),
        ("low", TypeError, r"got str"),
    ],
)
@pytest.mark.parametrize("wrap", [lambda solver: solver, lambda solver: multi_steps(solver, 2)])
def test_a_loss_that_is_none(wrap: Any, value: Any, error: type[Exception], message: str) -> None:
    solver = wrap(loss_aware(optax.sgd(0.1), steps_per_epoch=10))
    with pytest.raises(error, match=message):
        solver.update(jnp.ones(3), solver.init(jnp.ones(3)), value=value)


def test_the_loss_left_out() -> None:
    solver = loss_aware(optax.sgd(0.1), steps_per_epoch=10)
    with pytest.raises(ValueError, match=r"loss_aware needs the loss of the step: call update\("):
        jax.jit(solver.update)(jnp.ones(3), solver.init(jnp.ones(3)))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"steps_per_epoch": 0}, "steps_per_epoch must be an integer of at least 1: got 0"),
        ({"steps_per_epoch": 2.0}, "steps_per_epoch must be an integer of at least 1: got 2.0"),
        ({"steps_per_epoch": True}, "steps_per_epoch must be an integer of at least 1: got True"),
        ({"gamma2": -1e-8}, "gamma2 must be a finite number of at least 0: got -1e-08"),
        ({"gamma2": math.nan}, "gamma2 must be a finite number of at least 0: got nan"),
        ({"gamma2": abs}, "gamma2 must be a finite number of at least 0: got <built-in function abs>; for a schedule"),
        ({"eps": math.inf}, "eps must be a finite number of at least 0: got inf"),
        ({"xi": 0}, "xi must be a finite number above 0: got 0"),
        ({"backoff": 1.5}, "backoff must be a finite number of at least 0 and at most 1: got 1.5"),
        ({"backoff": "0.1"}, "backoff must be a finite number of at least 0 and at most 1: got '0.1'"),
        (
            {"lower_bound": "progresive"},
            "unknown lower_bound 'progresive': known are progressive, ",
        ),
        ({"zero_gradient": "pull"}, "zero_gradient must be 'push' or 'rest': got 'pull'"),
    ],
)
def test_hyperparameters_out_of_range(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        loss_aware(optax.sgd(0.1), **{"steps_per_epoch": 10, **settings})


def test_a_base_that_is_none() -> None:
    with pytest.raises(TypeError, match=r"base must be an optax optimizer, for example optax.sgd\(1e-3\): got float"):
        loss_aware(0.1, steps_per_epoch=10)


def test_lossaware_alone_does_not_import_jax_and_without_optax_the_error_says_what_to_install() -> None:
    done = run_python(
        "import sys, lossaware; print({'jax', 'optax', 'flax'} & set(sys.modules));"
        "sys.modules['optax'] = None; import lossaware.optax"
    )
    assert done.stdout == "set()\n", done.stderr
    assert done.stderr.splitlines()[-1] == f"ImportError: lossaware.optax needs optax: {how_to_install('jax')}"
    assert done.stderr.count("Traceback") == 1


# --------------------------------------------------------------------------------------------- examples, Flax NNX


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
    found = re.search(
        r"after 2 epochs: SGD (\d\.\d+), with LGA (\d\.\d+)\nStatus\(.* statuses=2,", capsys.readouterr().out
    )
    assert found is not None
    plain, aware = map(float, found.groups())
    assert 0.1 < plain < aware
