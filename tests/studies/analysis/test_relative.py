"""The difference of methods from the tuned base: numbers, plot and command line."""

import csv
import math
from dataclasses import replace
from pathlib import Path

import pytest

from lossaware.studies.analysis import lr_sensitivity as sensitivity
from lossaware.studies.analysis.relative import by_place, relative_rows, relatives
from lossaware.studies.analysis.study_table import tabulate
from lossaware.studies.report import relative_plot
from lossaware.studies.specs.run_spec import EpochRecord
from lossaware.studies.specs.study import parse_study
from lossaware.studies.store.database import Store
from support.command_line import lossaware
from support.lr_grid import lr_grid
from support.made_up import MadeUp

TASKS = 'One = { task = "digits", lga = { gamma2 = 1e-6 } }'
OPTIMIZERS = """
SGD = { optimizer = "sgd", lr = 1e-3, lga = false }
SGD-LGA = { optimizer = "sgd", lr = 1e-3 }
Adam = { optimizer = "adam", lr = 1e-3, lga = false }
Adam-LGA = { optimizer = "adam", lr = 1e-3 }
Lion = { optimizer = "lion", lr = 0.5, lga = false }
Prodigy = { optimizer = "prodigy", lr = 1, lga = false }
"""


def text_of(measure: str) -> str:
    return lr_grid(TASKS, OPTIMIZERS, epochs=1, seeds=1, measure=measure)


SCORES = {
    ("sgd", False): {1e-3: 0.5, 1e-2: 0.8},
    ("sgd", True): {1e-3: 0.7, 1e-2: 0.9},
    ("adam", False): {1e-3: 0.4, 1e-2: 0.2},
    ("lion", False): {1e-3: 0.6, 1e-2: math.nan, 0.5: 0.82},
    ("prodigy", False): {1.0: 0.75},
}


class Known(MadeUp):
    """Made-up results."""

    def records(self, spec):
        score = SCORES.get((spec.optimizer, spec.lga is not None), {}).get(spec.lr)
        values = {"accuracy": score, "loss": score}
        return [] if score is None else [EpochRecord(epoch=1, train=values, test=values, seconds=1.0, lga=None)]

    def environment(self, spec):
        return {"date": "2026-01-02T03:04:05"}


def relative_by_name(measure: str):
    study = parse_study(text_of(measure), "small")
    return {one.name: one for one in relatives(sensitivity.all_series(tabulate(study, Known())))}


def losses(one):
    return tuple(None if lost is None else pytest.approx(lost) for lost in (one.worst, one.mean, one.best, one.own))


def test_differences_are_from_the_own_base_or_the_best():
    by_name = relative_by_name("accuracy")
    assert {name: (one.base, one.score) for name, one in by_name.items()} == {
        "SGD": ("SGD", 80.0),
        "SGD-LGA": ("SGD", 80.0),
        "Adam": ("Adam", 40.0),
        "Lion": ("SGD", 80.0),
        "Prodigy": ("SGD", 80.0),
    }
    assert losses(by_name["SGD"]) == (30, 15, 0, 30)
    assert losses(by_name["SGD-LGA"]) == (10, 0, -10, 10)
    assert losses(by_name["Adam"]) == (20, 10, 0, 0)
    assert losses(by_name["Lion"]) == (math.inf, math.inf, 20, -2)
    assert losses(by_name["Prodigy"]) == (None, None, None, 5)


def test_of_a_loss_a_share_of_the_bases_is_lost():
    by_name = relative_by_name("loss")
    assert losses(by_name["SGD"]) == (60, 30, 0, 0)
    assert losses(by_name["SGD-LGA"]) == (80, 60, 40, 40)
    assert (by_name["Prodigy"].base, losses(by_name["Prodigy"])) == ("Adam", (None, None, None, 275))


def test_a_base_that_is_not_measured_at_every_rate_is_not_tuned(monkeypatch):
    monkeypatch.setitem(SCORES, ("sgd", False), {1e-3: 0.5})
    by_name = relative_by_name("accuracy")
    assert set(by_name) == {"Adam", "Lion", "Prodigy"}
    assert by_name["Lion"].base == "Adam"


def test_a_loss_below_0_is_measured_by_its_size(monkeypatch):
    monkeypatch.setitem(SCORES, ("sgd", False), {1e-3: -1.0, 1e-2: -2.0})
    by_name = relative_by_name("loss")
    assert losses(by_name["SGD"])[:3] == (50, 25, 0)


def test_rows_and_table_omit_missing_values():
    some = list(relative_by_name("accuracy").values())
    (row,) = (row for row in relative_rows(some) if row["optimizer"] == "Prodigy")
    assert row == {
        "task": "One",
        "optimizer": "Prodigy",
        "tuned_base": "SGD",
        "its_score": 80.0,
        "unit": "points",
        "worst": "",
        "mean": "",
        "best": "",
        "own": pytest.approx(5),
    }
    table = relative_plot.overview(some, "worst")
    heads = [*table.axes, *(head for (head,) in table.heads)]
    rows = [[*row.names, *(cell.text for cell in row.cells)] for row in table.rows]
    assert heads == ["task", "SGD", "SGD-LGA", "Adam", "Lion", "Prodigy"]
    assert rows == [["One", "+30.0", "+10.0", "+20.0", "not finite", ""]]


def test_the_picture_has_a_block_for_each_measure_and_a_number_for_each_place():
    some = list(relative_by_name("accuracy").values())
    svg = relative_plot.plot_relative(some).svg()
    for title in relative_plot.TITLES.values():
        assert f"Lost {title}" in svg
    assert svg.count(">+30.0<") == 2  # SGD's worst, and its own
    assert svg.count(">not finite<") == 2
    without_own = [replace(one, own=None) for one in some]
    assert "at its own rate" not in relative_plot.plot_relative(without_own).svg()
    assert by_place(without_own, "own") == {}


def test_the_command_writes_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    command = ["plot", "small.toml", "--relative", "--to", "drawn"]
    monkeypatch.chdir(tmp_path)
    Path("small.toml").write_text(text_of("accuracy"))
    study = parse_study(text_of("accuracy"), "small")
    Path("lossaware-out").mkdir()

    def store(name: str) -> None:
        with Store(Path("lossaware-out/results.sqlite")) as opened:
            for spec in study.specs:
                if spec.optimizer == name and (records := Known().records(spec)):
                    opened.insert_run(spec, records, {"date": "2026-01-02T03:04:05", "commit": "abc"})

    store("prodigy")
    assert lossaware(*command) == 2
    assert "no base has results at all of its learning rates" in capsys.readouterr().err
    store("sgd")
    assert lossaware(*command) == 0
    assert "SGD-LGA" in capsys.readouterr().out
    kinds = {path.name for path in Path("drawn").iterdir()}
    assert kinds == {f"small-relative{kind}" for kind in (".svg", "-dark.svg", ".png", ".csv", ".json")}
    rows = list(csv.DictReader(Path("drawn/small-relative.csv").read_text(encoding="utf-8").splitlines()))
    assert [(row["optimizer"], row["worst"]) for row in rows][:2] == [("SGD", "30.0"), ("SGD-LGA", "10.0")]
