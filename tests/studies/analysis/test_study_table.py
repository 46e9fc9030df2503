"""The cells of a study, measured."""

import csv
import io
import math
from dataclasses import replace

import pytest

from lossaware.studies.analysis.collect import show
from lossaware.studies.analysis.statistics import summary
from lossaware.studies.analysis.study_table import tabulate
from lossaware.studies.specs.study import Overrides, parse_study, without_lga
from lossaware.studies.specs.study_file import Settings
from lossaware.studies.store.folder import Launch
from support.small_grid import SHORT, TEXT, Known, at, fill, format_table, measured, one


@pytest.mark.parametrize(
    ("at", "expected"),
    [
        ("final", 60.0),
        ("best", 80.0),
        ("reached", 55.0),  # the base ends at 0.5, and the run first has that after its second epoch
        ("ratio", 0.5),
    ],
)
def test_the_shown_parts_of_a_run(at, expected):
    (cell,) = parse_study(one(at), "one").cells.values()
    known = Known()
    known.put(cell.specs[0], 0.4, 0.55, 0.8, 0.6)
    known.put(without_lga(cell.specs[0]), 0.1, 0.7, 0.3, 0.5)
    (result,) = measured(one(at), known).cells.values()
    assert result.summary.mean == pytest.approx(expected)
    assert math.isnan(result.summary.low)


@pytest.mark.parametrize(("at", "expected"), [("reached", 45.0), ("ratio", 1.0)])
def test_where_the_base_is_never_reached(at, expected):
    (cell,) = parse_study(one(at), "one").cells.values()
    known = Known()
    known.put(cell.specs[0], 0.4, 0.4, 0.3, 0.45)
    known.put(without_lga(cell.specs[0]), 0.1, 0.7, 0.3, 0.5)
    (result,) = measured(one(at), known).cells.values()
    assert result.summary.mean == pytest.approx(expected)


def test_a_lower_loss_is_the_better_one_and_no_percentage():
    known = Known()
    for which, expected in (("best", 0.2), ("ratio", 0.75), ("reached", 0.2)):
        text = one(which, set_="train", name="loss")
        (cell,) = parse_study(text, "one").cells.values()
        known.put(cell.specs[0], 0.4, 0.4, 0.8, 0.6)
        known.put(without_lga(cell.specs[0]), 0.1, 0.7, 0.3, 0.5)
        (result,) = measured(text, known).cells.values()
        assert result.summary.mean == pytest.approx(expected)


def test_a_ratio_needs_the_base():
    (cell,) = parse_study(one("ratio"), "one").cells.values()
    known = Known()
    known.put(cell.specs[0], 0.4, 0.55, 0.8, 0.6)
    (result,) = measured(one("ratio"), known).cells.values()
    assert not result.has_results


def test_an_unfinished_run_is_not_shown_and_a_diverged_one_is_counted():
    text = one("final", seeds=3)
    (cell,) = parse_study(text, "one").cells.values()
    known = Known()
    known.put(cell.specs[0], 0.4, 0.5, 0.6)
    known.put(cell.specs[1], 0.4, 0.5, 0.6, 0.7)
    known.put(cell.specs[2], 0.4, 0.5, 0.6, math.nan)
    table = measured(text, known)
    (result,) = table.cells.values()
    assert set(result.values) == {1, 2}
    assert repr(result.summary) == repr(replace(summary([70.0]), lost=1))  # NaN equals NaN there, on every Python
    assert table.legend == ["a: 2 of 3 seeds; 1 of 2 values are not finite"]


def test_means_intervals_differences_and_derived_rows():
    grid = parse_study(TEXT.replace("seeds = 2", "seeds = 3"), "grid")
    known = Known()
    fill(grid, known)
    table = tabulate(grid, known)
    sgd, momentum = (table.cells[at(grid, row, "w/o LGA, 1e-3")] for row in ("SGD", "Momentum"))
    assert sgd.summary.low == pytest.approx(summary([51.0, 53.0, 55.0]).low)
    assert sgd.summary.n == 3
    assert sgd.difference == pytest.approx(53 - 90)
    assert sgd.agrees is False
    assert momentum.agrees is None
    mean, spread = (table.cells[at(grid, row, "w/o LGA, 1e-3")] for row in ("mean", "spread"))
    assert mean.summary.mean == pytest.approx((53 + 63) / 2)
    assert mean.difference == pytest.approx(58 - 80)
    assert spread.summary.mean == pytest.approx(5.0)  # of the population: half the distance of two


