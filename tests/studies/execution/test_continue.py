"""Runs in workers continue from their checkpoints, and checkpoints and store agree."""

import dataclasses
import multiprocessing
import random
import shutil
import sqlite3
import time

import pytest

from lossaware.errors import UsageError
from lossaware.studies.execution.events import EpochDone, RunDone, RunFailed, RunNote, RunStarted
from lossaware.studies.execution.local import LocalEngine
from lossaware.studies.execution.supervise import execute_missing
from lossaware.studies.specs.run_spec import RunSpec, options
from lossaware.studies.store import database as database_module
from lossaware.studies.store.database import Store
from lossaware.studies.training import checkpoint as checkpoint_module
from lossaware.studies.training.checkpoint import Checkpoints
from lossaware.studies.training.run import run
from support.records import exact


@pytest.fixture(autouse=True)
def _after_each_epoch(monkeypatch):
    monkeypatch.setattr(checkpoint_module, "SECONDS", 0.0)
    monkeypatch.setattr(checkpoint_module, "SHARE", float("inf"))


TASK = """
import os, pathlib, signal
import torch
from lossaware.studies.training import checkpoint
from lossaware.studies.models.classification import classification
from lossaware.studies.task import Data, InMemory, Task

checkpoint.SECONDS, checkpoint.SHARE = 0.0, float("inf")

def build(dies, marks):
    x = torch.randn(40, 6, generator=torch.Generator().manual_seed(0))
    examples = InMemory((x, (x[:, 0] > 0).long()))
    calls = 0

    def measure(model, batch):
        nonlocal calls
        calls += 1
        if calls == dies and not os.path.exists(marks):
            os.mkdir(marks)
            os.kill(os.getpid(), signal.SIGKILL)
        return classification(model, batch)

    def model():
        return torch.nn.Sequential(torch.nn.Linear(6, 8), torch.nn.Dropout(0.5), torch.nn.Linear(8, 2))

    return Task("mine", "", model, lambda folder: Data(examples, examples), measure)
"""


@pytest.fixture
def mine(tmp_path):
    """A specification of a task whose process is killed at one of the 5 batches of an epoch, the last being a test."""
    (tmp_path / "my_task.py").write_text(TASK)

    def spec(dies):
        chosen = options(dies=dies, marks=str(tmp_path / f"died-{dies}"))
        return RunSpec(f"{tmp_path}/my_task.py:build", "adam", 0.01, 0, 4, 10, chosen, lga=options(gamma2=1e-3))

    return spec


def test_a_killed_worker_resumes_from_its_checkpoint(mine, tmp_path):
    specs = [mine(dies) for dies in (2, 5, 6, 10, 13, 20)]
    with Store(tmp_path / "results.sqlite") as store:
        events = list(execute_missing(specs, store, LocalEngine(2), None))
        for spec, epochs in zip(specs, (0, 0, 1, 1, 2, 3), strict=True):
            of_spec = [event for event in events if event.spec == spec]
            assert sum(isinstance(event, RunStarted) for event in of_spec) == 2
            assert [event.epochs for event in of_spec if isinstance(event, RunNote)] == [epochs] * (epochs > 0)
            assert sum(isinstance(event, EpochDone) for event in of_spec) == spec.epochs + epochs
            assert exact(store.records(spec)) == exact(run(spec, None))
            assert store.complete(spec)
        assert not store.checkpoints.exists()


def test_workers_that_are_killed_at_random_moments(mine, tmp_path):
    chance = random.Random(0)
    resumed = rounds = 0
    while resumed <= 5:  # a kill shows something where there was a checkpoint already
        assert rounds < 5, "the kills came at the wrong moments to show anything"
        deaths = 0
        specs = [dataclasses.replace(mine(dies=0), seed=4 * rounds + i, epochs=25) for i in range(4)]
        expected = {spec: exact(run(spec, None)) for spec in specs}
        with Store(tmp_path / f"{rounds}.sqlite") as store:
            while store.missing(specs):  # a run that died twice is tried again
                for event in execute_missing(specs, store, LocalEngine(2), None):
                    if isinstance(event, RunNote):
                        assert event.epochs
                        resumed += 1
                    if isinstance(event, EpochDone) and chance.random() < 0.1 and deaths < 30:
                        time.sleep(chance.uniform(0, 0.01))
                        if children := multiprocessing.active_children():
                            chance.choice(children).kill()
                            deaths += 1
            assert {spec: exact(store.records(spec)) for spec in specs} == expected
            assert not store.checkpoints.exists()
        rounds += 1


