"""Tables on terminals of any width, and where characters or colours are missing."""

import importlib
import io
import re
from dataclasses import replace
from typing import Any

import pytest
from rich.console import Console

from lossaware.cli.output import console
from lossaware.studies.report.alignment import FIGURE, aligned
from lossaware.studies.report.comparison_table import comparison_table
from lossaware.studies.report.table import Cell, Row, Table
from lossaware.studies.report.writers import text
from support.synthetic import BASE, compared, four_pairs, pair

VERDICTS = ["helps", "hurts", "no difference shown", "no difference shown"]


@pytest.fixture(scope="module")
def table() -> Table:
    return comparison_table(*four_pairs())


def rendered(table: Table, width: int, encoding: str = "utf-8", **how) -> str:
    """The output on a terminal of this width and encoding."""
    raw = io.BytesIO()
    file = io.TextIOWrapper(raw, encoding=encoding, errors="strict")
    screen = Console(file=file, width=width, markup=False, emoji=False, **how)
    screen.print(text.render(table, width, screen.encoding))
    file.flush()
    return raw.getvalue().decode(encoding)


# --- widths ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("width", [60, 80, 100, 120, 200])
def test_the_verdict_follows_the_name_of_its_row_and_is_whole(table, width):
    lines = rendered(table, width).splitlines()
    assert max(map(len, lines)) <= width
    head = next(i for i, line in enumerate(lines) if line.startswith("optimizer"))
    assert lines[head].split()[:3] == ["optimizer", "lr", "verdict"]
    for line, row, verdict in zip(lines[head + 1 :], table.rows, VERDICTS, strict=False):
        assert re.match(rf"{row.names[0]} +{row.names[1]} +{verdict}\b", line)
    for row in table.rows:
        for cell in row.cells[1:4]:
            assert cell.text in rendered(table, width)


@pytest.mark.parametrize(
    ("width", "has_epochs", "blocks"), [(60, False, 2), (80, False, 1), (100, True, 1), (200, True, 1)]
)
def test_epochs_override_and_are_shown(table, width, has_epochs, blocks):
    output = rendered(table, width)
    assert ("45 % of the epochs" in output) is has_epochs
    assert ("Same score after: the share" in output) is has_epochs
    assert (f"Not shown in {width} columns: same score after." in output) is not has_epochs
    assert len(re.findall(r"^optimizer ", output, re.MULTILINE)) == blocks


@pytest.mark.parametrize("width", [60, 80])
def test_a_verdict_of_words_is_wrapped_before_columns_go_below(table, width):
    wide = pair([100 * b for b in BASE], [100 * b + 3 * (-1) ** i for i, b in enumerate(BASE)])
    study, results = compared(wide, lrs=(1.234e-5,))
    lines = rendered(comparison_table(study, results), width).splitlines()
    assert max(map(len, lines)) <= width
    row = next(i for i, line in enumerate(lines) if line.startswith("sgd "))
    verdict = " ".join(lines[row].split()[2:5]) + (f" {lines[row + 1].strip()}" if "shown" not in lines[row] else "")
    assert verdict.startswith("no difference")
    assert "shown" in verdict


def test_a_long_name_of_a_row_leaves_room_for_the_verdict():
    name = "a_function_with_a_name_that_is_too_long_for_any_terminal_with_columns"
    row = Row((name,), [Cell("too few seeds to tell"), Cell("1.00 ± 0.25")])
    table = Table("Score", ("function",), [("verdict",), ("difference",)], [row], text_columns=frozenset({0}))
    for width in (60, 80):
        lines = rendered(table, width).splitlines()
        assert max(map(len, lines)) <= width
        assert "too few seeds" in " ".join(lines)
        assert name in "".join(line.split("  ")[0].strip() for line in lines[4:])


# --- figures --------------------------------------------------------------------------------------------------------


def test_figures_are_aligned_on_their_points():
    assert aligned(["52.00 ± 12.71", "9.5 ± 0.125", "−110", "not run", "—", "56.00 [a]"]) == [
        "  52.00 ± 12.71 ",
        "   9.5  ±  0.125",
        "−110            ",
        "         not run",
        "   —            ",
        "  56.00 [a]     ",
    ]
    assert aligned(["1.5e+20 ± 6.4e+20", "0.25 ± 0"]) == ["1.5e+20 ± 6.4e+20", "0.25    ± 0      "]
    assert aligned([]) == []


