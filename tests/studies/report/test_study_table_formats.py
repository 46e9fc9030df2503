"""The table of a study in each format."""

import csv
import io
import re
from dataclasses import replace

import pytest

from lossaware.studies.analysis.collect import show
from lossaware.studies.analysis.export import export
from lossaware.studies.analysis.lr_sensitivity import all_series
from lossaware.studies.analysis.statistics import summary
from lossaware.studies.analysis.study_table import StudyTable, tabulate
from lossaware.studies.report.study_table import show_difference, study_table
from lossaware.studies.report.writers import formats
from lossaware.studies.specs.study import Overrides, parse_study
from lossaware.studies.specs.study_file import parse_settings
from lossaware.studies.store.folder import Launch
from lossaware.studies.store.results import Sources
from support.small_grid import TEXT, Known, at, fill, format_table, measured, one, text_of


def test_a_difference_that_is_shown_as_none_has_no_sign(grid):
    known = Known()
    fill(grid, known)
    cell = tabulate(grid, known).cells[at(grid, "SGD", "w/o LGA, 1e-3")]
    near = replace(cell, summary=replace(cell.summary, mean=89.996))
    assert (show_difference(near, 3), show_difference(near, 2)) == ("−0.004", "0.00")


@pytest.fixture
def table() -> StudyTable:
    grid = parse_study(TEXT.replace("seeds = 2", "seeds = 3"), "grid")
    known = Known()
    fill(grid.overridden(Overrides({"strategy": ("w/o LGA", "w/ LGA")})), known)
    known.runs.pop(grid.cells[at(grid, "SGD", "w/ LGA, 1e-3")].specs[1])
    return show(grid, known, [Launch.now(grid)])


def test_text_shows_measured_published_and_difference(table):
    lines = text_of(table).splitlines()
    assert re.search(r"─ w/o LGA ─+ +─+ w/ LGA ─+ +─+ Ratio ─", text_of(table))
    row = next(i for i, line in enumerate(lines) if line.startswith("SGD"))
    ratio = r"\d\.\d\d ± \d\.\d\d"
    values = rf"53\.00 ± 4\.97 +62\.00 ± 4\.97 +58\.00 \[a\] +67\.00 ± 4\.97 +{ratio.split(' ')[0]} \[a\] +{ratio}"
    assert re.fullmatch(rf"SGD +measured +{values}", lines[row])
    assert re.fullmatch(r" +published +90\.0 +95 +91\.25 +0\.9 +0\.5", lines[row + 1].rstrip())
    assert re.match(r" +difference +−37\.00 +−33\.00 +−33\.25", lines[row + 2])
    assert "a: 2 of 3 seeds" in lines
    assert any(re.match(r"\d+ runs: 2026-01-02, commit abc\.", line) for line in lines)
    assert "Command: lossaware study run grid" in lines


@pytest.mark.parametrize("width", [200, 120, 80, 60])
def test_text_fits_and_loses_nothing(table, width):
    text = text_of(table, width)
    assert max(map(len, text.splitlines())) <= width
    for figure in ("90.0", "95", "91.25", "0.9", "0.5"):
        assert len(re.findall(rf"(?<![\d.]){re.escape(figure)}(?![\d.])", text)) >= 1
    assert text.count("measured") == 4 * text.count("algorithm ") + 1  # and one in the caption


def test_each_cell_has_the_decimals_of_its_measure():
    text = one("final").replace(
        "b = { b = {} } }", 'b = { a = {}, b = { lr = 2, measure = { set = "test", name = "loss" } } } }'
    )
    known = Known()
    for spec in parse_study(text, "one").specs:
        known.put(spec, 0.4, 0.5, 0.6, 0.87656)
    results = measured(text, known)
    assert re.search(r"measured +87\.66 +0\.1234", text_of(results))
    assert [cell.text for row in study_table(results).rows for cell in row.cells] == [
        "87.66",
        "0.1234",
    ]


def test_markdown(table):
    lines = format_table(table, "markdown").splitlines()
    assert lines[0] == "**A small grid**"
    head = next(i for i, line in enumerate(lines) if line.startswith("| algorithm |"))
    assert (
        lines[head]
        == "| algorithm |  | w/o LGA, 1e-3 | w/o LGA, 1e-2 | w/ LGA, 1e-3 | w/ LGA, 1e-2 | Ratio, 1e-3 | Ratio, 1e-2 |"
    )
    assert lines[head + 2].startswith("| SGD | measured | 53.00 ± 4.97 | 62.00 ± 4.97 | 58.00 [a] | 67.00 ± 4.97 |")
    assert lines[head + 3] == "|  | published | 90.0 | 95 | 91.25 |  | 0.9 | 0.5 |"
    assert {line.count("|") for line in lines[head:] if line.startswith("|")} == {9}


