"""LGA for JAX, compared with the NumPy reference and with LGA for torch."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import reference
import support
from lossaware import LGA
from lossaware.extras import how_to_install
from support import enable_x64, needs

jax = needs("jax")
optax = needs("optax")

import jax.numpy as jnp  # noqa: E402

from lossaware.optax import (  # noqa: E402
    LossAwareState,
    apply_updates_stochastically,
    loss_aware,
    multi_steps,
    status,
)
from support.optax_problem import BASES, flat, float32_problem, run_python, stepper, tree, walk  # noqa: E402
from support.problem import GAMMA2, LOWER_BOUNDS, SIZE, Problem  # noqa: E402


@pytest.fixture(scope="module")
def problem() -> Problem:
    return float32_problem()


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
        observed = status(state)
        assert vars(observed) == pytest.approx(vars(companion.status), rel=close, abs=close)
        assert observed.gamma2 == pytest.approx(GAMMA2 * law.factor, rel=close)
        assert observed.lower_bound == pytest.approx(law.lower, rel=close)
    # That the comparison had something to compare: every branch of the law was taken, and the correction was felt.
    base_only = list(reference.trajectory(make(), problem.x, gradients, losses))[-1]
    assert min(law.open_steps, law.closed_below, law.closed_above) >= 1
    assert 1 <= round(math.log(law.factor) / math.log(0.7)) < law.statuses
    assert np.abs(expected - base_only).max() > 0.05


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


def test_a_custom_lower_bound_runs_compiled(problem: Problem) -> None:
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
    base_only, _ = stepper(optax.with_extra_args_support(base))(params, before.base, tree(gradient), loss)
    np.testing.assert_array_equal(flat(after), flat(base_only))
    assert status(state).nonfinite_losses == 1
    assert status(state).omega == 0
    for field in ("loss", "upper", "lower", "gamma2_factor", "mean", "total", "count", "statuses", "opened"):
        assert getattr(state.law, field) == getattr(before.law, field), field


def test_a_closed_gate_is_the_base_step_bit_for_bit() -> None:
    """Also if 0 / phi(g) is not a number, and if the update is -0.0."""
    solver = loss_aware(optax.sgd(1.0), steps_per_epoch=1)
    gradients = jnp.array([0.0, -0.0, 1.0, -2.0, math.nan, math.inf])
    updates, state = solver.update(gradients, solver.init(jnp.zeros(6)), value=0.05)
    assert status(state).omega == 0
    np.testing.assert_array_equal(updates, -gradients)
    np.testing.assert_array_equal(np.signbit(updates[:4]), np.signbit(-gradients[:4]))


def test_nans_are_not_included() -> None:
    """Under jax_debug_nans a NaN that any compiled or single operation gives is an error."""
    solver = loss_aware(optax.sgd(0.1), steps_per_epoch=2)
    with jax.debug_nans(True):
        state = solver.init(jnp.ones(3))
        for step in (solver.update, jax.jit(solver.update)):
            for value in (1.0, 2.0, 3.0):
                _, state = step(jnp.ones(3), state, value=value)
    assert status(state).statuses == 3


def test_it_compiles_once(problem: Problem) -> None:
    """The state has constant structure and types, so that scan can carry it, for parameters of any type."""
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


def test_counters_count_beyond_float32() -> None:
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


# ---------------------------------------------------------------------------------------------------- low precision


def test_updates_keep_their_type_and_small_ones_are_lost_in_rounding() -> None:
    """As the documentation says for bfloat16: rounding to nearest changes nothing, stochastic rounding is unbiased."""
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
    exact = jnp.arange(-300.0, 300.0).astype(jnp.bfloat16)  # representable values do not change
    np.testing.assert_array_equal(apply_updates_stochastically(exact, jnp.zeros(600), jax.random.key(0)), exact)


# ----------------------------------------------------------------------------------------------------------- saving


def check_resume(problem: Problem, through_disk: Callable[[Any, Any], Any]) -> None:
    """Saved within a status, it resumes with the same bits."""
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
    check_resume(problem, lambda state, like: serialization.from_bytes(like, serialization.to_bytes(state)))


def test_orbax_saves_the_state(problem: Problem, tmp_path: Path) -> None:
    checkpoint = needs("orbax.checkpoint")

    def through_disk(state: Any, like: Any) -> Any:
        with checkpoint.StandardCheckpointer() as checkpointer:
            checkpointer.save(tmp_path / "state", state)
            checkpointer.wait_until_finished()
            return checkpointer.restore(tmp_path / "state", like)

    check_resume(problem, through_disk)


# -------------------------------------------------------------------------------------------------- status, and errors


def test_status_before_the_first_loss() -> None:
    initial = status(loss_aware(optax.sgd(0.1), steps_per_epoch=10, gamma2=1e-3).init(jnp.ones(3)))
    assert math.isnan(initial.loss)
    assert math.isnan(initial.upper_bound)
    assert (initial.steps, initial.open_share, initial.lower_bound) == (0, 0.0, 0.0)
    assert initial.gamma2 == pytest.approx(1e-3)


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
def test_invalid_losses(wrap: Any, value: Any, error: type[Exception], message: str) -> None:
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


def test_an_invalid_base() -> None:
    with pytest.raises(TypeError, match=r"base must be an optax optimizer, for example optax.sgd\(1e-3\): got float"):
        loss_aware(0.1, steps_per_epoch=10)


def test_lossaware_does_not_import_jax_and_names_the_missing_optax() -> None:
    result = run_python(
        "import sys, lossaware; print({'jax', 'optax', 'flax'} & set(sys.modules));"
        "sys.modules['optax'] = None; import lossaware.optax"
    )
    assert result.stdout == "set()\n", result.stderr
    assert result.stderr.splitlines()[-1] == f"ImportError: lossaware.optax needs optax: {how_to_install('jax')}"
    assert result.stderr.count("Traceback") == 1
