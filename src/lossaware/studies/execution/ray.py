"""Runs on Ray: in a small cluster of its own on this machine, or on one that is there already."""

import contextlib
import importlib.util
import os
import platform
import re
import socket
import tempfile
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from queue import SimpleQueue
from typing import Any

from lossaware.errors import UsageError
from lossaware.extras import how_to_install
from lossaware.studies.execution.events import Event, RunDone, RunFailed, RunStarted
from lossaware.studies.execution.local import GPU_JOBS, cores
from lossaware.studies.execution.worker import execute_run
from lossaware.studies.specs.data_folder import DataSource
from lossaware.studies.specs.options import where
from lossaware.studies.specs.run_spec import RunSpec
from lossaware.studies.training.checkpoint import PACKAGE, Checkpoints

ADDRESS_SECONDS = 10.0
"""How long a cluster may take to answer. Ray itself would try for many minutes."""
_OBJECT_STORE = 80 * 2**20  # bytes of shared memory; events are small and never get there, and Ray wants 75 MiB
_ALONE = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",  # on Linux too, it keeps all its servers on the loopback interface
    "RAY_worker_niceness": "0",  # its 15 would leave next to nothing to a run where the machine does other work, too
}


class RayEngine:
    """A Ray task a run, each with one CPU, one torch thread and a process of its own.

    Without an address, Ray is started on this machine for as long as the runs take: no dashboard, no statistics sent,
    no port open to the network, its files removed in the end. With one, a cluster that is there is used, of which this
    machine must be a part.

    A run whose worker or node is lost is started once more, from its checkpoint where that can be reached; after that
    it has failed. On a GPU each run takes an eighth of one.

    Args:
        jobs: Runs at a time, at least 1; None takes one a CPU of the cluster.
        address: ``HOST:PORT`` of a cluster, or ``auto`` for the one that runs on this machine or that ``RAY_ADDRESS``
            names; None starts one.

    Raises:
        UsageError: Ray is not installed, ``jobs`` is below 1, or the address is none. That no cluster answers there
            is found by `execute`, before the first run.
    """

    def __init__(self, jobs: int | None = None, address: str | None = None) -> None:
        if jobs is not None and jobs < 1:
            raise UsageError(f"jobs must be at least 1, got {jobs}")
        if importlib.util.find_spec("ray") is None:
            raise UsageError(f"--engine ray needs the package ray: {how_to_install('ray')}")
        if address == "auto":
            address = os.environ.get("RAY_ADDRESS", address)
        if address not in (None, "auto") and not re.fullmatch(r"[^/]+:\d{1,5}", address):
            raise UsageError(f"the address of a Ray cluster must be HOST:PORT or auto, got {address!r}")
        self.jobs = cores() if jobs is None and address is None else jobs
        self._address = address

    def execute(
        self, specs: Sequence[RunSpec], data_folder: DataSource, checkpoints: Checkpoints | None = None
    ) -> Generator[Event, None, None]:
        """See `Engine.execute`."""
        with _cluster(self._address, self.jobs):
            import ray

            there = ray.cluster_resources()
            needed = {"CPU", *("GPU" for spec in specs if spec.device == "cuda")}
            if missing := needed - set(there):
                raise UsageError(f"the Ray cluster has no {' and no '.join(sorted(missing))}")
            # Ray's own retry tells only what comes after as many events as were told, as though all came alike again.
            task: Any = ray.remote(num_cpus=1, num_returns="streaming", max_calls=1, max_retries=0)(_stream)

            def begin(spec: RunSpec) -> Any:
                gpus = 1 / GPU_JOBS if spec.device == "cuda" else 0
                return task.options(num_gpus=gpus).remote(spec, data_folder, checkpoints, os.getcwd(), PACKAGE)

            jobs = int(self.jobs or there["CPU"])
            yield from _told(specs, jobs, begin)


def _told(specs: Sequence[RunSpec], jobs: int, begin: Callable[[RunSpec], Any]) -> Generator[Event, None, None]:
    """What all runs tell, some of them at a time, each begun at most twice."""
    import ray

    waiting = deque((spec, 1) for spec in specs)
    running: dict[Any, tuple[RunSpec, int]] = {}
    try:
        while waiting or running:
            while waiting and len(running) < jobs:
                spec, attempt = waiting.popleft()
                running[begin(spec)] = spec, attempt
                yield RunStarted(spec)
            for stream in ray.wait(list(running))[0]:
                spec, attempt = running[stream]
                event: Event
                try:
                    event = ray.get(next(stream))
                except ray.exceptions.RayTaskError as error:
                    event = RunFailed(spec, f"its worker raised {where(error.cause)}")
                except ray.exceptions.RayError as error:
                    if attempt == 1:
                        del running[stream]
                        waiting.appendleft((spec, 2))
                        continue
                    event = RunFailed(spec, f"its worker was lost twice, the last time by {type(error).__name__}")
                if isinstance(event, (RunDone, RunFailed)):
                    del running[stream]
                yield event
    finally:
        for stream in running:
            ray.cancel(stream, force=True)


def _stream(
    spec: RunSpec, data_folder: DataSource, checkpoints: Checkpoints | None, folder: str, package: str
) -> Iterator[Event]:
    """What a worker does: the run, told event by event."""
    if package != PACKAGE:
        yield RunFailed(spec, f"{platform.node()} has another lossaware than the machine that you started it on")
        return
    try:
        os.chdir(folder)
    except OSError as error:
        yield RunFailed(spec, f"{platform.node()} does not have the folder {folder} ({error.strerror})")
        return
    told: SimpleQueue[Event | None] = SimpleQueue()

    def work() -> None:
        execute_run(spec, data_folder, checkpoints, told.put)
        told.put(None)

    # A thread, as what a run tells within an epoch does not come through its iterator.
    threading.Thread(target=work, daemon=True).start()
    while (event := told.get()) is not None:
        yield event


@contextlib.contextmanager
def _cluster(address: str | None, cpus: int | None) -> Iterator[None]:
    """A cluster to work in: the one at ``address``, or one of our own."""
    if address is None:
        os.environ.update(_ALONE)  # before Ray is imported
    elif address != "auto":
        host, _, port = address.rpartition(":")
        try:
            socket.create_connection((host, int(port)), ADDRESS_SECONDS).close()
        except (OSError, OverflowError) as error:
            raise UsageError(f"no Ray cluster answers at {address} ({error})") from None
    import ray

    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR"}
    with contextlib.ExitStack() as stack:
        if address is None:
            # The paths of its sockets must be short, which those of temporary folders are not everywhere.
            folder = tempfile.TemporaryDirectory(
                prefix="lossaware-ray-", dir="/tmp" if os.name == "posix" else None, ignore_cleanup_errors=True
            )
            alone = {"num_cpus": cpus, "include_dashboard": False, "object_store_memory": _OBJECT_STORE}
            quiet |= alone | {"_temp_dir": stack.enter_context(folder)}
        stack.callback(ray.shutdown)
        try:
            ray.init(address or "local", **quiet)
        except Exception as error:
            what = "Ray cannot start here" if address is None else f"no Ray cluster answers at {address}"
            raise UsageError(f"{what}: {str(error).strip().splitlines()[0]}") from None
        # The switch of Ray's own debugger. Deaths of workers are printed otherwise, whatever `log_to_driver` says.
        ray._private.worker._worker_logs_enabled = False
        yield
