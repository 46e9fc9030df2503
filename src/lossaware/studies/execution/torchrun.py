"""Runs on several ranks, which torchrun has started: rank 0 is the leader, the others are followers.

Every process executes the same command line. The leader does everything that a single process does: it checks,
stores and prints. Its engine executes each run together with the followers, which exit when the leader does.
"""

import json
import os
import signal
import threading
import warnings
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any, NoReturn

import torch
import torch.distributed as dist
from torch._C._distributed_c10d import PrefixStore
from torch.distributed.rendezvous import rendezvous

from lossaware.errors import UsageError
from lossaware.studies.execution.events import Event, RunDone, RunFailed, RunStarted
from lossaware.studies.execution.patience import Patience
from lossaware.studies.execution.worker import execute_run
from lossaware.studies.specs.data_folder import DataFolder, DataSource, path_of
from lossaware.studies.specs.options import did_you_mean
from lossaware.studies.specs.run_spec import RunSpec
from lossaware.studies.training.checkpoint import Checkpoints
from lossaware.studies.training.ranks import MODES

GRACE = timedelta(seconds=30)
"""Time that a failed rank waits for the others to end. If they do not, they wait for it and must be stopped."""
_UNLIMITED = timedelta(days=365)
_LOOK_EVERY = 1.0
"""Interval in seconds at which the leader checks whether a rank has failed while others wait for it."""
_BROKEN = "broken"
_VARIABLES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")


@contextmanager
def joined(mode: str) -> Iterator["TorchrunEngine"]:
    """The engine of the leader. A follower does not return, but exits with the leader's exit code.

    Args:
        mode: ``"ddp"`` or ``"fsdp"``.

    Raises:
        UsageError: The mode is unknown, or torchrun has not started this process.
    """
    if mode not in MODES:
        raise UsageError(f"unknown --distributed {mode!r}{did_you_mean(mode, MODES)}")
    if missing := [name for name in _VARIABLES if not os.environ.get(name)]:
        raise UsageError(
            f"--distributed {mode} needs torchrun, which sets {missing[0]}: "
            f"torchrun --nproc_per_node 2 -m lossaware ... --distributed {mode}"
        )
    team = _Team()
    try:
        if not team.leads:
            warnings.simplefilter("ignore")  # the leader has the same warnings
            raise SystemExit(team.follow())
        code = 1
        _end_by_torchrun(team)
        try:
            engine = TorchrunEngine(team)
            yield engine
            code = int(engine.failed)
        except UsageError:
            code = 2
            raise
        except KeyboardInterrupt:
            code = 130
            raise
        finally:
            team.order({"exit": code})
    finally:
        if team.broken() is None and not team.is_ended:
            dist.destroy_process_group()


def _end_by_torchrun(team: "_Team") -> None:
    """Handle torchrun's SIGTERM as Ctrl-C: the process prints the reason and how to continue."""

    def end(number: int, frame: object) -> NoReturn:
        team.is_ended = True
        raise KeyboardInterrupt(
            "torchrun stops all ranks, because one of them was killed or failed, or because torchrun itself was stopped"
        )

    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, end)


def _plain(data: DataSource) -> dict[str, Any]:
    """A data source as JSON values, for an order of the leader."""
    path = path_of(data)
    return {"data": None if path is None else str(path), "verify": not isinstance(data, DataFolder) or data.verify}


