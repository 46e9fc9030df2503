"""The engine on Ray: the numbers of a direct run, also if a worker, a node or the cluster is lost."""

import dataclasses
import importlib.util
import ipaddress
import multiprocessing
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import pytest

from lossaware.errors import UsageError
from lossaware.studies.execution import patience
from lossaware.studies.execution import ray as engine_module
from lossaware.studies.execution.events import EpochDone, Progress, RunDone, RunFailed, RunNote, RunStarted
from lossaware.studies.execution.ray import RayEngine
from lossaware.studies.execution.supervise import execute_missing
from lossaware.studies.specs.run_spec import RunSpec, options
from lossaware.studies.store.database import Store
from lossaware.studies.training.run import run
from support.records import exact

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
            if kind in ("hangs", "stops") or kind == "hangs once" and not (there / "hung").exists():
                (there / "hung").touch()
                if kind == "stops":
                    os.kill(os.getpid(), signal.SIGSTOP)
                time.sleep(1000)
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


def events_of(events, spec):
    """The events of a run, without progress within epochs."""
    return [event for event in events if event.spec == spec and not isinstance(event, Progress)]


def kinds(events, spec):
    return [type(event) for event in events_of(events, spec)]


def descendants(root=None):
    """The processes that descend from one, or from this one, with their command lines."""
    parents = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            command = (folder / "cmdline").read_bytes().decode(errors="replace").replace("\0", " ").strip()
            parents[int(folder.name)] = int((folder / "stat").read_text().rpartition(")")[2].split()[1]), command
        except OSError:
            continue
    processes, new = {}, {root or os.getpid()}
    while new:
        new = {number for number, (parent, _) in parents.items() if parent in new}
        processes |= {number: parents[number][1] for number in new}
    return processes


def listening(processes):
    """The addresses at which they accept connections over TCP."""
    sockets = set()
    for number in processes:
        for file in Path(f"/proc/{number}/fd").glob("*"):
            try:
                sockets.add(os.readlink(file).removeprefix("socket:[").removesuffix("]"))
            except OSError:
                continue
    addresses = set()
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        for words in map(str.split, Path(table).read_text().splitlines()[1:]):
            if words[3] == "0A" and words[9] in sockets:
                content = bytes.fromhex(words[1].partition(":")[0])
                address = ipaddress.ip_address(b"".join(content[i : i + 4][::-1] for i in range(0, len(content), 4)))
                addresses.add(str(getattr(address, "ipv4_mapped", None) or address))
    return addresses


def test_a_new_cluster(mine, tmp_path, capsys):
    fine = [DIGITS, dataclasses.replace(DIGITS, lga=options(gamma2=1e-6)), mine("dies once")]
    error, dies = mine("error"), mine("dies")
    events, processes, hosts = [], {}, set()
    others = set(descendants())  # of earlier tests, such as the workers of torch's compiler
    with Store(tmp_path / "results.sqlite") as store:
        for event in execute_missing([error, dies, *fine], store, RayEngine(2), None):
            events.append(event)
            if isinstance(event, RunDone):
                processes |= descendants()
                hosts |= listening(processes)
        assert store.missing([error, dies, *fine]) == [error, dies]
        (tmp_path / "dies once" / "died").touch()
        for spec in fine:
            assert exact(store.records(spec)) == exact(run(spec, None))
    for spec in fine[:2]:
        assert kinds(events, spec) == [RunStarted, EpochDone, EpochDone, RunDone]
    # The worker was lost in the third epoch, and perhaps also the report of the second.
    assert kinds(events, fine[2]).count(RunStarted) == 2
    retried = events_of(events, fine[2])
    _, note, *epochs, _ = retried[retried.index(RunStarted(fine[2]), 1) :]
    assert (note.message, note.epochs) == ("resumes after epoch 2 of 4", 2)
    assert [event.record.epoch for event in epochs] == [1, 2, 3, 4]
    assert kinds(events, error) == [RunStarted, RunFailed]
    line = 1 + TASK.splitlines().index('            raise RuntimeError("no luck\\nat all")')
    assert events_of(events, error)[-1].message == f"RuntimeError: no luck ({tmp_path}/my_task.py, line {line})"
    assert kinds(events, dies).count(RunStarted) == 2
    assert events_of(events, dies)[-1].message == "its worker was lost twice, the last time by WorkerCrashedError"
    # It was only ours, and nothing of it remains.
    assert hosts == {"127.0.0.1"}
    (folder,) = {path for line in processes.values() for path in re.findall(r"/tmp/lossaware-ray-\w{8}", line)}
    assert not Path(folder).exists()
    # Python's own resource trackers, of this process
    trackers = {number for number, line in processes.items() if "resource_tracker" in line}
    wait_until(lambda: not (set(processes) - trackers - others) & set(descendants()))
    assert capsys.readouterr() == ("", "")


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
        running = engine.execute([specs[0]], None)
        while not (isinstance(event := next(running), EpochDone) and event.record.epoch == 2):
            pass
        process = Path("/proc", str(os.getpid()))
        assert process.exists(), "sees processes through /proc"
        wait_until(lambda: any(folder.iterdir()))
        running.close()
        wait_until(lambda: not any(Path("/proc", path.name).exists() for path in folder.iterdir()))
        assert cluster.head_node.remaining_processes_alive()
    finally:
        cluster.shutdown()


