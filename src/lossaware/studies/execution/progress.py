"""Progress of runs: bars on a terminal, otherwise a line from time to time."""

import math
import time
from collections.abc import Iterable, Sequence
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, ProgressColumn, SpinnerColumn, Task, TaskID, TextColumn
from rich.progress import Progress as Bars
from rich.table import Column
from rich.text import Text

from lossaware.studies.execution import events as engine
from lossaware.studies.specs.formatting import number
from lossaware.studies.specs.run_spec import RunSpec

LINE_EVERY = 15.0
"""Seconds between two lines without a terminal."""


def describe_run(spec: RunSpec) -> str:
    """A run in a few words: ``sgd, lr 1e-3, with LGA (gamma2 1e-8), seed 0``."""
    arm = "without"
    if spec.lga is not None:
        gamma2 = dict(spec.lga).get("gamma2")
        arm = f"with LGA (gamma2 {number(gamma2)})" if isinstance(gamma2, float) else "with LGA"
        if gamma2 == "auto":
            arm = "with LGA (gamma2 auto)"
    how = [*[spec.precision] * (spec.precision != "fp32"), *[spec.device] * (spec.device != "cpu")]
    how += [spec.distributed] if spec.distributed else []
    base = [*[spec.optimizer] * bool(spec.optimizer), *[f"lr {number(spec.lr)}"] * bool(spec.lr)]
    return ", ".join([*base, arm, f"seed {spec.seed}", *how])


