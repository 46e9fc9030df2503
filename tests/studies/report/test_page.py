"""Figures and the page, as text and in a real browser."""

import math
import re
import xml.etree.ElementTree as ET
from collections.abc import Mapping, Sequence
from dataclasses import replace
from html import escape

import pytest
from matplotlib.image import imread

from lossaware.errors import UsageError
from lossaware.studies.report.comparison_table import comparison_table
from lossaware.studies.report.curves import Curves, Figure, Scores, plot_curves, plot_scores
from lossaware.studies.report.page import Plots, Report, Section, render, write
from lossaware.studies.report.plot import PALETTE, SERIES
from lossaware.studies.report.table import Table
from lossaware.studies.specs.study import Metric
from support.pages import Tags, check_fits, check_self_contained, chromium, in_browser, pictures
from support.synthetic import ACCURACY, BASE, LOSS, four_pairs, rising

LONG = "lossaware compare some/rather/long/path/to/a/task_of_ones_own.py:build --optimizers sgd,adam,adadelta " * 2


def curves_of(lines: Mapping[str, Sequence[Sequence[float]]], metric: Metric = ACCURACY) -> Curves:
    return Curves("sgd · lr 1e-3", metric, lines)


def scores_of(lines: Mapping[str, Sequence[Sequence[float]]], metric: Metric = ACCURACY) -> Scores:
    """The last scores of the curves, all at one learning rate."""
    return Scores("sgd", metric, {label: {1e-3: [run[-1] for run in runs if run]} for label, runs in lines.items()})


def figures_of(lines: Mapping[str, Sequence[Sequence[float]]], metric: Metric = ACCURACY) -> list[Figure]:
    return [*plot_curves([curves_of(lines, metric)]), *plot_scores([scores_of(lines, metric)])]


TWO = {"without": [rising(final) for final in BASE], "with LGA": [rising(final, speed=0.9) for final in BASE]}


@pytest.fixture(scope="module")
def table() -> Table:
    return replace(comparison_table(*four_pairs()), legend=["A note."])


@pytest.fixture(scope="module")
def report(table: Table) -> Report:
    return Report(
        title="Does LGA help on <digits>?",
        subtitle="6 seeds & 10 epochs",
        badges=[("helps", "1 of 4: helps"), ("no difference shown", "3 of 4: no difference shown")],
        lead="LGA helps.",
        sections=[
            Section(table.title, table=table),
            Section("Learning curves", plots=[Plots("Accuracy", "Mean and band.", plot_curves([curves_of(TWO)] * 4))]),
            Section("Learning rate", plots=[Plots("", "", plot_scores([scores_of(TWO)] * 2))], folded=True),
        ],
        legend=list(TWO),
        facts={"Settings": {"task": "digits"}, "Machine": {"processor": "x" * 200, "commit": "0123456789ab"}},
        command=LONG,
    )


@pytest.fixture(scope="module")
def page(report: Report) -> str:
    return render(report)


# --- figures --------------------------------------------------------------------------------------------------------


def test_images_have_the_figures_of_the_page_and_a_text_for_those_who_do_not_see_them(page: str):
    images = [attributes for tag, attributes in Tags(page).elements if tag == "img"]
    assert [it["alt"] for it in images] == ["test accuracy by epoch, sgd · lr 1e-3"] * 4 + [
        "test accuracy against lr, sgd"
    ] * 2
    assert len(pictures(page)) == len(pictures(page, "srcset")) == 6
    for light, dark in zip(pictures(page), pictures(page, "srcset"), strict=True):
        assert "<text" in light  # text stays text
        assert PALETTE["card"][0] in light
        assert PALETTE["card"][1] in dark


def test_figures_are_the_same_each_time():
    assert [f.plot.svg() for f in figures_of(TWO)] == [f.plot.svg() for f in figures_of(TWO)]


def polyline_points(svg: str, color: int) -> int:
    """Points of the longest line in that colour of the series."""
    stroke = PALETTE[f"series-{color}"][0]
    lines = re.findall(rf'<path d="([^"]+)"[^>]*style="fill: none; stroke: {stroke}', svg)
    return max((len(re.findall(r"[ML]", line)) for line in lines), default=0)


def test_a_curve_has_one_point_per_epoch():
    [figure] = plot_curves([curves_of(TWO)])
    assert polyline_points(figure.plot.svg(), 0) == polyline_points(figure.plot.svg(), 1) == 10


def test_a_curve_stops_where_a_seed_is_lost():
    lost = [[0.5, 0.4, math.nan, math.nan], [0.3] * 4]
    [figure] = plot_curves([curves_of({"without": [lost[1]], "with LGA": lost}, LOSS)])
    assert polyline_points(figure.plot.svg(), 0) == 4
    assert polyline_points(figure.plot.svg(), 1) == 2


@pytest.mark.parametrize("metric", [ACCURACY, LOSS])
@pytest.mark.filterwarnings("error")
def test_awkward_data_is_drawn_without_a_warning(metric):
    nan = math.nan
    for runs in ([[0.5]], [[0.5, 0.5]], [[nan, nan]], [[]], [[1.0] * 3, [0.0] * 3]):
        for figure in figures_of({"a": runs, "b": runs}, metric):
            ET.fromstring(figure.plot.svg())


