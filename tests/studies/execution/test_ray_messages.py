"""The engine on Ray: messages about lost clusters and impossible settings."""

import dataclasses
import importlib.util
import socket
import sys
import time
from contextlib import contextmanager
from types import SimpleNamespace

import pytest

from lossaware.errors import UsageError
from lossaware.extras import how_to_install
from lossaware.studies.execution import patience, ray_driver
from lossaware.studies.execution import ray as engine_module
from lossaware.studies.execution.events import EpochDone, RunDone, RunFailed, RunNote, RunStarted
from lossaware.studies.execution.factory import make_engine
from lossaware.studies.execution.ray import LOSSES, RayEngine
from lossaware.studies.execution.ray_driver import Lost, Over, Ready, Refused, _WorkerStarted, stream
from lossaware.studies.specs.run_spec import RunSpec
from support.command_line import lossaware

without_ray = importlib.util.find_spec("ray") is None  # which is not imported here, as the engine prepares that
pytestmark = pytest.mark.skipif(without_ray, reason="ray is not installed: pip install -e '.[everything]' brings it")


DIGITS = RunSpec(task="digits", optimizer="adam", lr=0.01, seed=0, epochs=2, batch_size=100)
FIRST, SECOND = DIGITS, dataclasses.replace(DIGITS, seed=1)
LOST = Lost("a test")


@pytest.fixture
def scripted(monkeypatch):
    """Passes the events of the given drivers to an engine, one driver after another; returns the runs of each."""

    def install(*drivers):
        attempts, remaining = [], list(drivers)

        @contextmanager
        def driver(self, specs, data_folder, checkpoints, waits_until):
            attempts.append(specs)
            yield iter(remaining.pop(0))

        monkeypatch.setattr(RayEngine, "_driver", driver)
        return attempts

    return install


def test_another_cluster_is_given_the_runs_that_have_not_ended(scripted):
    attempts = scripted(
        [Ready(), RunStarted(FIRST), RunDone(FIRST), RunStarted(SECOND), LOST],
        [Ready(), RunStarted(SECOND), RunDone(SECOND), Over()],
    )
    events = list(RayEngine(1).execute([FIRST, SECOND], None))
    assert attempts == [[FIRST, SECOND], [SECOND]]
    note = RunNote(SECOND, "its Ray cluster was lost (a test); a new one is started")
    started, finished = RunStarted(SECOND), RunDone(SECOND)
    assert events == [RunStarted(FIRST), RunDone(FIRST), started, note, started, finished]


def test_a_run_with_which_each_cluster_is_lost_has_failed_in_the_end(scripted):
    lost = [Ready(), RunStarted(FIRST), LOST]
    attempts = scripted(*[lost] * LOSSES, [Ready(), RunStarted(SECOND), RunDone(SECOND), Over()])
    events = list(RayEngine(1).execute([FIRST, SECOND], None))
    assert attempts == [[FIRST, SECOND]] * LOSSES + [[SECOND]]
    failed = [event for event in events if isinstance(event, RunFailed)]
    assert failed == [RunFailed(FIRST, f"its Ray cluster was lost {LOSSES} times, the last time by a test")]


def test_a_cluster_that_is_lost_before_any_run_is_not_retried_forever(scripted):
    scripted([Ready(), LOST])
    with pytest.raises(UsageError, match="Ray cannot run here: a test"):
        list(RayEngine(1).execute([FIRST], None))


def test_a_cluster_by_address_is_waited_for_until_the_timeout(scripted, monkeypatch):
    monkeypatch.setattr(engine_module, "LOST_SECONDS", 0.2)
    monkeypatch.setattr(engine_module, "RETRY_SECONDS", 0.03)
    refused = [Refused("no answer")]
    lost = [Ready(), RunStarted(FIRST), LOST]
    attempts = scripted(lost, refused, lost, *[refused] * 20)
    events = RayEngine(1, "127.0.0.1:1").execute([FIRST], None)
    with pytest.raises(UsageError, match=r"was lost and did not answer again within 0\.2 s; finished runs"):
        list(events)
    assert 3 < len(attempts) < 13
    scripted(refused)
    with pytest.raises(UsageError, match="no answer"):
        list(RayEngine(1, "127.0.0.1:1").execute([FIRST], None))


