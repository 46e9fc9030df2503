"""The JAX form inside all that optax wraps: micro-batches, injected hyperparameters, masks and partitions."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from support import needs

jax = needs("jax")
optax = needs("optax")

import jax.numpy as jnp  # noqa: E402

from lossaware.optax import (  # noqa: E402
    loss_aware,
    multi_steps,
    status,
)
from support.optax_problem import flat, float32_problem, tree, walk  # noqa: E402
from support.problem import GAMMA2, SIZE, Problem  # noqa: E402


@pytest.fixture(scope="module")
def problem() -> Problem:
    return float32_problem()


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

    def status_after(skip: bool, *batches: tuple[Any, float]) -> Any:
        solver = multi_steps(inner, 2, should_skip_update_fn=optax.skip_not_finite if skip else None)
        state, step = solver.init(grads), jax.jit(solver.update)
        for g, value in batches:
            _, state = step(g, state, value=jnp.asarray(value))
        return status(state)

    assert status_after(True, (grads, 1.0), (bad, 9.0), (grads, 2.0)).loss == 1.5
    assert status_after(True, (bad, 9.0), (grads, 1.0), (bad, math.nan), (grads, 2.0)).loss == 1.5
    # A loss that is not finite takes its own step with it, and no other.
    broken = status_after(False, (grads, math.nan), (grads, 1.0), (grads, 2.0), (grads, 4.0))
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


def test_gamma2_auto_with_injected_hyperparameters() -> None:
    """A text is not a hyperparameter to inject."""
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
    """Each part has its own law with the same loss; frozen parameters do not change."""
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
        base_only, _ = parts[label].update(grads[name], parts[label].init(params[name]), params[name], **(
            {} if label == "frozen" else {"value": 2.0}
        ))  # fmt: skip
        np.testing.assert_allclose(updates[name], base_only, rtol=1e-6)
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
    arguments: dict[str, Any] = {}

    def update(updates: Any, state: Any, params: Any = None, **extra: Any) -> Any:
        arguments.update(extra, params=params)
        return updates, state

    solver = loss_aware(
        optax.GradientTransformationExtraArgs(lambda params: optax.EmptyState(), update), steps_per_epoch=10
    )
    solver.update(jnp.ones(3), solver.init(jnp.ones(3)), "the parameters", value=2, grad="g", anything=3)
    assert arguments == {"value": 2.0, "params": "the parameters", "grad": "g", "anything": 3}

    plateau = optax.chain(optax.sgd(1.0), optax.contrib.reduce_on_plateau(patience=1))
    solver = loss_aware(plateau, steps_per_epoch=10, gamma2=0.0)
    state = solver.init(jnp.ones(3))
    sizes = []
    for value in (2.0, 1.0, 1.0):  # the last is the first that is not better
        updates, state = solver.update(jnp.ones(3), state, jnp.ones(3), value=value)
        sizes.append(float(-updates[0]))
    assert sizes == pytest.approx([1.0, 1.0, 0.1])


@pytest.mark.parametrize("closed", [False, True], ids=["open", "closed"])
def test_the_derivative_of_a_run(closed: bool) -> None:
    """As in meta-learning. Unguarded: NaN from the first closed gate on, whose root of 0 has no derivative."""
    solver = loss_aware(optax.sgd(0.1), steps_per_epoch=3, gamma2="auto")

    def end(start: Any) -> Any:
        params, state = start, solver.init(start)
        for step in range(3):
            loss, gradient = jax.value_and_grad(lambda p: jnp.sum(p**2))(params)
            updates, state = solver.update(gradient, state, params, value=0.0 * loss if closed and step == 1 else loss)
            params = optax.apply_updates(params, updates)
        return jnp.sum(params**2)

    with jax.enable_x64(True):
        start = jnp.array([1.0, 2.0])
        slope = (end(start + jnp.array([1e-6, 0.0])) - end(start - jnp.array([1e-6, 0.0]))) / 2e-6
        np.testing.assert_allclose(jax.grad(end)(start)[0], slope, rtol=1e-6)


def test_a_state_keeps_its_types_where_wide_ones_are_enabled_later() -> None:
    """Unguarded: a scan over a state from before refuses it, as its gamma2 becomes float64."""
    solver = loss_aware(optax.sgd(0.1), steps_per_epoch=3)
    params = jnp.ones(2)
    state = solver.init(params)
    with jax.enable_x64(True):
        _, after = solver.update(params, state, params, value=1.0)
    assert jax.tree.map(lambda leaf: leaf.dtype, after) == jax.tree.map(lambda leaf: leaf.dtype, state)
