"""Studies: from a file to runs, from runs to a table, and to plain files and back."""

import csv
import io
import json
import math
import re
from dataclasses import replace
from decimal import Decimal
from pathlib import Path

import pytest
import torch
from rich.console import Console

from lossaware.cli import main
from lossaware.errors import Note, UsageError
from lossaware.studies.analysis.collect import show
from lossaware.studies.analysis.export import export
from lossaware.studies.analysis.lr_sensitivity import all_series
from lossaware.studies.analysis.statistics import summary
from lossaware.studies.analysis.study_table import StudyTable, tabulate
from lossaware.studies.report import study_html
from lossaware.studies.report.study_table import FORMATS, show_difference, to_text
from lossaware.studies.specs import atomic
from lossaware.studies.specs.provenance import format_provenance, without_folders
from lossaware.studies.specs.run_spec import LGA_DEFAULTS, EpochRecord, RunSpec
from lossaware.studies.specs.study import Overrides, Study, load_study, parse_study, without_lga
from lossaware.studies.specs.study_file import Settings, parse_settings
from lossaware.studies.store.database import Store
from lossaware.studies.store.digests import sealed
from lossaware.studies.store.exported import Exported, adopt
from lossaware.studies.store.folder import Folder, Launch
from lossaware.studies.store.results import Sources

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


@pytest.fixture
def grid() -> Study:
    return parse_study(TEXT, "grid")


def at(study: Study, row: str, column: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    key = tuple(row.split(", ")), tuple(column.split(", "))
    assert key in study.cells
    return key


class Known:
    """Results that a test makes up: an accuracy an epoch for each run."""

    def __init__(self) -> None:
        self.runs: dict[RunSpec, list[EpochRecord]] = {}

    def put(self, spec: RunSpec, *accuracies: float) -> None:
        self.runs[spec] = [
            EpochRecord(
                i, train={"accuracy": a / 2, "loss": 1 - a}, test={"accuracy": a, "loss": 1 - a}, lga=None, seconds=1
            )
            for i, a in enumerate(accuracies, 1)
        ]

    def records(self, spec: RunSpec) -> list[EpochRecord]:
        return self.runs.get(spec, [])

    def environment(self, spec: RunSpec) -> dict[str, str]:
        return (
            {"date": "2026-01-02T03:04:05", "commit": "abc", "command": "lossaware study run grid"}
            if spec in self.runs
            else {}
        )


# --- the file -------------------------------------------------------------------------------------------------------


def test_cells_are_the_cross_product_in_the_order_of_the_file(grid):
    assert grid.rows == [("SGD",), ("Momentum",), ("mean",), ("spread",)]
    assert grid.columns == [(s, lr) for s in ("w/o LGA", "w/ LGA", "Ratio") for lr in ("1e-3", "1e-2")]
    assert len(grid.cells) == 24


def test_points_override_the_base_and_options_are_merged(grid):
    spec = grid.cells[at(grid, "Momentum", "w/ LGA, 1e-2")].specs[1]
    assert spec == RunSpec(
        task="digits",
        task_options=(("hidden", 8),),
        optimizer="sgd",
        optimizer_options=(("momentum", 0.9),),
        lr=1e-2,
        lga=tuple(sorted({**LGA_DEFAULTS, "gamma2": 1e-6}.items())),
        seed=1,
        epochs=4,
        batch_size=200,
    )
    assert dict(grid.cells[at(grid, "SGD", "w/ LGA, 1e-3")].specs[0].lga)["gamma2"] == 1e-5


@pytest.mark.parametrize("order", [["strategy", "lr"], ["lr", "strategy"]])
def test_without_lga_is_without_whatever_another_axis_says(order):
    text = TEXT.replace('columns = ["strategy", "lr"]', f"columns = {json.dumps(order)}").split("[derived]")[0]
    for cell in parse_study(text, "grid").cells.values():
        assert all((spec.lga is None) == ("w/o LGA" in cell.column) for spec in cell.specs)


def test_a_run_has_the_key_that_compare_gives_it():
    """Both commands keep their runs in one store, so both must write the same specification."""
    from lossaware.studies.analysis.comparison import Comparison

    study = parse_study(TEXT.replace("task_options = { hidden = 8 }", ""), "grid")
    lga = {name: value for name, value in LGA_DEFAULTS.items() if name != "gamma2"}
    other = Comparison("digits", ["sgd"], [1e-3], [1e-5], 2, 4, 200, lga=tuple(sorted(lga.items())))
    ours = [study.cells[at(study, "SGD", column)].specs for column in ("w/o LGA, 1e-3", "w/ LGA, 1e-3")]
    assert {spec.key for specs in ours for spec in specs} == {spec.key for spec in other.specs()}


def test_numbers_are_the_same_run_however_they_are_written():
    a, b = (parse_study(TEXT.replace("gamma2 = 1e-5", f"gamma2 = 1e-5, xi = {xi}"), "g").specs for xi in ("1", "1.0"))
    assert [spec.key for spec in a] == [spec.key for spec in b]


def test_a_ratio_needs_the_runs_without_lga_too(grid):
    cell = grid.cells[at(grid, "SGD", "Ratio, 1e-3")]
    assert set(cell.needed) == {*cell.specs, *map(without_lga, cell.specs)}
    only = grid.overridden(Overrides({"strategy": ("Ratio",), "algorithm": ("SGD",), "lr": ("1e-3",)}))
    assert set(only.specs) == set(cell.needed)


def test_runs_come_once_and_seed_by_seed(grid):
    specs = grid.specs
    assert len(specs) == len(set(specs)) == 2 * 2 * 2 * 2
    assert [spec.seed for spec in specs] == [0] * 8 + [1] * 8


def test_published_figures_keep_their_digits(grid):
    row = [grid.cells[("SGD",), column].published for column in grid.columns]
    assert [None if figure is None else str(figure) for figure in row] == ["90.0", "95", "91.25", None, "0.9", "0.5"]
    assert grid.cells[("mean",), ("Ratio", "1e-2")].published == Decimal("0.8")
    assert grid.cells[("Momentum",), ("Ratio", "1e-2")].published is None


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (
            'optimizer = "sgd" }',
            'optimzer = "sgd" }',
            "unknown key 'axes.algorithm.SGD.optimzer'; did you mean optimizer",
        ),
        ('set = "test"', 'sett = "test"', "unknown key 'measure.sett'; did you mean set?"),
        ("[base]", "[bsae]", "unknown key 'bsae'; did you mean base?"),
        (
            'measure = { at = "ratio" }',
            'measure = { art = "ratio" }',
            "'axes.strategy.Ratio.measure.art'; did you mean at?",
        ),
        ('set = "test"', 'set = "tset"', "measure.set: input should be 'train' or 'test', got 'tset'"),
        ("epochs = 4", "epochs = 0", "base.epochs: input should be greater than or equal to 1, got 0"),
        ("epochs = 4", 'epochs = "4"', "base.epochs: input should be a valid integer, got '4'"),
        ("epochs = 4", "", "SGD, w/o LGA, 1e-3: epochs is said neither in [base] nor at a point"),
        ("seeds = 2", "seeds = 0", "base.seeds: must be how many, at least 1, or a list"),
        ("seeds = 2", "seeds = []", "base.seeds: must be how many"),
        ("seeds = 2", "seeds = [1, 1]", "base.seeds: must not name a seed twice"),
        ("seeds = 2", "seeds = [-1]", "base.seeds: must be how many"),
        ("lr = 1e-3 ", "lr = -1 ", "axes.lr.1e-3.lr: input should be greater than 0, got -1"),
        ("lr = 1e-3 ", "lr = nan ", "axes.lr.1e-3.lr: "),
        ("lga = false", "lga = true", "axes.strategy.w/o LGA.lga: must be false, or a table of LGA's arguments"),
        ("gamma2 = 1e-6", "gamma2 = [1e-6]", "axes.lr.1e-2.lga.gamma2: must be a number, a text, true or false, got"),
        ('rows = ["algorithm"]', 'rows = ["algoritm"]', "there is no axis 'algoritm'; did you mean algorithm?"),
        ('rows = ["algorithm"]', "rows = []", "axis 'algorithm' must be once among rows and columns"),
        ('rows = ["algorithm"]', 'rows = ["algorithm", "lr"]', "axis 'lr' must be once among rows and columns"),
        ("SGD = [", "SDG = [", "published has no row 'SDG'; did you mean SGD?"),
        ("0.9, 0.5]", "0.9]", "published.SGD must list 6 figures, got 5"),
        ("90.0, 95,", '90.0, "95",', "published.SGD must list numbers, got '95'"),
        ("90.0, 95,", "90.0, inf,", "published.SGD must list finite numbers, or nan for none, got Infinity"),
        ('axis = "algorithm"', 'axis = "algorthm"', "there is no axis 'algorthm'; did you mean algorithm?"),
        ("{ mean =", "{ SGD =", "'SGD' is a point and derived as well"),
        ('"deviation"', '"spread"', "derived.points.spread: input should be 'mean' or 'deviation', got 'spread'"),
        ('title = "A small grid"', "", "'title' is missing"),
        ("[base]", "[base", "not valid TOML"),
        ('title = "A small grid"', f"title = {'[' * 5000}{']' * 5000}", "nested too deeply"),
        ("lga = { gamma2 = 1e-5 }", "lga = false", "axes.lr.1e-2.lga is without effect under base.lga = false"),
        ('name = "accuracy"', "", "measure must say its set (train or test) and its name"),
    ],
)
def test_a_mistake_in_a_file_is_one_line_that_names_it(old, new, message):
    assert TEXT.count(old) >= 1
    with pytest.raises(UsageError) as error:
        parse_study(TEXT.replace(old, new, 1), "grid", source="my/grid.toml")
    assert message in str(error.value)
    assert "\n" not in str(error.value)
    assert str(error.value).startswith("study my/grid.toml: ")


