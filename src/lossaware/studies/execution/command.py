"""Runs of commands: scripts that call `lossaware.trial`, started by the user's command line."""

import json
import os
import shlex
import signal
import subprocess
import sys
import time
from collections import deque
from collections.abc import Generator, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from lossaware.errors import UsageError
from lossaware.studies.execution.events import (
    EpochDone,
    Event,
    Length,
    Progress,
    RunDone,
    RunFailed,
    RunStarted,
)
from lossaware.studies.execution.patience import Patience
from lossaware.studies.specs.arms import arm_of
from lossaware.studies.specs.data_folder import DataSource, path_of
from lossaware.studies.specs.run_spec import EpochRecord, RunSpec
from lossaware.studies.specs.temporary import temporary_folder
from lossaware.studies.specs.trial_command import TrialCommand, end_of
from lossaware.studies.training.checkpoint import Checkpoints
from lossaware.studies.training.script import ENVIRONMENT, Assignment

LOOK_EVERY = 0.1
"""Interval in seconds at which the reports of scripts are read."""


class CommandEngine:
    """One process per run, ``jobs`` at a time. The process may start others, as launchers do.

    Args:
        command: The command.
        jobs: Runs at a time, at least 1. None is 1, as a script may use the whole machine.

    Raises:
        UsageError: ``jobs`` below 1.
    """

    def __init__(self, command: TrialCommand, jobs: int | None = None) -> None:
        self.jobs = 1 if jobs is None else jobs
        if self.jobs < 1:
            raise UsageError(f"jobs must be at least 1, got {jobs}")
        self._command = command

    def execute(
        self, specs: Sequence[RunSpec], data_folder: DataSource, checkpoints: Checkpoints | None = None
    ) -> Generator[Event, None, None]:
        """See `Engine.execute`."""
        waiting, running = deque(specs), list[_Script]()
        with temporary_folder("command") as scratch:
            try:
                while waiting or running:
                    while waiting and len(running) < self.jobs:
                        spec = waiting.popleft()
                        own = scratch / spec.key
                        own.mkdir()
                        folder = own / "folder" if checkpoints is None else checkpoints.folder_of(spec)
                        yield RunStarted(spec)
                        running.append(_Script(self._command, spec, own, folder, data_folder))
                    for script in list(running):
                        is_over = script.is_over  # before its reports are read, so that no report is missed
                        for event in script.events():
                            script.patience.note_event(event)
                            yield event
                        if is_over:
                            running.remove(script)
                            yield script.end()
                        elif script.patience.is_over():
                            running.remove(script)
                            script.stop()
                            yield RunFailed(script.spec, f"the script is killed for {script.patience.reason()}")
                    if running:
                        time.sleep(LOOK_EVERY)
            finally:
                for script in running:
                    script.stop()

    def rehearse(self, specs: Sequence[RunSpec], data: DataSource) -> None:
        """Run each arm to its first step, one after another.

        Raises:
            UsageError: A script ends before that. The message has one line, with the end of its output.
        """
        arms = {spec.arm: spec for spec in reversed(specs)}
        for spec in reversed(arms.values()):
            with temporary_folder("command") as own:
                script = _Script(self._command, spec, own, own / "folder", data, rehearsal=True)
                try:
                    while not script.is_over and not script.rehearsed:
                        list(script.events())
                        time.sleep(LOOK_EVERY)
                    script.wait()
                    list(script.events())
                    if not script.rehearsed:
                        raise UsageError(
                            f"{self._command.name}, arm {arm_of(spec)!r}, fails in a rehearsal of one step: "
                            f"{script.failure()}"
                        )
                finally:
                    script.stop()


class _Script:
    """A started command."""

    def __init__(
        self,
        command: TrialCommand,
        spec: RunSpec,
        own: Path,
        folder: Path,
        data: DataSource,
        *,
        rehearsal: bool = False,
    ) -> None:
        self.spec = spec
        self.patience = Patience()
        self.rehearsed = self._began = False
        self._reports, self._output = own / "reports", own / "output"
        self._read = 0
        self._epoch = 0
        data_path = path_of(data)
        assignment = Assignment(
            run=spec.to_json(),
            reports=str(self._reports),
            folder=str(folder.resolve()),
            data=None if data_path is None else str(data_path.resolve()),
            rehearsal=rehearsal,
            process=os.getpid(),
        )
        # Without an activated environment, `python` and launchers are those next to our Python.
        path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)])
        words = command.words(spec, arm_of(spec))
        try:
            with self._output.open("wb") as output:
                self._process = subprocess.Popen(
                    words,
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    env={**os.environ, ENVIRONMENT: assignment.to_json(), "PATH": path},
                    start_new_session=True,  # Ctrl-C does not reach it, and its children can be killed with it
                )
        except OSError as error:
            raise UsageError(
                f"--command: {words[0]} cannot be started ({error.strerror}): "
                + (f"start it by python {shlex.join(words)}" if words[0].endswith(".py") else shlex.join(words))
            ) from None

    @property
    def is_over(self) -> bool:
        """Whether the process has ended."""
        return self._process.poll() is not None

    def wait(self, seconds: float = 30.0) -> None:
        """Wait until it ends, but not longer than this."""
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(seconds)

    def events(self) -> Iterator[Event]:
        """The new reports since the last call."""
        for report in self._new_lines():
            match report:
                case {"epoch": record}:
                    self._epoch = record["epoch"]
                    yield EpochDone(self.spec, EpochRecord(**record))
                case {"length": epochs}:
                    yield Length(self.spec, epochs)
                case {"progress": [epoch, step, steps, loss]}:
                    yield Progress(self.spec, epoch, step, steps, loss)
                case {"rehearsed": _}:
                    self.rehearsed = True
                case {"began": _}:
                    self._began = True

    def _new_lines(self) -> list[dict[str, Any]]:
        if not self._reports.exists():
            return []
        with self._reports.open("rb") as file:
            file.seek(self._read)
            complete = file.read().rpartition(b"\n")[0]
        self._read += len(complete) + bool(complete)
        return [json.loads(line) for line in complete.splitlines()]

    def end(self) -> Event:
        """The last event of the run."""
        if self._process.returncode == 0 and self._epoch:
            return RunDone(self.spec, self._epoch)
        return RunFailed(self.spec, self.failure())

    def failure(self) -> str:
        """The reason for its failure, with the end of its output."""
        code = self._process.returncode
        text = self._output.read_text(encoding="utf-8", errors="replace")
        if code == 0:
            mistake = "reported nothing: call trial.report(epoch, loss=...)" if self._began else _NEVER_CALLED
            ended = f"the script {mistake}"
        elif code is not None and code < 0:
            ended = f"the script was ended by {signal.Signals(-code).name}"
        else:
            ended = f"the script ended with exit code {code}"
        output = end_of(text)
        return f"{ended}; its output ends with: {output}" if output else f"{ended}, without output"

    def stop(self) -> None:
        """Kill it and its children."""
        if not self.is_over:
            with suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()


_NEVER_CALLED = "did not call lossaware.trial()"