def test_derived_columns():
    text = TEXT.split("[derived]")[0].replace('measure = { at = "ratio" }', "")
    study = parse_study(text + '[derived]\naxis = "lr"\npoints = { mean = "mean" }', "grid")
    assert study.columns[-3:] == [("w/o LGA", "mean"), ("w/ LGA", "mean"), ("Ratio", "mean")]
    known = Known()
    fill(study, known)
    assert tabulate(study, known).cells[at(study, "SGD", "w/o LGA, mean")].summary.mean == pytest.approx((52 + 61) / 2)


def test_a_mean_of_cells_that_lack_seeds_is_marked_and_compared(grid):
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


def test_a_mean_of_stand_ins_is_marked(grid):
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
    assert table.cells[at(grid, "SGD", "w/ LGA, 1e-2")].has_results
    assert not table.cells[at(grid, "mean", "w/ LGA, 1e-2")].has_results


def test_a_mean_of_cells_with_different_settings_is_marked(grid):
    known = Known()
    fill(grid.overridden(Overrides({"algorithm": ("SGD",)})), known)
    fill(grid.overridden(SHORT), known)
    table = tabulate(grid, known, [SHORT])
    remark = "of cells under different settings"
    assert f"{table.marks[at(grid, 'mean', 'w/ LGA, 1e-2')]}: {remark}" in table.legend
    assert table.cells[at(grid, "mean", "w/ LGA, 1e-2")].changed == remark
    assert [row["overridden"] for row in csv.DictReader(io.StringIO(format_table(table, "csv")))][-1] == remark
    fill(grid.overridden(Overrides({"algorithm": ("Momentum",)})), known)
    assert not tabulate(grid, known, [SHORT]).marks


SHORTER = Overrides({}, Settings(epochs=1, seeds=1))


def test_overrides_are_shown_above_the_table(grid):
    known = Known()
    fill(grid.overridden(SHORT), known)
    table = tabulate(grid, known, [SHORT])
    assert table.head == ["Overridden: epochs = 2, seeds = 1."]
    assert not table.marks
    assert "One seed" in table.caption


def test_runs_with_other_settings_are_not_compared_with_published_figures(grid):
    known = Known()
    fill(grid.overridden(SHORT), known)
    table = tabulate(grid, known, [SHORT])
    published = [measured for measured in table.cells.values() if measured.has_results and measured.cell.published]
    assert published
    assert all(math.isnan(measured.difference) and measured.agrees is None for measured in published)
    assert "measured minus published" not in table.caption
    assert "not compared with the published" in table.caption
    fewer = Overrides({}, Settings(seeds=1))
    fill(grid.overridden(fewer), known)
    table = tabulate(grid, known, [fewer], prefer=fewer)
    assert math.isfinite(table.cells[at(grid, "SGD", "w/ LGA, 1e-3")].difference)
    assert "not compared with" not in table.caption


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


@pytest.mark.timeout(60)
@pytest.mark.parametrize(
    ("launches", "left_out"),
    [
        ([Settings(batch_size=size) for size in range(1, 3001)], 2800),
        ([Settings(batch_size=size, seeds=3000) for size in range(1, 51)], 48),
        ([Settings(epochs=2)] * 3000, 0),
    ],
    ids=["many", "large", "the same"],
)
def test_launches_of_somebody_else_do_not_take_all_time(grid, launches, left_out):
    known = Known()
    fill(grid.overridden(Overrides(settings=launches[-1].model_copy(update={"seeds": 2}))), known)
    table = tabulate(grid, known, [Overrides(settings=settings) for settings in launches])
    remarks = [line for line in table.remarks if "left out" in line]
    assert remarks == (
        [f"Earlier launches under {left_out} other settings are left out, as there are too many."] * (left_out > 0)
    )
    assert any(measured.values for measured in table.cells.values()), "the latest is shown"


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
        "The study's file has changed since it was run on 2026-01-02: only runs that still belong to it are shown; the "
        "others remain stored."
    ]
    assert table.cells[at(grid, "SGD", "w/ LGA, 1e-2")].has_results
    assert not table.cells[at(grid, "SGD", "w/ LGA, 1e-3")].has_results
    assert not show(grid, known, [launch]).head
