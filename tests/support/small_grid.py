"""A small study, and results that a test makes up."""

import io
import math
from dataclasses import replace

from rich.console import Console

from lossaware.studies.analysis.study_table import StudyTable, tabulate
from lossaware.studies.report.study_table import study_table
from lossaware.studies.report.writers import text, write
from lossaware.studies.specs.run_spec import EpochRecord, RunSpec
from lossaware.studies.specs.study import Overrides, Study, parse_study
from lossaware.studies.specs.study_file import Settings
from support.made_up import MadeUp

TEXT = """
title = "A small grid"
rows = ["algorithm"]
columns = ["strategy", "lr"]

[base]
task = "digits"
epochs = 4
batch_size = 200
seeds = 2
task_options = { hidden = 8 }
lga = { gamma2 = 1e-5 }

[measure]
set = "test"
name = "accuracy"

[axes.algorithm]
SGD = { optimizer = "sgd" }
Momentum = { optimizer = "sgd", optimizer_options = { momentum = 0.9 } }

[axes.strategy]
"w/o LGA" = { lga = false }
"w/ LGA" = {}
Ratio = { measure = { at = "ratio" } }

[axes.lr]
1e-3 = { lr = 1e-3 }
1e-2 = { lr = 1e-2, lga = { gamma2 = 1e-6 } }

[derived]
axis = "algorithm"
points = { mean = "mean", spread = "deviation" }

[published]
SGD = [90.0, 95, 91.25, nan, 0.9, 0.5]
mean = [80, 81, 82, 83, 0.7, 0.8]
"""


def at(study: Study, row: str, column: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    key = tuple(row.split(", ")), tuple(column.split(", "))
    assert key in study.cells
    return key


class Known(MadeUp):
    """An accuracy an epoch for each run."""

    def put(self, spec: RunSpec, *accuracies: float) -> None:
        self.runs[spec] = [
            EpochRecord(
                i, train={"accuracy": a / 2, "loss": 1 - a}, test={"accuracy": a, "loss": 1 - a}, lga=None, seconds=1
            )
            for i, a in enumerate(accuracies, 1)
        ]

    def environment(self, spec: RunSpec) -> dict[str, str]:
        return (
            {"date": "2026-01-02T03:04:05", "commit": "abc", "command": "lossaware study run grid"}
            if spec in self.runs
            else {}
        )


def one(at: str, *, set_: str = "test", name: str = "accuracy", seeds: int = 1) -> str:
    return f"""
title = "One cell"
rows = ["a"]
columns = ["b"]
measure = {{ set = "{set_}", name = "{name}", at = "{at}" }}
base = {{ task = "digits", optimizer = "sgd", lr = 1, epochs = 4, batch_size = 1, seeds = {seeds}, lga = {{}} }}
axes = {{ a = {{ a = {{}} }}, b = {{ b = {{}} }} }}
"""


def fill(study: Study, known: Known, *, shift: float = 0.0) -> None:
    """All runs of a study, of curves that differ by optimizer, learning rate, seed and LGA."""
    for spec in study.specs:
        top = 0.5 + 10 * spec.lr + 0.1 * bool(spec.optimizer_options) + 0.02 * spec.seed + 0.05 * (spec.lga is not None)
        known.put(spec, *(top * (i + 1) / spec.epochs + shift for i in range(spec.epochs)))


SHORT = Overrides({}, Settings(epochs=2, seeds=1))


RECORD = EpochRecord(
    epoch=1,
    train={"loss": 0.1 + 0.2, "accuracy": 1 / 3},
    test={"loss": math.inf, "accuracy": 5e-324, "only here": 1.0},
    lga={"gamma2": 1e-8 / 3, "lower_bound": math.nan, "steps": 3.0},
    seconds=0.1,
)


class Exact(Known):
    """Runs whose numbers no rounding survives."""

    def __init__(self, study: Study) -> None:
        super().__init__()
        for spec in study.specs:
            lga = None if spec.lga is None else RECORD.lga
            epochs = range(1, spec.epochs + 1)
            self.runs[spec] = [replace(RECORD, epoch=epoch, lga=lga, seconds=spec.lr / (epoch + 7)) for epoch in epochs]


def text_of(table: StudyTable, width: int = 120) -> str:
    stream = io.StringIO()
    Console(width=width, file=stream, color_system=None).print(text.render(study_table(table), width))
    return stream.getvalue()


def format_table(table: StudyTable, name: str) -> str:
    """The table in that format."""
    return write(study_table(table), name)


def measured(text: str, known: Known) -> StudyTable:
    return tabulate(parse_study(text, "one"), known)
