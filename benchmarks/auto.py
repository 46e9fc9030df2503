"""Steps with a gamma2 that sets itself: eager, and compiled in one graph."""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch

from benchmarks.goals import Counter, Finding, Goal
from benchmarks.parameters import LOSS, attach, check_correction, make_parameters
from benchmarks.steps import TINY, compiled_base
from benchmarks.timing import Times, take_turns, threads
from lossaware import LGA, AutoGamma2
from lossaware.compiled import compiler_arguments
from lossaware.gradient_mean import MEAN

Bases = dict[str, tuple[Callable[..., torch.optim.Optimizer], dict[str, Any], float, float | None]]

EAGER: Bases = {
    "SGD": (torch.optim.SGD, {}, 2.75, 8 / 3),
    "Adam": (torch.optim.Adam, {}, 1.15, None),
    "Adam, fused": (torch.optim.Adam, {"fused": True}, 1.6, 48 / 28),
}
"""Base optimizers with their goal and their floor. SGD moves 12 bytes for each parameter, fused Adam 28, and LGA's pass
20."""
COMPILED: Bases = {
    "SGD": (torch.optim.SGD, {}, 1.75, 20 / 12),
    "Momentum": (torch.optim.SGD, {"momentum": 0.9}, 1.45, 28 / 20),
    "Adam": (torch.optim.Adam, {}, 1.30, 36 / 28),
}
"""In one graph only the mean is added: it is read and written."""


def attach_auto(optimizer: torch.optim.Optimizer, mean_dtype: str | None = None) -> LGA:
    """LGA that pushes by the same amount at each step, so small that thousands of steps move no parameter far."""
    return LGA(optimizer, steps_per_epoch=10**9, gamma2=AutoGamma2(reach=1e-5, mean_dtype=mean_dtype))


def check_step(optimizer: torch.optim.Optimizer, lga: LGA, step: Callable[[], object]) -> None:
    """Make a step, and assert that it moved mean and parameter as the reference says."""
    (p, *_) = optimizer.param_groups[0]["params"]
    before, gradient = p.detach().clone(), p.grad.clone()
    state = optimizer.state[p]
    earlier = state[MEAN].clone() if MEAN in state else torch.zeros_like(before)
    step()
    torch.testing.assert_close(state[MEAN], earlier + 0.1 * (gradient - earlier), rtol=1e-5, atol=1e-6)
    check_correction(before, p.detach(), state[MEAN], lga._stepper.sizes.last[0], xi=lga.settings.xi)


def eager(seconds: float) -> Iterator[Finding]:
    """Whole eager steps, with a gamma2 that sets itself, with a fixed one, and without LGA, on the same parameters."""
    with threads(1):
        for name, (make, arguments, limit, floor) in EAGER.items():
            params = make_parameters(10**7, 10)
            plain, fixed, ours = (make(params, lr=TINY, **arguments) for _ in range(3))
            plain.step()
            fixed.state = ours.state = plain.state
            attach(fixed)
            lga = attach_auto(ours)
            own: Any = partial(ours.step, loss=LOSS)
            check_step(ours, lga, own)
            grads = [p.grad for p in params if p.grad is not None]
            steps: dict[str, Callable[[], object]] = {
                "base": plain.step,
                "fixed": partial(fixed.step, loss=LOSS),
                "auto": own,
                "addition": partial(torch._foreach_add_, [p.detach() for p in params], grads, alpha=-TINY),
            }
            times = take_turns(steps, seconds)
            assert lga.status.open_share == 1
            what = f"{name}, 10 M, step / base step"
            yield Goal('"auto", eager', what, times.ratio("auto", "base"), limit, floor=floor)
            least = 1 + 20 / 12 * times.ratio("addition", "base")
            yield Counter('"auto", eager', f"{name}, 10 M", "with 20 bytes at the speed of torch's addition", least)
            if name == "SGD":
                value = times.ratio("fixed", "base")
                yield Goal("fixed, eager", what, value, 2.0, floor=2.0)


def compiled(seconds: float) -> Iterator[Goal]:
    """Base step, law, running mean and correction as one graph, against the base as one graph; one thread."""
    for name, (make, arguments, limit, floor) in COMPILED.items():
        times = _compiled_times(make, arguments, seconds)
        what = f"{name}, 10 M, 1 thread, step / base compiled"
        yield Goal('"auto", compiled', what, times.ratio("auto", "base"), limit, floor=floor)


def _compiled_times(make: Callable[..., torch.optim.Optimizer], arguments: dict[str, Any], seconds: float) -> Times:
    torch._dynamo.reset()
    params = make_parameters(10**7, 1)
    plain, ours = (make(params, lr=TINY, **arguments) for _ in range(2))
    plain.step()
    ours.state = plain.state
    lga = attach_auto(ours)
    own: Any = ours.step
    own(loss=LOSS)  # makes the mean, so that no graph has to be compiled again
    steps: dict[str, Callable[[], object]] = {
        "base": compiled_base(plain, compiler_arguments({})),
        "auto": partial(lga.compile(), LOSS),
    }
    with threads(1), torch.no_grad():
        for step in [*steps.values(), *steps.values()]:
            step()
        check_step(ours, lga, steps["auto"])
        return take_turns(steps, seconds, most=1000)
