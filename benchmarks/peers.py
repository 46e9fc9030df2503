"""LGA compared with other optimizers and wrappers: milliseconds per step, and temporary memory of a step."""

from collections.abc import Callable, Iterator
from typing import Any

import torch

from benchmarks.goals import Goal
from benchmarks.parameters import LOSS, attach, make_parameters
from benchmarks.steps import TINY
from benchmarks.timing import peak_extra_bytes, take_turns, threads

Make = Callable[[list[torch.nn.Parameter]], Callable[[], object]]


def _lga(make: Callable[..., torch.optim.Optimizer], *, compiled: bool = False, **arguments: Any) -> Make:
    def build(params: list[torch.nn.Parameter]) -> Callable[[], object]:
        optimizer = make(params, lr=TINY, **arguments)
        lga = attach(optimizer)
        if compiled:
            step = lga.compile()
            return lambda: step(LOSS)
        eager: Any = optimizer.step
        return lambda: eager(loss=LOSS)

    return build


def _momo(name: str) -> Make:
    def build(params: list[torch.nn.Parameter]) -> Callable[[], object]:
        import momo

        optimizer = getattr(momo, name)(params, lr=TINY)
        loss = torch.tensor(LOSS)
        return lambda: optimizer.step(loss=loss)

    return build


def _schedule_free(name: str) -> Make:
    def build(params: list[torch.nn.Parameter]) -> Callable[[], object]:
        import schedulefree

        optimizer = getattr(schedulefree, name)(params, lr=TINY)
        optimizer.train()
        step: Callable[[], object] = optimizer.step
        return step

    return build


def _prodigy(params: list[torch.nn.Parameter]) -> Callable[[], object]:
    from prodigyopt import Prodigy

    step: Callable[[], object] = Prodigy(params, lr=TINY).step
    return step


def _named(name: str) -> Make:
    """One of the optimizers that studies know by name."""

    def build(params: list[torch.nn.Parameter]) -> Callable[[], object]:
        from lossaware.studies.specs.optimizers import make_optimizer

        step: Callable[[], object] = make_optimizer(name, params, TINY, {}).step
        return step

    return build


def _lookahead(params: list[torch.nn.Parameter]) -> Callable[[], object]:
    from pytorch_optimizer import Lookahead

    step: Callable[[], object] = Lookahead(torch.optim.Adam(params, lr=TINY)).step
    return step


def _torch(make: Callable[..., torch.optim.Optimizer], **arguments: Any) -> Make:
    return lambda params: make(params, lr=TINY, **arguments).step


PEERS: dict[str, Make] = {
    "Adam, torch's default": _torch(torch.optim.Adam),
    "Adam, foreach": _torch(torch.optim.Adam, foreach=True),
    "Adam, fused": _torch(torch.optim.Adam, fused=True),
    "LGA on Adam": _lga(torch.optim.Adam),
    "LGA on Adam, fused": _lga(torch.optim.Adam, fused=True),
    "LGA on Adam, compiled": _lga(torch.optim.Adam, compiled=True),
    "MoMo-Adam": _momo("MomoAdam"),
    "Schedule-Free AdamW": _schedule_free("AdamWScheduleFree"),
    "Prodigy": _prodigy,
    "D-Adapted Adam": _named("dadapt-adam"),
    "Mechanic on AdamW": _named("mechanic-adamw"),
    "Lookahead on Adam": _lookahead,
    "SGD": _torch(torch.optim.SGD),
    "LGA on SGD": _lga(torch.optim.SGD),
    "LGA on SGD, compiled": _lga(torch.optim.SGD, compiled=True),
    "MoMo": _momo("Momo"),
    "Schedule-Free SGD": _schedule_free("SGDScheduleFree"),
    "Mechanic on SGD": _named("mechanic-sgd"),
}


def peers(seconds: float, totals: tuple[int, ...] = (10**6, 10**7, 10**8)) -> tuple[list[dict[str, Any]], list[Goal]]:
    """All of them at each size; one thread, ten tensors.

    Returns:
        A row a size and peer, and the goals.
    """
    rows, goals = [], []
    for total in totals:
        times: dict[str, float] = {}
        for name, step, params in _make(total):
            before = params[0].detach().clone()
            with threads(1):
                measured = take_turns({name: step}, seconds, least=3, most=50)
                extra = peak_extra_bytes(step)
            assert not torch.equal(before, params[0].detach()), f"{name} moved nothing"
            times[name] = measured.median(name)
            rows.append({"parameters": total, "optimizer": name, "ms": times[name], "extra_mib": extra / 2**20})
        for ours in ("LGA on Adam, fused", "LGA on Adam, compiled"):
            value = times[ours] / times["MoMo-Adam"]
            goals.append(Goal("peers", f"{ours} / MoMo-Adam, {total // 10**6} M", value, 0.5))
    return rows, goals


def _make(total: int) -> Iterator[tuple[str, Callable[[], object], list[torch.nn.Parameter]]]:
    for name, make in PEERS.items():
        torch._dynamo.reset()
        params = make_parameters(total, 10)
        for p in params:
            p.data.mul_(1e-4)  # so small that the smallest steps move them
        step = make(params)
        step(), step()
        yield name, step, params
