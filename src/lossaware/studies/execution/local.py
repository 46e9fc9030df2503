"""Runs on this machine: one process per run, one run per core at a time."""

import errno
import multiprocessing
import os
import signal
import tempfile
from collections import deque
from collections.abc import Generator, Sequence
from multiprocessing import connection
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from typing import TYPE_CHECKING

from lossaware.errors import UsageError
from lossaware.studies.execution import patience
from lossaware.studies.execution.events import Event, RunDone, RunFailed, RunNote, RunStarted
from lossaware.studies.execution.processes import begin_process, quiet_start
from lossaware.studies.execution.worker import execute_run
from lossaware.studies.specs.data_folder import DataSource
from lossaware.studies.specs.run_spec import RunSpec
from lossaware.studies.specs.tasks import built_in_module
from lossaware.studies.training.checkpoint import Checkpoints

if TYPE_CHECKING:
    from multiprocessing.context import ForkServerContext, SpawnContext

    _Context = ForkServerContext | SpawnContext


class LocalEngine:
    """One process per run on this machine, ``jobs`` at a time, each with one torch thread.

    The processes are forked from a server that has imported torch, so that a run starts in milliseconds. If a process
    dies (killed, out of memory), it is started again once, from its checkpoint; then the run has failed.

    Args:
        jobs: Runs at a time, at least 1; None is one per core.

    Raises:
        UsageError: ``jobs`` is below 1.
    """

    def __init__(self, jobs: int | None = None) -> None:
        self.jobs = cores() if jobs is None else jobs
        if self.jobs < 1:
            raise UsageError(f"jobs must be at least 1, got {jobs}")

    def execute(
        self, specs: Sequence[RunSpec], data_folder: DataSource, checkpoints: Checkpoints | None = None
    ) -> Generator[Event, None, None]:
        """See `Engine.execute`."""
        context = _context(specs)
        waiting = deque((spec, 1) for spec in specs)
        workers: dict[Connection, _Worker] = {}
        try:
            while waiting or workers:
                while waiting and len(workers) < self.jobs:
                    spec, attempt = waiting.popleft()
                    try:
                        with quiet_start():
                            worker = _Worker(context, spec, attempt, data_folder, checkpoints)
                            workers[worker.messages] = worker
                    except (EOFError, OSError) as error:
                        if getattr(error, "errno", None) in (errno.EMFILE, errno.ENFILE):
                            raise UsageError(_TOO_MANY_FILES) from None
                        if "path too long" in str(error):
                            raise UsageError(_LONG_PATH.format(tempfile.gettempdir())) from None
                        # The server was killed while it forked the process.
                        if attempt == 1:
                            waiting.appendleft((spec, 2))
                        else:
                            yield RunFailed(spec, f"its process could not be started twice ({type(error).__name__})")
                        continue
                    yield RunStarted(spec)
                for worker in [worker for worker in workers.values() if worker.patience.is_over()]:
                    # Its messages end with it, so it is handled like any other death.
                    worker.kill_hanging()
                    if worker.attempt == 1:
                        yield RunNote(worker.spec, f"its process is killed for {worker.death()}; it is started again")
                for messages in connection.wait(list(workers), timeout=patience.LOOK_EVERY if workers else 0):
                    assert isinstance(messages, Connection)
                    worker = workers[messages]
                    try:
                        event: Event = messages.recv()
                    except (EOFError, OSError):
                        worker.stop()
                        del workers[messages]
                        if worker.finished:
                            continue
                        if worker.attempt == 1:
                            waiting.appendleft((worker.spec, 2))
                        else:
                            yield RunFailed(worker.spec, f"its process died twice, the last time by {worker.death()}")
                        continue
                    worker.patience.note_event(event)
                    worker.finished = isinstance(event, (RunDone, RunFailed))
                    yield event
        finally:
            for worker in workers.values():
                worker.stop()


def cores() -> int:
    """The number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


_LONG_PATH = "the path of the folder for temporary files is too long for a socket: set TMPDIR to a shorter one than {}"
_TOO_MANY_FILES = "too many files are open for so many processes: raise the limit (ulimit -n), or lower --jobs"


class _Worker:
    """The process of one run, seen from its parent."""

    def __init__(
        self,
        context: "_Context",
        spec: RunSpec,
        attempt: int,
        data_folder: DataSource,
        checkpoints: Checkpoints | None,
    ) -> None:
        self.spec = spec
        self.attempt = attempt
        self.finished = False
        self.patience = patience.Patience()
        self._silence = ""
        self.messages, other_end = context.Pipe(duplex=False)
        self._process: BaseProcess = context.Process(
            target=_work, args=(other_end, spec, data_folder, checkpoints, os.getcwd()), daemon=True
        )
        self._process.start()
        # With this copy closed, the messages end with the process.
        other_end.close()

    def stop(self) -> None:
        """Kill the process unless its run has ended, and close its messages."""
        if not self.finished and self._process.is_alive():
            self._process.kill()
        self._process.join()
        self.messages.close()

    def kill_hanging(self) -> None:
        """Kill the process because it was silent for too long."""
        self._silence = self.patience.reason()
        self._process.kill()

    def death(self) -> str:
        """The reason for the process's death."""
        if self._silence:
            return self._silence
        code = self._process.exitcode
        if code is None or code >= 0:
            return f"exit with code {code}"
        name = signal.Signals(-code).name
        return f"{name} (out of memory?)" if name == "SIGKILL" else name


def _work(
    messages: Connection, spec: RunSpec, data_folder: DataSource, checkpoints: Checkpoints | None, folder: str
) -> None:
    """Worker entry point: executes the run and sends its events."""
    begin_process()
    os.chdir(folder)

    try:
        execute_run(spec, data_folder, checkpoints, messages.send)
    except BrokenPipeError:
        os._exit(1)  # the parent is gone


def _context(specs: Sequence[RunSpec]) -> "_Context":
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    # The first optimizer of a process imports torch._dynamo, which takes longer than a short run.
    modules = {built_in_module(spec.task) for spec in specs} - {None}
    context.set_forkserver_preload(
        ["torch", "torch._dynamo", "lossaware.studies.training.run", *sorted(filter(None, modules))]
    )
    return context


def default_jobs(device: str | None) -> int | None:
    """Default number of concurrent runs: limited on a GPU, whose memory they share; None for the engine's default."""
    return min(cores(), GPU_JOBS) if device == "cuda" else None


GPU_JOBS = 8
"""Maximum number of runs that share a GPU by default."""