def test_a_study_that_does_not_exist(tmp_path):
    with pytest.raises(UsageError, match=r"unknown study 'table2'; did you mean table02"):
        load_study("table2")
    with pytest.raises(UsageError, match="No such file"):
        load_study(str(tmp_path / "none.toml"))
    (tmp_path / "bytes.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(UsageError, match="study file"):
        load_study(str(tmp_path / "bytes.toml"))


# --- overriding -----------------------------------------------------------------------------------------------------


def test_overrides_go_over_everything(grid):
    smaller = grid.overridden(Overrides({}, Settings(seeds=[7], epochs=1, lga={"gamma2": 1e-3})))
    for spec in smaller.specs:
        assert (spec.seed, spec.epochs) == (7, 1)
        assert spec.lga is None or dict(spec.lga)["gamma2"] == 1e-3
    assert any(spec.lga is None for spec in smaller.specs)


def test_arguments_of_lga_do_not_bring_lga_to_where_there_is_none():
    text = TEXT.replace("lga = { gamma2 = 1e-5 }", "").replace(", lga = { gamma2 = 1e-6 }", "")
    text = text.replace("{ lga = false }", "{}").replace('"w/ LGA" = {}', '"w/ LGA" = { lga = {} }')
    study = parse_study(text, "grid").overridden(Overrides({}, parse_settings({"lga.gamma2": "1e-3"})))
    assert all(spec.lga is None for spec in study.cells[at(study, "SGD", "w/o LGA, 1e-3")].specs)
    assert all(dict(spec.lga)["gamma2"] == 1e-3 for spec in study.cells[at(study, "SGD", "w/ LGA, 1e-3")].specs)


@pytest.mark.parametrize("name", ["w/ LGA", "W/ lga", "w lga"])
def test_points_are_found_however_they_are_written(grid, name):
    smaller = grid.overridden(Overrides({"Strategy": (name,)}))
    assert smaller.overrides.only == {"strategy": ("w/ LGA",)}
    assert all(spec.lga is not None for spec in smaller.specs)


def test_unknown_axes_and_points(grid):
    with pytest.raises(UsageError, match="axis 'task' does not exist; known: algorithm, lr, strategy"):
        grid.overridden(Overrides({"task": ("mnist",)}))
    for lr in ("1e1", "1e+3", "13", "1e-30"):  # signs are no punctuation here
        with pytest.raises(UsageError, match=r"point of axis 'lr' '.*' does not exist"):
            grid.overridden(Overrides({"lr": (lr,)}))
    with pytest.raises(UsageError, match="point of axis 'algorithm' 'sdg' does not exist; did you mean SGD"):
        grid.overridden(Overrides({"algorithm": ("sdg",)}))


def test_overrides_survive_being_written_down(grid):
    overrides = Overrides({"lr": ("1e-3",)}, parse_settings({"epochs": 2, "lga.gamma2": "1e-7", "hidden": "4"}))
    assert Overrides.from_plain(json.loads(json.dumps(overrides.to_plain()))) == overrides
    assert Overrides().to_plain() == {}


def test_settings_as_on_a_command_line():
    given = {"batch_size": "32", "lga.lower_bound.log_base": "2.5", "pad": "0", "task_options.features": "real"}
    assert parse_settings({"seeds": 3, **given}) == Settings(
        seeds=3, batch_size=32, lga={"lower_bound.log_base": 2.5}, task_options={"pad": 0, "features": "real"}
    )
    for wrong, message in (({"batch_size": "few"}, "batch_size"), ({"precision": "fp8"}, "'fp32' or 'bf16'")):
        with pytest.raises(UsageError, match=f"--set .*{message}"):
            parse_settings(wrong)


# --- what a cell shows ----------------------------------------------------------------------------------------------


def measured(text: str, known: Known) -> StudyTable:
    return tabulate(parse_study(text, "one"), known)


def one(at: str, *, set_: str = "test", name: str = "accuracy", seeds: int = 1) -> str:
    return f"""
title = "One cell"
rows = ["a"]
columns = ["b"]
measure = {{ set = "{set_}", name = "{name}", at = "{at}" }}
base = {{ task = "digits", optimizer = "sgd", lr = 1, epochs = 4, batch_size = 1, seeds = {seeds}, lga = {{}} }}
axes = {{ a = {{ a = {{}} }}, b = {{ b = {{}} }} }}
"""


@pytest.mark.parametrize(
    ("at", "shown"),
    [
        ("final", 60.0),
        ("best", 80.0),
        ("reached", 55.0),  # the base ends at 0.5, and the run first has that after its second epoch
        ("ratio", 0.5),
    ],
)
def test_what_of_a_run_is_shown(at, shown):
    (cell,) = parse_study(one(at), "one").cells.values()
    known = Known()
    known.put(cell.specs[0], 0.4, 0.55, 0.8, 0.6)
    known.put(without_lga(cell.specs[0]), 0.1, 0.7, 0.3, 0.5)
    (found,) = measured(one(at), known).cells.values()
    assert found.summary.mean == pytest.approx(shown)
    assert math.isnan(found.summary.low)


@pytest.mark.parametrize(("at", "shown"), [("reached", 45.0), ("ratio", 1.0)])
def test_where_the_base_is_never_reached(at, shown):
    (cell,) = parse_study(one(at), "one").cells.values()
    known = Known()
    known.put(cell.specs[0], 0.4, 0.4, 0.3, 0.45)
    known.put(without_lga(cell.specs[0]), 0.1, 0.7, 0.3, 0.5)
    (found,) = measured(one(at), known).cells.values()
    assert found.summary.mean == pytest.approx(shown)


def test_a_lower_loss_is_the_better_one_and_no_percentage():
    known = Known()
    for at, shown in (("best", 0.2), ("ratio", 0.75), ("reached", 0.2)):
        text = one(at, set_="train", name="loss")
        (cell,) = parse_study(text, "one").cells.values()
        known.put(cell.specs[0], 0.4, 0.4, 0.8, 0.6)
        known.put(without_lga(cell.specs[0]), 0.1, 0.7, 0.3, 0.5)
        (found,) = measured(text, known).cells.values()
        assert found.summary.mean == pytest.approx(shown)


def test_a_ratio_waits_for_the_base():
    (cell,) = parse_study(one("ratio"), "one").cells.values()
    known = Known()
    known.put(cell.specs[0], 0.4, 0.55, 0.8, 0.6)
    (found,) = measured(one("ratio"), known).cells.values()
    assert not found.there


def test_an_unfinished_run_is_not_shown_and_a_diverged_one_is_counted():
    text = one("final", seeds=3)
    (cell,) = parse_study(text, "one").cells.values()
    known = Known()
    known.put(cell.specs[0], 0.4, 0.5, 0.6)
    known.put(cell.specs[1], 0.4, 0.5, 0.6, 0.7)
    known.put(cell.specs[2], 0.4, 0.5, 0.6, math.nan)
    table = measured(text, known)
    (found,) = table.cells.values()
    assert set(found.values) == {1, 2}
    assert repr(found.summary) == repr(replace(summary([70.0]), lost=1))  # NaN equals NaN there, on every Python
    assert table.legend == ["a: 2 of 3 seeds; 1 of 2 values are not finite"]


def fill(study: Study, known: Known, *, shift: float = 0.0) -> None:
    """All runs of a study, of curves that differ by optimizer, learning rate, seed and LGA."""
    for spec in study.specs:
        top = 0.5 + 10 * spec.lr + 0.1 * bool(spec.optimizer_options) + 0.02 * spec.seed + 0.05 * (spec.lga is not None)
        known.put(spec, *(top * (i + 1) / spec.epochs + shift for i in range(spec.epochs)))


def test_means_intervals_differences_and_derived_rows(grid):
    known = Known()
    fill(grid, known)
    table = tabulate(grid, known)
    sgd, momentum = (table.cells[at(grid, row, "w/o LGA, 1e-3")] for row in ("SGD", "Momentum"))
    assert sgd.summary == summary([51.0, 53.0])
    assert sgd.difference == pytest.approx(52 - 90)
    assert sgd.agrees is False
    assert momentum.agrees is None
    mean, spread = (table.cells[at(grid, row, "w/o LGA, 1e-3")] for row in ("mean", "spread"))
    assert mean.summary.mean == pytest.approx((52 + 62) / 2)
    assert mean.difference == pytest.approx(57 - 80)
    assert spread.summary.mean == pytest.approx(5.0)  # of the population: half the distance of two


def test_a_difference_that_is_shown_as_none_has_no_sign(grid):
    known = Known()
    fill(grid, known)
    cell = tabulate(grid, known).cells[at(grid, "SGD", "w/o LGA, 1e-3")]
    near = replace(cell, summary=replace(cell.summary, mean=89.996))
    assert (show_difference(near, 3), show_difference(near, 2)) == ("-0.004", "0.00")


def test_derived_columns():
    text = TEXT.split("[derived]")[0].replace('measure = { at = "ratio" }', "")
    study = parse_study(text + '[derived]\naxis = "lr"\npoints = { mean = "mean" }', "grid")
    assert study.columns[-3:] == [("w/o LGA", "mean"), ("w/ LGA", "mean"), ("Ratio", "mean")]
    known = Known()
    fill(study, known)
    assert tabulate(study, known).cells[at(study, "SGD", "w/o LGA, mean")].summary.mean == pytest.approx((52 + 61) / 2)


def test_a_mean_of_cells_that_lack_seeds_says_so_and_is_compared(grid):
    known = Known()
    fill(grid, known)
    fewer = Overrides({"algorithm": ("Momentum",)}, Settings(seeds=1))
    for spec in grid.overridden(Overrides({"algorithm": ("Momentum",)})).specs:
        if spec.seed == 1:
            del known.runs[spec]
    table = tabulate(grid, known, [fewer])
    key = at(grid, "mean", "w/ LGA, 1e-2")
    assert table.cells[key].partial or table.cells[key].differs
    assert key in table.marks
    assert table.cells[key].changed == ""
    assert math.isfinite(table.cells[key].difference)


def test_a_mean_of_stand_ins_is_one(grid):
    text = TEXT.replace("task_options = { hidden = 8 }", 'task_options = { features = "stand-in" }')
    study = parse_study(text, "grid")
    known = Known()
    fill(study, known)
    mean = tabulate(study, known).cells[at(study, "mean", "w/ LGA, 1e-2")]
    assert mean.caution == "stand-in features"
    assert mean.agrees is None
    assert math.isnan(mean.difference)


def test_a_derived_cell_needs_all_its_cells(grid):
    known = Known()
    fill(grid.overridden(Overrides({"algorithm": ("SGD",)})), known)
    table = tabulate(grid, known)
    assert table.cells[at(grid, "SGD", "w/ LGA, 1e-2")].there
    assert not table.cells[at(grid, "mean", "w/ LGA, 1e-2")].there


def test_a_mean_of_cells_under_different_settings_says_so(grid):
    known = Known()
    fill(grid.overridden(Overrides({"algorithm": ("SGD",)})), known)
    fill(grid.overridden(SHORT), known)
    table = tabulate(grid, known, [SHORT])
    said = "of cells under different settings"
    assert f"{table.marks[at(grid, 'mean', 'w/ LGA, 1e-2')]}: {said}" in table.legend
    assert table.cells[at(grid, "mean", "w/ LGA, 1e-2")].changed == said
    assert [row["overridden"] for row in csv.DictReader(io.StringIO(FORMATS["csv"](table)))][-1] == said
    fill(grid.overridden(Overrides({"algorithm": ("Momentum",)})), known)
    assert not tabulate(grid, known, [SHORT]).marks


# --- which runs are shown -------------------------------------------------------------------------------------------

SHORT = Overrides({}, Settings(epochs=2, seeds=1))
SHORTER = Overrides({}, Settings(epochs=1, seeds=1))


def test_what_was_overridden_is_said_above_the_table(grid):
    known = Known()
    fill(grid.overridden(SHORT), known)
    table = tabulate(grid, known, [SHORT])
    assert table.head == ["Overridden: epochs = 2, seeds = 1."]
    assert not table.marks
    assert "One seed" in table.caption


def test_runs_under_other_settings_are_not_held_against_the_published_figures(grid):
    known = Known()
    fill(grid.overridden(SHORT), known)
    table = tabulate(grid, known, [SHORT])
    published = [measured for measured in table.cells.values() if measured.there and measured.cell.published]
    assert published
    assert all(math.isnan(measured.difference) and measured.agrees is None for measured in published)
    assert "measured minus published" not in table.caption
    assert "not held against the published" in table.caption
    fewer = Overrides({}, Settings(seeds=1))
    fill(grid.overridden(fewer), known)
    table = tabulate(grid, known, [fewer], prefer=fewer)
    assert math.isfinite(table.cells[at(grid, "SGD", "w/ LGA, 1e-3")].difference)
    assert "not held against" not in table.caption


def test_the_longer_runs_are_shown_and_those_of_the_file_before_all_others(grid):
    known = Known()
    fill(grid.overridden(SHORTER), known)
    fill(grid.overridden(Overrides({"algorithm": ("SGD",)}, SHORT.settings)), known)
    fill(grid.overridden(Overrides({"algorithm": ("SGD",), "lr": ("1e-2",)})), known)
    table = tabulate(grid, known, [SHORT, SHORTER])
    assert table.cells[at(grid, "SGD", "w/ LGA, 1e-2")].overrides == Overrides()
    assert table.cells[at(grid, "SGD", "w/ LGA, 1e-3")].overrides == SHORT
    assert table.cells[at(grid, "Momentum", "w/ LGA, 1e-3")].overrides == SHORTER
    assert table.head == []
    assert sorted(line[3:] for line in table.legend) == [
        "epochs = 1, seeds = 1",
        "epochs = 2, seeds = 1",
        "of cells under different settings",  # their means
    ]


def test_after_a_run_its_own_results_are_shown(grid):
    known = Known()
    fill(grid, known)
    fill(grid.overridden(SHORTER), known)
    table = tabulate(grid, known, [SHORTER], prefer=SHORTER)
    assert all(measured.overrides == SHORTER for measured in table.cells.values() if measured.values)
    assert table.head == ["Overridden: epochs = 1, seeds = 1."]


def test_a_changed_file_over_old_results(grid, tmp_path):
    known = Known()
    fill(grid, known)
    changed = parse_study(TEXT.replace("1e-3 = { lr = 1e-3 }", "1e-3 = { lr = 2e-3 }"), "grid")
    assert changed.digest != grid.digest
    launch = replace(Launch.now(grid), environment={"date": "2026-01-02T03:04:05"})
    table = show(changed, known, [launch])
    assert table.head == [
        "The study's file has changed since it was run on 2026-01-02: shown is what still belongs to it; what does "
        "not is kept."
    ]
    assert table.cells[at(grid, "SGD", "w/ LGA, 1e-2")].there
    assert not table.cells[at(grid, "SGD", "w/ LGA, 1e-3")].there
    assert not show(grid, known, [launch]).head


def test_notes_and_figures_do_not_change_what_a_study_is(grid):
    other = parse_study(TEXT.replace("91.25", "91.26").replace("A small grid", "Another title"), "grid")
    assert other.digest == grid.digest


def test_launches_are_kept_and_a_line_that_was_cut_short_is_passed_over(grid, tmp_path):
    folder = Folder(tmp_path / "new" / "out")
    assert folder.launches(grid) == []
    first = Launch.now(grid)
    folder.note(first)
    with (folder.path / "studies.jsonl").open("a") as file:
        file.write('{"study": "grid", "dig')
    second = Launch.now(grid.overridden(SHORT))
    folder.note(second)
    folder.note(Launch.now(replace(grid, name="other")))
    with pytest.warns(Note, match=r"studies\.jsonl, line 2: cut short or damaged, and ignored"):
        assert folder.launches(grid) == [first, second]
    with pytest.warns(Note):
        assert folder.launches(grid)[1].overrides == SHORT


def test_a_launch_that_was_changed_is_refused(grid, tmp_path):
    folder = Folder(tmp_path)
    folder.note(Launch.now(grid.overridden(SHORT)))
    path = tmp_path / "studies.jsonl"
    text = path.read_text()
    path.write_text(text.replace('"epochs": 2', '"epochs": 3'))
    assert path.read_text() != text
    with pytest.raises(UsageError, match=r"studies\.jsonl, line 1: this is not what was written"):
        folder.launches(grid)
    path.write_text(json.dumps(Launch.now(grid).to_plain()) + "\n")
    assert len(folder.launches(grid)) == 1, "earlier versions wrote no digests"


# --- writing --------------------------------------------------------------------------------------------------------


@pytest.fixture
def table(grid) -> StudyTable:
    known = Known()
    fill(grid.overridden(Overrides({"strategy": ("w/o LGA", "w/ LGA")})), known)
    known.runs.pop(grid.cells[at(grid, "SGD", "w/ LGA, 1e-3")].specs[1])
    return show(grid, known, [Launch.now(grid)])


def text_of(table: StudyTable, width: int = 120) -> str:
    console = Console(width=width, file=io.StringIO(), color_system=None)
    console.print(to_text(table, width))
    return console.file.getvalue()


def test_text_shows_measured_published_and_difference(table):
    lines = text_of(table).splitlines()
    assert re.search(r"─ w/o LGA ─+ +─+ w/ LGA ─+ +─+ Ratio ─", text_of(table))
    row = next(i for i, line in enumerate(lines) if line.startswith("SGD"))
    ratio = r"\d\.\d\d ± \d\.\d\d"
    values = rf"52\.00 ± 12\.71 +61\.00 ± 12\.71 +56\.00 \[a\] +66\.00 ± 12\.71 +{ratio.split(' ')[0]} \[a\] +{ratio}"
    assert re.fullmatch(rf"SGD +measured +{values}", lines[row])
    assert re.fullmatch(r" +published +90\.0 +95 +91\.25 +0\.9 +0\.5", lines[row + 1].rstrip())
    assert re.match(r" +difference +-38\.00 +-34\.00 +-35\.25", lines[row + 2])
    assert "a: 1 of 2 seeds" in lines
    assert any(re.match(r"\d+ runs: 2026-01-02, commit abc\.", line) for line in lines)
    assert "Command: lossaware study run grid" in lines


@pytest.mark.parametrize("width", [200, 120, 80, 60])
def test_text_fits_and_loses_nothing(table, width):
    text = text_of(table, width)
    assert max(map(len, text.splitlines())) <= width
    for figure in ("90.0", "95", "91.25", "0.9", "0.5"):
        assert len(re.findall(rf"(?<![\d.]){re.escape(figure)}(?![\d.])", text)) >= 1
    assert text.count("measured") == 4 * text.count("algorithm ") + 1  # and one in the caption


def test_each_cell_of_a_row_has_the_decimals_of_what_it_measures():
    text = one("final").replace(
        "b = { b = {} } }", 'b = { a = {}, b = { lr = 2, measure = { set = "test", name = "loss" } } } }'
    )
    known = Known()
    for spec in parse_study(text, "one").specs:
        known.put(spec, 0.4, 0.5, 0.6, 0.87656)
    shown = measured(text, known)
    assert re.search(r"measured +87\.66 +0\.1234", text_of(shown))
    assert [figure.measured for line in study_html.grid(shown).groups[0] for figure in line.figures] == [
        "87.66",
        "0.1234",
    ]


def test_markdown(table):
    lines = FORMATS["markdown"](table).splitlines()
    assert lines[0] == "**A small grid**"
    head = next(i for i, line in enumerate(lines) if line.startswith("| algorithm |"))
    assert (
        lines[head]
        == "| algorithm |  | w/o LGA, 1e-3 | w/o LGA, 1e-2 | w/ LGA, 1e-3 | w/ LGA, 1e-2 | Ratio, 1e-3 | Ratio, 1e-2 |"
    )
    assert lines[head + 2].startswith("| SGD | measured | 52.00 ± 12.71 | 61.00 ± 12.71 | 56.00 [a] | 66.00 ± 12.71 |")
    assert lines[head + 3] == "|  | published | 90.0 | 95 | 91.25 |  | 0.9 | 0.5 |"
    assert {line.count("|") for line in lines[head:] if line.startswith("|")} == {9}


def test_latex(table):
    tex = FORMATS["latex"](table)
    assert r"\begin{tabular}{llrrrrrr}" in tex
    assert r"\multicolumn{2}{c}{w/o LGA} & \multicolumn{2}{c}{w/ LGA} & \multicolumn{2}{c}{Ratio} \\" in tex
    assert r"\cmidrule(lr){3-4}\cmidrule(lr){5-6}\cmidrule(lr){7-8}" in tex
    assert r"SGD & measured & 52.00 $\pm$ 12.71 & " in tex
    assert r"95 \%" in tex
    body, comments = tex.split(r"\end{table}")
    assert "%" not in body.replace(r"\%", "")
    assert body.count("{") == body.count("}")
    assert all(line.startswith("% ") for line in comments.strip().splitlines())


def test_latex_has_the_notes_and_says_where_it_comes_from(table):
    file = table.study.file.model_copy(update={"notes": ["95 % is a misprint."]})
    noted = replace(table, study=replace(table.study, file=file), provenance=["Measured 2026-11-26 with torch 2.13.0."])
    after_the_figures = FORMATS["latex"](noted).split(r"\end{tabular}")[-1].splitlines()
    assert r"\\ Note: 95 \% is a misprint." in after_the_figures
    assert after_the_figures[-1] == "% Measured 2026-11-26 with torch 2.13.0."


def test_latex_escapes_what_it_would_read_as_its_own():
    title = "a_b & 5 % $ # {x} ^ ~ \\ ± \u03bc \u03c3 — [c]"
    study = parse_study(TEXT.replace('title = "A small grid"', f"title = '{title}'"), "grid")
    escaped = (
        r"a\_b \& 5 \% \$ \# \{x\} \textasciicircum{} \textasciitilde{} \textbackslash{} "
        r"$\pm$ $\mu$ $\sigma$ --- {[}c{]}."
    )
    assert rf"\caption{{{escaped} " in FORMATS["latex"](tabulate(study, Known()))


def test_csv_has_a_line_a_cell(table):
    rows = list(csv.DictReader(io.StringIO(FORMATS["csv"](table))))
    assert len(rows) == 24
    first = rows[0]
    assert (first["algorithm"], first["strategy"], first["lr"]) == ("SGD", "w/o LGA", "1e-3")
    assert float(first["measured"]) == summary([51.0, 53.0]).mean
    assert float(first["low"]) == summary([51.0, 53.0]).low
    assert (first["seeds"], first["seeds_wanted"], first["published"]) == ("2", "2", "90.0")
    assert rows[4]["published"] == "0.9"


def test_a_table_without_published_figures_has_no_lines_for_them():
    text = TEXT.split("[published]")[0]
    shown = text_of(tabulate(parse_study(text, "grid"), Known()))
    assert "published" not in shown
    assert "Not run: 24 of 24 cells." in shown


# --- plain files, and back ------------------------------------------------------------------------------------------

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


def test_export_gives_back_the_same_numbers_bit_for_bit(grid, tmp_path):
    known = Exact(grid)
    files = export(show(grid, known, []), Sources([known]), [Launch.now(grid)], tmp_path / "results")
    assert [path.name for path in files] == ["grid.csv", "grid-epochs.csv", "grid.study.json"]
    back = Exported(tmp_path / "results")
    assert set(back.specs()) == set(grid.specs)
    for spec in grid.specs:
        assert repr(back.records(spec)) == repr(known.runs[spec])  # NaN is not equal to itself
        assert back.environment(spec) == known.environment(spec)
    assert [launch.overrides for launch in back.launches(grid)] == [Overrides()]


def test_the_file_of_final_values(grid, tmp_path):
    known = Known()
    fill(grid, known)
    export(show(grid, known, []), Sources([known]), [], tmp_path)
    rows = list(csv.DictReader((tmp_path / "grid.csv").open()))
    assert len(rows) == 12 * 2
    assert rows[0] == {
        "algorithm": "SGD",
        "strategy": "w/o LGA",
        "lr": "1e-3",
        "shows": "test accuracy after the last epoch",
        "seed": "0",
        "value": repr(100 * 0.51),
        "published": "90.0",
        "overridden": "",
        "run": grid.cells[at(grid, "SGD", "w/o LGA, 1e-3")].specs[0].key,
    }


def test_the_same_table_is_shown_from_an_export(grid, tmp_path):
    known = Known()
    fill(grid.overridden(SHORT), known)
    launch = Launch.now(grid.overridden(SHORT))
    export(show(grid, known, [launch]), Sources([known]), [launch], tmp_path)
    back = Exported(tmp_path)
    assert text_of(show(grid, Sources([back]), back.launches(grid))) == text_of(show(grid, known, [launch]))
    assert "Overridden: epochs = 2, seeds = 1." in text_of(show(grid, back, back.launches(grid)))


def test_a_second_export_loses_nothing_of_the_first(grid, tmp_path):
    for strategy in ("w/o LGA", "w/ LGA"):
        known = Known()
        fill(grid.overridden(Overrides({"strategy": (strategy,)})), known)
        place = Sources([known, Exported(tmp_path)])
        export(show(grid, place, []), place, [], tmp_path)
    assert set(Exported(tmp_path).specs()) == set(grid.specs)
    # Nor what no longer belongs to the study.
    changed = parse_study(TEXT.replace("seeds = 2", "seeds = [5]"), "grid")
    known = Known()
    fill(changed, known)
    export(show(changed, known, []), Sources([known]), [], tmp_path)
    assert set(Exported(tmp_path).specs()) == {*grid.specs, *changed.specs}
    assert all(Exported(tmp_path).records(spec) for spec in grid.specs)


def test_nothing_to_export(grid, tmp_path):
    with pytest.raises(UsageError, match="nothing of it is measured yet; run it first: lossaware study run grid"):
        export(show(grid, Known(), []), Sources([]), [], tmp_path)
    assert not list(tmp_path.iterdir())


def test_runs_are_taken_into_a_store_with_what_they_were_made_with(grid, tmp_path):
    known = Exact(grid)
    export(show(grid, known, []), Sources([known]), [], tmp_path)
    specs = grid.specs
    with Store(tmp_path / "results.sqlite") as store:
        store.begin(specs[0])
        store.record(specs[0], replace(RECORD, epoch=1, train={"loss": 9.0}))
        assert adopt(specs[:3], Exported(tmp_path), store) == 3
        assert not store.missing(specs[:3])
        assert [spec for spec in specs if spec in store.missing(specs)] == specs[3:]
        for spec in specs[:3]:
            assert repr(store.records(spec)) == repr(known.runs[spec])
            assert store.environment(spec) == known.environment(spec)
        assert adopt(specs[:3], Exported(tmp_path), store) == 0


@pytest.mark.parametrize(
    ("pattern", "mine"),
    [('task = "digits"', 'task = "my.py:build"'), ('optimizer = "[^"]*"', 'optimizer = "my.py:Own"')],
)
def test_runs_of_ones_own_code_are_not_taken_over(tmp_path, pattern, mine):
    own = parse_study(re.sub(pattern, mine, TEXT), "grid")
    known = Exact(own)
    export(show(own, known, []), Sources([known]), [], tmp_path)
    with Store(tmp_path / "results.sqlite") as store:
        assert adopt(own.specs, Exported(tmp_path), store) == 0


def test_an_export_of_other_code_is_none(tmp_path):
    """Unguarded: figures of code that is gone would stand beside those of today's."""
    file = tmp_path / "mine.py"
    file.write_text("# one\n")
    own = parse_study(TEXT.replace('optimizer = "sgd" }', f'optimizer = "{file}:Mine" }}', 1), "grid")
    folder, known = tmp_path / "results", Exact(own)
    export(show(own, known, []), Sources([known]), [], folder)
    [mine] = {spec for spec in own.specs if spec.own_code and spec.lga is None and spec.seed == 0 and spec.lr == 1e-3}
    other = next(spec for spec in own.specs if not spec.own_code)
    assert Exported(folder).records(mine)
    file.unlink()
    assert Exported(folder).records(mine)  # nobody has another code
    export(show(own, Known(), []), Sources([]), [], folder)
    file.write_text("# two\n")
    assert not Exported(folder).records(mine)
    assert Exported(folder).records(other)
    export(show(own, Known(), []), Sources([]), [], folder)  # it goes, and nothing else is lost
    assert mine not in Exported(folder).specs()
    assert Exported(folder).records(other)


@pytest.mark.parametrize(
    ("command", "shown"),
    [
        (
            "lossaware study run table02 --data /home/me/data --jobs 2",
            "lossaware study run table02 --data DIR --jobs 2",
        ),
        ("lossaware study run --data=/home/me/data", "lossaware study run --data=DIR"),
        ("lossaware study run /home/me/grid.toml", "lossaware study run grid.toml"),
        (r"lossaware study run 'C:\me\grid.toml'", "lossaware study run grid.toml"),
        (
            "lossaware study run sub/grid.toml --only 'strategy=w/ LGA'",
            "lossaware study run sub/grid.toml --only 'strategy=w/ LGA'",
        ),
    ],
)
def test_no_folder_of_a_machine_is_published(command, shown):
    assert without_folders(command) == shown


@pytest.mark.parametrize(
    ("count", "last"), [(3, "Command: run 2"), (4, "... and 1 more command."), (5, "2 more commands.")]
)
def test_of_many_commands_the_first_are_named(count, last):
    assert format_provenance({"command": f"run {number}"} for number in range(count))[-1].endswith(last)


def resealed(text: str) -> str:
    """As one who wants it so would write it."""
    try:
        return json.dumps(sealed(json.loads(text)))
    except (ValueError, RecursionError):
        return text


def test_a_description_that_was_changed_is_refused(grid, tmp_path):
    known = Known()
    fill(grid, known)
    export(show(grid, known, []), Sources([known]), [Launch.now(grid)], tmp_path)
    path = tmp_path / "grid.study.json"
    text = path.read_text()
    for change in (
        lambda text: text.replace('"title": "', '"title": "No '),
        lambda text: text.replace('"overrides": {}', '"overrides": {"seeds": 1}'),
        lambda text: text.replace('"environment": 0', '"environment": 1', 1),
        lambda text: text.replace('"sha256": "', '"sha256": "0'),
        lambda text: text.replace('"sha256"', '"sha257"'),
    ):
        assert change(text) != text
        path.write_text(change(text))
        with pytest.raises(UsageError, match=r"grid\.study\.json: this is not what was written"):
            Exported(tmp_path)
    path.write_text(json.dumps(json.loads(text)))
    assert Exported(tmp_path).specs(), "how it is laid out does not count"


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("grid-epochs.csv", lambda text: text[: int(len(text) * 0.9)], "the file is cut short"),
        ("grid-epochs.csv", lambda text: text[:-1], "the file is cut short"),
        (
            "grid-epochs.csv",
            lambda text: text[: text.rindex("\n", 0, -1) + 1],
            "is marked complete, and has 3 of 4 epochs: the file is damaged",
        ),
        ("grid-epochs.csv", lambda text: text[: text.rindex(",")] + "\n", r"line \d+: another number of fields"),
        ("grid-epochs.csv", lambda text: text[:-1] + ",1\n", r"line \d+: another number of fields"),
        ("grid-epochs.csv", lambda text: text.replace("0.51", "o.51"), "not a file of epochs"),
        ("grid-epochs.csv", lambda text: text.replace("run,", "ran,"), "not a file of epochs"),
        ("grid-epochs.csv", lambda text: text.replace("0.51", "0.52"), "epoch 4 of run [0-9a-f]{16} is not what was"),
        ("grid-epochs.csv", lambda text: text.replace("train.", "text.").replace("test.", "train."), "epoch 1 of run"),
        ("grid-epochs.csv", lambda text: text.replace("\n", "\r\n"), "this is not what was written with grid.study"),
        ("grid-epochs.csv", None, "there is no such file"),
        ("grid.csv", lambda text: text.replace("51.0", "52.0"), "this is not what was written with grid.study.json"),
        ("grid.csv", None, "there is no such file"),
        ("grid.study.json", lambda text: text[:100], "not an exported study"),
        ("grid.study.json", lambda text: "[" * 100_000, "not an exported study"),
        ("grid.study.json", lambda text: text.replace('"format": 2', '"format": 9'), "another version of lossaware"),
        ("grid.study.json", lambda text: text.replace('"environment": 0', '"environment": 5'), "not an exported study"),
        ("grid.study.json", lambda text: text.replace('"lr": 0.01', '"lr": 0.02'), "is not the run that its"),
        ("grid.study.json", lambda text: text.replace('"lr": 0.01, ', ""), "not an exported study"),
        ("grid.study.json", lambda text: text.replace('"launches": []', '"launches": [5]'), "no launch of a study"),
        ("grid.study.json", lambda text: text.replace('"environments": [', '"environments": [3,'), "not an exported"),
    ],
)
def test_a_damaged_export_is_one_line(grid, tmp_path, name, change, message):
    known = Known()
    fill(grid, known)
    export(show(grid, known, []), Sources([known]), [], tmp_path)
    path = tmp_path / name
    if change is None:
        path.unlink()
    else:
        text = path.read_text()
        assert change(text) != text
        path.write_text(resealed(change(text)) if name == "grid.study.json" else change(text))

    def read_all() -> None:
        exported = Exported(tmp_path)
        for spec in grid.specs:
            exported.records(spec)

    with pytest.raises(UsageError, match=message) as error:
        read_all()
    assert "\n" not in str(error.value)
    assert str(path) in str(error.value)


