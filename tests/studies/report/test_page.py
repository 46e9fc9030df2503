"""Figures and the page, as text and in a real browser."""

import dataclasses
import math
import re
import xml.etree.ElementTree as ET
from html import escape

import pytest
from matplotlib.image import imread

from lossaware.errors import UsageError
from lossaware.studies.analysis.paired import Arm, Pair, make_table
from lossaware.studies.report.figures import COLORS, learning_curves, sensitivity, series_labels
from lossaware.studies.report.page import Report, Section, render, write
from lossaware.studies.report.paired_table import gathered_notes, how_to_read, lead
from support.pages import check_fits, check_self_contained, chromium, in_browser
from support.synthetic import ACCURACY, BASE, LOSS, arm, four_pairs, pair, record

LONG = "lossaware compare some/rather/long/path/to/a/task_of_ones_own.py:build --optimizers sgd,adam,adadelta " * 2


@pytest.fixture(scope="module")
def report() -> Report:
    pairs = four_pairs()
    table = make_table(ACCURACY, pairs)
    return Report(
        title="Does LGA help on <digits>?",
        subtitle="6 seeds & 10 epochs",
        lead=lead(table),
        sections=[
            Section(table.title, table=table, notes=["A note."], caption=how_to_read(table)),
            Section("Learning curves", "Mean and band.", figures=learning_curves(pairs, ACCURACY)),
            Section("Learning rate", figures=sensitivity(pairs, ACCURACY)),
        ],
        legend=series_labels(pairs),
        facts={"Settings": {"task": "digits"}, "Machine": {"processor": "x" * 200, "commit": "0123456789ab"}},
        command=LONG,
    )


@pytest.fixture(scope="module")
def page(report: Report) -> str:
    return render(report)


# --- figures --------------------------------------------------------------------------------------------------------


def figures_of(pairs, measure=ACCURACY):
    return [*learning_curves(pairs, measure), *sensitivity(pairs, measure)]


def test_one_figure_a_base_arm_and_one_an_optimizer():
    assert [f.heading for f in learning_curves(four_pairs(), ACCURACY)] == [
        "sgd · lr 1e-4",
        "sgd · lr 1e-3",
        "adam · lr 1e-4",
        "adam · lr 1e-3",
    ]
    assert [f.heading for f in sensitivity(four_pairs(), ACCURACY)] == ["sgd", "adam"]


def test_variants_of_one_base_share_a_figure():
    base = arm(BASE)
    pairs = [
        Pair({"optimizer": "sgd", "lr": "1e-3", "gamma2": g}, base, arm(BASE, lga=True, label=f"gamma2 {g}"), 10)
        for g in ("1e-8", "1e-7", "1e-6")
    ]
    [curves], [rates] = learning_curves(pairs, ACCURACY), sensitivity(pairs, ACCURACY)
    assert (curves.heading, rates.heading) == ("sgd · lr 1e-3", "sgd")
    assert series_labels(pairs) == ["without", "gamma2 1e-8", "gamma2 1e-7", "gamma2 1e-6"]
    for figure in (curves, rates):
        assert {int(i) for i in re.findall(r"var\(--series-(\d)\)", figure.svg)} == {0, 1, 2, 3}


def test_colours_and_fonts_come_from_the_page():
    for figure in figures_of(four_pairs()):
        root = ET.fromstring(figure.svg)
        assert root.attrib["role"] == "img"
        assert root.attrib["aria-label"]
        assert "#0" not in re.sub(r'(?:url\(|href=")#', "", figure.svg)  # no marker colour is left
        assert "font-family" not in figure.svg
        assert "DejaVu" not in figure.svg
        assert "<text" in figure.svg  # text stays text


def test_names_in_a_page_are_unique_and_found(page: str):
    names = re.findall(r'\sid="([^"]+)"', page)
    assert len(names) == len(set(names))
    assert set(re.findall(r'(?:url\(#|href="#)([^")]+)', page)) == set(names)


def test_figures_are_the_same_each_time():
    assert [f.svg for f in figures_of(four_pairs())] == [f.svg for f in figures_of(four_pairs())]


def polyline_points(svg: str, color: int) -> int:
    """Points of the longest line in that colour."""
    lines = re.findall(rf'<path d="([^"]+)"[^>]*style="fill: none; stroke: var\(--series-{color}\)', svg)
    return max((len(re.findall(r"[ML]", line)) for line in lines), default=0)