def test_latex(table):
    tex = format_table(table, "latex")
    assert r"\begin{tabular}{llrrrrrr}" in tex
    assert r"\multicolumn{2}{c}{w/o LGA} & \multicolumn{2}{c}{w/ LGA} & \multicolumn{2}{c}{Ratio} \\" in tex
    assert r"\cmidrule(lr){3-4}\cmidrule(lr){5-6}\cmidrule(lr){7-8}" in tex
    assert r"SGD & measured & 53.00 $\pm$ 4.97 & " in tex
    assert r"95 \%" in tex
    body, comments = tex.split(r"\end{table}")
    assert "%" not in body.replace(r"\%", "")
    assert body.count("{") == body.count("}")
    assert all(line.startswith("% ") for line in comments.strip().splitlines())


def test_latex_has_the_notes_and_says_where_it_comes_from(table):
    file = table.study.file.model_copy(update={"notes": ["95 % is a misprint."]})
    noted = replace(table, study=replace(table.study, file=file), provenance=["Measured 2026-11-26 with torch 2.13.0."])
    after_the_figures = format_table(noted, "latex").split(r"\end{tabular}")[-1].splitlines()
    assert r"\\ Note: 95 \% is a misprint." in after_the_figures
    assert after_the_figures[-1] == "% Measured 2026-11-26 with torch 2.13.0."


def test_latex_escapes_its_special_characters():
    title = "a_b & 5 % $ # {x} ^ ~ \\ ± \u2212 \u03bc \u03c3 — [c]"
    study = parse_study(TEXT.replace('title = "A small grid"', f"title = '{title}'"), "grid")
    escaped = (
        r"a\_b \& 5 \% \$ \# \{x\} \textasciicircum{} \textasciitilde{} \textbackslash{} "
        r"$\pm$ $-$ $\mu$ $\sigma$ --- {[}c{]}."
    )
    assert rf"\caption{{{escaped} " in format_table(tabulate(study, Known()), "latex")


def test_csv_has_a_line_a_cell(table):
    rows = list(csv.DictReader(io.StringIO(format_table(table, "csv"))))
    assert len(rows) == 24
    first = rows[0]
    assert (first["algorithm"], first["strategy"], first["lr"]) == ("SGD", "w/o LGA", "1e-3")
    assert float(first["measured"]) == summary([51.0, 53.0, 55.0]).mean
    assert float(first["low"]) == pytest.approx(summary([51.0, 53.0, 55.0]).low)
    assert (first["seeds"], first["seeds_wanted"], first["published"]) == ("3", "3", "90.0")
    assert rows[4]["published"] == "0.9"


def test_a_table_without_published_figures_has_no_lines_for_them():
    text = TEXT.split("[published]")[0]
    output = text_of(tabulate(parse_study(text, "grid"), Known()))
    assert "published" not in output
    assert "Not run: 24 of 24 cells." in output


GROUNDING = TEXT.replace('task = "digits"', 'task = "grounding"').replace("{ hidden = 8 }", '{ features = "real" }')


@pytest.mark.parametrize("how", ["in the file", "overridden", "at one point"])
def test_results_from_stand_in_features_are_marked_everywhere(tmp_path, how):
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
    for name in formats():
        assert "stand-in features" in format_table(table, name)
    assert "stand-in features" in text_of(table)
    assert "stand-in features" in " ".join((*table.head, *table.legend))
    rows = list(csv.DictReader(io.StringIO((tmp_path / "grid.csv").read_text())))
    of_stand_ins = [row for row in rows if how != "at one point" or row["algorithm"] == "SGD"]
    assert of_stand_ins
    assert {row["overridden"].startswith("stand-in features") for row in of_stand_ins} == {True}
    assert all("stand-in" not in row["overridden"] for row in rows if row not in of_stand_ins)
    # They are not compared with figures from real features either.
    assert all(measured.agrees is None for measured in table.cells.values() if measured.caution)
    if how != "at one point":
        assert {one.panel for one in all_series(table)} == {"grounding, stand-in features"}


def test_results_from_real_features_do_not(tmp_path):
    study = parse_study(GROUNDING, "grid")
    known = Known()
    fill(study, known)
    assert "tand-in" not in text_of(show(study, known, []))