class RunProgress:
    """Shows the events of an engine; a context manager.

    Args:
        to_do: The runs to execute.
        finished: Number of runs of the same study that are already finished.
        jobs: Number of concurrent runs; None if not known.
        console: Output; bars if it is a terminal.
    """

    def __init__(self, to_do: Sequence[RunSpec], *, finished: int, jobs: int | None, console: Console) -> None:
        self.failures: list[tuple[RunSpec, str]] = []
        self.done = 0
        self._to_do = len(to_do)
        self._finished = finished
        self._jobs = jobs
        self._console = console
        self._specs = to_do
        self._lengths: dict[RunSpec, int] = {}  # of open-ended runs that have reported it
        self._usual_length = 1  # of those that have not
        self._partial: dict[RunSpec, float] = {}
        self._finished_epochs = 0.0
        self._restored = 0  # epochs from checkpoints, which do not count for the pace
        self._began = self._last_line = time.monotonic()
        self._first_step: float | None = None  # its time; the pace counts from it, without importing torch
        # A terminal that cannot move the cursor gets lines, as a file does.
        self._has_bars = console.is_terminal and not console.is_dumb_terminal
        self._bars = Bars(
            SpinnerColumn("dots" if console.encoding.startswith("utf") else "line"),
            _Name(),
            BarColumn(bar_width=40 if console.width >= 120 else 10),
            TextColumn("{task.fields[where]}", markup=False, table_column=Column(no_wrap=True)),
            _TimeLeft(table_column=Column(no_wrap=True)),
            console=console,
            transient=True,
            disable=not self._has_bars,
        )
        self._overall = self._bars.add_task("all runs", total=self._epochs(), where=self._count(), taken=0, start=False)
        self._lines: dict[RunSpec, TaskID] = {}
        self._unverified: set[str] = set()

    def __enter__(self) -> Self:
        finished = f", {self._finished} already finished" if self._finished else ""
        at_a_time = f", {self._jobs} at a time" if self._jobs and self._jobs > 1 else ""
        self._print(f"{_runs(self._to_do)} to do{finished}{at_a_time}.")
        self._bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bars.stop()
        if kind is None:
            self._print(f"{_runs(self.done)} done in {duration(time.monotonic() - self._began)}.")

    def watch(self, events: "Iterable[engine.Event]") -> None:
        """Show all events."""
        for event in events:
            self.handle(event)

    def handle(self, event: "engine.Event") -> None:
        """Show one event."""
        match event:
            case engine.RunStarted(spec):
                self._partial[spec] = 0.0
                self._show(spec, 0.0, "")
            case engine.DataRead(_, files):
                for unverified in {str(each) for each in files if not each.verified} - self._unverified:
                    self._print(f"{unverified}. To verify files from now on: `lossaware data record`.")
                    self._unverified.add(unverified)
            case engine.Length(spec, epochs):
                self._lengths[spec] = self._usual_length = epochs
                self._bars.update(self._overall, total=self._epochs())
                if spec in self._lines:
                    self._bars.update(self._lines[spec], total=epochs)
            case engine.Progress(spec, epoch, step, steps, loss):
                self._show(spec, epoch - 1 + step / max(steps, 1), _loss(loss))
            case engine.EpochDone(spec, record):
                self._show(spec, record.epoch, _loss(record.train.get("loss", math.nan)))
            case engine.RunDone(spec):
                self.done += 1
                self._end(spec, self._length(spec))
            case engine.RunNote(spec, message, epochs):
                self._restored += epochs
                if spec in self._lines:
                    self._bars.update(self._lines[spec], taken=epochs)
                self._print(f"{describe_run(spec)}: {message}")
            case engine.RunFailed(spec, message):
                self.failures.append((spec, message))
                self._end(spec, self._length(spec))
                self._print(f"failed: {describe_run(spec)}: {message}")
        self._bars.update(self._overall, completed=self._reached(), where=self._count(), taken=self._restored)
        self._print_if_due()

    def _length(self, spec: RunSpec) -> int:
        """The number of epochs of a run, estimated if not known."""
        return spec.epochs or self._lengths.get(spec, self._usual_length)

    def _epochs(self) -> int:
        return sum(map(self._length, self._specs))

    def _reached(self) -> float:
        return self._finished_epochs + sum(self._partial.values())

    def _count(self) -> str:
        return f"{self.done} of {_runs(self._to_do)}"

    def _show(self, spec: RunSpec, epochs: float, loss: str) -> None:
        self._partial[spec] = epochs
        if spec not in self._lines:
            total = self._length(spec)
            self._lines[spec] = self._bars.add_task(describe_run(spec), total=total, where="", taken=0, start=False)
        if epochs > 0:
            self._bars.start_task(self._lines[spec])
            self._bars.start_task(self._overall)
            if self._first_step is None:
                self._first_step = time.monotonic()
        length = max(self._length(spec), math.ceil(epochs))
        where = f"epoch {min(int(epochs) + 1, length)} of {length}{loss}"
        self._bars.update(self._lines[spec], completed=epochs, where=where)

    def _end(self, spec: RunSpec, epochs: float) -> None:
        self._partial.pop(spec, None)
        self._finished_epochs += epochs
        if spec in self._lines:
            self._bars.remove_task(self._lines.pop(spec))

    def _print_if_due(self) -> None:
        if self._has_bars or (now := time.monotonic()) - self._last_line < LINE_EVERY:
            return
        self._last_line = now
        reached = self._reached()
        epochs = reached - self._restored
        pace = math.nan if self._first_step is None or epochs <= 0 else (now - self._first_step) / epochs
        remaining = pace * max(0.0, self._epochs() - reached)
        about = f", about {duration(remaining)} left" if math.isfinite(remaining) and remaining >= 0.5 else ""
        self._print(f"{self._count()} done{about}.")

    def _print(self, line: str) -> None:
        self._console.print(line, markup=False, highlight=False, soft_wrap=True)


class _Name(ProgressColumn):
    """The running tasks; if they do not fit, the end is omitted, so that a bar stays on one line."""

    def render(self, task: Task) -> Text:
        return Text(task.description, no_wrap=True, overflow="ellipsis")


class _TimeLeft(ProgressColumn):
    """Time left at the average pace so far, which varies less than the pace of the last seconds."""

    max_refresh = 0.5

    def render(self, task: Task) -> Text:
        epochs = task.completed - task.fields["taken"]
        if epochs <= 0 or task.elapsed is None or task.total is None:
            return Text("")
        remaining = task.elapsed / epochs * max(0.0, task.total - task.completed)
        return Text(f"{duration(remaining)} left", style="progress.remaining")


def duration(seconds: float) -> str:
    """A duration in its two largest units: ``40 s``, ``3 min 20 s``, ``2 h 5 min``."""
    total = max(0, round(seconds))
    if total < 60:
        return f"{total} s"
    if total < 3600:
        return f"{total // 60} min {total % 60} s"
    return f"{total // 3600} h {total % 3600 // 60} min"


def _runs(count: int) -> str:
    return f"{count} run{'s' * (count != 1)}"


def _loss(loss: float) -> str:
    return f", loss {loss:.4g}"
