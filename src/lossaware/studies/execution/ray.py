"""Runs on Ray: on a small local cluster, or on an existing one."""

import contextlib
import importlib.util
import multiprocessing
import os
import re
import socket
import time
from collections.abc import Generator, Iterator, Sequence
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path

from lossaware.errors import UsageError
from lossaware.extras import how_to_install
from lossaware.studies.execution.events import Event, RunDone, RunFailed, RunNote, RunStarted
from lossaware.studies.execution.local import cores
from lossaware.studies.execution.processes import quiet_start
from lossaware.studies.execution.ray_driver import Lost, Message, Over, Ready, Refused, drive
from lossaware.studies.specs.data_folder import DataSource
from lossaware.studies.specs.run_spec import RunSpec
from lossaware.studies.specs.temporary import temporary_folder
from lossaware.studies.training.checkpoint import Checkpoints

ADDRESS_SECONDS = 10.0
"""Time in which an address must accept a connection."""
START_SECONDS = 120.0
"""Time in which a cluster must start or answer. Ray itself would try for many minutes."""
LOST_SECONDS = 60.0
"""Time in which a lost cluster by address must answer again."""
RETRY_SECONDS = 1.0
"""Interval between attempts to reach it."""
LOSSES = 3
"""Number of lost clusters after which a run counts as failed, because the run may be the cause."""
_STOP_SECONDS = 15.0


class RayEngine:
    """One Ray task per run, each with one CPU, one torch thread and its own process.

    Without an address, Ray is started on this machine for the duration of the runs. It has no dashboard, sends no
    statistics, opens no port to the network or to other users, and its files are removed at the end. With an address,
    an existing cluster is used, which must include this machine.

    If its worker or node is lost, or its worker hangs (see `lossaware.studies.execution.patience`), a run is started
    again once, from its checkpoint if that can be reached; then it has failed. If the whole cluster is lost, because
    its raylet or control service was killed, a new one is started; one by address has `LOST_SECONDS` to answer again.
    A run has failed after `LOSSES` lost clusters. On a GPU each run uses an eighth of it.

    Args:
        jobs: Runs at a time, at least 1; None is one per CPU of the cluster.
        address: ``HOST:PORT`` of a cluster, or ``auto`` for the cluster of this machine or of ``RAY_ADDRESS``; None
            starts one.

    Raises:
        UsageError: Ray is not installed, ``jobs`` is below 1, or the address is not valid. `execute` raises it before
            the first run if no cluster answers there.
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
        losses = dict.fromkeys(specs, 0)  # for the runs that have not ended
        started: set[RunSpec] = set()
        waits_until: float | None = None
        while losses:
            lost: Lost | None = None
            with self._driver(list(losses), data_folder, checkpoints, waits_until) as messages:
                for message in messages:
                    match message:
                        case Ready():
                            waits_until = None
                        case Over():
                            return
                        case Lost():
                            lost = message
                            break
                        case Refused(reason):
                            if waits_until is None:
                                raise UsageError(reason)
                        case _:
                            if isinstance(message, RunStarted):
                                started.add(message.spec)
                            if isinstance(message, RunDone | RunFailed):
                                started.discard(message.spec)
                                del losses[message.spec]
                            yield message
            if lost is not None:
                if not started and self._address is None:
                    raise UsageError(f"Ray cannot run here: {lost.message}")
                yield from self._events_of_loss(lost, started, losses)
                started.clear()
                if self._address is not None:
                    waits_until = time.monotonic() + LOST_SECONDS
            if waits_until is not None:
                if time.monotonic() > waits_until:
                    raise UsageError(
                        f"the Ray cluster at {self._address} was lost and did not answer again within "
                        f"{LOST_SECONDS:g} s; finished runs are kept, and the same command continues"
                    )
                time.sleep(RETRY_SECONDS)

    def _events_of_loss(self, lost: Lost, started: set[RunSpec], losses: dict[RunSpec, int]) -> Iterator[Event]:
        """Events of the runs that a lost cluster had begun."""
        next_one = "a new one is started" if self._address is None else f"waiting for it, up to {LOST_SECONDS:g} s"
        for spec in [spec for spec in losses if spec in started]:
            losses[spec] += 1
            if losses[spec] < LOSSES:
                yield RunNote(spec, f"its Ray cluster was lost ({lost.message}); {next_one}")
            else:
                del losses[spec]
                yield RunFailed(spec, f"its Ray cluster was lost {LOSSES} times, the last time by {lost.message}")

    @contextlib.contextmanager
    def _driver(
        self,
        specs: Sequence[RunSpec],
        data_folder: DataSource,
        checkpoints: Checkpoints | None,
        waits_until: float | None,
    ) -> Iterator[Iterator[Message]]:
        """The messages of a process that executes runs on a cluster. At the end, it is stopped with its children."""
        if (refused := self._refusal()) is not None:
            yield iter([refused])
            return
        with contextlib.ExitStack() as stack:
            folder = None
            if self._address is None:
                # The paths of its sockets must be short, but the system's temporary folder may have a long one.
                within = Path("/tmp") if os.name == "posix" else None
                folder = stack.enter_context(temporary_folder("ray", within))
            context = multiprocessing.get_context("spawn")
            messages, other_end = context.Pipe(duplex=False)
            stack.callback(messages.close)
            arguments = (other_end, self._address, self.jobs, folder, specs, data_folder, checkpoints)
            with quiet_start():
                process = context.Process(target=drive, args=arguments, daemon=True)
                process.start()
            stack.callback(_stop, process)
            other_end.close()  # with this copy closed, the messages end with the process
            until = time.monotonic() + START_SECONDS if waits_until is None else waits_until
            yield self._receive(process, messages, until)

    def _receive(self, process: BaseProcess, messages: Connection, until: float) -> Iterator[Message]:
        """The messages of a process; the first must arrive before ``until``."""
        try:
            if not messages.poll(max(0.0, until - time.monotonic())):
                yield Refused(
                    f"Ray does not start within {START_SECONDS:g} s"
                    if self._address is None
                    else f"no Ray cluster answers at {self._address} within {START_SECONDS:g} s"
                )
                return
            while True:
                message: Message = messages.recv()
                yield message
                if isinstance(message, Refused | Lost | Over):
                    return
        except (EOFError, OSError):
            process.join()
            yield Lost(f"Ray ended its own process, with exit code {process.exitcode}")

    def _refusal(self) -> Refused | None:
        """A refusal if the address does not accept connections; otherwise None."""
        if self._address in (None, "auto"):
            return None
        host, _, port = self._address.rpartition(":")
        try:
            socket.create_connection((host, int(port)), ADDRESS_SECONDS).close()
        except (OSError, OverflowError) as error:
            return Refused(f"no Ray cluster answers at {self._address} ({error})")
        return None


def _stop(process: BaseProcess) -> None:
    """Terminate the process. It stops its runs, and leaves the cluster or stops its own one."""
    process.terminate()
    process.join(_STOP_SECONDS)
    if process.is_alive():
        process.kill()
        process.join()