@pytest.mark.mutations
@pytest.mark.parametrize("victim", ["/raylet/raylet", "ray::DashboardAgent", "ray::RuntimeEnvAgent", "/gcs/gcs_server"])
def test_after_the_kill_of_a_part_of_its_cluster_another_one_continues(mine, tmp_path, victim):
    specs = [mine("waits", seed) for seed in (0, 1, 2)]
    events, killed, folders = [], [], set()
    with Store(tmp_path / "results.sqlite") as store:
        for event in execute_missing(specs, store, RayEngine(2), None):
            events.append(event)
            if not killed and sum(isinstance(event, EpochDone) for event in events) == 4:
                wait_until(lambda: len(list((tmp_path / "waits").iterdir())) == 2)  # in their third epochs
                processes = descendants()
                (killed,) = [number for number, line in processes.items() if victim in line.split(" --")[0]]
                folders |= {
                    folder for line in processes.values() for folder in re.findall(r"/tmp/lossaware-ray-\w{8}", line)
                }
                os.kill(killed, signal.SIGKILL)
                (tmp_path / "waits" / "go").touch()
        for spec in specs:
            assert exact(store.records(spec)) == exact(run(spec, None))
    notes = [event.message for event in events if isinstance(event, RunNote)]
    assert any(re.fullmatch(r"its Ray cluster was lost \(.*\); a new one is started", note) for note in notes), notes
    assert not any(isinstance(event, RunFailed) for event in events)
    assert len(folders) == 1
    assert not Path(folders.pop()).exists()


@pytest.mark.mutations
def test_a_worker_that_hangs_is_ended_and_reported(mine, monkeypatch):
    monkeypatch.setattr(patience, "SILENCE", 6.0)
    monkeypatch.setattr(patience, "MANY", 0.1)
    fork = multiprocessing.get_context("fork")  # has this patience
    monkeypatch.setattr(multiprocessing, "get_context", lambda name: fork)
    specs = once, always, stops = mine("hangs once"), mine("hangs"), mine("stops")
    events = list(RayEngine(3).execute(specs, None))
    reason = r"hanging: no event for \d+ s"
    for spec in specs:
        [note] = [event.message for event in events_of(events, spec) if isinstance(event, RunNote)]
        assert re.fullmatch(f"its worker is killed for {reason}; it is started again", note)
        assert kinds(events, spec).count(RunStarted) == 2
    assert events_of(events, once)[-1] == RunDone(once, 4)
    for spec in (always, stops):
        assert re.fullmatch(
            f"its worker was lost twice, the last time by {reason}", events_of(events, spec)[-1].message
        )


