"""Training steps of one to four ranks on this machine, by gloo, with LGA and without: ``python -m benchmarks.ranks``.

Prints the findings as JSON. `benchmarks.speed` runs it in a separate process.
"""

import argparse
import json
import multiprocessing
import subprocess
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import nn

from benchmarks.goals import Counter, Finding, Goal
from benchmarks.parameters import GAMMA2, attach, check_correction
from benchmarks.timing import take_turns
from lossaware.correction import as_local
from lossaware.loss_input import mean_over_ranks

WORLDS = (1, 2, 3, 4)
"""Numbers of ranks. Where they are more than cores, a step is slower by sharing these."""
RANKS_OF_GOALS = 2
WIDTH, DEPTH, BATCH = 512, 4, 256
WRAPPERS = ("DDP", "FSDP2")


def network() -> nn.Module:
    """About a million parameters; the same on each rank."""
    torch.manual_seed(0)
    layers: list[nn.Module] = []
    for _ in range(DEPTH):
        layers += [nn.Linear(WIDTH, WIDTH), nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(WIDTH, 10))


def wrapped(name: str) -> nn.Module:
    """The network, replicated or sharded over the ranks."""
    if name == "DDP":
        return nn.parallel.DistributedDataParallel(network())
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    model = network()
    fully_shard(model, mesh=init_device_mesh("cpu", (dist.get_world_size(),)))
    return model


def measure(name: str, rounds: int) -> dict[str, float]:
    """The ratio of a step with LGA to one without, and the collectives that LGA adds to a step with their bytes."""
    rank = dist.get_rank()
    model = wrapped(name)
    plain, ours = (torch.optim.SGD(model.parameters(), lr=1e-9) for _ in range(2))
    lga = attach(ours)
    generator = torch.Generator().manual_seed(rank)
    x, y = torch.randn(BATCH, WIDTH, generator=generator), torch.randint(10, (BATCH,), generator=generator)

    def step(optimizer: torch.optim.Optimizer, with_loss: bool) -> float:
        loss = nn.functional.cross_entropy(model(x), y)
        optimizer.zero_grad()
        loss.backward()
        own: Any = optimizer.step
        value = loss.detach()
        own(loss=value) if with_loss else own()
        return float(value)

    (p, *_) = model.parameters()
    before = as_local(p).detach().clone().flatten()
    losses: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(losses, step(ours, True))
    assert p.grad is not None
    amount = GAMMA2 * sum(losses) / len(losses)
    check_correction(before, as_local(p).detach().flatten(), as_local(p.grad).flatten(), amount)

    steps = {"base": partial(step, plain, False), "LGA": partial(step, ours, True)}
    counted = {variant: collectives(call) for variant, call in steps.items()}
    times = take_turns(steps, 0.0, least=rounds, most=rounds)
    assert lga.status.open_share == 1
    exchange = partial(mean_over_ranks, 2.0, None, partial(torch.device, "cpu"))
    exchanges = take_turns({"exchange": exchange}, 0.0, least=rounds, most=rounds)
    return {
        "ratio": times.ratio("LGA", "base"),
        "collectives": len(counted["LGA"]) - len(counted["base"]),
        "bytes": sum(counted["LGA"]) - sum(counted["base"]),
        "without_ms": times.median("base"),
        "with_ms": times.median("LGA"),
        "added_ms": times.difference("LGA", "base"),
        "exchange_ms": exchanges.median("exchange"),
    }


def collectives(call: Callable[[], object]) -> list[int]:
    """The bytes that this rank hands to each collective of a call that Python code starts."""
    names = [
        n
        for n in ("all_gather_single", "all_gather_into_tensor", "all_reduce", "reduce_scatter_tensor")
        if hasattr(dist, n)
    ]
    sizes: list[int] = []
    originals = {name: getattr(dist, name) for name in names}

    def counting(name: str) -> Callable[..., Any]:
        def collective(*args: Any, **kwargs: Any) -> Any:
            tensor = args[0] if name == "all_reduce" else args[1] if len(args) > 1 else kwargs["input_tensor"]
            sizes.append(tensor.numel() * tensor.element_size())
            return originals[name](*args, **kwargs)

        return collective

    for name in names:
        setattr(dist, name, counting(name))
    try:
        call()
    finally:
        for name in names:
            setattr(dist, name, originals[name])
    return sizes


def work(rank: int, world: int, folder: Path, rounds: int) -> None:
    """One rank; the first writes the results."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous{world}", rank=rank, world_size=world)
    some = rounds if world <= RANKS_OF_GOALS else max(5, rounds // 10)
    rows = [{"wrapper": name, "ranks": world, **measure(name, some)} for name in WRAPPERS]
    if rank == 0:
        (folder / f"{world}.json").write_text(json.dumps(rows))
    dist.barrier()
    dist.destroy_process_group()


def goals(rounds: int) -> tuple[list[Finding], list[dict[str, Any]]]:
    """The goals and counters, and a row for each wrapper and number of ranks, which run in separate processes."""
    command = [sys.executable, "-m", "benchmarks.ranks", "--rounds", str(rounds)]
    completed = subprocess.run(command, check=True, capture_output=True, text=True, cwd=Path(__file__).parents[1])
    rows: list[dict[str, Any]] = json.loads(completed.stdout.splitlines()[-1])
    findings: list[Finding] = []
    alone = {row["wrapper"]: row["added_ms"] for row in rows if row["ranks"] == 1}
    for row in rows:
        if row["ranks"] == RANKS_OF_GOALS:
            what = f"{row['wrapper']}, gloo, {row['ranks']} ranks, a million parameters"
            ratio = Goal("ranks", f"{what}, training step / without LGA", row["ratio"], 1.05, floor=1.0)
            added = Goal("ranks", f"{what}, collectives that LGA adds", row["collectives"], 1, unit="in all")
            findings += [
                ratio,
                added,
                Goal("ranks", f"{what}, what a rank gives to them", row["bytes"], 8, unit="bytes"),
            ]
            of = f"{row['wrapper']},"
            findings.append(Counter("ranks", of, "LGA in a step", row["added_ms"], "ms"))
            findings.append(Counter("ranks", of, "LGA with one rank, without an exchange", alone[row["wrapper"]], "ms"))
            findings.append(Counter("ranks", of, "an exchange alone", row["exchange_ms"], "ms"))
    return findings, rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=100, help="steps of each variant (default: 100)")
    arguments = parser.parse_args()
    context = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for world in WORLDS:
            processes = [
                context.Process(target=work, args=(rank, world, folder, arguments.rounds)) for rank in range(world)
            ]
            for process in processes:
                process.start()
            for process in processes:
                process.join()
            if any(process.exitcode for process in processes):
                sys.exit(f"exit codes of the ranks: {[process.exitcode for process in processes]}")
        print(json.dumps([row for world in WORLDS for row in json.loads((folder / f"{world}.json").read_text())]))


if __name__ == "__main__":
    main()
