"""The engine on Ray: the numbers of a direct run, also where a worker or a node is lost on the way."""

import dataclasses
import importlib.util
import os
import socket
import sys
import tempfile
import time
from pathlib import Path

import pytest

from lossaware.cli import main
from lossaware.errors import UsageError
from lossaware.extras import how_to_install
from lossaware.studies.execution.events import EpochDone, Progress, RunDone, RunFailed, RunNote, RunStarted
from lossaware.studies.execution.factory import make_engine
from lossaware.studies.execution.ray import RayEngine, _stream
from lossaware.studies.execution.supervise import execute_missing
from lossaware.studies.specs.run_spec import RunSpec, options
from lossaware.studies.store.database import Store
from lossaware.studies.training.run import run

without_ray = importlib.util.find_spec("ray") is None  # which is not imported here, as the engine prepares that
pytestmark = pytest.mark.skipif(without_ray, reason="ray is not installed: pip install -e '.[everything]' brings it")
DIGITS = RunSpec(task="digits", optimizer="adam", lr=0.01, seed=0, epochs=2, batch_size=100)
TASK = """
import os, pathlib, signal, time
import torch
from lossaware.studies.training import checkpoint
from lossaware.studies.models.classification import classification
from lossaware.studies.task import Data, InMemory, Task

checkpoint.SECONDS, checkpoint.SHARE = 0.0, float("inf")  # after each epoch

def build(kind, folder):
    x = torch.randn(40, 6, generator=torch.Generator().manual_seed(0))
    examples = InMemory((x, (x[:, 0] > 0).long()))
    there = pathlib.Path(folder)
    calls = 0

    def measure(model, batch):
        nonlocal calls
        calls += 1
        if kind == "error":
            raise RuntimeError("no luck\\nat all")
        if kind == "dies":
            os.kill(os.getpid(), signal.SIGKILL)
        if calls == 13:  # of 5 an epoch
            if kind == "dies once" and not (there / "died").exists():
                (there / "died").touch()
                os.kill(os.getpid(), signal.SIGKILL)
            if kind == "waits":
                (there / str(os.getpid())).touch()
                while not (there / "go").exists():
                    time.sleep(0.05)
        return classification(model, batch)

    def model():
        return torch.nn.Sequential(torch.nn.Linear(6, 8), torch.nn.Dropout(0.5), torch.nn.Linear(8, 2))

    return Task("mine", "", model, lambda folder: Data(examples, examples), measure)
"""


@pytest.fixture
def mine(tmp_path, monkeypatch):
    """Makes specifications of a task in the working folder that fails, dies or waits, the latter in its third epoch."""
    (tmp_path / "my_task.py").write_text(TASK)
    monkeypatch.chdir(tmp_path)

    def spec(kind, seed=0):
        (tmp_path / kind).mkdir(exist_ok=True)
        chosen = options(kind=kind, folder=kind)
        return RunSpec("my_task.py:build", "adam", 0.01, seed, 4, 10, chosen, lga=options(gamma2=1e-3))

    return spec


def exact(records):
    return [dataclasses.replace(record, seconds=0.0) for record in records]


def told(events, spec):
    """What an engine told of a run, without progress within epochs."""
    return [event for event in events if event.spec == spec and not isinstance(event, Progress)]


def kinds(events, spec):
    return [type(event) for event in told(events, spec)]


def test_a_cluster_of_its_own(mine, tmp_path, capsys, monkeypatch):
    fine = [DIGITS, dataclasses.replace(DIGITS, lga=options(gamma2=1e-6)), mine("dies once")]
    error, dies = mine("error"), mine("dies")
    folders, make = [], tempfile.TemporaryDirectory
    monkeypatch.setattr(tempfile, "TemporaryDirectory", lambda **how: folders.append(make(**how)) or folders[-1])
    events, addresses = [], set()
    with Store(tmp_path / "results.sqlite") as store:
        for event in execute_missing([error, dies, *fine], store, RayEngine(2), None):
            events.append(event)
            addresses |= {node["NodeManagerAddress"] for node in sys.modules["ray"].nodes()}
        assert store.missing([error, dies, *fine]) == [error, dies]
        (tmp_path / "dies once" / "died").touch()
        for spec in fine:
            assert exact(store.records(spec)) == exact(run(spec, None))
    for spec in fine[:2]:
        assert kinds(events, spec) == [RunStarted, EpochDone, EpochDone, RunDone]
    # The worker was lost in the third epoch, and perhaps the last that it told with it.
    assert kinds(events, fine[2]).count(RunStarted) == 2
    again = told(events, fine[2])
    _, note, *epochs, _ = again[again.index(RunStarted(fine[2]), 1) :]
    assert (note.message, note.epochs) == ("continues after epoch 2 of 4", 2)
    assert [event.record.epoch for event in epochs] == [1, 2, 3, 4]
    assert kinds(events, error) == [RunStarted, RunFailed]
    line = 1 + TASK.splitlines().index('            raise RuntimeError("no luck\\nat all")')
    assert told(events, error)[-1].message == f"RuntimeError: no luck ({tmp_path}/my_task.py, line {line})"
    assert kinds(events, dies).count(RunStarted) == 2
    assert told(events, dies)[-1].message == "its worker was lost twice, the last time by WorkerCrashedError"
    # It was ours alone, and leaves nothing.
    assert addresses == {"127.0.0.1"}
    assert not sys.modules["ray"].is_initialized()
    assert capsys.readouterr() == ("", "")
    assert len(folders) == 1
    assert not Path(folders[0].name).exists()


