"""The optimizer step alone: eager, compiled, with a closed gate, and by size."""

import inspect
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor

from benchmarks.counting import calls_of_python
from benchmarks.goals import Counter, Finding, Goal
from benchmarks.parameters import GAMMA2, LOSS, XI, attach, check_correction, make_parameters
from benchmarks.timing import take_turns, threads
from lossaware import LGA
from lossaware.compiled import compiler_arguments
from lossaware.correction import Correction, Means, native

AMOUNT = 1e-6
TINY = 1e-9  # so small that values stay in their range for thousands of steps

BASES: dict[str, tuple[Callable[..., torch.optim.Optimizer], dict[str, Any], float]] = {
    "SGD": (torch.optim.SGD, {}, 1.03),
    "Momentum": (torch.optim.SGD, {"momentum": 0.9}, 1.03),
    "RMSprop": (torch.optim.RMSprop, {}, 1.03),
    "Adam": (torch.optim.Adam, {}, 1.03),
    "AdamW": (torch.optim.AdamW, {}, 1.03),
    "Adamax": (torch.optim.Adamax, {}, 1.03),
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
def eager(seconds: float) -> Iterator[Finding]:
    """The correction by itself, against one addition and against the plain form."""
    cases = [(10_000, 1), (1, 1), (1, 2), (1_000, 1), (1_000, 2)]
    for tensors, count in cases:
        parameters = make_parameters(10**7, tensors)
        params, grads = [p.detach() for p in parameters], [p.grad for p in parameters if p.grad is not None]
        correction = Correction(XI, "push")
        before = params[-1].clone()
        correction.apply(zip(params, grads, strict=True), AMOUNT)
        check_correction(before, params[-1], grads[-1], AMOUNT)
        variants: dict[str, Callable[[], object]] = {
            "addition": partial(torch._foreach_add_, params, grads, alpha=-TINY),
            "correction": partial(correction.apply, list(zip(params, grads, strict=True)), AMOUNT),
        }
        if tensors < 10_000:
            variants["plain"] = partial(plain_foreach, params, grads, AMOUNT)
        with threads(count):
            times = take_turns(variants, seconds, least=5)
        what = f"10 M, {_count(tensors)}, {count} thread{'s' * (count > 1)}"
        item = f"{10**7 // tensors:,} parameters a tensor" if tensors > 1 else "one tensor"
        value = times.ratio("correction", "addition")
        yield Goal(item, f"correction / torch._foreach_add_, {what}", value, 1.2, floor=1.0)
        if tensors < 10_000:
            plain = times.ratio("plain", "correction")
            yield Goal(item, f"plain foreach / correction, {what}", plain, 2.0, at_most=False)
        else:
            yield from _of_many_tensors(item, params, grads, variants["correction"], seconds)


def _of_many_tensors(
    item: str, params: list[Tensor], grads: list[Tensor], correction: Callable[[], object], seconds: float
) -> Iterator[Counter]:
    """The cost for each tensor: calls of Python, and the time until it is known where the tensors lie."""
    count = len(params)
    yield Counter(item, "", "calls of Python for a tensor", calls_of_python(correction) / count, "")
    library = native.library()
    if library is None:
        return
    pieces = [(params[i : i + 256], grads[i : i + 256]) for i in range(0, count, 256)]
    look = [partial(library.table, some, of_them, (), 1) for some, of_them in pieces]
    assert all(at() is not None for at in look)
    variants: dict[str, Callable[[], object]] = {"look": lambda: [at() for at in look], "correction": correction}
    with threads(1):
        times = take_turns(variants, seconds / 2)
    share = times.ratio("look", "correction")
    yield Counter(item, "", "share of the time until it is known where the tensors lie", share)
    yield Counter(item, "", "that time", times.median("look") / count * 1e6, "ns for a tensor")


def closed_gate(seconds: float) -> Iterator[Finding]:
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
            value = times.ratio("closed", "base")
            yield Goal("closed gate", f"{name}, 10 M, step / base step", value, 1.01, floor=1.0)
            added = times.difference("closed", "base") * 1e3
            yield Counter("closed gate", f"{name},", "LGA after a pass over the parameters", added, "µs")
        small, other = (torch.optim.SGD(make_parameters(4), lr=TINY) for _ in range(2))
        LGA(other, steps_per_epoch=100)
        step: Any = other.step
        loss = torch.tensor(0.01)
        times = take_turns({"base": small.step, "closed": lambda: step(loss=loss)}, seconds, most=400, calls=100)
        microseconds = (times.least("closed") - times.least("base")) * 1e3
        yield Goal("closed gate", "Python of hooks and law", microseconds, 20.0, unit="µs")
        yield Counter("closed gate", "", "LGA in a loop without other work", microseconds, "µs")
        added = calls_of_python(partial(step, loss=loss)) - calls_of_python(small.step)
        yield Counter("closed gate", "", "calls of Python that LGA adds", added, "")


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
    seconds: float, totals: tuple[int, ...] = (10**7,), counts: tuple[int, ...] = (2, 1)
) -> tuple[list[Goal], list[dict[str, Any]]]:
    """Base step, law and correction as one graph, compared with the base as one graph.

    All variants step the same parameters with the same state, so that their memory addresses are the same.

    Returns:
        The goals, and milliseconds per step: the base compiled as by `LGA.compile`, and the same with LGA; for
        Adam also the base with plain ``torch.compile``, and uncompiled.
    """
    goals, rows = [], []
    for total in totals:
        for name, (make, arguments, limit) in BASES.items():
            torch._dynamo.reset()
            optimizer = make(make_parameters(total, 1), lr=TINY, **arguments)
            optimizer.step()
            steps: dict[str, Callable[[], object]] = {
                "base": compiled_base(optimizer, compiler_arguments({})),
                "LGA": partial(attach(optimizer).compile(), LOSS),
            }
            if name == "Adam":
                steps["torch.compile"] = compiled_base(optimizer, {"fullgraph": True, "dynamic": False})
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
                value = times.ratio("LGA", "base")
                goals.append(Goal("fixed, compiled", f"{what}, step / base compiled", value, limit, floor=1.0))
                if name == "Adam":
                    against = times.ratio("LGA", "eager")
                    goals.append(
                        Goal("fixed, compiled", f"{what}, compiled with LGA / torch's eager Adam", against, 0.5)
                    )
                rows.append(
                    {"optimizer": name, "parameters": total, "threads": count}
                    | {f"{variant} ms": times.median(variant) for variant in ("base", "LGA")}
                    | {"torch.compile ms": times.median("torch.compile") if name == "Adam" else ""}
                )
    return goals, rows


