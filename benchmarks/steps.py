"""The optimizer step alone: eager, compiled, with a closed gate, and how it scales."""

import inspect
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor

from benchmarks.goals import Goal
from benchmarks.parameters import GAMMA2, LOSS, XI, attach, check_correction, make_parameters
from benchmarks.timing import take_turns, threads
from lossaware import LGA, AutoGamma2
from lossaware.compiled import compiler_arguments
from lossaware.correction import Correction
from lossaware.gradient_mean import MEAN

AMOUNT = 1e-6
TINY = 1e-9  # a learning rate that moves nothing out of its range in thousands of steps

BASES: dict[str, tuple[Callable[..., torch.optim.Optimizer], dict[str, Any], float]] = {
    "SGD": (torch.optim.SGD, {}, 1.25),
    "Momentum": (torch.optim.SGD, {"momentum": 0.9}, 1.10),
    "RMSprop": (torch.optim.RMSprop, {}, 1.02),
    "Adam": (torch.optim.Adam, {}, 1.02),
    "AdamW": (torch.optim.AdamW, {}, 1.02),
    "Adamax": (torch.optim.Adamax, {}, 1.02),
}
"""The base optimizers, and the ratio that a compiled step with LGA is to stay within."""


def plain_foreach(parameters: list[Tensor], gradients: list[Tensor], amount: float) -> None:
    """The correction as anyone would write it with torch's foreach operators."""
    signs = torch._foreach_sign(gradients)
    torch._foreach_add_(signs, 0.5)  # the sign of 0 is +
    torch._foreach_sign_(signs)
    sizes = torch._foreach_abs(gradients)
    torch._foreach_add_(sizes, XI)
    torch._foreach_div_(signs, sizes)
    torch._foreach_add_(parameters, signs, alpha=-amount)


def _millions(total: int) -> str:
    return f"{total // 10**6} M" if total >= 10**6 else f"{total // 1000} k"


def _count(tensors: int) -> str:
    return "one tensor" if tensors == 1 else f"{tensors:,} tensors"


@torch.no_grad()
def eager(seconds: float, totals: tuple[int, ...] = (10**7, 10**8)) -> Iterator[Goal]:
    """The correction by itself, against one addition and against the plain form."""
    for total in totals:
        for tensors in (1, 1000):
            made = make_parameters(total, tensors)
            params, grads = [p.detach() for p in made], [p.grad for p in made if p.grad is not None]
            correction = Correction(XI, "push")
            before = params[0].clone()
            correction.apply(zip(params, grads, strict=True), AMOUNT)
            check_correction(before, params[0], grads[0], AMOUNT)
            for count in (1, 2):
                with threads(count):
                    times = take_turns(
                        {
                            "addition": partial(torch._foreach_add_, params, grads, alpha=-TINY),
                            "correction": partial(correction.apply, list(zip(params, grads, strict=True)), AMOUNT),
                            "plain": partial(plain_foreach, params, grads, AMOUNT),
                        },
                        seconds,
                        least=5,
                    )
                what = f"{_millions(total)}, {_count(tensors)}, {count} thread{'s' * (count > 1)}"
                yield Goal("1 eager", f"correction / one addition, {what}", times.ratio("correction", "addition"), 1.5)
                plain = times.ratio("plain", "correction")
                yield Goal("1 eager", f"plain foreach / correction, {what}", plain, 2.0, at_most=False)


def closed_gate(seconds: float) -> Iterator[Goal]:
    """Steps whose Omega the host knows to be 0; with and without LGA on the same parameters and state."""
    with threads(1):
        for total, name in ((10**7, "SGD"), (10**7, "Adam")):
            params = make_parameters(total, 10)
            plain, ours = (BASES[name][0](params, lr=TINY) for _ in range(2))
            plain.step()
            ours.state = plain.state
            lga = LGA(ours, steps_per_epoch=100)
            closed: Any = ours.step
            times = take_turns({"base": plain.step, "closed": partial(closed, loss=0.01)}, seconds)
            assert lga.status.open_share == 0
            assert lga.status.steps > 5
            assert name == "SGD" or ours.state[params[0]]["step"] > 2 * lga.status.steps
            yield Goal("4 closed gate", f"{name}, 10 M, step / base step", times.ratio("closed", "base"), 1.01)
        small, other = (torch.optim.SGD(make_parameters(4), lr=TINY) for _ in range(2))
        LGA(other, steps_per_epoch=100)
        step: Any = other.step
        loss = torch.tensor(0.01)
        times = take_turns({"base": small.step, "closed": lambda: step(loss=loss)}, seconds, most=400, calls=100)
        microseconds = (times.least("closed") - times.least("base")) * 1e3
        yield Goal("4 closed gate", "Python of hooks and law", microseconds, 20.0, unit="µs")


