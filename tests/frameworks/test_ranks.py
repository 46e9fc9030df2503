"""DDP, FSDP2 and the frameworks on two ranks; checkpoints loaded on another number of ranks; ranks that differ.

All scenarios of a world size run in one set of processes, which write their results to files for the tests. The
batches of the two ranks are two micro-batches of a single process, which has the same mean losses and gradients.
"""

from __future__ import annotations

import multiprocessing
import os
import tempfile
import warnings
from collections.abc import Callable
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from loop import (
    SETTINGS,
    Batch,
    Trajectory,
    assert_same,
    attached,
    batches,
    loss_of,
    net,
    observing,
    plain,
    record,
    sgd,
)

from lossaware import LGA, AutoGamma2
from support import needs

STEPS = 10
PACKAGES = {
    "fabric": "lightning",
    "lightning": "lightning",
    "accelerate": "accelerate",
    "transformers": "transformers",
    "transformers, summed": "transformers",
}
"""Optional packages of the scenarios."""
DEVICE = "cpu"
"""Of the ranks; see `work`."""
SHARDED: dict[str, dict[str, Any]] = {
    "fsdp": SETTINGS,
    "fsdp auto": {**SETTINGS, "gamma2": AutoGamma2(steps_at_least=4)},
}
"""Settings of LGA in the scenarios that resume on another number of ranks."""
Results = dict[str, Any]


def shard(step: int, rank: int, world: int) -> Any:
    """The rank's share of the step's 8 examples, the same for every number of ranks."""
    x, y = batches(STEPS, device=DEVICE)[step]
    size = len(x) // world
    return x[rank * size : (rank + 1) * size], y[rank * size : (rank + 1) * size]


def own_shards() -> list[Batch]:
    """This rank's share of each step."""
    return [shard(step, dist.get_rank(), dist.get_world_size()) for step in range(STEPS)]


def whole(optimizer: Any) -> list[torch.Tensor]:
    parameters = [p.detach() for group in optimizer.param_groups for p in group["params"]]
    return [(p.full_tensor() if hasattr(p, "full_tensor") else p).clone() for p in parameters]


# The scenarios ------------------------------------------------------------------------------------------------------


def run(module: Any, optimizer: Any, lga: LGA, steps: range) -> Trajectory:
    trajectory = []
    for step in steps:
        optimizer.zero_grad()
        loss: Any = loss_of(module, shard(step, dist.get_rank(), dist.get_world_size()))
        loss.backward()
        optimizer.step(loss=loss.detach())
        trajectory.append(whole(optimizer))
    return trajectory


def sharded() -> Any:
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    module = net(DEVICE)
    fully_shard(module, mesh=init_device_mesh(DEVICE, (dist.get_world_size(),)))
    return module


def ddp_accumulating() -> Results:
    """Two micro-batches a step, the first under no_sync."""
    module = torch.nn.parallel.DistributedDataParallel(net(DEVICE))
    optimizer, lga, trajectory = attached(module)
    for step in range(STEPS):
        x, y = shard(step, dist.get_rank(), dist.get_world_size())
        half = len(x) // 2
        with module.no_sync():
            loss = loss_of(module, (x[:half], y[:half]))
            lga.observe(loss)
            (loss / 2).backward()
        loss = loss_of(module, (x[half:], y[half:]))
        lga.observe(loss)
        (loss / 2).backward()
        torch.nn.utils.clip_grad_norm_(module.parameters(), 100.0)
        optimizer.step()
        optimizer.zero_grad()
    return {"trajectory": trajectory, "state": lga.state_dict()}


def fsdp(folder: Path, name: str) -> Results:
    """Six steps, a checkpoint, the other steps."""
    from torch.distributed.checkpoint.state_dict import get_state_dict
    from torch.distributed.checkpoint.state_dict_saver import save

    module = sharded()
    optimizer = sgd(module.parameters())
    lga = LGA(optimizer, **SHARDED[name])
    trajectory = run(module, optimizer, lga, range(6))
    model_state, optimizer_state = get_state_dict(module, optimizer)
    state = {"model": model_state, "optimizer": optimizer_state, "lga": lga.state_dict()}
    save(state, checkpoint_id=folder / f"{name}-{dist.get_world_size()}")
    trajectory += run(module, optimizer, lga, range(6, STEPS))
    return {"trajectory": trajectory, "state": lga.state_dict()}