@torch.no_grad()
def scaling(seconds: float) -> list[dict[str, float]]:
    """Milliseconds of the correction, alone and with running means, by parameters and tensors; one thread.

    The floor of the correction is an addition, which moves 12 bytes for each parameter; with means it is 20 bytes.
    """
    rows = []
    sizes = [(10**k, 1) for k in (5, 6, 7, 8)] + [(10**7, 10**k) for k in (1, 2, 3, 4)]
    with threads(1):
        for total, tensors in sizes:
            parameters = make_parameters(total, tensors)
            params, grads = [p.detach() for p in parameters], [p.grad for p in parameters if p.grad is not None]
            means = Means([torch.zeros_like(p) for p in params], 0.1)
            pairs = list(zip(params, grads, strict=True))
            correction = Correction(XI, "push")
            before = params[0].clone()
            correction.apply(pairs, AMOUNT, means=means)
            check_correction(before, params[0], 0.1 * grads[0], AMOUNT)
            times = take_turns(
                {
                    "addition": partial(torch._foreach_add_, params, grads, alpha=-TINY),
                    "correction": partial(correction.apply, pairs, AMOUNT),
                    "auto": partial(correction.apply, pairs, AMOUNT, means=means),
                },
                seconds,
            )
            row: dict[str, float] = {"parameters": total, "tensors": tensors}
            row |= {f"{name}_ms": times.median(name) for name in ("auto", "correction", "addition")}
            rows.append({**row, "auto_floor_ms": 20 / 12 * times.median("addition")})
    return rows