def test_a_curve_has_a_point_an_epoch():
    [figure] = learning_curves([pair(BASE, BASE)], ACCURACY)
    assert polyline_points(figure.svg, 0) == polyline_points(figure.svg, 1) == 10


def test_a_curve_stops_where_a_seed_is_lost():
    values = [0.5, 0.4, math.nan, math.nan]
    runs = {
        0: [record(e, 0.5, loss=v) for e, v in enumerate(values, 1)],
        1: [record(e, 0.5, loss=0.3) for e in range(1, 5)],
    }
    lost = Pair({"optimizer": "sgd", "lr": "1"}, Arm("without", {1: runs[1], 0: runs[1]}), Arm("with LGA", runs), 4)
    [figure] = learning_curves([lost], LOSS)
    assert polyline_points(figure.svg, 0) == 4
    assert polyline_points(figure.svg, 1) == 2


@pytest.mark.parametrize("measure", [ACCURACY, LOSS])
@pytest.mark.filterwarnings("error")
def test_awkward_data_is_drawn_without_a_warning(measure):
    def of(values):
        return Arm("a", {s: [record(e, v) for e, v in enumerate(run, 1)] for s, run in enumerate(values)})

    nan = math.nan
    for runs, epochs in (([[0.5]], 1), ([[0.5, 0.5]], 2), ([[nan, nan]], 2), ([[]], 3), ([[1.0] * 3, [0.0] * 3], 3)):
        awkward = Pair({"optimizer": "sgd", "lr": "1e-3"}, of(runs), dataclasses.replace(of(runs), label="b"), epochs)
        for figure in figures_of([awkward], measure):
            ET.fromstring(figure.svg)


def test_more_series_than_colours_are_still_drawn():
    base = arm(BASE)
    pairs = [
        Pair({"lr": "1e-3", "gamma2": str(g)}, base, arm(BASE, lga=True, label=str(g)), 10) for g in range(COLORS + 2)
    ]
    [figure] = learning_curves(pairs, ACCURACY)
    assert set(re.findall(r"var\(--series-(\d)\)", figure.svg)) == {str(i) for i in range(COLORS)}


# --- the page as text -----------------------------------------------------------------------------------------------


def test_page_needs_nothing_from_outside(page: str):
    check_self_contained(page)


def test_page_says_it_all(report: Report, page: str):
    for section in report.sections:
        assert f"<h2>{escape(section.heading)}</h2>" in page
    table = report.sections[0].table
    assert table is not None
    for row in table.rows:
        assert escape(row.verdict.reason, quote=True).replace("&#x27;", "&#39;") in page
        assert ACCURACY.show_summary(row.difference.difference, signed=True) in page
    assert escape(LONG) in page
    assert "0123456789ab" in page
    assert page.count("<figure>") == 6
    assert "A note." in page


def test_page_escapes_what_it_is_given(page: str):
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
def test_text_and_lines_stand_out_in_both_modes(page: str, mode: str):
    """WCAG 2: 4.5 for text, 3 for lines that carry meaning (the base may be fainter: it is drawn twice as broad)."""
    light, dark = re.findall(r":root \{(.*?)\}", page, flags=re.DOTALL)
    colors = dict(re.findall(r"--([\w-]+): (#\w{6})", light if mode == "light" else dark))
    for ground in ("page", "card"):
        for text in ("ink", "muted", "helps", "hurts", "unsure", "equal"):
            assert contrast(colors[text], colors[ground]) >= 4.5, (text, ground)
        for i in range(COLORS):
            assert contrast(colors[f"series-{i}"], colors[ground]) >= (2 if i == 0 else 3), (i, ground)


# --- writing --------------------------------------------------------------------------------------------------------


def test_report_is_replaced_as_a_whole(report: Report, tmp_path):
    path = tmp_path / "new" / "folder" / "report.html"
    write(report, path)
    write(dataclasses.replace(report, title="Second"), path)
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
        write(dataclasses.replace(report, title="Second"), path)
    assert path.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == ["report.html"]


def test_a_page_of_somebody_else_is_left_alone(report: Report, tmp_path):
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


def test_every_section_part_is_optional():
    bare = render(Report("Title", "", "", [Section("Only a heading")]))
    assert "<h2>Only a heading</h2>" in bare
    assert "<table>" not in bare
    assert gathered_notes(make_table(ACCURACY, [])) == []
