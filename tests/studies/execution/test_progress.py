"""Bars and times on terminals of any width."""

import io
import re
from dataclasses import replace

import pytest
from rich.console import Console

from lossaware.studies.execution.events import EpochDone, Progress, RunStarted
from lossaware.studies.execution.progress import RunProgress
from lossaware.studies.specs.run_spec import EpochRecord
from support.synthetic import BASE, compared, pair

SPECS = [replace(spec, epochs=100) for spec in compared(pair(BASE, BASE))[0].specs]


def progress_lines(width: int, monkeypatch, **how) -> list[str]:
    """The lines of the bars in the middle of two runs, an hour after the first began."""
    now = 0.0
    monkeypatch.setattr("time.monotonic", lambda: now)
    file = io.TextIOWrapper(io.BytesIO(), encoding=how.pop("encoding", "utf-8"), errors="backslashreplace")
    console = Console(file=file, width=width, force_terminal=True, color_system=None, get_time=lambda: now, **how)
    progress = RunProgress(SPECS, finished=0, jobs=2, console=console)
    for spec in (SPECS[0], SPECS[-1]):
        progress.handle(RunStarted(spec))
        progress.handle(Progress(spec, 1, 1, 10, 2.3))
    now = 3600.0
    for spec in (SPECS[0], SPECS[-1]):
        progress.handle(EpochDone(spec, EpochRecord(12, {"loss": 2.3456}, {}, None, 0.0)))
    with console.capture() as capture:
        console.print(progress._bars.get_renderable())
    return capture.get().splitlines()


@pytest.mark.parametrize("width", [60, 80, 100, 120, 200])
def test_each_bar_and_its_time_are_on_one_line(width, monkeypatch):
    lines = progress_lines(width, monkeypatch)
    assert len(lines) == 3, "all runs, and two at a time"
    assert max(map(len, lines)) <= width
    for line in lines:
        assert re.search(r"\d+ h \d+ min left", line), line
    assert "all r" in lines[0]
    assert "0 of 12 runs" in lines[0]
    for line in lines[1:]:
        assert "epoch 13 of 100" in line
        assert "sgd" in line


def test_a_terminal_that_cannot_move_its_cursor_gets_lines(monkeypatch):
    now = 0.0
    monkeypatch.setattr("time.monotonic", lambda: now)
    file = io.StringIO()
    console = Console(file=file, width=80, force_terminal=True, _environ={"TERM": "dumb"})
    with RunProgress(SPECS[:1], finished=0, jobs=1, console=console) as progress:
        progress.handle(RunStarted(SPECS[0]))
        progress.handle(Progress(SPECS[0], 1, 1, 10, 2.3))
        now = 60.0
        progress.handle(EpochDone(SPECS[0], EpochRecord(12, {"loss": 2.3}, {}, None, 0.0)))
    assert "0 of 1 run done, about 7 min 20 s left." in file.getvalue()
    assert "\x1b[?25l" not in file.getvalue()


def test_a_spinner_of_plain_characters(monkeypatch):
    assert "\\u28" not in "".join(progress_lines(80, monkeypatch, encoding="cp1252"))
