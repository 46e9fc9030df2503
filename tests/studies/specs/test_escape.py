"""Texts from foreign files, in every output: they stay text."""

import csv
import io
import json
import re
import warnings
from dataclasses import replace

import numpy as np
import pytest
from markdown_it import MarkdownIt
from matplotlib import rcParams
from matplotlib.figure import Figure as Canvas

from lossaware.cli.output import console, print_line, print_message
from lossaware.studies.analysis.collect import show
from lossaware.studies.analysis.export import export
from lossaware.studies.report.page import Report, render
from lossaware.studies.report.plot import Plot, label
from lossaware.studies.report.study_table import study_table
from lossaware.studies.report.writers import formats
from lossaware.studies.report.writers import text as terminal_text
from lossaware.studies.specs.escape import (
    csv_text,
    json_text,
    latex,
    markdown,
    markdown_code,
    matplotlib,
    svg_address,
    terminal,
)
from lossaware.studies.specs.study import parse_study
from lossaware.studies.store.folder import Launch
from lossaware.studies.store.results import Sources
from support.pages import Tags
from support.small_grid import TEXT, Known, fill, format_table

ESC = "\x1b]0;owned\x07\x1b[31m\x9b2J\rover"
NEWLINE = "line\n\\immediate\\write18{touch owned}"
HTML = '<script>alert(1)</script><img src="https://example.org/x.png" onerror="alert(1)">'
LINK = "![x](https://example.org/x.png) [y](javascript:alert(1)) `code` | cell"
FORMULA = '=HYPERLINK("https://example.org","x")'
FOREIGN = {"ESC": ESC, "newline": NEWLINE, "HTML": HTML, "link": LINK, "formula": FORMULA}


@pytest.fixture(params=[pytest.param(text, id=name) for name, text in FOREIGN.items()])
def table(request, grid):
    """A study in which every text that a file can give is a foreign one."""
    quoted = '"' + "".join(f"\\u{ord(c):04x}" for c in request.param) + '"'
    text = TEXT.replace('"A small grid"', quoted).replace("SGD", quoted).replace('"w/o LGA"', quoted)
    study = parse_study(f"caption = {quoted}\nnotes = [{quoted}]\n{text}", "grid")

    class Foreign(Known):
        def environment(self, spec):
            return {"date": "2026-01-02", "commit": request.param, "command": request.param}

    known = Foreign()
    fill(study, known)
    return replace(show(study, known, []), remarks=[request.param]), known


def controls(text: str) -> set[str]:
    return set(re.findall(r"[\x00-\x09\x0b-\x1f\x7f-\x9f]", text))


def test_nothing_from_a_file_reaches_the_terminal_but_text(table, capsys):
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    measured, _ = table
    for file in (Terminal(), io.StringIO()):
        screen = console(file)
        screen.print(terminal_text.render(study_table(measured), 200))
        screen.print("[bold]:smile:[/bold]", ESC)
        output = file.getvalue()
        own = re.sub(r"\x1b\[[\d;]*m", "", output)  # rich's colours
        assert controls(own) == set()
        assert "\x1b[31m" not in output
        assert "[bold]:smile:[/bold]" in own
    print_message(f"{ESC} of {NEWLINE}")
    print_line(ESC)
    output = capsys.readouterr()
    assert controls(output.out + output.err) == set()
    assert len(output.err.splitlines()) == 1
    assert "␛[31m" in output.out


def test_nothing_from_a_file_is_a_command_of_latex(table):
    tex = format_table(table[0], "latex")
    assert controls(tex) == set()
    body, comments = tex.split(r"\end{table}")
    commands = set(re.findall(r"\\([A-Za-z]+)", body))
    ours = "begin end centering caption toprule midrule bottomrule multicolumn cmidrule pm textbackslash textless"
    assert commands <= {*ours.split(), "textgreater", "textbar", "textasciitilde", "textasciicircum"}
    assert body.count("{") - body.count(r"\{") == body.count("}") - body.count(r"\}")
    assert re.search(r"(?<!\\)[$#_&~^](?!\\pm\$)", re.sub(r"\$(\\pm|-)\$| & ", "", body)) is None
    assert all(line.startswith("% ") for line in comments.strip().splitlines())


def test_nothing_from_a_file_is_html_or_a_link_in_markdown(table):
    page = format_table(table[0], "markdown")
    assert controls(page) == set()
    assert "<" not in page
    assert re.search(r"(?<!\\)[`\[](?!a\])", page) is None
    rows = [line for line in page.splitlines() if line.startswith("|")]
    assert {len(re.findall(r"(?<!\\)\|", line)) for line in rows} == {9}


def test_nothing_from_a_file_is_html_in_a_page(table):
    page = format_table(table[0], "html")
    assert set(re.findall(r"<(\w+)", page)) <= set("section h3 p table thead tbody tr th td span".split())
    tags = Tags(page)
    assert tags.open == []
    assert {name for _, attributes in tags.elements for name in attributes} <= {
        "class",
        "scope",
        "colspan",
        "aria-label",
    }


def test_nothing_from_a_file_is_computed_by_a_spreadsheet(table, tmp_path):
    measured, known = table
    export(measured, Sources([known]), [Launch.now(measured.study)], tmp_path)
    for text in (format_table(measured, "csv"), (tmp_path / "grid.csv").read_text()):
        assert controls(text) == set()
        cells = [cell for row in csv.reader(io.StringIO(text)) for cell in row]
        assert len(cells) > 100
        for cell in cells:
            if cell.lstrip().startswith(("=", "+", "-", "@")):
                float(cell)


