"""The local engine: all runs are executed, even if some fail."""

import dataclasses
import errno
import os
import re
import signal
import threading
import time
from multiprocessing.forkserver import ForkServer

import pytest

from lossaware.errors import UsageError
from lossaware.studies.execution import local, patience
from lossaware.studies.execution.events import EpochDone, Progress, RunDone, RunFailed, RunNote, RunStarted
from lossaware.studies.execution.local import LocalEngine
from lossaware.studies.execution.processes import quiet_start
from lossaware.studies.execution.supervise import execute_missing
from lossaware.studies.specs.run_spec import RunSpec, options
from lossaware.studies.store.database import Store
from lossaware.studies.training.run import run
from support.records import exact

SPEC = RunSpec(task="digits", optimizer="sgd", lr=0.01, seed=0, epochs=2, batch_size=100)
TASK = """
import os, pathlib, signal, time
import torch
from lossaware.studies.task import Data, InMemory, Task
from lossaware.studies.models.classification import classification

def build(kind="good", marks=""):
    def data(folder):
        x = torch.ones(20, 3)
        examples = InMemory((x, torch.zeros(20).long()))
        return Data(train=examples, test=examples)

    calls = []

    def measure(model, batch):
        mark = pathlib.Path(marks, str(time.time_ns()))
        if kind == "once" and not list(mark.parent.iterdir()) or kind == "always":
            mark.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        if kind == "exit":
            os._exit(3)
        if kind == "error":
            raise RuntimeError("no luck\\nat all")
        calls.append(kind)
        if len(calls) > 20 and (kind == "hangs" or kind == "hang" and not list(mark.parent.iterdir())):
            mark.touch()
            time.sleep(1000)
        if kind == "slow":
            mark.touch()
            time.sleep(0.2)
        return classification(model, batch)

    return Task("mine", "", lambda: torch.nn.Linear(3, 2), data, measure)
"""


@pytest.fixture
def mine(tmp_path):
    """Makes specifications of a task that dies, fails or waits."""
    (tmp_path / "my_task.py").write_text(TASK)

    def spec(kind, seed=0):
        marks = tmp_path / f"marks-{kind}-{seed}"
        marks.mkdir()
        chosen = options(kind=kind, marks=str(marks))
        return dataclasses.replace(SPEC, task=f"{tmp_path}/my_task.py:build", task_options=chosen, seed=seed)

    return spec


def test_each_run_has_all_events_with_the_numbers_of_a_direct_run():
    specs = [dataclasses.replace(SPEC, seed=seed, lga=lga) for seed in (0, 1) for lga in (None, options(gamma2=1e-6))]
    events = list(LocalEngine(2).execute(specs, None))
    for spec in specs:
        mine = [event for event in events if event.spec == spec and not isinstance(event, Progress)]
        assert [type(event) for event in mine] == [RunStarted, EpochDone, EpochDone, RunDone]
        assert exact(event.record for event in mine if isinstance(event, EpochDone)) == exact(run(spec, None))


def test_a_worker_that_dies_is_retried_once_and_then_reported(mine):
    once, always, leaves, fine = mine("once"), mine("always"), mine("exit"), mine("good")
    events = list(LocalEngine(1).execute([once, always, leaves, fine], None))

    def kinds(spec):
        return [type(event).__name__ for event in events if event.spec == spec and not isinstance(event, Progress)]

    good = ["RunStarted", "EpochDone", "EpochDone", "RunDone"]
    assert kinds(once) == ["RunStarted", *good]
    assert kinds(always) == ["RunStarted", "RunStarted", "RunFailed"]
    assert kinds(fine) == good
    messages = {event.spec: event.message for event in events if isinstance(event, RunFailed)}
    assert messages == {
        always: "its process died twice, the last time by SIGKILL (out of memory?)",
        leaves: "its process died twice, the last time by exit with code 3",
    }


@pytest.mark.skipif(not hasattr(os, "waitid"), reason="there is no server to fork from")
def test_a_server_that_is_killed_as_it_begins_is_replaced(mine, monkeypatch):
    ensure_running = ForkServer.ensure_running
    killed = []

    def start_and_kill_once(server):
        ensure_running(server)
        if not killed:
            killed.append(server._forkserver_pid)
            os.kill(killed[0], signal.SIGKILL)
            os.waitid(os.P_PID, killed[0], os.WEXITED | os.WNOWAIT)  # the server itself must find out

    monkeypatch.setattr(ForkServer, "ensure_running", start_and_kill_once)
    fine = mine("good")
    assert list(LocalEngine(1).execute([fine], None))[-1] == RunDone(fine, fine.epochs)
    assert killed


@pytest.mark.skipif(not hasattr(os, "waitid"), reason="there is no server to fork from")
def test_a_server_that_is_killed_around_each_start_fails_the_run_and_not_the_program(mine, monkeypatch):
    """Without the check: ConnectionRefusedError or EOFError, and with it all runs end."""
    starts = []

    def refused(context, spec, *arguments):
        starts.append(spec)
        if spec.seed == 1:
            raise (ConnectionRefusedError(111, "Connection refused"), EOFError())[len(starts) % 2]
        return worker(context, spec, *arguments)

    worker = local._Worker
    monkeypatch.setattr(local, "_Worker", refused)
    lost, fine = mine("good", 1), mine("good")
    events = list(LocalEngine(1).execute([lost, fine], None))
    [failed] = [event for event in events if isinstance(event, RunFailed)]
    assert failed.spec == lost
    assert failed.message.startswith("its process could not be started twice (")
    assert starts.count(lost) == 2
    assert RunDone(fine, fine.epochs) in events


