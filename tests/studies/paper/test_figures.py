"""Figure 2 from existing runs, with the names of missing ones; and properties of all plots."""

import csv
import re
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure as Canvas

from lossaware.studies.analysis.study_table import tabulate
from lossaware.studies.paper.figures import curve_rows, loss_curves, plot_figure2
from lossaware.studies.report.plot import INK, PALETTE, SERIES, Plot
from lossaware.studies.specs.run_spec import EpochRecord, RunSpec
from lossaware.studies.specs.study import Overrides, load_study
from lossaware.studies.specs.study_file import Settings
from lossaware.studies.store.database import Store
from lossaware.studies.store.folder import Folder, Launch
from support.command_line import lossaware
from support.made_up import MadeUp

EPOCHS = 3


def loss_of(spec: RunSpec, epoch: int) -> float:
    """A different loss for each run."""
    return 2.0 / (epoch + (spec.lga is not None)) + 0.01 * spec.seed


def made_up(spec: RunSpec) -> list[EpochRecord]:
    return [
        EpochRecord(epoch, {"loss": loss_of(spec, epoch), "accuracy": 0.5}, {"loss": 9.0, "accuracy": 0.4}, None, 1.0)
        for epoch in range(1, spec.epochs + 1)
    ]


@pytest.fixture
def out(tmp_path: Path) -> Path:
    """A folder in which a smaller Table 1 was run for SGD and Adam on MNIST."""
    study = load_study("table01").overridden(
        Overrides({"task": ("MNIST",), "algorithm": ("SGD", "Adam")}, Settings(epochs=EPOCHS, seeds=2))
    )
    folder = Folder(tmp_path / "out")
    folder.note(Launch.now(study))
    with Store(folder.database) as store:
        for spec in study.specs:
            store.insert_run(spec, made_up(spec), {"date": "2026-01-01"})
    return folder.path


def test_figure_2_plots_existing_runs_and_names_missing_ones(
    out: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert (
        lossaware("plot", "figure02", "--out", str(out), "--results", str(tmp_path / "none"), "--to", str(tmp_path))
        == 0
    )
    assert "4 of 42 curves" in capsys.readouterr().out
    with (tmp_path / "figure02.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 4 * EPOCHS
    assert {(row["task"], row["algorithm"]) for row in rows} == {("MNIST", "SGD"), ("MNIST", "Adam")}
    for row in rows:
        epoch, lga = int(row["epoch"]), row["strategy"] == "w/ LGA"
        low = 2.0 / (epoch + lga)
        assert [float(row[name]) for name in ("low", "loss", "high")] == pytest.approx([low, low + 0.005, low + 0.01])
        assert row["seeds"] == "2"
        assert row["overridden"] == "epochs = 3, seeds = 2"
    texts = [text for text in svg_texts((tmp_path / "figure02.svg").read_text()) if text]
    assert [text for text in texts if ", w" in text] == [
        f"{task}, {strategy}" for strategy in ("w/o LGA", "w/ LGA") for task in ("MNIST", "CIFAR-10", "CIFAR-100")
    ]
    assert texts.count("not run") == 4
    assert texts.count("not run: Momentum, ASGD, RMSprop, Adamax,") == 2
    assert texts.count("overridden: epochs = 3, seeds = 2") == 2
    assert "table01" in (tmp_path / "figure02.json").read_text()


def svg_texts(svg: str) -> list[str]:
    """All texts of a picture."""
    return ["".join(node.itertext()) for node in ElementTree.fromstring(svg).iter() if node.tag.endswith("text")]


def test_figure_2_without_any_run_names_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert (
        lossaware("plot", "figure02", "--out", str(tmp_path), "--results", str(tmp_path), "--to", str(tmp_path / "to"))
        == 2
    )
    assert "lossaware study run table01" in capsys.readouterr().err
    assert not (tmp_path / "to").exists()


def test_a_diverged_run_leaves_the_others_drawn() -> None:
    study = load_study("table01").overridden(Overrides({}, Settings(epochs=2, seeds=1)))

    class Diverged(MadeUp):
        def records(self, spec: RunSpec) -> list[EpochRecord]:
            value = float("nan") if spec.optimizer == "adam" else 1.0
            record = EpochRecord(1, {"loss": value, "accuracy": 0.1}, {"loss": value, "accuracy": 0.1}, None, 1.0)
            return [record, record]

    curves = loss_curves(tabulate(study, Diverged()), Diverged())
    assert len(curve_rows(curves)) == len(curves) * 2
    svg = plot_figure2(curves).svg()
    assert "not run" not in svg
    assert np.isnan([curve.losses for curve in curves if curve.algorithm == "Adam"]).all()


# --- pictures -------------------------------------------------------------------------------------------------------


def line(canvas: Canvas) -> None:
    """A line in each colour, and a text."""
    axes = canvas.subplots()
    for height, color in enumerate((*SERIES, INK)):
        axes.plot([0, 1], [height, height], color=color)
    axes.set_title('a < b & "c"')


def test_plots_are_drawn_on_light_and_dark_ground_and_are_the_same_each_time() -> None:
    plot = Plot(line, (3, 2), 'what it shows: a < b & "c"')
    on_ground = {ground: plot.svg(ground) for ground in ("light", "dark")}
    assert on_ground["light"] == Plot(line, (3, 2), plot.description).svg()
    colors = {ground: set(re.findall(r"(?:fill|stroke): ?(#[0-9a-f]{6})", svg)) for ground, svg in on_ground.items()}
    used = [name for name in PALETTE if name != "muted" and (name in ("card", "ink", "line") or "series" in name)]
    for name in used:
        light, dark = PALETTE[name]
        assert light in colors["light"], name
        assert dark in colors["dark"], name
    assert colors["light"] & colors["dark"] == set(), "no colour stays the same in the dark"
    assert plot.png().startswith(b"\x89PNG")
    root = ElementTree.fromstring(on_ground["dark"])
    assert root.get("viewBox") == "0 0 216 144"
    assert svg_texts(on_ground["dark"])[-1] == 'a < b & "c"'