def test_an_address_that_accepts_and_says_nothing(monkeypatch):
    monkeypatch.setattr(engine_module, "START_SECONDS", 1.0)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"127.0.0.1:{silent.getsockname()[1]}"
        with pytest.raises(UsageError, match=f"no Ray cluster answers at {address} within 1 s"):
            list(RayEngine(1, address).execute([FIRST], None))


class Worker:
    """The events of a worker, as a stand-in for Ray has them; then it is silent until it is killed."""

    def __init__(self, *events):
        self.events = list(events)
        self.killed = False

    def __next__(self):
        if self.killed:
            raise StandIn.exceptions.RayError
        return self.events.pop(0)


class StandIn:
    """The parts of Ray that the driver uses. A check without events may take as long as a real one."""

    class exceptions:  # noqa: N801
        RayTaskError = LocalRayletDiedError = type("Other", (Exception,), {})
        RayError = type("RayError", (Exception,), {})

    def __init__(self, clock):
        self.clock = clock

    def wait(self, running, timeout):
        ready = [worker for worker in running if worker.killed or worker.events]
        self.clock.append(self.clock[-1] + (0 if ready else timeout))
        return ready, []

    def get(self, event):
        return event

    def cancel(self, worker, force):
        assert force
        worker.killed = True


def test_a_worker_that_hangs_is_ended_and_one_that_waits_for_a_cpu_is_not(monkeypatch):
    clock = [0.0]
    monkeypatch.setitem(sys.modules, "ray", StandIn(clock))
    monkeypatch.setattr(ray_driver, "_Watch", lambda: SimpleNamespace(look=lambda: None))
    monkeypatch.setattr(time, "monotonic", lambda: clock[-1])
    epoch_done = EpochDone(FIRST, None)
    hangs = [Worker(_WorkerStarted(), epoch_done), Worker(_WorkerStarted(), epoch_done)]
    patient = Worker()  # until a CPU is free for it
    workers = {FIRST: [*hangs], SECOND: [patient]}
    events = []
    for event in ray_driver._events_of([FIRST, SECOND], 2, lambda spec: workers[spec].pop(0)):
        events.append(event)
        if isinstance(event, RunFailed):
            assert not patient.killed
            patient.events += [_WorkerStarted(), RunDone(SECOND, 2)]
    assert hangs[0].killed
    assert hangs[1].killed
    silent = f"hanging: no event for {patience.SILENCE + patience.LOOK_EVERY:.0f} s"
    assert [event for event in events if event.spec == FIRST] == [
        RunStarted(FIRST),
        epoch_done,
        RunNote(FIRST, f"its worker is killed for {silent}; it is started again"),
        RunStarted(FIRST),
        epoch_done,
        RunFailed(FIRST, f"its worker was lost twice, the last time by {silent}"),
    ]
    assert events[-1] == RunDone(SECOND, 2)


# --- what cannot be --------------------------------------------------------------------------------------------------


def error_line(capsys, *arguments):
    """The one-line message of the command line for wrong input."""
    assert lossaware("compare", "digits", *arguments) == 2
    return capsys.readouterr().err.splitlines()[-1]


def test_no_cluster_answers(tmp_path, capsys):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # and does not listen
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        line = error_line(capsys, "--engine", "ray", "--ray-address", address, "--out", str(tmp_path))
    assert line.startswith(f"lossaware: no Ray cluster answers at {address} (")


@pytest.mark.parametrize("address", ["here", "ray://127.0.0.1:10001", "127.0.0.1:", "127.0.0.1:port", ""])
def test_an_invalid_address(tmp_path, capsys, address):
    line = error_line(capsys, "--engine", "ray", "--ray-address", address, "--out", str(tmp_path / "out"))
    assert line == f"lossaware: the address of a Ray cluster must be HOST:PORT or auto, got {address!r}"
    assert not (tmp_path / "out").exists()


def test_auto_is_the_cluster_that_the_environment_names(monkeypatch):
    monkeypatch.setenv("RAY_ADDRESS", "nowhere")
    with pytest.raises(UsageError, match="must be HOST:PORT or auto, got 'nowhere'"):
        RayEngine(address="auto")


def test_ray_is_not_installed(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    line = error_line(capsys, "--engine", "ray", "--out", str(tmp_path / "out"))
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

    (event,) = stream(DIGITS, None, None, folder, package or PACKAGE)  # and it does not begin
    assert isinstance(event, RunFailed)
    assert reason in event.message