class StopError(Exception):
    """Ends a driver."""


def execute_until(spec, path, epochs):
    """The driver ends after the events of that many epochs, before it has stored the last one."""

    class Cut(LocalEngine):
        def execute(self, *arguments):
            for event in super().execute(*arguments):
                if isinstance(event, EpochDone) and event.record.epoch == epochs:
                    raise StopError
                yield event

    with Store(path) as store, pytest.raises(StopError):
        list(execute_missing([spec], store, Cut(1), None))


def test_a_checkpoint_ahead_of_the_store_and_one_behind_it(mine, tmp_path):
    spec, path = mine(dies=0), tmp_path / "results.sqlite"
    execute_until(spec, path, epochs=2)
    with Store(path) as store:
        assert len(store.records(spec)) == 1
        place = store.checkpoints / f"{spec.key}.pt"
        assert place.exists()
        shutil.copy(place, tmp_path / "old.pt")
    execute_until(spec, path, epochs=4)  # the first two come from the checkpoint
    with Store(path) as store:
        assert len(store.records(spec)) == 3
        shutil.copy(tmp_path / "old.pt", place)
        events = list(execute_missing([spec], store, LocalEngine(1), None))
        assert sum(event.epochs for event in events if isinstance(event, RunNote)) in (2, 3, 4)
        assert store.complete(spec)
        assert exact(store.records(spec)) == exact(run(spec, None))
        assert not store.checkpoints.exists()


def test_a_changed_task_file_makes_the_checkpoint_stale(mine, tmp_path):
    spec, path = mine(dies=0), tmp_path / "results.sqlite"
    execute_until(spec, path, epochs=3)
    (tmp_path / "my_task.py").write_text(TASK.replace("Dropout(0.5)", "Dropout(0.1)"))
    with Store(path) as store:
        events = list(execute_missing([spec], store, LocalEngine(1), None))
        (message,) = [event.message for event in events if isinstance(event, RunNote)]
        assert "differs in its task or optimizer file" in message
        assert exact(store.records(spec)) == exact(run(spec, None))


def test_a_failed_run_keeps_its_checkpoint_and_others_leave_nothing(mine, tmp_path):
    spec, fine = mine(dies=0), mine(dies=-1)
    fails = "if dies == 0 and (calls == 12 or os.path.exists(marks)):\n            os.makedirs(marks, exist_ok=True)\n"
    broken = TASK.replace("return classification", f"{fails}            raise OSError\n        return classification")
    (tmp_path / "my_task.py").write_text(broken)
    with Store(tmp_path / "results.sqlite") as store:
        folder = store.checkpoints
        folder.mkdir()
        (folder / f".{fine.key}.pt-abcdefgh").write_bytes(b"lossaware")  # begun, and cut off
        for attempt in range(2):
            events = list(execute_missing([spec, fine], store, LocalEngine(2), None))
            assert [event.spec for event in events if isinstance(event, RunFailed)] == [spec]
            assert [event.spec for event in events if isinstance(event, RunDone)] == [fine] * (attempt == 0)
            assert [path.name for path in folder.iterdir()] == [f"{spec.key}.pt"]
        # It is of a run that is complete by now, as when the driver is killed before it can remove it.
        shutil.copy(folder / f"{spec.key}.pt", folder / f"{fine.key}.pt")
        Checkpoints(folder).clear(store.complete_keys())
        assert [path.name for path in folder.iterdir()] == [f"{spec.key}.pt"]


def test_the_store_says_when_its_disk_is_full_and_the_checkpoint_has_the_rest(mine, tmp_path, monkeypatch):
    """An epoch that cannot be stored is not lost: it is in the checkpoint."""
    spec, path = mine(dies=0), tmp_path / "results.sqlite"
    insert = database_module._insert

    def full(database, spec, record):
        if record.epoch == 3:
            raise sqlite3.OperationalError("database or disk is full")
        insert(database, spec, record)

    monkeypatch.setattr(database_module, "_insert", full)
    with Store(path) as store:
        with pytest.raises(UsageError, match=r"the results cannot be written \(database or disk is full\)"):
            list(execute_missing([spec], store, LocalEngine(1), None))
        assert len(store.records(spec)) == 2
    monkeypatch.undo()
    with Store(path) as store:
        events = list(execute_missing([spec], store, LocalEngine(1), None))
        assert next(event.epochs for event in events if isinstance(event, RunNote)) >= 3
        assert exact(store.records(spec)) == exact(run(spec, None))
