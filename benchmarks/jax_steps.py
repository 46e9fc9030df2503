"""JAX's optimizer step, compiled by jit, on one core: ``python -m benchmarks.jax_steps``.

Prints the ratios and the loops as JSON. `benchmarks.speed` runs it in a separate process on one core: XLA starts as
many threads as there are cores.
"""

import argparse
import functools
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.counting import Loops, loops_of
from benchmarks.goals import Counter, Finding, Goal
from benchmarks.timing import Times, take_turns

TOTAL = 10**7
XI, GAMMA2, LOSS, TINY = 0.01, 1e-8, 2.0, 1e-9
BASES: dict[str, tuple[Callable[[Any], Any], float, float]] = {
    "SGD": (lambda optax: optax.sgd(TINY), 1.75, 20 / 12),
    "Momentum": (lambda optax: optax.sgd(TINY, momentum=0.9), 1.45, 28 / 20),
    "Adam": (lambda optax: optax.adam(TINY), 1.30, 36 / 28),
}
"""Base optimizers, with goal and floor of a step whose gamma2 sets itself, to the base's."""


class Run:
    """Parameters and an optimizer's state, which a jitted step moves in their own memory.

    Args:
        optimizer: An optax optimizer.
    """

    def __init__(self, optimizer: Any) -> None:
        import jax
        import optax

        rng = np.random.default_rng(0)
        self.gradient = jax.numpy.asarray(rng.normal(size=TOTAL), jax.numpy.float32)
        self.params = jax.numpy.asarray(rng.normal(size=TOTAL), jax.numpy.float32)
        self.state = optimizer.init(self.params)

        @functools.partial(jax.jit, donate_argnums=(0, 1))
        def step(params: Any, state: Any, gradient: Any, loss: Any) -> Any:
            updates, state = optimizer.update(gradient, state, params, value=loss)
            return optax.apply_updates(params, updates), state

        self.compiled = step
        self._loss = jax.numpy.float32(LOSS)

    def loops(self) -> Loops:
        """The loops that XLA made of a step."""
        lowered = self.compiled.lower(self.params, self.state, self.gradient, self._loss)
        text = lowered.compile().as_text()
        assert text is not None
        return loops_of(text, TOTAL)

    def __call__(self) -> None:
        """Make a step, and wait for it."""
        self.params, self.state = self.compiled(self.params, self.state, self.gradient, self._loss)
        self.params.block_until_ready()


def runs(name: str) -> dict[str, Run]:
    """A base, with a fixed gamma2, and with one that sets itself."""
    import optax

    from lossaware import AutoGamma2
    from lossaware.lower_bounds import Zero
    from lossaware.optax import loss_aware

    make = BASES[name][0]
    fixed = loss_aware(make(optax), steps_per_epoch=10**9, gamma2=GAMMA2, xi=XI, lower_bound=Zero())
    auto = loss_aware(make(optax), steps_per_epoch=10**9, gamma2=AutoGamma2(reach=1e-5))
    return {
        "base": Run(optax.with_extra_args_support(make(optax))),
        "fixed": Run(fixed),
        "auto": Run(auto),
    }


def check(runs_by_name: dict[str, Run]) -> None:
    """Assert that the correction moved parameters as the reference says."""
    from tests import reference

    some = slice(0, 10_000)
    start = {name: np.asarray(run.params[some], np.float64) for name, run in runs_by_name.items()}
    for run in runs_by_name.values():
        run()
    moved = {name: start[name] - np.asarray(run.params[some], np.float64) for name, run in runs_by_name.items()}
    gradient = np.asarray(runs_by_name["fixed"].gradient[some], np.float64)
    push = reference.Law(10**9, GAMMA2, xi=XI).correction(LOSS, gradient)
    np.testing.assert_allclose(moved["fixed"] - moved["base"], push, rtol=0, atol=1e-6)
    auto = reference.SelfSet(10**9, float(runs_by_name["auto"].state.scale), reach=1e-5)
    push = auto.correction(auto.share(LOSS), gradient)
    np.testing.assert_allclose(np.asarray(runs_by_name["auto"].state.mean[some]), auto.mean, rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(moved["auto"] - moved["base"], push, rtol=0, atol=1e-6)
    assert np.abs(moved["auto"] - moved["base"]).max() > 1e-6


def measure(seconds: float) -> Iterator[tuple[str, Times, dict[str, Loops]]]:
    """Times of a step of each base, without LGA and with it, and its loops."""
    for name in BASES:
        runs_by_name = runs(name)
        check(runs_by_name)
        yield (
            name,
            take_turns(runs_by_name, seconds, least=15),
            {variant: run.loops() for variant, run in runs_by_name.items()},
        )


def goals(seconds: float) -> tuple[list[Finding], list[dict[str, Any]]]:
    """The goals and counters, measured in a process that is bound to one core, and a row for each step with its loops.

    The floor of a row is the ratio of the bytes that the loops read and write.
    """
    command = [sys.executable, "-m", "benchmarks.jax_steps", "--seconds", str(seconds)]
    result = subprocess.run(command, check=True, capture_output=True, text=True, cwd=Path(__file__).parents[1])
    ratios, loops = json.loads(result.stdout.splitlines()[-1])
    findings: list[Finding] = []
    rows = []
    for name, (_, limit, floor) in BASES.items():
        what = f"{name}, 10 M, step / base step"
        findings.append(Goal("JAX, fixed", what, ratios[name]["fixed"], 1.02, floor=1.0))
        findings.append(Goal('JAX, "auto"', what, ratios[name]["auto"], limit, floor=floor))
        base = Loops(*loops[name]["base"])
        for variant, item in {"base": None, "fixed": "JAX, fixed", "auto": 'JAX, "auto"'}.items():
            count, moved = Loops(*loops[name][variant])
            rows.append(
                {
                    "optimizer": name,
                    "step": variant,
                    "loops": count,
                    "bytes for a parameter": moved / TOTAL,
                    "floor": moved / base.moved,
                }
            )
            if item is not None:
                of = f"{name},"
                findings.append(Counter(item, of, f"loops, with {base.number} of the base", count, ""))
                findings.append(Counter(item, of, "bytes that the loops move / base", moved / base.moved))
    return findings, rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=2.0, help="time for each base (default: 2)")
    arguments = parser.parse_args()
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    ratios, loops = {}, {}
    for name, times, of_variants in measure(arguments.seconds):
        ratios[name] = {variant: times.ratio(variant, "base") for variant in ("fixed", "auto")}
        loops[name] = of_variants
    print(json.dumps([ratios, loops]))


if __name__ == "__main__":
    main()