def fsdp_resumed(folder: Path, name: str, saved_by: int) -> Results:
    """The other steps, from the checkpoint that another number of ranks saved."""
    from torch.distributed.checkpoint.state_dict import get_state_dict, set_state_dict
    from torch.distributed.checkpoint.state_dict_loader import load

    module = sharded()
    with torch.no_grad():
        for p in module.parameters():
            p.zero_()  # it must be cleared
    optimizer = sgd(module.parameters())
    lga = LGA(optimizer, **SHARDED[name])
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="LGA got no loss")  # torch makes a step to create the state
        model_state, optimizer_state = get_state_dict(module, optimizer)
    state: dict[str, Any] = {"model": model_state, "optimizer": optimizer_state, "lga": lga.state_dict()}
    load(state, checkpoint_id=folder / f"{name}-{saved_by}")
    set_state_dict(module, optimizer, model_state_dict=state["model"], optim_state_dict=state["optimizer"])
    lga.load_state_dict(state["lga"])
    return {"trajectory": run(module, optimizer, lga, range(6, STEPS)), "state": lga.state_dict()}


def no_loss_on_one_rank() -> Results:
    """The last rank passes no loss at step 3; no rank waits for it, and no rank makes a correction."""
    module = torch.nn.parallel.DistributedDataParallel(net())
    optimizer, lga, trajectory = attached(module)
    messages = []
    for step in range(STEPS):
        optimizer.zero_grad()
        loss = loss_of(module, shard(step, dist.get_rank(), dist.get_world_size()))
        loss.backward()
        last = dist.get_rank() == dist.get_world_size() - 1
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            optimizer.step(**({} if step == 3 and last else {"loss": loss.detach()}))
        messages += [str(w.message) for w in caught if "LGA" in str(w.message)]
    return {"trajectory": trajectory, "status": vars(lga.status), "messages": messages}


def checkpoint_on_one_rank() -> Results:
    """Torch's checkpointing makes a step without gradients. A rank that calls it alone must not wait."""
    from torch.distributed.checkpoint.state_dict import get_optimizer_state_dict

    module = net()
    optimizer = torch.optim.Adam(module.parameters())
    lga = LGA(optimizer, **SETTINGS)
    if dist.get_rank() == 0:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            get_optimizer_state_dict(module, optimizer)
    return {"trajectory": [[p.detach() for p in module.parameters()]], "steps": lga.status.steps}


