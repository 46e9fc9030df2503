"""Studies over their learning rates: scores, the time to the bases' best score, plots and files."""

import csv
import dataclasses
import json
import math
import xml.etree.ElementTree as ElementTree
from collections.abc import Sequence
from pathlib import Path

import pytest

from lossaware.errors import UsageError
from lossaware.studies.analysis import lr_sensitivity as sensitivity
from lossaware.studies.analysis.study_table import tabulate
from lossaware.studies.report import lr_plot
from lossaware.studies.specs.run_spec import EpochRecord, RunSpec
from lossaware.studies.specs.study import Study, load_study, parse_study
from lossaware.studies.store.database import Store
from support.command_line import lossaware
from support.lr_grid import lr_grid
from support.made_up import MadeUp

TEXT = lr_grid(
    """
One = { task = "digits", lga = { gamma2 = 1e-6 } }
Two = { task = "digits", task_options = { hidden = 8 }, lga = { gamma2 = 1e-6 } }
""",
    """
SGD = { optimizer = "sgd", lr = 1e-3, lga = false }
"SGD with LGA" = { optimizer = "sgd", lr = 1e-3 }
Lion = { optimizer = "lion", lr = 0.5, lga = false }
Prodigy = { optimizer = "prodigy", lr = 1, lga = false }
""",
    epochs=4,
    seeds=3,
)

# Accuracies per epoch, by optimizer, LGA and learning rate; a seed adds 0.01 to each.
CURVES = {
    ("sgd", False, 1e-3): (0.1, 0.2, 0.3, 0.4),
    ("sgd", False, 1e-2): (0.5, 0.8, 0.7, 0.6),
    ("sgd", True, 1e-3): (0.2, 0.5, 0.79, 0.79),
    ("sgd", True, 1e-2): (0.5, 0.6, 0.7, 0.8),
    ("lion", False, 1e-3): (0.85, 0.4, 0.3, 0.2),
    ("lion", False, 1e-2): (0.1, math.nan, math.nan, math.nan),
    ("lion", False, 0.5): (0.7, 0.8, 0.8, 0.9),
}


class Known(MadeUp):
    """Made-up results; an epoch takes a second longer than the one before."""

    def records(self, spec: RunSpec) -> Sequence[EpochRecord]:
        curve: Sequence[float] = CURVES.get((spec.optimizer, spec.lga is not None, spec.lr), ())
        if spec.task_options:
            curve = tuple(value / 2 for value in curve)
        return [
            EpochRecord(i, train={}, test={"accuracy": value + 0.01 * spec.seed}, lga=None, seconds=i)
            for i, value in enumerate(curve, 1)
        ]

    def environment(self, spec: RunSpec) -> dict[str, str]:
        return {"date": "2026-01-02T03:04:05"}


@pytest.fixture
def study() -> Study:
    return parse_study(TEXT, "small")


@pytest.fixture
def series(study: Study) -> list[sensitivity.Series]:
    return sensitivity.all_series(tabulate(study, Known()))


def test_a_line_is_an_optimizer_on_a_task_with_each_learning_rate_once(series):
    assert [(one.panel, one.name) for one in series] == [
        (panel, name) for panel in ("One", "Two") for name in ("SGD", "SGD with LGA", "Lion", "Prodigy")
    ]
    sgd, _, lion, prodigy = series[:4]
    assert sgd.means == pytest.approx({1e-3: 41, 1e-2: 61})
    assert list(lion.at) == [1e-3, 1e-2, 0.5]
    assert lion.means == pytest.approx({1e-3: 21, 0.5: 91})  # values that are not finite are not in it
    assert prodigy.means == {}
    assert [one.with_lga for one in series[:4]] == [False, True, False, False]


def test_bases_also_have_runs_with_lga(series):
    assert [(one.panel, one.name) for one in sensitivity.bases(series)] == [("One", "SGD"), ("Two", "SGD")]
    readings = sensitivity.all_series(tabulate(load_study("readings"), Known()))
    assert [(one.panel, one.name) for one in sensitivity.bases(readings)] == [("mnist", "without LGA")]
    peers = sensitivity.all_series(tabulate(load_study("peers"), Known()))
    assert [one.name for one in sensitivity.bases(peers)] == ["SGD", "Adam"] * 2


