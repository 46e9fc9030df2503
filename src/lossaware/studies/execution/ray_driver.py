"""The process that uses Ray, because Ray's libraries end their process if they lose the cluster."""

import contextlib
import os
import platform
import secrets
import signal
import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from queue import SimpleQueue
from typing import Any, NoReturn

import lossaware
from lossaware.errors import UsageError
from lossaware.studies.execution.events import Event, RunDone, RunFailed, RunNote, RunStarted
from lossaware.studies.execution.local import GPU_JOBS
from lossaware.studies.execution.patience import LOOK_EVERY, Patience
from lossaware.studies.execution.processes import begin_process
from lossaware.studies.execution.worker import execute_run
from lossaware.studies.specs.data_folder import DataSource
from lossaware.studies.specs.options import where
from lossaware.studies.specs.run_spec import RunSpec
from lossaware.studies.training.checkpoint import PACKAGE, Checkpoints

_INSTALLED = Path(lossaware.__file__).parents[1]
_OBJECT_STORE = 80 * 2**20  # bytes of shared memory; events are too small for it, but Ray needs 75 MiB
_LOOPBACK = ("localhost", "127.0.0.1", "::1", "[::1]")
_LOCAL_SETTINGS = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",  # on Linux too, it keeps all its servers on the loopback interface
    "RAY_worker_niceness": "0",  # with its default of 15, runs would get little time on a busy machine
    "RAY_gcs_rpc_server_reconnect_timeout_s": "15",  # its default of 60 is for servers that are restarted
    "RAY_AUTH_MODE": "token",  # other users of this machine can reach its servers
}


@dataclass(frozen=True)
class Ready:
    """The cluster has answered."""


@dataclass(frozen=True)
class Refused:
    """The cluster cannot be used, for the reason in ``message``, one line."""

    message: str


@dataclass(frozen=True)
class Lost:
    """The cluster is lost, for the reason in ``message``."""

    message: str


@dataclass(frozen=True)
class Over:
    """All runs have ended."""


Message = Event | Ready | Refused | Lost | Over


def drive(
    messages: Connection,
    address: str | None,
    jobs: int | None,
    folder: Path | None,
    specs: Sequence[RunSpec],
    data_folder: DataSource,
    checkpoints: Checkpoints | None,
) -> None:
    """Entry point of the process. SIGTERM ends it together with all started runs.

    Args:
        messages: Receives the messages: `Ready` or `Refused` first, `Over`, `Refused` or `Lost` last.
        address: The cluster, as in `lossaware.studies.execution.ray.RayEngine`.
        jobs: Runs at a time; None is one per CPU of the cluster.
        folder: The folder for the files of a new cluster.
        specs: The runs.
        data_folder: See `Engine.execute`.
        checkpoints: See `Engine.execute`.
    """
    begin_process()
    here = os.getcwd()
    os.chdir(_INSTALLED)  # Ray's workers can import from the current folder of this process
    _discard_output()
    signal.signal(signal.SIGTERM, _leave)
    try:
        with _cluster(address, jobs, folder):
            signal.signal(signal.SIGTERM, _leave)  # Ray has replaced it
            messages.send(Ready())
            for event in _events(jobs, specs, data_folder, checkpoints, here):
                messages.send(event)
            messages.send(Over())
    except UsageError as error:
        messages.send(Refused(str(error)))
    except _ClusterLostError as error:
        messages.send(Lost(str(error)))
    except Exception as error:
        ours = not type(error).__module__.startswith("ray.")  # Ray's messages are long, and name its log files
        messages.send(Lost(where(error) if ours else type(error).__name__))


def _leave(number: int, frame: object) -> NoReturn:
    raise SystemExit(1)


def _discard_output() -> None:
    """Discard the output of Ray's libraries, which repeats the events."""
    nothing = os.open(os.devnull, os.O_RDWR)
    for stream in (0, 1, 2):
        os.dup2(nothing, stream)


def _events(
    jobs: int | None, specs: Sequence[RunSpec], data_folder: DataSource, checkpoints: Checkpoints | None, here: str
) -> Generator[Event, None, None]:
    import ray

    resources = ray.cluster_resources()
    needed = {"CPU", *("GPU" for spec in specs if spec.device == "cuda")}
    if missing := needed - set(resources):
        raise UsageError(f"the Ray cluster has no {' and no '.join(sorted(missing))}")
    # Ray's own retry would skip as many events as before, as if a repeated run had the same ones.
    task: Any = ray.remote(num_cpus=1, num_returns="streaming", max_calls=1, max_retries=0)(stream)

    def begin(spec: RunSpec) -> Any:
        gpus = 1 / GPU_JOBS if spec.device == "cuda" else 0
        return task.options(num_gpus=gpus).remote(spec, data_folder, checkpoints, here, PACKAGE)

    yield from _events_of(specs, int(jobs or resources["CPU"]), begin)