@contextmanager
def head(port, folder):
    """A cluster as a user starts it on this machine, in a separate session; it is killed at the end."""
    command = [sys.executable, "-m", "ray.scripts.scripts", "start", "--head", "--block", "--disable-usage-stats"]
    command += [f"--port={port}", "--node-ip-address=127.0.0.1", "--num-cpus=1", "--include-dashboard=false"]
    command += [f"--ray-client-server-port={free_port()}"]
    command += [f"--object-store-memory={80 * 2**20}", f"--temp-dir={folder}"]
    log = Path(folder) / f"{time.monotonic_ns()}.log"
    with log.open("wb") as output:
        started = subprocess.Popen(command, stdout=output, stderr=output, start_new_session=True)
    try:
        while "Ray runtime started" not in log.read_text():
            assert started.poll() is None, log.read_text()
            time.sleep(0.1)
        yield
    finally:
        for number in (started.pid, *descendants(started.pid)):
            with suppress(ProcessLookupError):
                os.kill(number, signal.SIGKILL)
        started.wait()


def free_port():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return taken.getsockname()[1]


@pytest.mark.mutations
@pytest.mark.parametrize("comes_back", [True, False])
def test_a_cluster_by_address_that_is_lost_is_waited_for(mine, tmp_path, monkeypatch, comes_back):
    monkeypatch.setattr(engine_module, "LOST_SECONDS", 60.0 if comes_back else 2.0)
    monkeypatch.setenv("RAY_gcs_rpc_server_reconnect_timeout_s", "5")  # which Ray waits itself
    monkeypatch.setenv("RAY_worker_niceness", "0")
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    monkeypatch.setenv("RAY_AUTH_TOKEN", "1" * 64)
    port, spec = free_port(), mine("waits")
    events = []

    def execute_all(lose, store):
        for event in execute_missing([spec], store, RayEngine(address=f"127.0.0.1:{port}"), None):
            events.append(event)
            if isinstance(event, EpochDone) and event.record.epoch == 2 and not (tmp_path / "waits" / "go").exists():
                wait_until(lambda: any((tmp_path / "waits").iterdir()))  # in its third epoch
                lose()

    with (
        tempfile.TemporaryDirectory(prefix="ray-", dir="/tmp", ignore_cleanup_errors=True) as folder,
        ExitStack() as stack,
    ):
        first = ExitStack()
        first.enter_context(head(port, folder))
        stack.callback(first.close)

        def lose():
            (tmp_path / "waits" / "go").touch()
            first.close()
            if comes_back:
                stack.enter_context(head(port, folder))

        with Store(tmp_path / "results.sqlite") as store:
            if comes_back:
                execute_all(lose, store)
                assert exact(store.records(spec)) == exact(run(spec, None))
            else:
                with pytest.raises(UsageError) as error:
                    execute_all(lose, store)
                assert str(error.value) == (
                    f"the Ray cluster at 127.0.0.1:{port} was lost and did not answer again within 2 s; "
                    "finished runs are kept, and the same command continues"
                )
                assert len(store.records(spec)) >= 2
    notes = [event.message for event in events if isinstance(event, RunNote)]
    assert re.fullmatch(r"its Ray cluster was lost \(.*\); waiting for it, up to \d+ s", notes[0])


@pytest.mark.mutations
def test_other_users_cannot_use_its_cluster(mine, tmp_path):
    """Another user has neither our environment nor our home folder."""
    pytest.importorskip("ray", minversion="2.52")  # before, Ray did not have a token
    mine("waits")
    events = RayEngine(1).execute([mine("waits")], None)
    next(events)
    (host,) = {address for line in descendants().values() for address in re.findall(r"--gcs-address=(\S+)", line)}
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    program = f"import ray; ray.init('{host}'); print('is in')"
    with pytest.raises(subprocess.TimeoutExpired) as tried:
        subprocess.run(
            [sys.executable, "-c", program],
            env=environment | {"HOME": str(tmp_path), "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"},
            capture_output=True,
            timeout=15,
            check=False,
        )
    events.close()
    assert b"is in" not in (tried.value.stdout or b"")
    assert b"InvalidAuthToken" in tried.value.stderr


def wait_until(condition):
    deadline = time.monotonic() + 100
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)