def test_times_to_the_best_epoch_of_the_base_at_its_best_rate(series):
    """The target is the base's 0.8 at 1e-2, from the same seed; 0.79 is not enough."""
    times = sensitivity.times(series, Known())
    one = [time for time in times if time.series.panel == "One"]
    assert {(time.base.name, time.base_lr) for time in one} == {("SGD", 1e-2)}
    assert all(time.target == pytest.approx(81) for time in times if time.series.panel == "One")
    assert all(time.target == pytest.approx(41) for time in times if time.series.panel == "Two")
    result = {(time.series.name, time.lr): (time.reached, time.epochs, time.seconds) for time in one}
    never = (0, math.inf, math.inf)
    assert result == {
        ("SGD", 1e-3): never,
        ("SGD", 1e-2): (3, 2, 3),
        ("SGD with LGA", 1e-3): never,
        ("SGD with LGA", 1e-2): (3, 4, 10),
        ("Lion", 1e-3): (3, 1, 1),
        ("Lion", 1e-2): never,
        ("Lion", 0.5): (3, 2, 3),
    }


def test_the_median_seed_counts(series, study):
    """If two of three runs reach it, the time is the later of the two; if one does, there is none."""

    class Some(Known):
        def __init__(self, late: int) -> None:
            super().__init__()
            self.late = late

        def records(self, spec: RunSpec) -> Sequence[EpochRecord]:
            finished_records = super().records(spec)
            if spec.optimizer == "lion" and spec.lr == 1e-3:
                # Seed 0 is at once there, the others as late as asked, seed 2 never.
                first_epoch = {0: 1, 1: self.late}.get(spec.seed, 9)
                return [
                    EpochRecord(r.epoch, {}, {"accuracy": float(r.epoch >= first_epoch)}, None, 1)
                    for r in finished_records
                ]
            return finished_records

    for late, expected in ((3, (2, 3.0, 3.0)), (9, (1, math.inf, math.inf))):
        results = Some(late)
        times = sensitivity.times(sensitivity.all_series(tabulate(study, results)), results)
        assert [
            (t.reached, t.epochs, t.seconds)
            for t in times
            if (t.series.panel, t.series.name, t.lr) == ("One", "Lion", 1e-3)
        ] == [expected]


def test_a_loss_is_best_when_low():
    text = TEXT.replace('"accuracy"', '"loss"')

    class Losses(Known):
        def records(self, spec: RunSpec) -> Sequence[EpochRecord]:
            return [
                EpochRecord(r.epoch, {}, {"loss": 1 - r.test["accuracy"]}, None, r.seconds)
                for r in super().records(spec)
            ]

    results = Losses()
    series = sensitivity.all_series(tabulate(parse_study(text, "small"), results))
    result = {
        (t.series.name, t.lr): (t.base_lr, t.epochs)
        for t in sensitivity.times(series, results)
        if t.series.panel == "One"
    }
    assert result["SGD", 1e-2] == (1e-2, 2)
    assert result["SGD with LGA", 1e-3] == (1e-2, math.inf)
    assert result["Lion", 1e-3] == (1e-2, 1)
    sgd, _, lion = series[:3]
    assert sensitivity.overall(sgd).worst == pytest.approx(0.59)
    assert sensitivity.overall(sgd).worst_lr == 1e-3
    assert sensitivity.overall(lion).worst == math.inf
    _, rows = texts(lr_plot.score_overview(series, "One"))
    assert rows[0][1:] == ["0.3900 (1e-2)", "0.5900 (1e-3)", "0.4900", "0.5900 (1e-3)"]


def texts(table):
    """The heads and the rows of a table, with the column of names."""
    return [*table.axes, *(head for (head,) in table.heads)], [
        [*row.names, *(cell.text for cell in row.cells)] for row in table.rows
    ]


