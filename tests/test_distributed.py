"""Trap 4, ranks: with gloo on this machine, 2 and 4 processes, each with its own shard of the data.

All scenarios of a world size run in one set of processes, which write their results to files for the tests.
"""

from __future__ import annotations

import math
import multiprocessing
import os
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

import reference
from lossaware import LGA
from lossaware.loss_input import mean_over_ranks
from support import needs_torch

STEPS = 20
LGA_ARGUMENTS: dict[str, Any] = {"steps_per_epoch": 4, "gamma2": 1e-3, "backoff": 0.5}

MOMENTUM = partial(torch.optim.SGD, lr=0.05, momentum=0.9)

Results = dict[str, Any]  # parameters, the rank's own losses, its status as a repr, ...


def model_of(dtype: torch.dtype) -> torch.nn.Module:
    torch.manual_seed(0)  # every rank begins with the same parameters
    return torch.nn.Sequential(torch.nn.Linear(8, 16), torch.nn.Tanh(), torch.nn.Linear(16, 1)).to(dtype)


def shard(rank: int, step: int, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
    """A batch of this rank's own; the loss differs from rank to rank far more than from step to step."""
    generator = torch.Generator().manual_seed(1000 * rank + step)
    x = torch.randn(16, 8, generator=generator)
    return x.to(dtype), (x.sum(1, keepdim=True) * (1 + 0.3 * rank) / 4).to(dtype)


def as_float(loss: torch.Tensor) -> Any:
    return loss.item()


def as_tensor(loss: torch.Tensor) -> Any:
    return loss


def as_either(loss: torch.Tensor) -> Any:
    """One rank may pass a number and another a tensor."""
    return loss.item() if dist.get_rank() == 0 else loss


def train(
    *,
    dtype: torch.dtype = torch.float32,
    optimizer: Callable[..., Any] = MOMENTUM,
    channel: str = "step",
    form: Callable[[torch.Tensor], Any] = as_tensor,
    alone: bool = False,
    broken_at: int | None = None,
    missing_at: int | None = None,
) -> Results:
    """One training run with DDP. `alone` removes the mean over ranks: each uses only its own loss."""
    rank, world = dist.get_rank(), dist.get_world_size()
    own_group = [dist.new_group([r]) for r in range(world)][rank]
    model = DistributedDataParallel(model_of(dtype))
    base = optimizer(model.parameters())
    lga = LGA(base, process_group=own_group if alone else None, **LGA_ARGUMENTS)
    wide = torch.promote_types(dtype, torch.float32)
    losses = []
    for step in range(STEPS):
        x, y = shard(rank, step, dtype)

        def closure(x: torch.Tensor = x, y: torch.Tensor = y) -> Any:
            base.zero_grad()
            loss: Any = (model(x).to(wide) - y.to(wide)).square().mean()
            loss.backward()
            return loss

        if channel == "closure":
            losses.append(float(base.step(closure).detach()))
            continue
        loss = closure()
        losses.append(float(loss.detach()))
        handed = math.nan if step == broken_at and rank == world - 1 else form(loss.detach())
        if step == missing_at and rank == world - 1:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                base.step()
        elif channel == "observe":  # two micro-batches that have the loss for their mean
            lga.observe(handed * 0.5)
            lga.observe(handed * 1.5)
            base.step()
        else:
            base.step(loss=handed)
    return {"parameters": [p.detach() for p in model.parameters()], "losses": losses, "status": vars(lga.status)}


def amp() -> Results:
    """A fused base under a GradScaler, with an overflow on one rank, which DDP's mean hands on to all."""
    rank = dist.get_rank()
    model = DistributedDataParallel(model_of(torch.float32))
    base: Any = torch.optim.AdamW(model.parameters(), lr=0.01, fused=True)
    lga = LGA(base, **LGA_ARGUMENTS)
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    losses = []
    for step in range(STEPS):
        x, y = shard(rank, step, torch.float32)
        base.zero_grad()
        loss: Any = (model(x) - y).square().mean()
        scaler.scale(loss * (math.inf if step == 3 and rank == 0 else 1.0)).backward()
        scaler.step(base, loss=loss.detach())
        scaler.update()
        losses.append(float(loss.detach()))
    return {"parameters": [p.detach() for p in model.parameters()], "losses": losses, "status": vars(lga.status)}


def no_loss() -> Results:
    """No collective may be waited for where no rank has a loss."""
    model = DistributedDataParallel(model_of(torch.float32))
    base: Any = torch.optim.SGD(model.parameters(), lr=0.05)
    lga = LGA(base, **LGA_ARGUMENTS)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for _ in range(2):
            model(torch.ones(1, 8)).sum().backward()
            base.step()
    return {"parameters": [p.detach() for p in model.parameters()], "losses": [], "status": vars(lga.status)}


def sharded() -> Results:
    """FSDP2: parameters and gradients are DTensors, of which each rank holds a part."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard
    from torch.distributed.tensor import DTensor

    mesh = init_device_mesh("cpu", (dist.get_world_size(),))
    model = model_of(torch.float64)
    fully_shard(model, mesh=mesh)
    base: Any = MOMENTUM(model.parameters())
    lga = LGA(base, **LGA_ARGUMENTS)
    losses = []
    for step in range(STEPS):
        x, y = shard(dist.get_rank(), step, torch.float64)
        base.zero_grad()
        loss: Any = (model(x) - y).square().mean()
        loss.backward()
        base.step(loss=loss.detach())
        losses.append(float(loss.detach()))
    whole = [p.full_tensor().detach() for p in model.parameters() if isinstance(p, DTensor)]
    return {"parameters": whole, "losses": losses, "status": vars(lga.status)}


def fully_sharded_once() -> Results:
    """The first generation of FSDP, whose ranks see their own parts of flattened parameters as plain tensors."""
    from torch.distributed.fsdp import FullyShardedDataParallel

    whole = model_of(torch.float32)
    scale = torch.cat([p.detach().flatten() for p in whole.parameters()]).square().mean().sqrt()
    scales = []
    for original in (True, False):
        model = FullyShardedDataParallel(
            model_of(torch.float32), use_orig_params=original, device_id=torch.device("cpu")
        )
        base = torch.optim.SGD(model.parameters(), lr=0.05)
        lga = LGA(base, steps_per_epoch=4, gamma2="auto")
        scales += [group["scale"] for group in lga.state_dict()["groups"]]
    return {"parameters": [], "losses": [], "status": vars(lga.status), "scales": scales, "scale": float(scale)}


def uneven() -> Results:
    """One rank has a batch less. The others may not wait for it."""
    model = DistributedDataParallel(model_of(torch.float32))
    base: Any = torch.optim.SGD(model.parameters(), lr=0.05)
    lga = LGA(base, **LGA_ARGUMENTS)
    message = ""
    try:
        with model.join():
            for _ in range(2 if dist.get_rank() else 3):
                loss = model(torch.ones(1, 8)).sum()
                loss.backward()
                base.step(loss=loss.detach())
    except RuntimeError as error:
        message = str(error)
    return {
        "parameters": [p.detach() for p in model.parameters()],
        "losses": [],
        "status": vars(lga.status),
        "message": message,
    }


BFLOAT16 = torch.bfloat16
FIRST_SHARDED = "2.7"  # torch 2.6 itself fails in the forward pass of FSDP2 on a CPU
SCENARIOS: dict[str, Callable[[], Results]] = {
    "float32": train,
    "float32, adam": partial(train, optimizer=partial(torch.optim.Adam, lr=0.01)),
    "bfloat16": partial(train, dtype=BFLOAT16),
    "bfloat16, asgd": partial(train, dtype=BFLOAT16, optimizer=partial(torch.optim.ASGD, lr=0.05)),
    "numbers": partial(train, form=as_float),
    "numbers and tensors": partial(train, form=as_either),
    "observe": partial(train, channel="observe", form=as_float),
    "closure": partial(train, channel="closure"),
    "amp": amp,
    "broken": partial(train, broken_at=5),
    "no loss": no_loss,
    "bfloat16, a loss is missing": partial(train, dtype=BFLOAT16, missing_at=5),
    "uneven": uneven,
    "fully sharded once": fully_sharded_once,
    "float64": partial(train, dtype=torch.float64),
    "alone, float32": partial(train, alone=True),
    "alone, bfloat16": partial(train, dtype=BFLOAT16, alone=True),
}
if torch.__version__ >= FIRST_SHARDED:
    SCENARIOS["sharded"] = sharded


def work(rank: int, world: int, folder: Path) -> None:
    torch.set_num_threads(1)
    if rank % 2:  # not every machine of a cluster has a C compiler, so implementations must give the same bits
        os.environ["LOSSAWARE_NATIVE"] = "0"
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=world)
    results = {name: scenario() for name, scenario in SCENARIOS.items()}
    torch.save(results, folder / f"{rank}.pt")
    dist.barrier()
    dist.destroy_process_group()


@pytest.fixture(scope="module", params=[2, 4], ids=["2 processes", "4 processes"])
def ranks(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Results]]:
    """The results of each rank, by scenario."""
    world: int = request.param
    folder = tmp_path_factory.mktemp(f"world{world}")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["torch", "torch._dynamo", "torch.distributed"])  # imported once, not once a rank
    processes = [context.Process(target=work, args=(rank, world, folder)) for rank in range(world)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(timeout=200)
    alive = [process for process in processes if process.is_alive()]
    for process in alive:
        process.kill()
    assert not alive, "a rank waits for the others for ever"
    assert [process.exitcode for process in processes] == [0] * world
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(world)]


def drift(ranks: list[dict[str, Results]], scenario: str) -> float:
    """The largest difference of any parameter between rank 0 and another."""
    first, *others = (rank[scenario]["parameters"] for rank in ranks)
    return max(float((a - b).abs().max()) for other in others for a, b in zip(first, other, strict=True))


TOGETHER = [name for name in SCENARIOS if not name.startswith("alone")]


@pytest.mark.parametrize("scenario", TOGETHER)
def test_replicas_are_bitwise_equal(ranks: list[dict[str, Results]], scenario: str) -> None:
    """Without the check: each rank would use its own loss (or round differently), and replicas would diverge."""
    first, *others = (rank[scenario] for rank in ranks)
    for other in others:
        assert all(torch.equal(a, b) for a, b in zip(first["parameters"], other["parameters"], strict=True))
        assert repr(first["status"]) == repr(other["status"])  # repr: to the last digit, and NaN equals NaN


@pytest.mark.parametrize("scenario", ["alone, float32", "alone, bfloat16"])
def test_without_the_mean_over_ranks_they_drift_apart(ranks: list[dict[str, Results]], scenario: str) -> None:
    """Without the mean over ranks, to show that the test above detects the difference."""
    assert drift(ranks, scenario) > 0.01
    assert len({rank[scenario]["status"]["loss"] for rank in ranks}) == len(ranks)


@pytest.mark.parametrize("scenario", ["float32", "numbers", "numbers and tensors", "observe", "closure", "bfloat16"])
def test_the_law_uses_the_mean_over_ranks(ranks: list[dict[str, Results]], scenario: str) -> None:
    law = reference.Law(**LGA_ARGUMENTS)
    means = [sum(losses) / len(ranks) for losses in zip(*(rank[scenario]["losses"] for rank in ranks), strict=True)]
    omegas = [law.omega(mean) for mean in means]
    for rank in ranks:
        status = rank[scenario]["status"]
        assert status["loss"] == pytest.approx(means[-1], rel=1e-12)
        assert status["lower_bound"] == pytest.approx(law.lower, rel=1e-12)
        assert status["upper_bound"] == pytest.approx(means[0], rel=1e-12)
        assert status["omega"] == pytest.approx(omegas[-1], rel=1e-12, abs=1e-12)
        assert status["gamma2"] == pytest.approx(law.gamma2 * law.factor, rel=1e-12)
        assert (status["statuses"], status["steps"]) == (law.statuses, STEPS)
    assert law.open_steps > 3


def test_every_channel_and_form_comes_to_the_same(ranks: list[dict[str, Results]]) -> None:
    expected = ranks[0]["float32"]
    for scenario in ("numbers", "numbers and tensors", "closure"):
        results = ranks[0][scenario]
        assert all(torch.equal(a, b) for a, b in zip(results["parameters"], expected["parameters"], strict=True))
        assert repr(results["status"]) == repr(expected["status"])


def test_a_broken_loss_on_one_rank_is_broken_on_all(ranks: list[dict[str, Results]]) -> None:
    """Without the check: only that rank would make no correction."""
    law = reference.Law(**LGA_ARGUMENTS)
    for step, losses in enumerate(zip(*(rank["broken"]["losses"] for rank in ranks), strict=True)):
        law.omega(math.nan if step == 5 else sum(losses) / len(ranks))
    for rank in ranks:
        status = rank["broken"]["status"]
        assert (status["nonfinite_losses"], status["statuses"]) == (1, law.statuses)
        assert status["lower_bound"] == pytest.approx(law.lower, rel=1e-12)


def test_an_overflow_on_one_rank_is_a_skipped_step_on_all(ranks: list[dict[str, Results]]) -> None:
    for rank in ranks:
        assert rank["amp"]["status"]["steps"] == STEPS - 1
        assert all(p.isfinite().all() for p in rank["amp"]["parameters"])


def test_steps_without_a_loss_do_not_wait_for_other_ranks(ranks: list[dict[str, Results]]) -> None:
    assert ranks[0]["no loss"]["status"]["nonfinite_losses"] == 2


def test_a_missing_loss_on_one_rank_is_missing_on_all(ranks: list[dict[str, Results]]) -> None:
    """Without the check: that rank's count of steps, which decides how 16 bits are rounded, would stay behind.

    That the replicas are equal in spite of it is in `test_replicas_are_bitwise_equal`.
    """
    for rank in ranks:
        status = rank["bfloat16, a loss is missing"]["status"]
        assert (status["nonfinite_losses"], status["steps_without_loss"], status["steps"]) == (1, 0, STEPS)


def test_uneven_inputs_are_refused_before_anything_moves(ranks: list[dict[str, Results]]) -> None:
    """Without the check: all ranks would wait until they time out."""
    for rank in ranks:
        assert "all ranks need equally many steps, but this model is under join()" in rank["uneven"]["message"]
        start = model_of(torch.float32).parameters()
        assert all(torch.equal(a, b) for a, b in zip(rank["uneven"]["parameters"], start, strict=True))


def test_scales_are_those_of_all_ranks_parts(ranks: list[dict[str, Results]]) -> None:
    """Without the check: each rank would take its own part for the whole, and push by another size than the others."""
    for rank in ranks:
        results = rank["fully sharded once"]
        assert results["scales"] == pytest.approx([results["scale"]] * 2, rel=1e-6)


def test_sharded_training_is_the_replicated_one(ranks: list[dict[str, Results]]) -> None:
    """Without the check: operations on DTensors and tensors fail. With four ranks, some shards are empty."""
    needs_torch(FIRST_SHARDED, "FSDP2 on a CPU")
    for rank in ranks:
        for part, whole in zip(rank["sharded"]["parameters"], rank["float64"]["parameters"], strict=True):
            torch.testing.assert_close(part, whole, rtol=1e-10, atol=1e-12)
        assert rank["sharded"]["status"]["loss"] == pytest.approx(rank["float64"]["status"]["loss"], rel=1e-9)
        assert rank["sharded"]["status"]["open_share"] > 0


@pytest.mark.parametrize(
    ("backend", "device"), [("cpu:gloo,meta:fake", "meta"), ("gloo", "cpu"), ("cpu:gloo,cuda:nccl", "cpu")]
)
def test_ranks_gather_where_the_parameters_are(monkeypatch: pytest.MonkeyPatch, backend: str, device: str) -> None:
    """Without the check: a rank without a loss, or with a number, would block on the host."""
    gathered = []
    monkeypatch.setattr(dist, "is_initialized", lambda: True)
    monkeypatch.setattr(dist, "get_world_size", lambda group: 2)
    monkeypatch.setattr(dist, "get_backend", lambda group: backend)
    name = "all_gather_single" if hasattr(dist, "all_gather_single") else "all_gather_into_tensor"

    def gather(into: torch.Tensor, own: torch.Tensor, group: object, async_op: bool) -> Mock:
        gathered.append(own.device.type)
        return Mock()

    monkeypatch.setattr(dist, name, gather)
    mean_over_ranks(math.nan, None, lambda: torch.device("meta"))
    assert gathered == [device]
