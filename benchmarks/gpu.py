"""The cost of LGA on a CUDA GPU: launches, host reads, captured graphs, and bandwidth.

    python -m benchmarks.gpu                    # about two minutes; writes results/speed/gpu.json and gpu.md
    python -m benchmarks.gpu --data DIR         # also MNIST's column of Table 1, which takes minutes

Every claim is asserted, then timed by CUDA events; the parameters must change as in `tests/reference.py`. Results
are written after each part. A part that fails does not stop the others; the exit code is then 1.
"""

import argparse
import json
import statistics
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch.autograd import DeviceType  # type: ignore[attr-defined]

from benchmarks.goals import Goal, as_markdown
from benchmarks.parameters import GAMMA2, LOSS, attach, check_correction, make_parameters
from benchmarks.speed import FOLDER
from benchmarks.timing import circumstances
from lossaware.studies.execution.events import EpochDone, RunFailed
from lossaware.studies.execution.local import LocalEngine, default_jobs
from lossaware.studies.specs.run_spec import EpochRecord, RunSpec
from lossaware.studies.specs.study import Overrides, load_study
from lossaware.studies.specs.study_file import parse_settings
from lossaware.studies.training.run import run

WARM_UP = 5
"""Number of first times that do not count."""


def milliseconds(call: Callable[[], object], rounds: int) -> float:
    """Median time on the device."""
    times: list[float] = []
    for _ in range(rounds):
        began, ended = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        began.record()
        call()
        ended.record()
        ended.synchronize()
        times.append(began.elapsed_time(ended))
    return statistics.median(times[WARM_UP:])


def on_gpu(total: int, tensors: int, make: Callable[..., torch.optim.Optimizer], **arguments: Any) -> Any:
    """An optimizer over this number of parameters on the GPU, with gradients."""
    params = []
    for p in make_parameters(total, tensors):
        assert p.grad is not None
        q = torch.nn.Parameter(p.detach().cuda())
        q.grad = p.grad.cuda()
        params.append(q)
    return make(params, lr=1e-9, **arguments)


def launches(call: Callable[[], object], may_wait: bool = True) -> list[str]:
    """The names of the kernels that a call launches, after a first call that creates states and compiles kernels.

    The profiler itself may synchronize; the call may only do so with `may_wait`.
    """
    call()
    torch.cuda.synchronize()
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
        torch.cuda.set_sync_debug_mode("default" if may_wait else "error")
        try:
            call()
        finally:
            torch.cuda.set_sync_debug_mode("default")
        torch.cuda.synchronize()
    on_device = [event.name for event in profile.events() if event.device_type == DeviceType.CUDA]
    return [name for name in on_device if "memcpy" not in name.lower()]


def two_launches() -> list[Goal]:
    """LGA adds two kernels to those of the base step, and does not wait for the device."""
    loss = torch.tensor(LOSS, device="cuda", dtype=torch.float64)
    plain, ours = (on_gpu(10**6, 300, torch.optim.Adam) for _ in range(2))
    lga = attach(ours)
    base = launches(plain.step)
    with_lga = launches(lambda: ours.step(loss=loss), may_wait=False)
    assert lga.status.open_share > 0
    # Reading the loss copies it, so that it may be changed afterwards: one more small kernel.
    return [
        Goal("3 CUDA", "kernels that LGA adds to a step of Adam, 300 tensors", len(with_lga) - len(base), 3, unit="")
    ]