def test_the_overviews_name_the_best_the_worst_and_the_soonest(series):
    heads, rows = texts(lr_plot.score_overview(series, "One"))
    assert heads == ["optimizer", "best (lr)", "worst of 2 (lr)", "mean of 2", "own (lr)"]
    assert rows == [
        ["SGD", "61.00% (1e-2)", "41.00% (1e-3)", "51.00%", "41.00% (1e-3)"],
        ["SGD with LGA", "81.00% (1e-2)", "80.00% (1e-3)", "80.50%", "80.00% (1e-3)"],
        ["Lion", "91.00% (0.5)", "not finite (1e-2)", "not finite", "91.00% (0.5)"],
        ["Prodigy", "not run", "", "", ""],
    ]
    heads, rows = texts(lr_plot.time_overview(series, sensitivity.times(series, Known()), "One"))
    assert heads == ["optimizer", "to SGD's 81.00% (lr)"]
    assert rows == [
        ["SGD", "2 epochs, 3 s (1e-2)"],
        ["SGD with LGA", "4 epochs, 10 s (1e-2)"],
        ["Lion", "1 epoch, 1 s (1e-3)"],
        ["Prodigy", ""],
    ]


def test_one_number_each_over_the_rates_that_the_study_names(series):
    sgd, with_lga, lion, prodigy = series[:4]
    assert [one.rates for one in series] == [{1e-3, 1e-2}] * 8
    assert [one.own for one in series[:4]] == [1e-3, 1e-3, 0.5, 1.0]
    summed = sensitivity.overall(with_lga)
    assert (summed.worst, summed.mean) == pytest.approx((80, 80.5))
    assert summed.worst_lr == 1e-3
    assert sensitivity.overall(sgd).mean == pytest.approx(51)  # its own rate is not a third one
    diverged = sensitivity.overall(lion)
    assert (diverged.worst, diverged.worst_lr, diverged.mean) == (-math.inf, 1e-2, -math.inf)
    assert sensitivity.overall(prodigy) is None
    some = dataclasses.replace(sgd, rates=sgd.rates | {1.0}, at={**sgd.at, 1.0: prodigy.at[1.0]})
    assert sensitivity.overall(some) is None  # a missing rate might be the worst


def test_one_seed_that_diverges_is_the_worst():
    class Unlucky(Known):
        def records(self, spec: RunSpec) -> Sequence[EpochRecord]:
            finished_records = super().records(spec)
            if spec.seed == 2 and spec.optimizer == "sgd" and spec.lr == 1e-2:
                return [dataclasses.replace(record, test={"accuracy": math.nan}) for record in finished_records]
            return finished_records

    one = sensitivity.all_series(tabulate(parse_study(TEXT, "small"), Unlucky()))[0]
    assert one.means[1e-2] == pytest.approx(60.5)  # of those that are finite
    assert sensitivity.overall(one).worst == -math.inf


def test_numbers_as_rows(series):
    rows = sensitivity.overall_rows(series[:4])
    assert [row["optimizer"] for row in rows] == ["SGD", "SGD with LGA", "Lion", "Prodigy"]
    assert rows[1] == {
        "task": "One",
        "optimizer": "SGD with LGA",
        "rates": 2,
        "measured": 2,
        "not_finite": 0,
        "worst": pytest.approx(80),
        "worst_lr": 1e-3,
        "mean": pytest.approx(80.5),
        "own": pytest.approx(80),
        "own_lr": 1e-3,
    }
    assert (rows[2]["not_finite"], rows[2]["worst"], rows[2]["worst_lr"], rows[2]["mean"]) == (1, "", 1e-2, "")
    assert (rows[2]["own"], rows[2]["own_lr"]) == (pytest.approx(91), 0.5)
    assert (rows[3]["measured"], rows[3]["worst"], rows[3]["mean"], rows[3]["own"]) == (0, "", "", "")


def test_a_study_without_own_rates_has_no_column_for_them():
    text = TEXT.replace("own = {}\n", "")
    series = sensitivity.all_series(tabulate(parse_study(text, "small"), Known()))
    assert [one.own for one in series] == [None] * 8
    heads, _ = texts(lr_plot.score_overview(series, "One"))
    assert heads == ["optimizer", "best (lr)", "worst of 2 (lr)", "mean of 2"]


def test_a_picture_has_a_line_for_each_and_the_same_bytes_each_time(series):
    picture = lr_plot.plot_series([one for one in series if one.means])
    root = ElementTree.fromstring(picture.svg())
    texts = {text.strip() for text in root.itertext()}
    assert {"SGD", "SGD with LGA", "Lion", "not finite", "learning rate", "test accuracy"} <= texts
    assert {"One", "Two"} <= texts
    assert "Prodigy" not in texts
    assert picture.png().startswith(b"\x89PNG")
    assert picture.svg() == lr_plot.plot_series([one for one in series if one.means]).svg()
    fewer = lr_plot.plot_series([one for one in series if one.name == "Lion"])
    assert {"Lion", "One", "Two"} <= {text.strip() for text in ElementTree.fromstring(fewer.svg()).itertext()}