def with_accelerate() -> Results:
    import accelerate

    from lossaware.recipes.accelerate import attach, backward

    accelerator = accelerate.Accelerator(cpu=True, gradient_accumulation_steps=2)
    module = net()
    optimizer = sgd(module.parameters())
    lga = attach(accelerator, optimizer, **SETTINGS)
    trajectory = record(optimizer)
    wrapped, stepper = accelerator.prepare(module, optimizer)
    assert isinstance(wrapped, torch.nn.parallel.DistributedDataParallel)
    for step in range(STEPS):
        x, y = shard(step, dist.get_rank(), dist.get_world_size())
        for part in (slice(0, len(x) // 2), slice(len(x) // 2, None)):
            with accelerator.accumulate(wrapped):
                backward(accelerator, lga, loss_of(wrapped, (x[part], y[part])))
                stepper.step()
                stepper.zero_grad()
    return {"trajectory": trajectory, "state": lga.state_dict()}


def with_fabric() -> Results:
    from lightning.fabric import Fabric

    fabric = Fabric(accelerator="cpu", devices=dist.get_world_size(), strategy="ddp")
    fabric.launch()
    module = net()
    optimizer, lga, trajectory = attached(module)
    wrapped, stepper = fabric.setup(module, optimizer)
    observing(wrapped, stepper, lga, own_shards(), backward=fabric.backward)
    return {"trajectory": trajectory, "state": lga.state_dict()}


def with_lightning() -> Results:
    from lightning_module import Module, loader, make_trainer

    from lossaware.recipes.lightning import LossAware

    module = Module()
    options = {"devices": dist.get_world_size(), "strategy": "ddp", "use_distributed_sampler": False}
    make_trainer(**options, callbacks=[LossAware()]).fit(module, loader(own_shards()))
    return {"trajectory": module.run.trajectory, "state": module.run.lga.state_dict()}


def with_transformers(folder: Path, kind: str) -> Results:
    """The batches of a step are distributed to the ranks, so it is a step of two micro-batches."""
    from transformers_model import make_trainer

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        trainer = make_trainer(folder / "transformers", kind, ddp_backend="gloo")
        trainer.train()
    messages = [str(w.message) for w in caught if "too large" in str(w.message)]
    return {"trajectory": trainer.trajectory, "state": trainer.lga.state_dict(), "messages": messages}


def vector_on_one_rank() -> Results:
    """The last one, for the process group does not survive it: one rank stops, the others hear of it."""
    module = net()
    optimizer: Any = sgd(module.parameters())
    LGA(optimizer, **SETTINGS)
    loss_of(module, shard(0, 0, 1)).backward()
    last = dist.get_rank() == dist.get_world_size() - 1
    try:
        optimizer.step(loss=torch.ones(3) if last else 1.0)
    except (ValueError, RuntimeError) as error:
        return {"error": str(error)}
    return {"error": None}


# Where they run -----------------------------------------------------------------------------------------------------


def work(rank: int, world: int, port: int, folder: Path, names: list[str], device: str) -> None:
    global DEVICE
    DEVICE = device
    os.environ.update(
        RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(world), LOCAL_WORLD_SIZE=str(world), GROUP_RANK="0",
        MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port), TORCHELASTIC_RUN_ID="test", ACCELERATE_USE_CPU="true",
    )  # fmt: skip
    torch.set_num_threads(1)
    if device == "cuda":
        torch.cuda.set_device(rank)
    dist.init_process_group("nccl" if device == "cuda" else "gloo", rank=rank, world_size=world)
    scenarios: dict[str, Callable[[], Results]] = {
        "ddp": ddp_accumulating,
        **{name: partial(fsdp, folder, name) for name in SHARDED},
        **{f"{name} resumed": partial(fsdp_resumed, folder, name, saved_by=3 - world) for name in SHARDED},
        "no loss on one rank": no_loss_on_one_rank,
        "checkpoint on one rank": checkpoint_on_one_rank,
        "accelerate": with_accelerate,
        "fabric": with_fabric,
        "lightning": with_lightning,
        "transformers": partial(with_transformers, folder, "language model"),
        "transformers, summed": partial(with_transformers, folder, "classifier as it is"),
        "vector on one rank": vector_on_one_rank,
    }
    results = {name: scenarios[name]() for name in names}
    torch.save(results, folder / f"{world}-{rank}.pt")
    if "vector on one rank" not in names and dist.is_initialized():
        dist.destroy_process_group()
    os._exit(0)  # the remains of a broken process group could block


def launch(world: int, folder: Path, names: list[str], device: str = "cpu") -> list[Results]:
    context = multiprocessing.get_context("spawn")
    port = 29600 + os.getpid() % 2000 + world
    ranks = [context.Process(target=work, args=(rank, world, port, folder, names, device)) for rank in range(world)]
    for process in ranks:
        process.start()
    for process in ranks:
        process.join(240)
    if any(process.is_alive() for process in ranks):
        for process in ranks:
            process.kill()
        pytest.fail("the ranks wait for each other")
    assert [process.exitcode for process in ranks] == [0] * world
    return [torch.load(folder / f"{world}-{rank}.pt", map_location="cpu", weights_only=True) for rank in range(world)]


@pytest.fixture(scope="module")
def results() -> dict[str, list[Results]]:
    """The results of each scenario on each rank."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        one = launch(1, folder, list(SHARDED))
        resumed = [f"{name} resumed" for name in SHARDED]
        names = ["ddp", *SHARDED, *resumed, "no loss on one rank", "checkpoint on one rank"]
        names += [name for name, package in PACKAGES.items() if find_spec(package)]
        names += ["vector on one rank"]
        two = launch(2, folder, names)
        resumed_ranks = launch(1, folder, resumed)
        return {
            **{f"{name} on 1": [rank[name] for rank in one] for name in SHARDED},
            **{f"{name} from 2 to 1": [rank[f"{name} resumed"] for rank in resumed_ranks] for name in SHARDED},
            **{f"{name} from 1 to 2": [rank[f"{name} resumed"] for rank in two] for name in SHARDED},
            **{name: [rank[name] for rank in two] for name in two[0] if name not in resumed},
        }


def assert_close(ours: Trajectory, theirs: Trajectory) -> None:
    """Sums in another order differ in their last bits."""
    assert len(ours) == len(theirs) > 0
    for step, (a, b) in enumerate(zip(ours, theirs, strict=True)):
        for p, q in zip(a, b, strict=True):
            torch.testing.assert_close(p, q, rtol=0, atol=5e-6, msg=f"they part at step {step}")


def assert_plain(ranks: list[Results]) -> None:
    _, lga, expected = plain(batches(STEPS))
    for rank in ranks:
        assert_close(rank["trajectory"], expected)
        assert_same(rank["trajectory"], ranks[0]["trajectory"])  # replicas agree bit for bit
        assert rank["state"] == ranks[0]["state"]
        assert rank["state"]["state"] == pytest.approx(lga.state_dict()["state"], rel=1e-5, nan_ok=True)
    assert lga.status.open_share > 0
    assert lga.status.statuses == 2


@pytest.mark.parametrize("scenario", ["ddp", "fsdp", "accelerate", "fabric", "lightning"])
def test_two_ranks_are_one_process_with_the_whole_batch(results: dict[str, list[Results]], scenario: str) -> None:
    if scenario in PACKAGES:
        needs(PACKAGES[scenario])
    assert_plain(results[scenario])


@pytest.mark.parametrize(
    ("scenario", "kind", "sums"),
    [("transformers", "language model", False), ("transformers, summed", "classifier", True)],
    ids=["divided by the tokens of both", "a mean of each"],
)
def test_the_transformers_trainer_on_two_ranks(
    results: dict[str, list[Results]], scenario: str, kind: str, sums: bool
) -> None:
    """The Trainer multiplies losses by the number of ranks, which is right only where they are divided by all items."""
    needs("transformers")
    from transformers_model import plain as plain_transformers

    expected, lga, _ = plain_transformers(kind, 2, sums=sums)
    for rank in results[scenario]:
        assert_close(rank["trajectory"], expected)
        assert_same(rank["trajectory"], results[scenario][0]["trajectory"])
        assert rank["state"]["state"] == pytest.approx(lga.state_dict()["state"], rel=1e-5, nan_ok=True)
        assert [("2 times too large" in message) for message in rank["messages"]] == [True] * sums
    assert lga.status.open_share > 0


@pytest.mark.cuda
@pytest.mark.parametrize("scenario", ["ddp", "fsdp"])
def test_ranks_on_gpus_are_one_process_with_the_whole_batch(tmp_path: Path, scenario: str) -> None:
    """With nccl, which needs one GPU per rank: two ranks with two GPUs, one rank with one."""
    results = launch(min(2, torch.cuda.device_count()), tmp_path, [scenario], "cuda")
    assert_plain([rank[scenario] for rank in results])


@pytest.mark.parametrize(("way", "saved"), [("from 2 to 1", ""), ("from 1 to 2", " on 1")], ids=["2 to 1", "1 to 2"])
@pytest.mark.parametrize("name", SHARDED)
def test_a_checkpoint_resumes_on_another_number_of_ranks(
    results: dict[str, list[Results]], name: str, way: str, saved: str
) -> None:
    whole = results[name + saved][0]
    for rank in results[f"{name} {way}"]:
        assert_close(rank["trajectory"], whole["trajectory"][6:])
        state, expected = rank["state"]["state"], whole["state"]["state"]
        assert state == pytest.approx(expected, rel=1e-5, nan_ok=True)


def test_no_rank_waits_for_one_without_a_loss(results: dict[str, list[Results]]) -> None:
    first, last = results["no loss on one rank"]
    assert_same(first["trajectory"], last["trajectory"])
    assert first["status"]["nonfinite_losses"] == last["status"]["nonfinite_losses"] == 1
    assert first["status"]["steps"] == last["status"]["steps"] == STEPS
    for name in ("loss", "lower_bound", "gamma2", "omega", "statuses", "open_share"):
        assert first["status"][name] == last["status"][name]
    assert first["messages"] == []
    (message,) = last["messages"]
    assert "no loss for this step on rank 1" in message


def test_a_checkpoint_on_one_rank_does_not_wait_for_others(results: dict[str, list[Results]]) -> None:
    first, last = results["checkpoint on one rank"]
    assert (first["steps"], last["steps"]) == (1, 0)
    assert_same(first["trajectory"], last["trajectory"])


def test_a_vector_on_one_rank_is_named_there(results: dict[str, list[Results]]) -> None:
    first, last = results["vector on one rank"]
    assert "(3,)" in last["error"]
    assert "loss.mean()" in last["error"]
    assert first["error"]  # the connection was closed, so no rank blocks