def test_figures_of_a_page_are_padded_with_spaces_of_their_widths():
    assert aligned(["10.5", "9"], FIGURE) == ["10.5", "\u20079\u2008\u2007"]


def test_the_points_of_a_column_are_below_each_other():
    """Losses have as many decimals as their spreads want, so rows differ."""
    spreads = pair(BASE, [0.3, 0.9, 0.1, 0.7, 0.5, 0.2]), pair([b / 9 for b in BASE], [b / 9 for b in BASE])
    lines = rendered(comparison_table(*compared(*spreads, lrs=(1e-4, 1e-3), score="loss")), 200).splitlines()
    rows = [line for line in lines if line.startswith("sgd  ")]
    means = [re.search(r" (\d+)(\.\d+) *± +(\d+)(\.\d+)", line) for line in rows]
    assert means[0][2] != means[1][2]
    assert means[0].start(2) == means[1].start(2)
    assert means[0].start(4) == means[1].start(4)


# --- what an output lacks -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("encoding", "minus", "spread"),
    [("utf-8", "−", "±"), ("cp1252", "-", "±"), ("ascii", "-", "+-")],
    ids=["utf-8", "cp1252", "ascii"],
)
def test_characters_that_an_output_lacks_are_plain_ones(table, encoding, minus, spread):
    output = rendered(table, 100, encoding)
    assert f"{minus}2.25 {spread} 0.20" in output
    assert "?" not in output
    rows = [line for line in output.splitlines() if line.startswith(("sgd ", "adam "))][:4]
    assert len({line.index(spread) for line in rows}) == 1, "the columns are still below each other"


def test_output_is_plain_on_cp1252(monkeypatch):
    raw = io.BytesIO()
    monkeypatch.setattr("sys.stdout", io.TextIOWrapper(raw, encoding="cp1252"))
    app = importlib.import_module("lossaware.cli.app")
    monkeypatch.setattr(app, "app", lambda *_, **__: print("−1.25 ≈ −1.20 — 5 ± 1 ≠ 7 ⠋"))
    with pytest.raises(SystemExit):
        app.main([])
    assert raw.getvalue().decode("cp1252").strip() == "-1.25 ~ -1.20 — 5 ± 1 != 7 ?"


@pytest.mark.parametrize("environment", [{"NO_COLOR": "1"}, {"TERM": "dumb"}])
def test_words_stay_where_colours_are_not_wanted(table, environment, monkeypatch):
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.delenv("COLORTERM", raising=False)
    terminal: dict[str, Any] = {"force_terminal": True, "_environ": {"TERM": "xterm-256color"}}
    assert re.search(r"\x1b\[1;32m *helps", rendered(table, 80, **terminal))
    plain = rendered(table, 80, force_terminal=True, _environ={"TERM": "xterm-256color", **environment})
    assert not re.search(r"\x1b\[[\d;]*3[0-7]m", plain), "no colour"
    assert re.sub(r"\x1b\[[\d;]*m", "", plain) == rendered(table, 80)


@pytest.mark.parametrize("columns", ["60", "wide"])
def test_without_a_terminal_columns_are_those_of_the_environment(table, monkeypatch, columns):
    monkeypatch.setenv("COLUMNS", columns)
    assert console(io.StringIO()).width == (60 if columns == "60" else 120)


def test_without_a_terminal_there_are_120_columns(table, monkeypatch):
    monkeypatch.delenv("COLUMNS", raising=False)
    file = io.StringIO()
    screen = console(file)
    screen.print(text.render(table, screen.width, screen.encoding))
    lines = file.getvalue().splitlines()
    assert screen.width == 120
    assert any(line.endswith("45 % of the epochs") for line in lines)
    assert "\x1b" not in file.getvalue()


def test_a_machine_reads_a_hyphen():
    from lossaware.studies.report.writers import write

    row = Row(("a",), [Cell("−1.50")])
    table = Table("T", ("name",), [("value",)], [row])
    assert write(table, "csv") == "name,value\na,-1.50\n"
    assert '"-1.50"' in write(table, "json")
    assert "−1.50" in write(replace(table), "markdown")
