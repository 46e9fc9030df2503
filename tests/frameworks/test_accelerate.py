"""Accelerate, compared with the plain loop step by step."""

from __future__ import annotations

import os
import subprocess
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from support import needs

accelerate = needs("accelerate")

from loop import (  # noqa: E402
    SETTINGS,
    Attached,
    assert_same,
    assert_same_run,
    attached,
    batches,
    loss_of,
    net,
    plain,
    record,
    sgd,
    train,
)

from lossaware import LGA, UsageError  # noqa: E402
from lossaware.recipes.accelerate import attach, backward, steps_per_epoch  # noqa: E402


@pytest.fixture(autouse=True)
def _single_process() -> Iterator[None]:
    """Accelerate keeps its state in the process."""
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message="LGA got no loss")
        yield
    accelerate.state.AcceleratorState._reset_state(reset_partial_state=True)
    accelerate.state.GradientState._reset_state()


class Run:
    """A training script with Accelerate."""

    def __init__(self, prepare_first: bool = False, optimizer: Any = None, **kwargs: Any) -> None:
        self.accelerator = accelerate.Accelerator(cpu=True, **kwargs)
        module = net()
        base = sgd(module.parameters()) if optimizer is None else optimizer(module.parameters())
        if not prepare_first:
            self.lga = attach(self.accelerator, base, **SETTINGS)
        self.module, self.optimizer = self.accelerator.prepare(module, base)
        if prepare_first:
            self.lga = attach(self.accelerator, self.optimizer, **SETTINGS)
        self.trajectory = record(base)

    @property
    def attached(self) -> Attached:
        return Attached(self.optimizer, self.lga, self.trajectory)

    def train(self, data: Any, clip: float | None = None) -> None:
        for batch in data:
            with self.accelerator.accumulate(self.module):
                backward(self.accelerator, self.lga, loss_of(self.module, batch))
                if clip is not None and self.accelerator.sync_gradients:
                    self.accelerator.clip_grad_norm_(self.module.parameters(), clip)
                self.optimizer.step()
                self.optimizer.zero_grad()


@pytest.mark.parametrize("prepare_first", [False, True], ids=["attached before prepare", "after"])
@pytest.mark.parametrize("accumulate", [1, 4])
@pytest.mark.parametrize("precision", ["no", "bf16"])
def test_accumulation_and_mixed_precision(precision: str, accumulate: int, prepare_first: bool) -> None:
    """Accelerate divides the loss and skips steps; LGA gets the mean of the undivided losses."""
    run = Run(prepare_first, mixed_precision=precision, gradient_accumulation_steps=accumulate)
    run.train(batches(32), clip=1.0)
    autocast = torch.bfloat16 if precision == "bf16" else None
    assert_same_run(run.attached, plain(batches(32), accumulate=accumulate, autocast=autocast, clip=1.0))


@pytest.mark.parametrize("accumulate", [1, 4])
def test_the_way_of_float16(accumulate: int) -> None:
    """Accelerate itself scales on accelerators only; on a CPU its optimizer takes a scaler all the same."""
    run = Run(gradient_accumulation_steps=accumulate)
    scaler, twin = (
        torch.amp.GradScaler("cpu", init_scale=2.0**10, growth_factor=16.0, growth_interval=2) for _ in range(2)
    )
    run.accelerator.scaler = scaler
    run.optimizer = accelerate.optimizer.AcceleratedOptimizer(run.optimizer.optimizer, scaler=scaler)
    for batch in batches(40):
        with run.accelerator.accumulate(run.module):
            with torch.autocast("cpu", torch.float16):
                loss = loss_of(run.module, batch)
            backward(run.accelerator, run.lga, loss)
            run.optimizer.step()
            run.optimizer.zero_grad()
    assert_same_run(run.attached, plain(batches(40), accumulate=accumulate, autocast=torch.float16, scaler=twin))
    assert run.lga.status.steps < 40 // accumulate  # there were overflows


def test_save_state_and_load_state(tmp_path: Path) -> None:
    data = batches(16)
    first = Run()
    first.train(data[:6])
    first.accelerator.save_state(str(tmp_path))
    second = Run()
    second.accelerator.load_state(str(tmp_path))
    second.train(data[6:])
    whole = Attached(second.optimizer, second.lga, [*first.trajectory, *second.trajectory])
    assert_same_run(whole, plain(data))


def test_its_scheduler() -> None:
    """Accelerate also wraps schedulers; they still have the optimizer with LGA."""
    run = Run()
    scheduler = run.accelerator.prepare(torch.optim.lr_scheduler.StepLR(run.optimizer.optimizer, 3, gamma=0.5))
    for batch in batches(9):
        run.train([batch])
        scheduler.step()
    module = net()
    expected = attached(module)
    twin = torch.optim.lr_scheduler.StepLR(expected.optimizer, 3, gamma=0.5)
    for batch in batches(9):
        train(module, expected.optimizer, [batch])
        twin.step()
    assert_same(run.trajectory, expected.trajectory)


