"""`lossaware.optax.loss_aware` around every optimizer of optax's."""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

import reference
from lossaware import AutoGamma2
from support import enable_x64, needs
from support.pairwise import pairwise

jax = needs("jax")
optax = needs("optax")
import jax.numpy as jnp  # noqa: E402
import optax.contrib as contrib  # noqa: E402
from optax_bases import BASES, FAILS_ALONE, LEFT_OUT  # noqa: E402

from lossaware.optax import loss_aware, status  # noqa: E402

LOSSES = (2.0, 1.5, 0.05, 1.9, 1.2, 2.4, 0.9, 1.7)
XI, GAMMA2, BACKOFF, STEPS_PER_EPOCH = 0.01, 0.02, 0.7, 3
AUTO = AutoGamma2(statuses_per_epoch=1, steps_at_least=STEPS_PER_EPOCH)
SHAPES: dict[str, Any] = {
    "scalar": (),
    "matrix": {"w": (3, 4)},
    "nested": {"a": {"w": (3, 4), "b": (4,)}, "c": [(2,), ()]},
    "zero-size": {"w": (0, 4), "b": (3,)},
    "empty": {},
}
FACTORS: dict[str, Any] = {
    "base": tuple(BASES),
    "dtype": ("float32", "bfloat16", "float64"),
    "shapes": tuple(SHAPES),
    "gamma2": ("fixed", "auto"),
    "mode": ("eager", "jit"),
}


@dataclass(frozen=True)
class Case:
    base: str
    dtype: str
    shapes: str
    gamma2: str
    mode: str

    def __str__(self) -> str:
        return "-".join([self.base.replace(" ", "_"), self.dtype, self.shapes, self.gamma2, self.mode])

    @contextlib.contextmanager
    def precision(self) -> Iterator[None]:
        with enable_x64(True) if self.dtype == "float64" else contextlib.nullcontext():
            yield

    def update(self, solver: Any) -> Any:
        """Of a solver, which all get the loss."""
        update = optax.with_extra_args_support(solver).update

        def step(g: Any, state: Any, params: Any, value: Any) -> Any:
            return update(g, state, params, value=value)

        return jax.jit(step) if self.mode == "jit" else step

    def solver(self) -> Any:
        settings: dict[str, Any] = {"gamma2": AUTO}
        if self.gamma2 == "fixed":
            settings = {"gamma2": GAMMA2, "xi": XI, "backoff": BACKOFF}
        return loss_aware(BASES[self.base](), steps_per_epoch=STEPS_PER_EPOCH, **settings)

    def tree(self, step: int) -> Any:
        """Parameters (step -1), or gradients of one sign over all steps, as running means of them then are."""
        shapes, structure = jax.tree.flatten(SHAPES[self.shapes], is_leaf=lambda x: isinstance(x, tuple))
        signs, sizes = np.random.default_rng(0), np.random.default_rng(step + 2)
        leaves = [np.sign(signs.normal(size=shape)) * sizes.uniform(0.5, 2.0, size=shape) for shape in shapes]
        return jax.tree.unflatten(structure, [jnp.asarray(leaf, self.dtype) for leaf in leaves])


def allowed(*, base: str, dtype: str, shapes: str, **_: str) -> bool:
    """Whether optax's optimizer alone can step this."""
    narrow = base == "injected" and dtype == "bfloat16"  # it holds b2 = 0.999 in the parameters' dtype, as 1
    return shapes not in FAILS_ALONE.get(base, ()) and not narrow


def some() -> list[Case]:
    """One of each optimizer; the values of the other factors take turns."""
    cases = []
    for number, base in enumerate(BASES):
        turns = [{name: values[(number + turn) % len(values)] for name, values in _TURNS.items()} for turn in range(8)]
        cases.append(next(Case(base, **turn) for turn in turns if allowed(base=base, **turn)))
    return cases


_TURNS = {
    "dtype": FACTORS["dtype"],
    "shapes": ("matrix", "scalar", "matrix", "empty", "matrix", "zero-size", "nested"),
    "gamma2": FACTORS["gamma2"],
    "mode": ("jit", "jit", "jit", "jit", "eager"),  # which compiles each operator by itself, and takes longer
}
SOME = some()
CASES = [Case(**case) for case in pairwise(FACTORS, allowed)]
ALL = [*SOME, *(pytest.param(case, marks=pytest.mark.contract) for case in CASES if case not in SOME)]
FEW = [*SOME[::6], *(pytest.param(case, marks=pytest.mark.contract) for case in CASES if case not in SOME[::6])]


def plain(leaf: Any) -> Any:
    """As NumPy array; for a random key, its data."""
    return np.asarray(jax.random.key_data(leaf) if is_key(leaf) else leaf)


def is_key(leaf: Any) -> bool:
    return bool(jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key))


def same(a: Any, b: Any) -> bool:
    leaves = zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
    return all(x.dtype == y.dtype and plain(x).tobytes() == plain(y).tobytes() for x, y in leaves)


def reals(tree: Any) -> reference.Array:
    return np.concatenate([np.zeros(0), *(np.asarray(leaf, np.float64).ravel() for leaf in jax.tree.leaves(tree))])


def through_numpy(tree: Any) -> Any:
    """A tree after a round trip through bytes."""

    def through(leaf: Any) -> Any:
        array = plain(leaf)
        read = jnp.asarray(np.frombuffer(array.tobytes(), array.dtype).reshape(array.shape))
        return jax.random.wrap_key_data(read) if is_key(leaf) else read

    return jax.tree.map(through, tree)