def test_numbers_in_csv_stay_numbers():
    for text in ("-0.5", "+1", "-1e-05", "-inf", "nan", ".5", "1."):
        assert csv_text([[text, float("-0.5"), -1]]) == f"{text},-0.5,-1\n"
    for text in ("-1+1", "=1", "@x", "+cmd|' /C calc'!A0", " =1", "\t=1", "\n=1", "-"):
        [[cell]] = csv.reader(io.StringIO(csv_text([[text]])))
        assert cell.startswith("'")


def test_escaped_text_is_readable():
    plain = "a, b: 56.00 ± 12.71 (with LGA), 1e-3"
    for escape in (terminal, latex, markdown, matplotlib):
        assert escape(plain) == plain.replace("±", r"$\pm$") if escape is latex else plain
    assert markdown("56.00 [a] of task_options.x") == "56.00 [a] of task_options.x"
    assert markdown("[a]: http://x [a](b) _c_ [a][b]") == r"\[a]: http://x \[a](b) \_c\_ \[a][b]"
    assert terminal("über\nµ\t— 日本") == "über\nµ\t— 日本"
    assert markdown_code("a`b|c\nd") == r"`a'b\|c d`"


HIDDEN = "\u202e12.5\u2066\u200b\u00ad\u2060\ufeff\U000e0041\x9b"
"""Marks for the direction of writing, by which 12.5 reads 5.21, and invisible characters."""


def test_nothing_turns_the_direction_of_writing_or_hides(grid):
    known = Known()
    fill(grid, known)
    measured = replace(show(grid, known, []), remarks=[HIDDEN])
    for kind in set(formats()) - {"text"}:  # which the console escapes
        text = format_table(measured, kind)
        assert not set(HIDDEN) & set(text) - set("12.5"), kind
    assert HIDDEN not in render(Report(HIDDEN, HIDDEN, HIDDEN, [])).replace("12.5", "")
    assert not set(HIDDEN) & set(render(Report(HIDDEN, HIDDEN, HIDDEN, []))) - set("12.5")
    assert json.loads(json_text([HIDDEN, "\ud800", "é"])) == [HIDDEN, "\ud800", "é"]
    assert terminal("\u200d\u200c") == "\u200d\u200c", "some scripts and emoji need the joiners"


def test_the_settings_of_a_folder_do_not_decide_how_a_plot_is_drawn(monkeypatch):
    """Matplotlib reads a matplotlibrc from the current folder; with this one it would run LaTeX."""
    plot = Plot(lambda canvas: label(canvas.subplots(), "a"), (3, 2), "x")
    before = plot.svg()
    monkeypatch.setitem(rcParams, "lines.linewidth", 9)
    monkeypatch.setitem(rcParams, "savefig.facecolor", "red")
    monkeypatch.setitem(rcParams, "text.usetex", True)
    assert plot.svg() == before
    assert rcParams["text.usetex"], "it is as it was for the user's own plots"


@pytest.mark.parametrize("name", [r"$\frac$", "$a$", "_hidden", ESC, "\\$x\\$"], ids=range(5))
def test_a_name_in_a_picture_is_neither_a_formula_nor_left_out(name):
    def plot(canvas: Canvas) -> None:
        axes = canvas.subplots()
        axes.plot([0, 1], label=matplotlib(name))
        label(axes, name)
        axes.legend()

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph")  # no font has pictures of control characters
        svg = Plot(plot, (3, 2), "x").svg()
    assert svg.count(matplotlib(name).replace(r"\$", "$").strip()) == 2


PIECES = [
    *FOREIGN.values(),
    *"\\{}$&#%_^~<>|`*[]()!:=+-@\"'\t\n\r\x1b\x9b\x00\u202e\ud800 ab1",
    *("\r\n", "\\", "](", "![", "$$", "``"),
]
ROUNDS = [200, pytest.param(50_000, marks=[pytest.mark.mutations, pytest.mark.timeout(1800)])]


@pytest.mark.parametrize("rounds", ROUNDS)
def test_random_texts_stay_texts_in_every_output(rounds):
    random = np.random.default_rng(rounds)
    reader = MarkdownIt("commonmark", {"html": True}).enable(["table", "strikethrough"])
    for _ in range(rounds):
        text = "".join(random.choice(np.array(PIECES, dtype=object), int(random.integers(1, 12))))
        assert controls(terminal(text)) <= {"\t"}
        tex = latex(text)
        assert "\n" not in tex
        plain = re.sub(r"\$\\(pm|mu|sigma)\$|\\text\w+\{\}|\\[&%$#_{}]|\{\[\}|\{\]\}", "", tex)
        assert re.search(r"[\\{}$&#%_^~]", plain) is None, text
        tokens = reader.parseInline(markdown(text))[0].children
        assert {token.type for token in tokens} <= {"text", "text_special", "entity"}, text
        table = reader.parse(f"| a | b |\n|---|---|\n| {markdown(text)} | x |\n")
        cells = [token for token in table if token.type == "td_open"]
        assert len(cells) == 2, text
        [row] = csv.reader(io.StringIO(csv_text([[text, "x"]]), newline=""))
        assert len(row) == 2
        assert row[0].lstrip()[:1] not in ("=", "+", "-", "@") or float(row[0]) is not None
        assert svg_address(text.encode(errors="replace").decode()).isascii()
        assert matplotlib(text).count("$") == matplotlib(text).count(r"\$")
