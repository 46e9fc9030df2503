"""Runs that two processes share, started by torchrun as a user does, are those of one process."""

import contextlib
import dataclasses
import json
import os
import re
import signal
import subprocess
import sys
import time
from typing import Any

import pytest
import torch

from lossaware.errors import UsageError
from lossaware.studies.execution import patience
from lossaware.studies.execution import torchrun as engine_module
from lossaware.studies.execution.events import EpochDone, RunFailed, RunStarted
from lossaware.studies.specs.run_spec import EpochRecord, RunSpec, lga_options, options
from lossaware.studies.store.database import Store
from lossaware.studies.training.ranks import parsed, ranks_of
from lossaware.studies.training.run import check_spec, run
from support import sharing
from support.command_line import lossaware

TASK = """
import os, time
import torch
from torch import nn
from lossaware.studies.task import Data, InMemory, Task

class Model(nn.Module):
    def __init__(self, normalised):
        super().__init__()
        self.first, self.last = nn.Linear(6, 5), nn.Linear(5, 1)
        self.between = nn.BatchNorm1d(5) if normalised else nn.Identity()
        self.unused = nn.Parameter(torch.ones(3))
    def told(self, x):  # nothing calls forward
        return self.last(self.between(self.first(x)).relu()).squeeze(1)

def build(fails_on=-1, seconds=0.0, normalised=False):
    def data(folder):
        x = torch.randn(41, 6, generator=torch.Generator().manual_seed(1))
        y = x.sin().sum(1)
        return Data(InMemory((x, y)), InMemory((x[:7], y[:7])), noisy)

    def noisy(batch, generator):
        return batch[0] + 0.1 * torch.randn(batch[0].shape, generator=generator), batch[1]

    def measure(model, batch):
        time.sleep(seconds)
        if fails_on == "all" or os.environ.get("RANK") == str(fails_on):
            raise RuntimeError("no luck")
        error = model.told(batch[0]) - batch[1]
        return {"loss": error.square().mean(), "near": (error.detach().abs() < 1).float().mean()}

    sizes = dict(epochs=2, batch_size=20, test_batch_size=5)
    return Task("shared", "", lambda: Model(normalised), data, measure, score="near", **sizes)
"""
ADAM = RunSpec("", "adam", 0.02, seed=0, epochs=2, batch_size=20, scheduler="ExponentialLR")
ADAM = dataclasses.replace(ADAM, scheduler_options=options(gamma=0.5))
WITH_LGA = lga_options({"gamma2": 1e-3, "steps_per_epoch": 2})
CASES = {
    "without": ADAM,
    "with LGA": dataclasses.replace(ADAM, lga=WITH_LGA),
    "sgd": dataclasses.replace(ADAM, optimizer="sgd", lga=WITH_LGA, batch_size=11),
    "asgd": dataclasses.replace(ADAM, optimizer="asgd", lga=lga_options({"gamma2": "auto"})),
}
MODES = ("ddp-2", "fsdp-2")


@pytest.fixture(scope="module")
def task(tmp_path_factory):
    path = tmp_path_factory.mktemp("task") / "shared.py"
    path.write_text(TASK)
    return f"{path}:build"