GROUNDING = TEXT.replace('task = "digits"', 'task = "grounding"').replace("{ hidden = 8 }", '{ features = "real" }')


@pytest.mark.parametrize("how", ["in the file", "overridden", "at one point"])
def test_results_from_stand_in_features_say_so_everywhere(tmp_path, how):
    text = {
        "in the file": GROUNDING.replace('"real"', '"stand-in"'),
        "overridden": GROUNDING,
        "at one point": GROUNDING.replace('"sgd" }', '"sgd", task_options = { features = "stand-in" } }', 1),
    }[how]
    study = parse_study(text, "grid")
    known = Known()
    overrides = Overrides(settings=parse_settings({"features": "stand-in"} if how == "overridden" else {}))
    fill(study.overridden(overrides), known)
    launch = Launch("grid", study.digest, overrides, {})
    table = show(study, known, [launch])
    export(table, Sources([known]), [launch], tmp_path)
    for write in FORMATS.values():
        assert "stand-in features" in write(table)
    assert "stand-in features" in text_of(table)
    assert "stand-in features" in " ".join((*table.head, *table.legend))
    rows = list(csv.DictReader(io.StringIO((tmp_path / "grid.csv").read_text())))
    of_stand_ins = [row for row in rows if how != "at one point" or row["algorithm"] == "SGD"]
    assert of_stand_ins
    assert {row["overridden"].startswith("stand-in features") for row in of_stand_ins} == {True}
    assert all("stand-in" not in row["overridden"] for row in rows if row not in of_stand_ins)
    # Nor are they held against figures from real ones.
    assert all(measured.agrees is None for measured in table.cells.values() if measured.caution)
    if how != "at one point":
        assert {one.panel for one in all_series(table)} == {"grounding, stand-in features"}