def test_a_cluster_that_is_there_loses_a_node(mine, tmp_path, monkeypatch):
    for name, value in (("RAY_USAGE_STATS_ENABLED", "0"), ("RAY_worker_niceness", "0")):
        monkeypatch.setenv(name, value)
    from ray.cluster_utils import Cluster

    small = {"num_cpus": 1, "num_gpus": 0, "object_store_memory": 80 * 2**20, "include_dashboard": False}
    cluster = Cluster(initialize_head=True, head_node_args=small)
    try:
        node = cluster.add_node(**small)
        engine = RayEngine(address=cluster.address)
        with pytest.raises(UsageError, match="the Ray cluster has no GPU"):
            next(engine.execute([dataclasses.replace(DIGITS, device="cuda")], None))
        specs = [mine("waits", seed) for seed in (0, 1)]
        folder = tmp_path / "waits"
        with Store(tmp_path / "results.sqlite") as store:
            events = []
            for event in execute_missing(specs, store, engine, None):
                events.append(event)
                if isinstance(event, EpochDone) and sum(isinstance(event, EpochDone) for event in events) == 4:
                    cluster.remove_node(node, allow_graceful=False)  # both have two epochs, one on each node
                if isinstance(event, RunStarted) and sum(isinstance(event, RunStarted) for event in events) == 3:
                    (folder / "go").touch()
            for spec in specs:
                assert exact(store.records(spec)) == exact(run(spec, None))
        starts = {spec: kinds(events, spec).count(RunStarted) for spec in specs}
        assert sorted(starts.values()) == [1, 2]
        assert [(event.spec, event.epochs) for event in events if isinstance(event, RunNote)] == [
            (spec, 2) for spec in specs if starts[spec] == 2
        ]

        # Whoever stops takes his runs along and leaves the cluster.
        for path in folder.iterdir():
            path.unlink()
        events = engine.execute([specs[0]], None)
        while not (isinstance(event := next(events), EpochDone) and event.record.epoch == 2):
            pass
        process = Path("/proc", str(os.getpid()))
        assert process.exists(), "sees processes through /proc"
        wait_until(lambda: any(folder.iterdir()))
        events.close()
        wait_until(lambda: not any(Path("/proc", path.name).exists() for path in folder.iterdir()))
        assert cluster.head_node.remaining_processes_alive()
    finally:
        cluster.shutdown()


def wait_until(condition):
    deadline = time.monotonic() + 100
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


# --- what cannot be --------------------------------------------------------------------------------------------------


def said(capsys, *arguments):
    """What the command line says of wrong input, in one line."""
    with pytest.raises(SystemExit) as stop:
        main(["compare", "digits", *arguments])
    assert stop.value.code == 2
    return capsys.readouterr().err.splitlines()[-1]


def test_no_cluster_answers(tmp_path, capsys):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # and does not listen
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        line = said(capsys, "--engine", "ray", "--ray-address", address, "--out", str(tmp_path))
    assert line.startswith(f"lossaware: no Ray cluster answers at {address} (")


@pytest.mark.parametrize("address", ["here", "ray://127.0.0.1:10001", "127.0.0.1:", "127.0.0.1:port", ""])
def test_an_address_that_is_none(tmp_path, capsys, address):
    line = said(capsys, "--engine", "ray", "--ray-address", address, "--out", str(tmp_path / "out"))
    assert line == f"lossaware: the address of a Ray cluster must be HOST:PORT or auto, got {address!r}"
    assert not (tmp_path / "out").exists()


def test_auto_is_the_cluster_that_the_environment_names(monkeypatch):
    monkeypatch.setenv("RAY_ADDRESS", "nowhere")
    with pytest.raises(UsageError, match="must be HOST:PORT or auto, got 'nowhere'"):
        RayEngine(address="auto")


def test_ray_is_not_installed(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    line = said(capsys, "--engine", "ray", "--out", str(tmp_path / "out"))
    assert line == f"lossaware: --engine ray needs the package ray: {how_to_install('ray')}"
    assert not (tmp_path / "out").exists()


def test_engines_by_name():
    assert make_engine("local", jobs=3).jobs == 3
    with pytest.raises(UsageError, match=r"unknown engine 'rya'; did you mean ray\?"):
        make_engine("rya")
    with pytest.raises(UsageError, match="--ray-address needs --engine ray"):
        make_engine("local", ray_address="auto")
    with pytest.raises(UsageError, match="jobs must be at least 1, got 0"):
        make_engine("ray", jobs=0)


@pytest.mark.parametrize(
    ("folder", "package", "reason"),
    [
        (".", "other", "has another lossaware than"),
        ("/not/there", None, "does not have the folder /not/there (No such"),
    ],
)
def test_a_machine_that_is_set_up_otherwise(monkeypatch, folder, package, reason):
    from lossaware.studies.training.checkpoint import PACKAGE

    (event,) = _stream(DIGITS, None, None, folder, package or PACKAGE)
    assert isinstance(event, RunFailed)
    assert reason in event.message