def self_set(seconds: float) -> Iterator[Goal]:
    """Whole eager steps with a gamma2 that sets itself, with a fixed one and without, on the same parameters and state.

    The limits are what the bytes say that each must move, in units of 4 for each parameter: 3 for SGD and 7 for Adam, 3
    for the correction, and 3 more for the running mean.
    """
    with threads(1):
        for name, limit in (("SGD", 9 / 6), ("Adam", 13 / 10)):
            params = make_parameters(10**7, 10)
            plain, fixed, ours = (BASES[name][0](params, lr=TINY) for _ in range(3))
            plain.step()
            fixed.state = ours.state = plain.state
            attach(fixed)
            rule = AutoGamma2(reach=1e-5)  # so that thousands of steps move no parameter out of its range
            lga = LGA(ours, steps_per_epoch=10**9, gamma2=rule)
            steps: dict[str, Any] = {
                "base": plain.step,
                "fixed": partial(fixed.step, loss=LOSS),
                "auto": partial(ours.step, loss=LOSS),
            }
            before = params[0].detach().clone()
            steps["auto"]()
            xi = lga.settings.xi
            size = lga._stepper.sizes.last[0]
            check_correction(before, params[0].detach(), ours.state[params[0]][MEAN], size, xi=xi)
            times = take_turns(steps, seconds)
            assert lga.status.open_share == 1
            what = f"{name}, 10 M, step with gamma2 'auto'"
            yield Goal("5 auto", f"{what} / with a fixed one", times.ratio("auto", "fixed"), limit)
            yield Goal(
                "5 auto", f"{what} / base step", times.ratio("auto", "base"), limit * (2 if name == "SGD" else 10 / 7)
            )


def compiled_base(optimizer: torch.optim.Optimizer, arguments: dict[str, Any]) -> Callable[[], None]:
    """The base step as one graph of the same parameters and state, with the learning rate as a tensor."""
    undecorated = inspect.unwrap(type(optimizer).step)

    def step() -> None:
        with torch.no_grad():
            undecorated(optimizer)

    step.__code__ = step.__code__.replace()
    graph = torch.compile(step, **arguments)
    rate = torch.tensor(TINY, dtype=torch.float64)

    def call() -> None:
        (group,) = optimizer.param_groups
        group["lr"] = rate
        graph()
        group["lr"] = TINY

    return call


def compiled(
    seconds: float, totals: tuple[int, ...] = (10**7, 10**8), counts: tuple[int, ...] = (1, 2)
) -> tuple[list[Goal], list[dict[str, Any]]]:
    """Base step, law and correction as one graph, against the base as one graph.

    All variants step the same parameters with the same state, so that where these lie in memory is no difference.

    Returns:
        The goals, and milliseconds a step: the base by ``torch.compile`` as it is, the base compiled the way
        `LGA.compile` compiles, and that with LGA.
    """
    goals, rows = [], []
    for total in totals:
        for name, (make, arguments, limit) in BASES.items():
            torch._dynamo.reset()
            optimizer = make(make_parameters(total, 1), lr=TINY, **arguments)
            optimizer.step()
            steps: dict[str, Callable[[], object]] = {
                "torch.compile": compiled_base(optimizer, {"fullgraph": True, "dynamic": False}),
                "base": compiled_base(optimizer, compiler_arguments({})),
                "LGA": partial(attach(optimizer).compile(), LOSS),
            }
            if name == "Adam":
                steps["eager"] = partial(inspect.unwrap(type(optimizer).step), optimizer)
            for count in counts:
                with threads(count), torch.no_grad():
                    for step in [*steps.values(), *steps.values()]:
                        step()
                    (p,) = optimizer.param_groups[0]["params"]
                    before = p.detach().clone()
                    steps["LGA"]()
                    check_correction(before, p.detach(), p.grad, GAMMA2 * LOSS)
                    times = take_turns(steps, seconds, most=1000)
                what = f"{name}, {_millions(total)}, {count} thread{'s' * (count > 1)}"
                goals.append(Goal("2 compiled", f"{what}, with LGA / without", times.ratio("LGA", "base"), limit))
                if name == "Adam":
                    against = times.ratio("LGA", "eager")
                    goals.append(Goal("2 compiled", f"{what}, compiled with LGA / torch's eager Adam", against, 0.5))
                rows.append(
                    {"optimizer": name, "parameters": total, "threads": count}
                    | {f"{variant} ms": times.median(variant) for variant in ("torch.compile", "base", "LGA")}
                )
    return goals, rows


@torch.no_grad()
def scaling(seconds: float) -> list[dict[str, float]]:
    """Milliseconds of correction and addition (the floor) against parameters and against tensors; one thread."""
    rows = []
    sizes = [(10**k, 1) for k in (5, 6, 7, 8)] + [(10**7, 10**k) for k in (1, 2, 3, 4)]
    with threads(1):
        for total, tensors in sizes:
            made = make_parameters(total, tensors)
            params, grads = [p.detach() for p in made], [p.grad for p in made if p.grad is not None]
            correction = Correction(XI, "push")
            times = take_turns(
                {
                    "addition": partial(torch._foreach_add_, params, grads, alpha=-TINY),
                    "correction": partial(correction.apply, list(zip(params, grads, strict=True)), AMOUNT),
                },
                seconds,
            )
            rows.append(
                {
                    "parameters": total,
                    "tensors": tensors,
                    "correction_ms": times.median("correction"),
                    "addition_ms": times.median("addition"),
                }
            )
    return rows