def test_results_from_real_features_do_not(tmp_path):
    study = parse_study(GROUNDING, "grid")
    known = Known()
    fill(study, known)
    assert "tand-in" not in text_of(show(study, known, []))


def test_a_file_is_no_folder_of_exports(tmp_path):
    (tmp_path / "results").touch()
    with pytest.raises(UsageError, match="results: a folder of exported studies is expected"):
        Exported(tmp_path / "results")


def test_a_measure_that_the_task_has_not_is_told_before_and_after_the_runs(file, tmp_path, capsys):
    assert lossaware("study", "run", "grid.toml", "--seeds", "1", "--epochs", "1") == 0
    mistaken = TEXT.replace('name = "accuracy"', 'name = "acuracy"')
    for command, text in (
        (["show", "grid.toml"], mistaken.replace("epochs = 4", "epochs = 1").replace("seeds = 2", "seeds = 1")),
        (["run", "grid.toml", "--out", "new"], mistaken),
    ):
        file.write_text(text)
        capsys.readouterr()
        assert lossaware("study", *command) == 2
        err = capsys.readouterr().err
        assert "task 'digits' measures no 'acuracy'; did you mean accuracy?" in err
        assert len(err.splitlines()) == 1
    assert not (tmp_path / "new").exists()


def test_a_failing_disk_leaves_the_earlier_export(grid, tmp_path, monkeypatch):
    known = Known()
    fill(grid, known)
    export(show(grid, known, []), Sources([known]), [], tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}

    def full(handle: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(atomic.os, "fsync", full)
    fill(grid, known, shift=0.001)
    with pytest.raises(UsageError, match=r"cannot be written \(No space left on device\)"):
        export(show(grid, known, []), Sources([known]), [], tmp_path)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


# --- the command line -----------------------------------------------------------------------------------------------


def lossaware(*arguments: str | Path) -> int:
    with pytest.raises(SystemExit) as stop:
        main([str(argument) for argument in arguments])
    assert isinstance(stop.value.code, int)
    return stop.value.code


@pytest.fixture
def file(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "grid.toml"
    path.write_text(TEXT)
    return path


def test_from_run_to_export_to_the_next_person(file, tmp_path, capsys):
    small = ["--only", "algorithm=sgd", "--only", "lr=1e-2", "--seeds", "1", "--epochs", "2"]
    assert lossaware("study", "run", "grid.toml", *small, "--jobs", "2") == 0
    shown = capsys.readouterr()
    assert "2 runs to do" in shown.err
    assert "Overridden: epochs = 2, seeds = 1." in shown.out
    assert re.search(r"SGD +measured +not run +\d+\.\d\d +not run +\d+\.\d\d +not run +[01]\.\d\d", shown.out)
    table = shown.out

    assert lossaware("study", "run", "grid.toml", *small) == 0
    shown = capsys.readouterr()
    assert "All 2 runs are there already." in shown.err
    assert shown.out == table

    assert lossaware("study", "export", "grid.toml", "--to", "results") == 0
    assert capsys.readouterr().out.split() == [f"results/grid{end}" for end in (".csv", "-epochs.csv", ".study.json")]
    assert str(tmp_path) not in (tmp_path / "results" / "grid.study.json").read_text()

    # A reader of the repository has no store; a colleague has an empty one.
    assert lossaware("study", "show", "grid.toml", "--out", "nothing") == 0
    assert capsys.readouterr().out == table
    assert not (tmp_path / "nothing").exists()
    assert lossaware("study", "run", "grid.toml", *small, "--out", "fresh") == 0
    assert "2 of 2 runs are taken from results." in capsys.readouterr().err
    with Store(tmp_path / "fresh" / "results.sqlite", read_only=True) as store:
        assert len(store.specs()) == 2
    assert lossaware("study", "import", "--out", "third") == 0
    assert "2 of 2 runs were missing" in capsys.readouterr().out

    assert lossaware("study", "show", "grid.toml", "--format", "csv") == 0
    assert len(capsys.readouterr().out.splitlines()) == 25


def test_precision_and_device_are_overrides_like_any_other(file, capsys, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    small = ["--only", "algorithm=sgd", "--only", "lr=1e-2", "--seeds", "1", "--epochs", "1"]
    assert lossaware("study", "run", "grid.toml", *small, "--precision", "bf16") == 0
    assert "Overridden: epochs = 1, precision = bf16, seeds = 1." in capsys.readouterr().out
    assert lossaware("study", "run", "grid.toml", *small, "--device", "cuda") == 2
    assert "device 'cuda': there is no GPU that torch" in capsys.readouterr().err
    assert lossaware("study", "run", "grid.toml", *small, "--device", "cpu", "--set", "device=cpu") == 2
    assert "--set gives device twice" in capsys.readouterr().err


def test_list_and_show_need_no_data(capsys):
    assert lossaware("study", "list") == 0
    out = capsys.readouterr().out
    assert "table13" in out
    assert "readings" in out
    assert lossaware("study", "show", "table02", "--out", "none", "--results", "none") == 0
    assert "86.44" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["run", "tabel02"], "unknown study 'tabel02'; did you mean table02"),
        (["run", "grid.toml", "--only", "sgd"], "--only wants axis=point, got 'sgd'; axes: algorithm, strategy, lr"),
        (["run", "grid.toml", "--only", "algorithm=sdg"], "did you mean SGD"),
        (["run", "grid.toml", "--epochs", "0"], "--epochs must be at least 1, got 0"),
        (["run", "grid.toml", "--seeds", "0"], "--seeds must be at least 1, got 0"),
        (["run", "grid.toml", "--jobs", "0"], "jobs must be at least 1"),
        (["run", "grid.toml", "--set", "hiden=3"], "task 'digits' has no option 'hiden'; did you mean hidden?"),
        (["run", "grid.toml", "--set", "optimizer=sdg"], "unknown optimizer 'sdg'; did you mean"),
        (["run", "grid.toml", "--set", "lga.gama2=1"], "LGA has no option 'gama2'; did you mean gamma2"),
        (["run", "grid.toml", "--set", "task=minst"], "unknown task 'minst'; did you mean mnist?"),
        (["run", "grid.toml", "--set", "scheduler=StepLr"], "did you mean StepLR"),
        (["run", "readings"], "task 'mnist' needs --data DIR"),
        (["run", "table01", "--data", "."], "there is no folder"),
        (["show", "grid.toml", "--format", "html"], "html"),
        (["export", "grid.toml"], "nothing of it is measured yet; run it first: lossaware study run grid.toml"),
        (["import"], "there are no exported studies in results"),
    ],
)
def test_wrong_input_is_one_line_and_nothing_is_written(file, tmp_path, capsys, arguments, message):
    before = sorted(tmp_path.rglob("*"))
    assert lossaware("study", *arguments) == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    assert message in shown.err
    assert len(shown.err.splitlines()) == 1
    assert sorted(tmp_path.rglob("*")) == before


def test_where_only_some_data_is_there_the_message_says_how_to_run_that(file, tiny_mnist, capsys):
    assert lossaware("study", "run", "table01", "--data", tiny_mnist, "--seeds", "1") == 2
    err = capsys.readouterr().err
    assert "cifar" in err
    assert "its data is there for --only task=MNIST" in err


def test_a_foreign_database_is_left_alone(file, tmp_path, capsys):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "results.sqlite").write_text("something else")
    assert lossaware("study", "run", "grid.toml", "--out", "out") == 2
    assert lossaware("study", "show", "grid.toml", "--out", "out") == 2
    assert (tmp_path / "out" / "results.sqlite").read_text() == "something else"