def bandwidth(elements: int, rounds: int) -> list[Goal]:
    """Bytes that the correction must move per time, relative to a copy of the same number of bytes."""
    goals = []
    for tensors in (1, 300):
        optimizer = on_gpu(elements, tensors, torch.optim.SGD)
        lga = attach(optimizer)
        loss = torch.tensor(LOSS, device="cuda", dtype=torch.float64)
        params = optimizer.param_groups[0]["params"]
        before = params[0].detach().clone()
        lga._stepper.state_on(loss.device)
        launcher = lga._stepper._launcher
        assert launcher is not None
        groups = [([(p.detach(), p.grad, None) for p in params], GAMMA2, False)]
        launcher.step(groups, loss, None)
        check_correction(before.cpu(), params[0].detach().cpu(), params[0].grad.cpu(), GAMMA2 * LOSS)
        graph = torch.cuda.CUDAGraph()  # so that the host's time is not measured
        with torch.cuda.graph(graph):
            launcher.step(groups, loss, None)
        correction = 12 * elements / milliseconds(graph.replay, rounds)
        source, target = torch.empty(2, 3 * elements // 2, device="cuda")
        copy = 12 * elements / milliseconds(lambda t=target, s=source: t.copy_(s), rounds)  # type: ignore[misc]
        what = f"bandwidth of the correction / of a copy, {elements / 1e6:g} M in {tensors} tensors"
        goals.append(Goal("3 CUDA", what, correction / copy, 0.85, at_most=False))
    return goals


def captured() -> list[Goal]:
    """Base step and LGA in one CUDA graph: replays give the same results as eager steps, including the state."""
    loss = torch.tensor(LOSS, device="cuda", dtype=torch.float64)
    captured, eager = (on_gpu(10**5, 10, torch.optim.Adam, capturable=True) for _ in range(2))
    lgas = attach(captured), attach(eager)
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        for _ in range(3):
            captured.step(loss=loss)
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured.step(loss=loss)
    for _ in range(7):
        graph.replay()
    for _ in range(10):
        eager.step(loss=loss)
    for p, q in zip(captured.param_groups[0]["params"], eager.param_groups[0]["params"], strict=True):
        torch.testing.assert_close(p, q, rtol=1e-5, atol=1e-7)
    assert lgas[0].status.steps == lgas[1].status.steps == 10
    return []


def closed(elements: int, rounds: int) -> list[Goal]:
    """A gate that is closed on the device: the kernel returns early."""
    times = {}
    for name, value in (("open", LOSS), ("closed", 0.01)):
        optimizer = on_gpu(elements, 10, torch.optim.SGD)
        lga = attach(optimizer)
        loss = torch.tensor(value, device="cuda", dtype=torch.float64)
        lga._stepper.state_on(loss.device)
        launcher = lga._stepper._launcher
        assert launcher is not None
        params = optimizer.param_groups[0]["params"]
        before = params[0].detach().clone()
        groups = [([(p.detach(), p.grad, None) for p in params], GAMMA2, False)]
        times[name] = milliseconds(lambda s=launcher, g=groups, f=loss: s.step(g, f, None), rounds)  # type: ignore[misc]
        assert torch.equal(before, params[0].detach()) == (name == "closed")
    what = f"correction with a closed gate / with an open one, {elements / 1e6:g} M"
    return [Goal("3 CUDA", what, times["closed"] / times["open"], 0.2)]


def table_1(data: Path, jobs: int, *, seeds: int, epochs: int, algorithms: Sequence[str]) -> list[Goal]:
    """MNIST's column of Table 1, as `lossaware study run --device cuda` executes it: 70 runs with five seeds.

    Some of the runs are repeated alone on the GPU and must have the same bits. Fewer epochs and algorithms are for a
    short test of this function.
    """
    only = {"task": ("MNIST",)} | ({"algorithm": tuple(algorithms)} if algorithms else {})
    chosen = Overrides(only, parse_settings({"seeds": seeds, "epochs": epochs, "device": "cuda"}))
    specs = list(load_study("table01").overridden(chosen).specs)
    assert len(specs) == 2 * (len(algorithms) or 7) * seeds
    began = time.perf_counter()
    records = side_by_side(specs, data, jobs)
    minutes = (time.perf_counter() - began) / 60
    for index in (0, len(specs) // 2, -1):
        alone = [replace(record, seconds=0.0) for record in run(specs[index], data)]
        assert alone == records[index], "a run alone gives other numbers"
    return [Goal("7 studies", f"Table 1 on MNIST, {len(specs)} runs, {jobs} at a time", minutes, 5.0, unit="min")]


def side_by_side(specs: Sequence[RunSpec], data: Path | None, jobs: int) -> list[list[EpochRecord]]:
    """The runs as the engine executes them."""
    records: dict[RunSpec, list[EpochRecord]] = {spec: [] for spec in specs}
    for event in LocalEngine(jobs).execute(specs, data):
        assert not isinstance(event, RunFailed), event.message
        if isinstance(event, EpochDone):
            records[event.spec].append(replace(event.record, seconds=0.0))
    return list(records.values())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, default=FOLDER, help="folder to write to (default: results/speed)")
    parser.add_argument("--data", type=Path, help="folder with MNIST/raw, for Table 1")
    parser.add_argument("--jobs", type=int, default=default_jobs("cuda"), help="runs at a time (default: %(default)s)")
    parser.add_argument("--seeds", type=int, default=5, help="of the runs of Table 1 (default: %(default)s)")
    parser.add_argument("--epochs", type=int, default=20, help="of the runs of Table 1 (default: %(default)s)")
    parser.add_argument("--algorithms", default="", help="only these of Table 1, such as SGD,Adam")
    parser.add_argument(
        "--elements", type=int, default=10**8, help="parameters of the large correction (default: %(default)s)"
    )
    parser.add_argument("--rounds", type=int, default=50, help="times of each measurement (default: %(default)s)")
    arguments = parser.parse_args()
    if arguments.rounds <= WARM_UP:
        parser.error(f"--rounds must be above {WARM_UP}, whose times do not count, got {arguments.rounds}")
    if not torch.cuda.is_available():
        sys.exit("benchmarks.gpu needs a CUDA GPU, and here is none")
    elements, rounds = arguments.elements, arguments.rounds
    parts: list[Callable[[], list[Goal]]] = [
        two_launches,
        captured,
        partial(bandwidth, elements, rounds),
        partial(closed, elements, rounds),
    ]
    if arguments.data is not None:
        algorithms = list(filter(None, arguments.algorithms.split(",")))
        runs = {"seeds": arguments.seeds, "epochs": arguments.epochs, "algorithms": algorithms}
        parts.append(partial(table_1, arguments.data, arguments.jobs, **runs))
    goals: list[Goal] = []
    failed = 0
    for part in parts:
        try:
            part_goals = part()
        except Exception:
            traceback.print_exc()
            failed += 1
            continue
        goals += part_goals
        print(as_markdown(part_goals), flush=True)
        write(goals, arguments.output)
    if failed:
        sys.exit(f"{failed} of {len(parts)} parts failed, see above")


def write(goals: Sequence[Goal], folder: Path) -> None:
    """Write the results so far to ``gpu.json`` and ``gpu.md``."""
    folder.mkdir(parents=True, exist_ok=True)
    content = {**circumstances("python -m benchmarks.gpu"), "goals": [asdict(goal) for goal in goals]}
    (folder / "gpu.json").write_text(json.dumps(content, indent=1) + "\n")
    head = f"{content['date']}, commit {content['commit']}, {content['machine']}, {content['software']}"
    (folder / "gpu.md").write_text(f"{head}\n\n{as_markdown(goals)}\n")


if __name__ == "__main__":
    main()