def _events_of(specs: Sequence[RunSpec], jobs: int, begin: Callable[[RunSpec], Any]) -> Generator[Event, None, None]:
    """The events of all runs, ``jobs`` at a time, each started at most twice."""
    import ray

    watch = _Watch()
    waiting = deque((spec, 1) for spec in specs)
    running: dict[Any, _Run] = {}
    try:
        while waiting or running:
            while waiting and len(running) < jobs:
                spec, attempt = waiting.popleft()
                running[begin(spec)] = _Run(spec, attempt)
                yield RunStarted(spec)
            watch.look()
            for run_events, run in running.items():
                if run.hangs():
                    if run.attempt == 1:
                        yield RunNote(run.spec, f"its worker is killed for {run.hanging}; it is started again")
                    # Its events end with it, so it is handled like any other death.
                    ray.cancel(run_events, force=True)
            for run_events in ray.wait(list(running), timeout=LOOK_EVERY)[0]:
                run = running[run_events]
                spec = run.spec
                event: Event | _WorkerStarted
                try:
                    event = ray.get(next(run_events))
                except ray.exceptions.RayTaskError as error:
                    event = RunFailed(spec, f"its worker raised {where(error.cause)}")
                except ray.exceptions.LocalRayletDiedError:
                    raise _ClusterLostError("this machine's raylet died") from None  # all runs depend on it
                except ray.exceptions.RayError as error:
                    if run.attempt == 1:
                        del running[run_events]
                        waiting.appendleft((spec, 2))
                        continue
                    reason = run.hanging or type(error).__name__
                    event = RunFailed(spec, f"its worker was lost twice, the last time by {reason}")
                if isinstance(event, _WorkerStarted):
                    run.patience = Patience()
                    continue
                if run.patience is not None:
                    run.patience.note_event(event)
                if isinstance(event, (RunDone, RunFailed)):
                    del running[run_events]
                yield event
    finally:
        with contextlib.suppress(ray.exceptions.RayError):
            for run_events in running:
                ray.cancel(run_events, force=True)


@dataclass
class _Run:
    """A run on the cluster. It has patience from `_WorkerStarted` until its worker hangs."""

    spec: RunSpec
    attempt: int
    patience: Patience | None = None
    hanging: str = ""

    def hangs(self) -> bool:
        """Whether its worker has been silent for too long; true once, and `hanging` is then the reason."""
        if self.patience is None or not self.patience.is_over():
            return False
        self.hanging, self.patience = self.patience.reason(), None
        return True


@dataclass(frozen=True)
class _WorkerStarted:
    """The first message of a worker: the run no longer waits for a free CPU, which may take days."""


class _ClusterLostError(Exception):
    """The cluster of the runs is lost."""


class _Watch:
    """Checks that the cluster still has this node. A restarted one does not know its runs."""

    def __init__(self) -> None:
        import ray

        self._node = ray.get_runtime_context().get_node_id()
        self._looked = time.monotonic()

    def look(self) -> None:
        """Raise `_ClusterLostError` if it does not. Look at most every `LOOK_EVERY` seconds."""
        import ray

        if (now := time.monotonic()) - self._looked < LOOK_EVERY:
            return
        self._looked = now
        if not any(node["NodeID"] == self._node and node["Alive"] for node in ray.nodes()):
            raise _ClusterLostError("it does not have this node any more")


def stream(
    spec: RunSpec, data_folder: DataSource, checkpoints: Checkpoints | None, folder: str, package: str
) -> Iterator["Event | _WorkerStarted"]:
    """Worker entry point: executes the run and yields its events, after `_WorkerStarted`.

    Args:
        spec: The run.
        data_folder: See `Engine.execute`.
        checkpoints: See `Engine.execute`.
        folder: The working folder.
        package: `PACKAGE` of the process that started the run.
    """
    if package != PACKAGE:
        yield RunFailed(spec, f"{platform.node()} has another lossaware than the machine that you started it on")
        return
    try:
        os.chdir(folder)
    except OSError as error:
        yield RunFailed(spec, f"{platform.node()} does not have the folder {folder} ({error.strerror})")
        return
    yield _WorkerStarted()
    events: SimpleQueue[Event | None] = SimpleQueue()

    def work() -> None:
        execute_run(spec, data_folder, checkpoints, events.put)
        events.put(None)

    # In a thread, because a run's iterator does not yield its events within an epoch.
    threading.Thread(target=work, daemon=True).start()
    while (event := events.get()) is not None:
        yield event


@contextlib.contextmanager
def _cluster(address: str | None, cpus: int | None, folder: Path | None) -> Iterator[None]:
    """A cluster: the one at ``address``, or a new one with its files in ``folder``."""
    how: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR"}
    if address is None:
        os.environ.update(_LOCAL_SETTINGS, RAY_AUTH_TOKEN=secrets.token_hex(32))  # before Ray is imported
        how |= {"num_cpus": cpus, "include_dashboard": False, "object_store_memory": _OBJECT_STORE}
        how |= {"_temp_dir": str(folder)}
    elif address.rpartition(":")[0] in _LOOPBACK:
        # Otherwise Ray replaces it by this machine's network address, at which the cluster may not answer.
        os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"
    import ray

    try:
        try:
            ray.init(address or "local", **how)
        except Exception as error:
            reason = "Ray cannot start here" if address is None else f"no Ray cluster answers at {address}"
            raise UsageError(f"{reason}: {next(iter(str(error).strip().splitlines()), type(error).__name__)}") from None
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # it is already ending
        ray.shutdown()