@contextlib.contextmanager
def torchrun(*arguments, cwd):
    """The processes; they are always ended afterwards."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    environment = {**os.environ, "SHARING": str(cwd), "OMP_NUM_THREADS": "1"}
    program = sharing.__file__
    with subprocess.Popen(
        [*command, program, *map(str, arguments)],
        cwd=cwd,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    ) as started:
        try:
            yield started
        finally:
            if started.poll() is None:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(started.pid, signal.SIGTERM)  # torchrun ends its processes


@pytest.fixture(scope="module")
def results(task, tmp_path_factory):
    """The results of both ranks in each case."""
    folder = tmp_path_factory.mktemp("found")
    cases = {
        (name, mode): dataclasses.replace(spec, task=task, distributed=mode)
        for name, spec in CASES.items()
        for mode in MODES
    }
    cases["alig", "ddp-2"] = dataclasses.replace(
        ADAM, task=task, optimizer="alig", scheduler=None, scheduler_options=(), distributed="ddp-2"
    )
    normalised = options(normalised=True)
    for mode in MODES:  # the last batch of 20 would be of one example
        cases["normalised", mode] = dataclasses.replace(
            ADAM, task=task, task_options=normalised, batch_size=37, distributed=mode
        )
    (folder / "specs.json").write_text(json.dumps([spec.to_json() for spec in cases.values()]))
    with torchrun("train", folder, cwd=folder) as started:
        output = started.communicate(timeout=240)[0]
    assert started.returncode == 0, output
    ranks = [torch.load(folder / f"found-{rank}.pt", weights_only=True) for rank in (0, 1)]
    return {case: (spec, *both) for (case, spec), *both in zip(cases.items(), *ranks, strict=True)}


CHECKED = [*((name, mode) for name in CASES for mode in MODES), ("alig", "ddp-2")]


@pytest.mark.parametrize("case", CHECKED, ids=" ".join)
def test_two_ranks_measure_the_same_as_one_process(results, case):
    """With augmentation, with an uneven last batch, and in most cases with one of a single example."""
    spec, first, _ = results[case]
    single = list(run(dataclasses.replace(spec, distributed=None), None))
    for record, shared in zip(single, first["records"], strict=True):
        assert shared["train"] == pytest.approx(record.train, rel=1e-4)
        assert shared["test"] == pytest.approx(record.test, rel=1e-4)
        if spec.lga is not None:
            assert shared["lga"] == pytest.approx(record.lga, rel=1e-4, nan_ok=True)
            assert record.lga["open_share"] > 0


BOTH = [*CHECKED, *(("normalised", mode) for mode in MODES)]


@pytest.mark.parametrize("case", BOTH, ids=" ".join)
def test_replicas_are_equal_bit_for_bit(results, case):
    _, first, second = results[case]
    assert all(torch.equal(p, q) for p, q in zip(first["parameters"], second["parameters"], strict=True))
    assert str(first["records"]) == str(second["records"])  # NaN equals NaN


@pytest.mark.parametrize("case", BOTH, ids=" ".join)
def test_a_shared_run_resumes_with_the_same_bits(results, case):
    for rank in results[case][1:]:
        assert str(rank["again"]) == str(rank["records"][1])
        assert all(torch.equal(p, q) for p, q in zip(rank["parameters"], rank["parameters again"], strict=True))


def command(task, mode, *more):
    return (
        "command",
        "compare",
        task,
        "--distributed",
        mode,
        "--optimizers",
        "adam",
        "--lrs",
        "0.02",
        "--seeds",
        "1",
        *more,
    )


def stored(folder):
    """The current epochs of each run."""
    with contextlib.suppress(UsageError), Store(folder / "out" / "results.sqlite", read_only=True) as store:
        return {
            spec.lga is not None: [dataclasses.replace(record, seconds=0.0) for record in store.records(spec)]
            for spec in store.specs()
        }
    return {}


def test_after_the_kill_of_a_rank_the_same_command_resumes_bitwise(task, tmp_path):
    slow = command(task, "fsdp", "--epochs", "12", "--out", "out", "--set", "seconds=0.02")
    (tmp_path / "killed").mkdir()
    (tmp_path / "whole").mkdir()
    with torchrun(*slow, cwd=tmp_path / "killed") as started:
        while not list((tmp_path / "killed" / "out").glob("results.sqlite.checkpoints/*.pt")):
            assert started.poll() is None, started.communicate()[0]
            time.sleep(0.01)
        os.kill(int((tmp_path / "killed" / "1").read_text()), signal.SIGKILL)
        output = started.communicate(timeout=120)[0]
        assert started.returncode == 1
    errors = [line for line in output.splitlines() if line.startswith("lossaware: ")]
    assert len(errors) == 1
    assert re.fullmatch(
        r"lossaware: torchrun stops all ranks, because one of them was killed or failed, .*; "
        r"\d of 2 runs are finished and kept in out/results\.sqlite\. Run the same command again to continue\.",
        errors[0],
    )
    assert any(len(records) < 12 for records in stored(tmp_path / "killed").values())
    outputs = []
    for folder in ("killed", "whole"):
        with torchrun(*slow, cwd=tmp_path / folder) as started:
            outputs.append(started.communicate(timeout=120)[0])
        assert started.returncode == 0, outputs[-1]
    assert outputs[0].count("resumes after epoch") == 1
    assert outputs[0].count("Report: ") == 1
    both = stored(tmp_path / "killed")
    assert str(both) == str(stored(tmp_path / "whole"))
    assert [len(records) for records in both.values()] == [12, 12]
    assert not (tmp_path / "killed" / "out" / "results.sqlite.checkpoints").exists()


def test_a_failure_on_all_ranks_is_reported_once_and_the_next_run_executes(task, tmp_path):
    with torchrun(*command(task, "ddp", "--out", "out", "--set", "fails_on=all"), cwd=tmp_path) as started:
        output = started.communicate(timeout=120)[0]
    assert started.returncode == 1
    assert len(re.findall(r"^failed: adam.* RuntimeError: no luck", output, re.MULTILINE)) == 2  # runs
    assert output.count("2 runs failed, see above") == 1


def test_a_failure_on_one_rank_ends_all(task, tmp_path):
    with torchrun(*command(task, "ddp", "--out", "out", "--set", "fails_on=1"), cwd=tmp_path) as started:
        output = started.communicate(timeout=120)[0]
    assert started.returncode == 1
    assert len(re.findall(r"^failed: adam.* RuntimeError: no luck", output, re.MULTILINE)) == 1


class HangingTeam:
    """Ranks of which one hangs after the first epoch."""

    leads = True
    reason = None

    def order(self, order):
        pass

    def broken(self):
        return self.reason

    def give_up(self, reason):
        self.reason = self.reason or reason

    def execute_run(self, spec, data, checkpoints, events):
        events.put(EpochDone(spec, EpochRecord(1, {}, {}, None, 0.0)))


def test_ranks_that_hang_are_ended_and_said(monkeypatch):
    monkeypatch.setattr(patience, "SILENCE", 0.05)
    monkeypatch.setattr(patience, "MANY", 0)
    monkeypatch.setattr(engine_module, "_LOOK_EVERY", 0.02)
    specs = [RunSpec("digits", "sgd", 0.1, seed, 4, 64) for seed in (0, 1)]
    team: Any = HangingTeam()
    engine = engine_module.TorchrunEngine(team)
    started, epoch, failed = engine.execute(specs, None)  # and not the second run, as no rank can execute it
    assert (type(started), type(epoch)) == (RunStarted, EpochDone)
    assert isinstance(failed, RunFailed)
    assert failed.message == "a rank is hanging: no event for 0 s"
    assert engine.failed


def test_a_mistake_is_reported_by_one_rank(task, tmp_path):
    with torchrun(*command(task, "ddp", "--out", "out", "--batch-size", "1"), cwd=tmp_path) as started:
        output = started.communicate(timeout=120)[0]
    assert output.count("lossaware: a batch of 1 is too small for 2 ranks") == 1
    assert "exitcode  : 2" in output
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("more", "says"),
    [
        (["--distributed", "ddp"], "--distributed ddp needs torchrun, which sets RANK: torchrun --nproc_per_node"),
        (["--distributed", "dpp"], "unknown --distributed 'dpp'; did you mean ddp"),
        (["--distributed", "ddp", "--jobs", "2"], "--jobs cannot be used with --distributed"),
        (["--distributed", "ddp", "--engine", "ray"], "--engine cannot be used with --distributed"),
    ],
)
def test_wrong_use_is_one_line(monkeypatch, capsys, more, says):
    monkeypatch.delenv("RANK", raising=False)
    assert lossaware("compare", "digits", *more) == 2
    error = capsys.readouterr().err
    assert says in error
    assert error.count("\n") == 1


def test_ranks_are_part_of_the_specification_and_must_exist():
    spec = dataclasses.replace(ADAM, task="digits")
    shared = dataclasses.replace(spec, distributed="ddp-2")
    assert shared.key != spec.key
    assert "distributed" not in spec.to_json()
    assert RunSpec.from_json(shared.to_json()) == shared
    with pytest.raises(UsageError, match="needs 2 ranks, but there are none: torchrun --nproc_per_node 2"):
        check_spec(shared)
    with pytest.raises(UsageError, match="such as ddp-2, got 'ddp'"):
        ranks_of("ddp")
    assert parsed("fsdp-16") == ("fsdp", 16)
