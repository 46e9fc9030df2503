"""Bars of progress on terminals."""

import io
import re
from dataclasses import replace

import pytest
from rich.console import Console

from lossaware.studies.execution.events import Progress, RunStarted
from lossaware.studies.execution.progress import RunProgress
from lossaware.studies.specs.run_spec import RunSpec, lga_options

SPEC = RunSpec(
    "digits", "schedulefree-adamw", 1e-3, seed=0, epochs=20, batch_size=10, lga=lga_options({"gamma2": 1e-8})
)


@pytest.mark.parametrize("width", [60, 80, 100, 200])
def test_a_bar_is_one_line_with_its_time(width):
    out = io.StringIO()
    console = Console(file=out, width=width, height=30, force_terminal=True, color_system=None)
    runs = [replace(SPEC, seed=seed) for seed in range(2)]
    with RunProgress(runs, finished=0, jobs=2, console=console) as shown:
        for spec in runs:
            shown.handle(RunStarted(spec))
            shown.handle(Progress(spec, 12, 5, 10, 1.2345))
        out.truncate(0)
        shown._bars.refresh()
        text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", out.getvalue()).replace("\r", "").strip("\n\x00")
    lines = text.splitlines()
    assert len(lines) == 3
    assert all(len(line) <= width for line in lines)
    assert all(re.search(r"epoch 12 of 20, loss 1\.234 +\d+ s left *$", line) for line in lines[1:])
    assert re.search(r"0 of 2 runs +\d+ s left *$", lines[0])