def test_more_series_than_colours_are_still_drawn():
    lines = {str(label): [rising(0.9)] for label in range(len(SERIES) + 2)}
    [figure] = plot_curves([curves_of(lines)])
    assert {i for i in range(len(SERIES)) if polyline_points(figure.plot.svg(), i)} == set(range(len(SERIES)))


# --- the page as text -----------------------------------------------------------------------------------------------


def test_page_needs_nothing_from_outside(page: str):
    check_self_contained(page)


def test_page_says_it_all(report: Report, table: Table, page: str):
    for section in report.sections:
        assert f"<h2>{escape(section.heading)}</h2>" in page
    for record in table.records:
        assert escape(record["reason"], quote=True).replace("&#x27;", "&#39;") in page
    for row in table.rows:
        assert all(cell.text in page for cell in row.cells)
    assert escape(LONG) in page
    assert "0123456789ab" in page
    assert page.count("<figure>") == 6
    assert "A note." in page


def test_page_escapes_all_text(page: str):
    assert "<digits>" not in page
    assert "&lt;digits&gt;" in page


def luminance(color: str) -> float:
    def linear(c: float) -> float:
        return c / 12.92 if c <= 0.03928 else ((c + 0.055) / 1.055) ** 2.4

    red, green, blue = (linear(int(color[i : i + 2], 16) / 255) for i in (1, 3, 5))
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def contrast(one: str, other: str) -> float:
    bright, dark = sorted((luminance(one), luminance(other)), reverse=True)
    return (bright + 0.05) / (dark + 0.05)


@pytest.mark.parametrize("mode", ["light", "dark"])
def test_text_and_lines_are_visible_in_both_modes(page: str, mode: str):
    """WCAG 2: 4.5 for text, 3 for lines that carry meaning (the base may be fainter: it is drawn twice as broad)."""
    light, dark = re.findall(r":root \{(.*?)\}", page, flags=re.DOTALL)
    colors = dict(re.findall(r"--([\w-]+): (#\w{6})", light if mode == "light" else dark))
    for ground in ("page", "card"):
        for text in ("ink", "muted", "helps", "hurts", "unsure", "equal"):
            assert contrast(colors[text], colors[ground]) >= 4.5, (text, ground)
        for i in range(len(SERIES)):
            assert contrast(colors[f"series-{i}"], colors[ground]) >= (2 if i == 0 else 3), (i, ground)


# --- writing --------------------------------------------------------------------------------------------------------


def test_report_is_replaced_as_a_whole(report: Report, tmp_path):
    path = tmp_path / "new" / "folder" / "report.html"
    write(report, path)
    write(replace(report, title="Second"), path)
    assert "<title>Second</title>" in path.read_text()
    assert [file.name for file in path.parent.iterdir()] == ["report.html"]


def test_failed_write_leaves_the_old_report(report: Report, tmp_path, monkeypatch):
    path = tmp_path / "report.html"
    write(report, path)
    before = path.read_bytes()

    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("lossaware.studies.specs.atomic.os.fsync", full)
    with pytest.raises(UsageError, match=r"report.html: cannot be written \(No space left"):
        write(replace(report, title="Second"), path)
    assert path.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == ["report.html"]


def test_a_foreign_page_is_not_overwritten(report: Report, tmp_path):
    path = tmp_path / "report.html"
    path.write_text("<html>my own report</html>")
    with pytest.raises(UsageError, match="is not a report of lossaware"):
        write(report, path)
    assert path.read_text() == "<html>my own report</html>"


# --- in a browser ---------------------------------------------------------------------------------------------------


@in_browser
@pytest.mark.parametrize("mode", ["light", "dark"])
def test_page_is_drawn(page: str, tmp_path, mode: str):
    (tmp_path / "report.html").write_text(page)
    scheme = {"dark": 0, "light": 1}[mode]
    chromium(
        (tmp_path / "report.html").as_uri(),
        tmp_path / "profile",
        f"--blink-settings=preferredColorScheme={scheme}",
        "--window-size=1200,1800",
        f"--screenshot={tmp_path / 'shot.png'}",
    )
    shot = imread(tmp_path / "shot.png")[..., :3]
    ground = shot[5, 5]
    assert (ground > 0.9).all() if mode == "light" else (ground < 0.2).all()
    drawn = abs(shot - ground).max(axis=-1) > 0.1
    assert 0.01 < drawn.mean() < 0.5  # something is there, and most of it is calm ground
    orange = (shot[..., 0] - shot[..., 2] > 0.4).sum()
    assert orange > 1000  # the curves with LGA


@in_browser
def test_page_fits_every_width_and_complains_of_nothing(page: str, tmp_path):
    check_fits(page, tmp_path)


def test_the_verdicts_are_words_on_colours_at_the_top(page: str):
    top = page[: page.index("<h2>")]
    badges = re.findall(r'<span class="badge (\w+)"><span>([^<]+)</span></span>', top)
    assert badges == [("helps", "1 of 4: helps"), ("no", "3 of 4: no difference shown")]


def test_a_folded_section_shows_its_heading(page: str):
    [folded] = re.findall(r"<details>(.*?)</details>", page, re.DOTALL)
    assert folded.startswith("<summary><h2>Learning rate</h2></summary>")
    assert folded.count("<figure>") == 2


def test_every_section_part_is_optional():
    bare = render(Report("Title", "", "", [Section("Only a heading")]))
    assert "<h2>Only a heading</h2>" in bare
    assert "<table" not in bare
