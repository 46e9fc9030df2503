"""Kills at random times: no finished epoch is lost, no run is incomplete, and the final results are the same."""

import dataclasses
import math
import multiprocessing
import os
import random
import re
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable
from pathlib import Path

import pytest

from lossaware.studies.execution.events import EpochDone, RunDone, RunNote
from lossaware.studies.execution.processes import quiet_start
from lossaware.studies.specs.run_spec import EpochRecord, RunSpec, options
from lossaware.studies.specs.temporary import temporary_folder
from lossaware.studies.store.database import Store
from lossaware.studies.training.run import run
from support import killing, needs
from support.records import exact

SIGNALS = (signal.SIGKILL, signal.SIGKILL, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1)
SPECS = [
    RunSpec("digits", "sgd", 0.01, seed=seed, epochs=8, batch_size=64, lga=lga)
    for seed in (0, 1)
    for lga in (None, options(gamma2=1e-6))
]
pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs forkserver")


def killed(program, *arguments, words, seconds, by=signal.SIGKILL):
    """Runs ``program`` in a process that gets a signal some seconds after some words of output.

    Returns:
        Its output, and whether it ended by itself.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(
        ["torch", "torch._dynamo", "lossaware.studies.training.run", "lossaware.studies.tasks.digits"]
    )
    messages, other = context.Pipe(duplex=False)
    process = context.Process(target=program, args=(*arguments, other))
    with quiet_start():  # the process need not execute the test program
        process.start()
    other.close()
    received = []
    try:
        while True:
            if len(received) == words:
                if seconds:
                    time.sleep(seconds)
                os.kill(process.pid, by)
            received.append(messages.recv())
    except (EOFError, OSError):  # its last word may be cut short
        process.join()
    assert process.exitcode in (0, -by)
    return received, process.exitcode == 0


@pytest.mark.parametrize("least", [10, pytest.param(200, marks=[pytest.mark.mutations, pytest.mark.timeout(3600)])])
def test_a_study_that_is_killed_again_and_again(tmp_path, least):
    expected = {spec: exact(run(spec, None)) for spec in SPECS}
    chance = random.Random(0)
    kills, rounds, cut_runs, resumed = 0, 0, 0, 0
    while kills < least or rounds < 2:
        path = tmp_path / f"{rounds}.sqlite"
        stored: set[tuple[RunSpec, int]] = set()
        finished: set[RunSpec] = set()
        while True:
            words = chance.randrange(24) if kills < least else math.inf
            # Immediately: an epoch that is reported too early would not be stored yet.
            seconds = chance.choice((0.0, chance.uniform(0, 0.1)))
            # After each epoch, so that some runs resume; or never, so that others start again.
            apart = chance.choice((0.0, math.inf))
            by = chance.choice(SIGNALS)
            received, ended = killed(
                killing.execute_and_send, path, SPECS, 2, apart, words=words, seconds=seconds, by=by
            )
            kills += not ended
            resumed += sum(event.epochs > 0 for event in received if isinstance(event, RunNote))
            stored |= {(event.spec, event.record.epoch) for event in received if isinstance(event, EpochDone)}
            finished |= {event.spec for event in received if isinstance(event, RunDone)}
            if not path.exists():
                assert not received
                continue
            with Store(path) as store:
                epochs = {(spec, record.epoch) for spec in SPECS for record in store.records(spec)}
                assert stored <= epochs, "a finished epoch is lost"
                stored = epochs
                for spec in SPECS:
                    records = exact(store.records(spec))
                    assert records == expected[spec][: len(records)]
                    assert store.complete(spec) == (len(records) == spec.epochs), "a run is half written"
                    cut_runs += 0 < len(records) < spec.epochs
                missing = store.missing(SPECS)
                assert not finished & set(missing), "a finished run is lost"
            if ended:
                assert not missing
                break
        rounds += 1
    print(f"{kills} kills in {rounds} studies: {resumed} runs went on from a checkpoint")
    assert kills >= least
    assert cut_runs > least // 8 < resumed, "the kills came at the wrong moments to show anything"


def test_a_killed_writer_keeps_each_reported_epoch(tmp_path):
    spec = dataclasses.replace(SPECS[0], epochs=100_000)
    records = [EpochRecord(epoch, {"loss": 1 / epoch}, {"loss": 2 / epoch}, None, 0.0) for epoch in range(1, 5001)]
    chance = random.Random(1)
    most = 0
    for attempt in range(15):
        path = tmp_path / f"{attempt}.sqlite"
        words, seconds = chance.randrange(20), chance.choice((0.0, chance.uniform(0, 0.05)))
        reported, _ = killed(killing.write_and_send, path, spec, records, words=words, seconds=seconds)
        most = max(most, len(reported))
        if not path.exists():
            assert not reported
            continue
        with Store(path) as store:
            assert not store.complete(spec)
            stored = store.records(spec)
            assert len(reported) <= len(stored) <= len(reported) + 1
            assert stored == records[: len(stored)]
    assert most > 10


class Program:
    """The program of `killing` in a separate process, with all its descendants."""

    def __init__(self, path: Path, engine: str) -> None:
        self._mark = uuid.uuid4().hex
        self.process = subprocess.Popen(
            [sys.executable, killing.__file__, str(path), engine],
            env={**os.environ, "LOSSAWARE_TEST_MARK": self._mark},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def wait_for(self, line: str) -> None:
        assert self.process.stdout is not None
        for output in self.process.stdout:
            if output.startswith(line):
                return
        raise AssertionError(f"it ended without saying {line}: {self.process.communicate()[1]}")

    def alive(self) -> list[int]:
        """The processes that carry its mark in their environment."""
        processes = []
        for folder in Path("/proc").glob("[0-9]*"):
            try:
                if self._mark.encode() in (folder / "environ").read_bytes():
                    processes.append(int(folder.name))
            except OSError:
                continue
        return processes

    def folders(self) -> set[str]:
        """The temporary folders of Ray that its processes name."""
        lines = [Path(f"/proc/{number}/cmdline").read_text() for number in self.alive()]
        return {folder for line in lines for folder in re.findall(r"/tmp/lossaware-ray-\w{8}", line)}

    def wait_until(self, condition: Callable[[int], bool]) -> bool:
        """Whether the number of its processes comes to meet the condition."""
        deadline = time.monotonic() + 100
        while not (met := condition(len(self.alive()))) and time.monotonic() < deadline:
            time.sleep(0.05)
        return met


@pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="sees processes through /proc")
@pytest.mark.parametrize(
    ("engine", "how", "moment"),
    [
        ("local", "Ctrl-C", "starting"),
        ("local", "Ctrl-C", "EpochDone"),
        ("local", "kill", "EpochDone"),
        pytest.param("ray", "Ctrl-C", "EpochDone", marks=pytest.mark.mutations),
        pytest.param("ray", "kill", "EpochDone", marks=pytest.mark.mutations),
    ],
)
def test_no_process_is_left_behind(tmp_path, engine, how, moment):
    if engine == "ray":
        needs("ray")
    program = Program(tmp_path / "results.sqlite", engine)
    program.wait_for(moment)
    # Itself, Python's resource tracker and the server, which is still importing torch; later a worker or two.
    assert program.wait_until(lambda count: count >= (3 if moment == "starting" else 4))
    folders = program.folders()
    if how == "kill":
        program.process.kill()
    else:
        os.killpg(program.process.pid, signal.SIGINT)  # as a terminal does: to all of them
    # Its workers hold the same standard error, which therefore ends only with the last of them.
    out, err = program.process.communicate(timeout=200)
    assert program.wait_until(lambda count: count == 0)
    assert err == ""
    assert len(folders) == (engine == "ray")
    with temporary_folder("ray", Path("/tmp")):  # as the next command does
        assert not any(map(os.path.exists, folders))
    if how == "Ctrl-C":
        assert program.process.returncode == 130
        assert out.splitlines()[-1] == "stopped"
    with Store(tmp_path / "results.sqlite") as store:
        assert len(store.missing(store.specs())) == len(store.specs())
        assert (moment == "starting") or any(store.records(spec) for spec in store.specs())