@pytest.mark.parametrize("case", ALL, ids=str)
def test_trajectory(case: Case) -> None:
    """Each update is the base's own and the reference's correction."""
    with case.precision():
        base, solver = BASES[case.base](), case.solver()
        params = case.tree(-1)
        state, base_state = solver.init(params), base.init(params)
        ours, theirs = case.update(solver), case.update(base)
        law = reference.Law(STEPS_PER_EPOCH, GAMMA2, xi=XI, backoff=BACKOFF)
        scale = max(float(np.sqrt((reals(params) ** 2).mean())) if reals(params).size else 0.0, 1e-3)
        auto = reference.SelfSet(STEPS_PER_EPOCH, scale)
        for step, loss in enumerate(LOSSES):
            g = case.tree(step)
            updates, state = ours(g, state, params, jnp.asarray(loss))
            expected, base_state = theirs(g, base_state, params, jnp.asarray(loss))
            if case.gamma2 == "auto":
                push = auto.correction(auto.share(loss), reals(g))
            else:
                push = law.correction(law.omega(loss), reals(g))
            eps = float(jnp.finfo(case.dtype).eps)
            unit = np.maximum(np.abs(reals(expected)), np.abs(reals(expected) - push)) + np.abs(push)
            allowed_error = 8 * max(eps, 1.2e-7 if case.dtype != "float64" else 0.0) * unit + 1e-30
            error = np.abs(reals(updates) - (reals(expected) - push))
            assert (error <= allowed_error).all(), f"step {step}: {reals(updates)} in place of {reals(expected) - push}"
            assert all(u.dtype == e.dtype for u, e in zip(*map(jax.tree.leaves, (updates, expected)), strict=True))
            params = optax.apply_updates(params, updates)
        assert status(state).steps == len(LOSSES)
        assert 0 < status(state).open_share < 1


@pytest.mark.parametrize("case", FEW, ids=str)
def test_gamma2_of_0_is_the_base(case: Case) -> None:
    """To the bit, state and all."""
    with case.precision():
        base, solver = BASES[case.base](), loss_aware(BASES[case.base](), steps_per_epoch=STEPS_PER_EPOCH, gamma2=0.0)
        params = case.tree(-1)
        state, base_state = solver.init(params), base.init(params)
        ours, theirs = case.update(solver), case.update(base)
        for step, loss in enumerate(LOSSES[:3]):
            updates, state = ours(case.tree(step), state, params, jnp.asarray(loss))
            expected, base_state = theirs(case.tree(step), base_state, params, jnp.asarray(loss))
            if case.mode == "eager":
                assert same(updates, expected)
                assert same(state.base, base_state)
            else:
                np.testing.assert_allclose(reals(updates), reals(expected), rtol=1e-5, atol=1e-9)
            params = optax.apply_updates(params, expected)


@pytest.mark.parametrize("case", FEW, ids=str)
def test_resume(case: Case) -> None:
    """A run from a state that was saved in the middle of a status ends with the bits of one that went through."""
    with case.precision():
        solver, params = case.solver(), case.tree(-1)
        step_of, state = case.update(solver), case.solver().init(params)
        restored: Any = None
        for step, loss in enumerate(LOSSES[:6]):
            if step == 4:
                restored = through_numpy((params, state))
            if restored is not None:
                updates, later = step_of(case.tree(step), restored[1], restored[0], jnp.asarray(loss))
                restored = optax.apply_updates(restored[0], updates), later
            updates, state = step_of(case.tree(step), state, params, jnp.asarray(loss))
            params = optax.apply_updates(params, updates)
        assert same((params, state), restored)


@pytest.mark.parametrize("gamma2", ["fixed", "auto"])
@pytest.mark.parametrize("wrapper", ["masked", "multi_transform"])
def test_a_part_of_the_parameters(wrapper: str, gamma2: str) -> None:
    """The others do not change, and the part changes as it does alone."""
    case = Case("adam", "float32", "nested", gamma2, "jit")
    params, g = case.tree(-1), case.tree(0)
    solver = case.solver()
    if wrapper == "masked":
        part = optax.chain(
            optax.masked(solver, {"a": True, "c": False}),
            optax.masked(optax.set_to_zero(), {"a": False, "c": True}),
        )
    else:
        part = optax.multi_transform({"lga": solver, "rest": optax.set_to_zero()}, {"a": "lga", "c": "rest"})
    updates, state = case.update(part)(g, part.init(params), params, jnp.asarray(1.0))
    of_part, _ = case.update(solver)(g["a"], solver.init(params["a"]), params["a"], jnp.asarray(1.0))
    np.testing.assert_allclose(reals(updates["a"]), reals(of_part), rtol=1e-6)
    assert not reals(updates["c"]).any()
    assert status(state).steps == 1


def test_no_public_optimizer_is_left_out() -> None:
    """By their first argument, a learning rate."""
    names = set()
    for module in (optax, contrib):
        for name, value in vars(module).items():
            if (
                inspect.isfunction(value)
                and not name.startswith("_")
                and "GradientTransformation" in str(inspect.signature(value).return_annotation)
            ):
                first = next(iter(inspect.signature(value).parameters), "")
                names |= {name} if first in ("learning_rate", "max_learning_rate") else set()
    assert len(names) > 20
    assert names <= {*BASES, *LEFT_OUT}