class TorchrunEngine:
    """An engine that executes one run at a time, on all ranks.

    Attributes:
        failed: Whether a run has failed.
    """

    jobs = 1

    def __init__(self, team: "_Team") -> None:
        self.failed = False
        self._team = team

    def execute(
        self, specs: Sequence[RunSpec], data_folder: DataSource, checkpoints: Checkpoints | None = None
    ) -> Generator[Event, None, None]:
        """See `Engine.execute`."""
        for spec in specs:
            yield RunStarted(spec)
            self._team.order({"run": spec.to_json(), **_plain(data_folder)})
            # In a thread, because a run reports its progress while it is executed.
            events: SimpleQueue[Event] = SimpleQueue()
            work = (spec, data_folder, checkpoints, events)
            threading.Thread(target=self._team.execute_run, args=work, daemon=True).start()
            patience = Patience()
            event: Event | None = None
            while not isinstance(event, RunDone | RunFailed):
                try:
                    event = events.get(timeout=_LOOK_EVERY)
                except Empty:
                    if patience.is_over():
                        self._team.give_up(f"a rank is {patience.reason()}")
                    if (reason := self._team.broken()) is None:
                        continue
                    event = RunFailed(spec, reason)
                patience.note_event(event)
                self.failed |= isinstance(event, RunFailed)
                yield event
            if self.failed and self._team.broken() is not None:
                return  # the ranks that still wait cannot take part in further runs


class _Team:
    """All ranks, with rank 0 as the leader.

    They communicate by torchrun's store, which does not block. Only runs use collectives.
    """

    def __init__(self) -> None:
        store, rank, world = next(rendezvous("env://"))
        self._store: Any = PrefixStore("lossaware", store)
        self._rank, self._world = rank, world
        self.leads = rank == 0
        self.is_ended = False  # whether torchrun has sent SIGTERM to this rank
        self._orders = self._runs = 0
        backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
        dist.init_process_group(backend, store=PrefixStore("ranks", store), rank=rank, world_size=world)

    def broken(self) -> str | None:
        """The error of a failed or hanging rank for which others still wait; None if there is none."""
        return self._store.get(_BROKEN).decode() if self._store.check([_BROKEN]) else None

    def give_up(self, reason: str) -> None:
        """Do not wait for the ranks any longer: this process ends, and torchrun then ends the others."""
        self._store.compare_set(_BROKEN, "", reason)

    def order(self, order: dict[str, Any]) -> None:
        """Send an order to the followers."""
        self._orders += 1
        self._store.set(f"order {self._orders}", json.dumps(order))

    def follow(self) -> int:
        """Execute the leader's orders until it exits. Returns the exit code."""
        while True:
            self._orders += 1
            self._store.wait([f"order {self._orders}"], _UNLIMITED)
            order = json.loads(self._store.get(f"order {self._orders}"))
            if "exit" in order:
                return int(order["exit"])
            data = None if order["data"] is None else DataFolder(Path(order["data"]), order["verify"])
            self.execute_run(RunSpec.from_json(order["run"]), data, None, SimpleQueue())

    def execute_run(
        self, spec: RunSpec, data: DataSource, checkpoints: Checkpoints | None, events: "SimpleQueue[Event]"
    ) -> None:
        """Execute this rank's part of a run. Its last event follows when all ranks have ended the run."""
        if spec.device == "cuda":
            torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))  # the device is per thread
        self._runs += 1
        end: Event = RunStarted(spec)

        def tell(event: Event) -> None:
            nonlocal end
            end = event
            if not isinstance(event, RunDone | RunFailed):
                events.put(event)

        execute_run(spec, data, checkpoints, tell)
        events.put(self._agree_on_end(end))

    def _agree_on_end(self, end: Event) -> Event:
        """The last event of the run on all ranks: if any failed, a failure with the reason of the first one."""
        reason = f"run {self._runs}: reason"
        if isinstance(end, RunFailed):
            self._store.compare_set(reason, "", end.message)
        self._store.set(f"run {self._runs}: end on {self._rank}", "")
        if not self._all_ended(GRACE if isinstance(end, RunFailed) else _UNLIMITED):
            # The others wait in a collective for this rank.
            self._store.set(_BROKEN, self._store.get(reason))
        return RunFailed(end.spec, self._store.get(reason).decode()) if self._store.check([reason]) else end

    def _all_ended(self, within: timedelta) -> bool:
        try:
            self._store.wait([f"run {self._runs}: end on {rank}" for rank in range(self._world)], within)
        except dist.DistStoreError:
            return False
        return True