def test_too_many_open_files_is_one_line(mine, monkeypatch):
    def refuse(*arguments):
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr(local, "_Worker", refuse)
    with pytest.raises(UsageError, match=r"too many files are open .*ulimit -n"):
        list(LocalEngine(1).execute([mine("good")], None))


def test_a_folder_for_temporary_files_with_a_long_path_is_one_line(mine, monkeypatch):
    def refuse(*arguments):
        raise OSError("AF_UNIX path too long")

    monkeypatch.setattr(local, "_Worker", refuse)
    with pytest.raises(UsageError, match="set TMPDIR to a shorter one than /"):
        list(LocalEngine(1).execute([mine("good")], None))


def test_a_worker_that_hangs_is_ended_and_reported(mine, monkeypatch):
    monkeypatch.setattr(patience, "SILENCE", 3.0)
    monkeypatch.setattr(patience, "MANY", 0.1)
    monkeypatch.setattr(patience, "LOOK_EVERY", 0.2)
    once, never = (dataclasses.replace(mine(kind), epochs=20) for kind in ("hang", "hangs"))
    events = list(LocalEngine(2).execute([once, never], None))
    notes = {event.spec: event.message for event in events if isinstance(event, RunNote)}
    pattern = r"its process is killed for hanging: no event for \d+ s; it is started again"
    assert re.fullmatch(pattern, notes[once])
    assert re.fullmatch(pattern, notes[never])
    assert RunDone(once, once.epochs) in events
    assert [event.record.epoch for event in events if isinstance(event, EpochDone) and event.spec == once][-1] == 20
    [failed] = [event for event in events if isinstance(event, RunFailed)]
    assert failed.spec == never
    assert re.fullmatch(r"its process died twice, the last time by hanging: no event for .*", failed.message)


def test_a_failed_run_gives_its_reason_and_the_others_continue(mine, tmp_path):
    error, wrong, fine = mine("error"), dataclasses.replace(SPEC, optimizer="sgdd"), mine("good")
    events = list(LocalEngine(2).execute([error, wrong, fine], None))
    messages = {event.spec: event.message for event in events if isinstance(event, RunFailed)}
    line = 1 + TASK.splitlines().index('            raise RuntimeError("no luck\\nat all")')
    assert messages[error] == f"RuntimeError: no luck ({tmp_path}/my_task.py, line {line})"
    assert messages[wrong].startswith("unknown optimizer 'sgdd'; did you mean sgd")
    assert len(messages) == 2
    assert RunDone(fine, fine.epochs) in events


def test_progress_shows_the_state_of_a_run(mine):
    spec = dataclasses.replace(mine("slow"), batch_size=5)
    events = [event for event in LocalEngine(1).execute([spec], None) if isinstance(event, Progress)]
    assert {(event.epoch, event.steps) for event in events} == {(1, 4), (2, 4)}
    assert all(1 <= event.step <= 4 and event.loss > 0 for event in events)


def test_closing_stops_all_runs(mine):
    slow = [dataclasses.replace(mine("slow", seed), epochs=1000) for seed in (0, 1, 2)]
    events = LocalEngine(2).execute(slow, None)
    for event in events:
        if isinstance(event, EpochDone):
            break
    events.close()
    marks = [dict(spec.task_options)["marks"] for spec in slow]
    before = [len(os.listdir(folder)) for folder in marks]
    time.sleep(0.6)
    assert [len(os.listdir(folder)) for folder in marks] == before
    assert before[0] > 0


def test_only_missing_runs_are_executed_and_stored_before_their_events(tmp_path):
    specs = [dataclasses.replace(SPEC, seed=seed) for seed in range(3)]
    broken = dataclasses.replace(SPEC, optimizer="sgdd")
    with Store(tmp_path / "results.sqlite") as store:
        for event in execute_missing([specs[0], broken], store, LocalEngine(1), None):
            if isinstance(event, EpochDone):
                assert event.record in store.records(event.spec)
            if isinstance(event, RunDone):
                assert store.complete(event.spec)
        assert list(store.failures()) == [broken]
        started = [
            e.spec for e in execute_missing([*specs, *specs], store, LocalEngine(2), None) if isinstance(e, RunStarted)
        ]
        assert started == specs[1:]
        assert not list(execute_missing(specs, store, LocalEngine(2), None))


@pytest.mark.parametrize("jobs", [0, -1])
def test_jobs_are_at_least_one(jobs):
    with pytest.raises(UsageError, match=f"jobs must be at least 1, got {jobs}"):
        LocalEngine(jobs)


def test_ctrl_c_waits_while_a_process_starts():
    """Also where a library's thread, in which the signal is not blocked, lets it in."""
    finished = threading.Event()
    thread = threading.Thread(target=finished.wait)
    thread.start()
    before = signal.getsignal(signal.SIGINT)
    ready = []

    def start():
        with quiet_start():
            assert thread.ident is not None
            signal.pthread_kill(thread.ident, signal.SIGINT)
            time.sleep(0.1)
            ready.append(True)

    try:
        with pytest.raises(KeyboardInterrupt):
            start()
    finally:
        finished.set()
        thread.join()
    assert ready == [True]
    assert signal.getsignal(signal.SIGINT) is before
    assert signal.SIGINT not in signal.pthread_sigmask(signal.SIG_BLOCK, [])