def test_a_base_is_dashed_and_has_the_colour_of_its_lga(series):
    styles = lr_plot._styles(series)
    assert list(styles) == ["SGD", "SGD with LGA", "Lion", "Prodigy"]
    base, variant, lion, prodigy = styles.values()
    assert base["color"] == variant["color"]
    assert len({style["color"] for style in styles.values()}) == 3
    assert "linestyle" in base
    assert not any("linestyle" in style for style in (variant, lion, prodigy))


@pytest.mark.parametrize("name", ["auto-peers", "auto", "peers"])
def test_all_lines_are_distinguishable(name):
    series = sensitivity.all_series(tabulate(load_study(name), Known()))
    styles = lr_plot._styles(series)
    assert set(styles) == {one.name for one in series}
    assert len({repr(style) for style in styles.values()}) == len(styles)


def test_a_study_without_learning_rates_is_refused():
    text = TEXT.replace('columns = ["lr"]', "columns = []").split("[axes.lr]")[0]
    with pytest.raises(UsageError, match="study small: it does not have an axis with only learning rates"):
        sensitivity.all_series(tabulate(parse_study(text, "small"), Known()))


def test_a_learning_rate_of_a_task_is_not_an_axis():
    study = load_study("auto-parts")
    assert not sensitivity.has_rates(study)
    with pytest.raises(UsageError, match="study auto-parts: it does not have an axis with only learning rates"):
        sensitivity.all_series(tabulate(study, Known()))


# --- the command ------------------------------------------------------------------------------------------------------


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_the_command_draws_from_a_store_and_from_exported_files(tmp_path, monkeypatch, capsys, study):
    monkeypatch.chdir(tmp_path)
    Path("small.toml").write_text(TEXT)
    assert lossaware("plot", "small.toml") == 2
    assert "has no results yet" in capsys.readouterr().err
    with Store(Path("lossaware-out/results.sqlite")) as store:
        for spec in study.specs:
            if records := Known().records(spec):
                store.insert_run(spec, records, {"date": "2026-01-02T03:04:05", "commit": "abc"})
    assert lossaware("plot", "small.toml", "--to", "drawn") == 0
    output = " ".join(capsys.readouterr().out.split())
    assert "SGD with LGA 81.00% (1e-2) 80.00% (1e-3) 80.50% 80.00% (1e-3)" in output
    assert "Worst and mean are over the learning rates 1e-3, 1e-2." in output
    assert "SGD with LGA 4 epochs, 10 s (1e-2)" in output
    files = {path.name for path in Path("drawn").iterdir()}
    assert files == {
        *(f"small-lr{kind}" for kind in (".svg", "-dark.svg", ".png", ".csv", ".json")),
        "small-overall.csv",
        "small-times.csv",
    }
    assert len(rows(Path("drawn/small-lr.csv"))) == 12
    (base, *_), (_, two) = (
        [row for row in rows(Path("drawn/small-overall.csv")) if row["optimizer"] == name]
        for name in ("SGD", "SGD with LGA")
    )
    assert (float(base["worst"]), float(base["mean"]), base["own_lr"]) == (41, 51, "0.001")
    assert float(two["mean"]) == pytest.approx(40.75)
    (lion,) = (
        row
        for row in rows(Path("drawn/small-times.csv"))
        if (row["task"], row["optimizer"], row["lr"]) == ("Two", "Lion", "0.001")
    )
    assert (lion["base"], lion["base_lr"], lion["reached"], lion["epochs"]) == ("SGD", "0.01", "3", "1")
    assert json.loads(Path("drawn/small-lr.json").read_text())["settings"]["study"] == "small"

    assert lossaware("study", "export", "small.toml") == 0
    capsys.readouterr()
    assert lossaware("study", "figure", "small.toml", "--out", "empty", "--to", "again") == 0
    assert "lossaware study figure is now lossaware plot" in capsys.readouterr().err
    for name in ("small-lr.csv", "small-overall.csv", "small-times.csv", "small-lr.svg"):
        assert Path("again", name).read_bytes() == Path("drawn", name).read_bytes()