# The steps of an epoch ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("accumulate", "steps"), [(1, 10), (2, 5), (4, 3), (20, 1)])
def test_a_last_step_of_fewer_micro_batches(accumulate: int, steps: int) -> None:
    """Accelerate steps at the end of the loader; LGA gets the mean of the micro-batches that there are."""
    run = Run(prepare_first=True, gradient_accumulation_steps=accumulate)
    data = run.accelerator.prepare(torch.utils.data.DataLoader(batches(10), batch_size=None))  # type: ignore[arg-type]
    assert steps_per_epoch(run.accelerator, data) == steps
    run.train(data)
    expected = plain(batches(10), accumulate=accumulate)
    assert_same(run.trajectory, expected.trajectory)
    assert run.lga.status == expected.lga.status
    assert run.lga.status.steps == steps


def test_a_loader_that_is_not_prepared_is_refused() -> None:
    accelerator = accelerate.Accelerator(cpu=True)
    with pytest.raises(UsageError, match=r"not prepared.*pass the loader that accelerator.prepare returned"):
        steps_per_epoch(accelerator, torch.utils.data.DataLoader(batches(2), batch_size=None))  # type: ignore[arg-type]


def test_a_loader_without_a_length_is_refused() -> None:
    class Endless(torch.utils.data.IterableDataset[Any]):
        def __iter__(self) -> Iterator[Any]:
            return iter(batches(2))

    accelerator = accelerate.Accelerator(cpu=True)
    with pytest.raises(UsageError, match=r"no length.*pass steps_per_epoch"):
        steps_per_epoch(accelerator, accelerator.prepare(torch.utils.data.DataLoader(Endless(), batch_size=None)))


@pytest.mark.parametrize(("kind", "name"), [("DEEPSPEED", "DeepSpeed"), ("MEGATRON_LM", "Megatron-LM")])
def test_replacements_of_the_optimizer_are_refused(kind: str, name: str) -> None:
    class Replacing:  # the real ones are not needed for the error
        distributed_type = accelerate.utils.DistributedType(kind)

    with pytest.raises(UsageError, match=f"does not support Accelerate with {name}: use"):
        attach(Replacing(), sgd(net().parameters()), **SETTINGS)


# Its own launcher -----------------------------------------------------------------------------------------------------


def launch(folder: Path, rows: int, accumulate: int = 1, even_batches: bool = True, join: bool = False) -> list[Any]:
    """The results of two processes on the CPU, started by ``accelerate launch``.

    ``--multi_gpu`` starts several processes, also without a GPU.
    """
    here = Path(__file__).parent
    started = subprocess.run(
        [
            *(sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2"),
            *("--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no", "--main_process_port", "0"),
            *(here / "accelerate_script.py", folder, str(rows), str(accumulate), str(even_batches), str(join)),
        ],
        env=os.environ
        | {"HF_HOME": str(folder), "PYTHONPATH": os.pathsep.join([str(here), str(here.parent), *sys.path])},
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert started.returncode == 0, started.stderr
    results = [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(2)]
    assert [one["processes"] for one in results] == [2, 2]
    return results


def dealt_out(rows: int) -> list[Any]:
    """The batches of both processes, in the order of the steps: two of each step."""
    (data,) = batches(1, size=rows)
    return list(torch.utils.data.DataLoader(torch.utils.data.TensorDataset(*data), batch_size=2))


@pytest.mark.parametrize(
    ("rows", "accumulate", "even_batches"),
    [(32, 1, True), (36, 4, True), (23, 1, False)],
    ids=["as usual", "a last step of fewer micro-batches", "a last batch of fewer rows"],
)
def test_launched(tmp_path: Path, rows: int, accumulate: int, even_batches: bool) -> None:
    first, second = launch(tmp_path, rows, accumulate, even_batches)
    micro = dealt_out(rows)
    steps = -(-len(micro) // (2 * accumulate))
    assert first["steps_per_epoch"] == second["steps_per_epoch"] == steps
    assert_same(first["trajectory"], second["trajectory"])
    assert first["state"] == second["state"]
    module = net()
    optimizer = sgd(module.parameters())
    lga = LGA(optimizer, **{**SETTINGS, "steps_per_epoch": steps})
    trajectory = record(optimizer)
    train(module, optimizer, micro, accumulate=2 * accumulate)
    for ours, theirs in zip(first["trajectory"], trajectory, strict=True):
        for p, q in zip(ours, theirs, strict=True):
            torch.testing.assert_close(p, q, rtol=0, atol=5e-6)
    assert first["state"]["state"] == pytest.approx(lga.state_dict()["state"], rel=1e-5, nan_ok=True)
    assert lga.status.open_share > 0
    assert lga.status.statuses == 1


def test_uneven_inputs_are_refused_and_no_rank_waits(tmp_path: Path) -> None:
    """Where one process has a batch more, ``even_batches=False`` needs ``join_uneven_inputs``, which LGA refuses."""
    results = launch(tmp_path, 10, even_batches=False, join=True)
    for one in results:
        assert one["steps_per_epoch"] == 3
        assert one["trajectory"] == []
        assert "all ranks need equally many steps, but this model is under join()" in one["error"]
