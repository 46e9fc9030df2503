"""One self-contained page of everything that was measured: counts, all studies, and all pictures."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from html import unescape
from itertools import accumulate
from pathlib import Path

from lossaware.studies.analysis import lr_sensitivity as sensitivity
from lossaware.studies.analysis.collect import Measurements
from lossaware.studies.analysis.study_table import StudyTable
from lossaware.studies.report import lr_plot
from lossaware.studies.report import results_summary as summary
from lossaware.studies.report.artifacts import Rows, Saved, load
from lossaware.studies.report.page import render_page
from lossaware.studies.report.pictures import Picture
from lossaware.studies.report.study_html import Grid, grid
from lossaware.studies.specs.escape import svg_address
from lossaware.studies.specs.provenance import environment, format_provenance
from lossaware.studies.store.results import Results


@dataclass(frozen=True)
class Sheet:
    """A plain table.

    Attributes:
        heads: Names of the columns; the first column names the rows.
        rows: Cells.
        figures_from: The first column of figures, which stand on the right.
        sum: Whether the last row is the sum of the others.
    """

    heads: Sequence[str]
    rows: Sequence[Sequence[str]]
    figures_from: int = 1
    sum: bool = False


@dataclass(frozen=True)
class Drawing:
    """A picture in the page.

    Attributes:
        name: Where links lead to.
        title: What it shows.
        svg: The drawing; empty where there is nothing to draw.
        tables: Its figures, by what they are.
        made: When, where and by what command, in lines.
    """

    name: str
    title: str
    svg: str
    tables: Mapping[str, Sheet] = field(default_factory=dict)
    made: Sequence[str] = ()

    @property
    def address(self) -> str:
        """The drawing as the address of an image."""
        return svg_address(self.svg)

    @property
    def width(self) -> float:
        """Of the drawing, in points; 0 where there is none."""
        found = re.search(r'viewBox="[-\d.]+ [-\d.]+ ([\d.]+) ', self.svg)
        return float(found[1]) if found else 0

    @property
    def description(self) -> str:
        """What it shows, as it is said to those who do not see it."""
        found = re.search(r'aria-label="([^"]*)"', self.svg)
        return unescape(found[1]) if found else ""


@dataclass(frozen=True)
class Part:
    """A study in the page.

    Attributes:
        name: Where links lead to.
        title: Its title.
        state: How much of it was measured.
        head: What was overridden, and other things to know first.
        grid: The table.
        firsts: Columns with which a group of columns begins.
        caption: How to read the table.
        legend: What the letters in it mean.
        notes: What is particular about the published figures.
        made: When, where and by what command, in lines.
        pictures: The study over its learning rates.
    """

    name: str
    title: str
    state: str
    head: Sequence[str]
    grid: Grid
    firsts: Sequence[int]
    caption: str
    legend: Sequence[str]
    notes: Sequence[str]
    made: Sequence[str]
    pictures: Sequence[Drawing]


@dataclass(frozen=True)
class Chapter:
    """A part of the page with whatever it has.

    Attributes:
        name: Where links lead to.
        title: Its heading.
        texts: Paragraphs.
        table: Below them.
        caption: How to read it.
        studies: Further below.
        pictures: At the end.
    """

    name: str
    title: str
    texts: Sequence[str] = ()
    table: Sheet | None = None
    caption: str = ""
    studies: Sequence[Part] = ()
    pictures: Sequence[Drawing] = ()


@dataclass(frozen=True)
class ResultsReport:
    """What the page says: title, a line below it, the outcome in a few sentences, and the chapters."""

    title: str
    subtitle: str
    lead: str
    chapters: Sequence[Chapter]


FromRuns = Callable[[StudyTable, Results], Picture | None]
"""Draws a study from its runs; gives None where there is nothing to draw."""


def render(there: Measurements, results: Path, draw_figure2: FromRuns) -> str:
    """The page as HTML.

    Args:
        there: What was measured.
        results: The folder of pictures that ``lossaware figure`` and ``lossaware theory`` wrote.
        draw_figure2: Draws the paper's Figure 2 from the runs of Table 1.

    Raises:
        UsageError: A file is there but cannot be read.
    """
    return render_page("results.html", report=compose(there, results, draw_figure2))


def compose(there: Measurements, results: Path, draw_figure2: FromRuns) -> ResultsReport:
    """The page as data; arguments as for `render`."""
    tables = summary.all_tables(there)
    saved = {it.name: it for it in load(results)}
    rows = summary.counted(tables)
    together = rows[-1].found
    drawn_anew = {"figure02", *summary.drawn_over_rates(tables)}
    others = [it for name, it in saved.items() if name not in {*summary.PICTURES, *drawn_anew}]
    here = environment()
    chapters = [
        Chapter(
            "agreement",
            "Measured beside published",
            [summary.agreement_said(together)],
            Sheet(summary.AGREEMENT_HEADS, summary.agreement_rows(rows), sum=True),
            summary.AGREEMENT_READ,
        ),
        Chapter(
            "effects",
            "Does LGA help?",
            [summary.effects_said(together)],
            Sheet(summary.EFFECTS_HEADS, summary.effects_rows(rows), sum=True),
            summary.EFFECTS_READ,
        ),
        Chapter(
            "tables",
            "The paper's tables",
            [HOW_TO_READ],
            studies=[part(table, there) for table in tables if summary.of_the_paper(table.study)],
        ),
        Chapter(
            "figures",
            "The paper's figures and theory",
            pictures=[
                _saved("figure01", saved),
                _figure2(next(table for table in tables if table.study.name == "table01"), there, draw_figure2),
                _saved("theory", saved),
            ],
        ),
        Chapter(
            "studies",
            "Further studies",
            studies=[part(table, there) for table in tables if not summary.of_the_paper(table.study)],
            pictures=[_drawing(it) for it in others],
        ),
        Chapter(
            "files",
            "Files, and how to show or make them",
            table=Sheet(
                ("files", "what", "commands"),
                [
                    [it.pattern or "those of other studies", it.what, "\n".join(it.commands)]
                    for it in summary.files(results, tables, list(saved.values()))
                ],
                figures_from=3,
            ),
        ),
    ]
    return ResultsReport(
        title="LGA: everything that was measured",
        subtitle=f"lossaware {here['lossaware']} · {here['date'][:10]}",
        lead=summary.lead(together),
        chapters=chapters,
    )


HOW_TO_READ = (
    "In each cell: what was measured, with half the width of its 95 % t-interval where it has two seeds or more; below "
    "it the published figure, with ≈ where the two agree (see above) and ≠ where they differ, and in brackets measured "
    "minus published; neither where settings were overridden. Below a cell with LGA stands what the seeds say of it "
    "beside the same runs without."
)


def part(table: StudyTable, there: Measurements) -> Part:
    """A study, with its picture over the learning rates where it has any."""
    study, laid_out = table.study, grid(table)
    measured = summary.is_measured(table)
    spans = [head.span for head in laid_out.heads[0]] if len(laid_out.heads) > 1 else []
    missing = f"Not measured yet. To measure it: lossaware study run {study.name}"
    return Part(
        name=study.name,
        title=study.title,
        state=summary.how_much(table) if measured else "not run",
        head=table.head if measured else [missing + ("" if study.specs[0].task == "digits" else " --data DIR")],
        grid=laid_out,
        firsts=[0, *accumulate(spans)][:-1],
        caption=" ".join(filter(None, [study.file.caption, table.caption])),
        legend=table.legend,
        notes=study.file.notes,
        made=table.provenance,
        pictures=[_over_rates(table, there)] if f"{study.name}-lr" in summary.drawn_over_rates([table]) else [],
    )


def _over_rates(table: StudyTable, there: Measurements) -> Drawing:
    series = sensitivity.all_series(table)
    times = sensitivity.times(series, there.sources)
    series = [one for one in series if one.means]
    tables = {}
    for panel in dict.fromkeys(one.panel for one in series):
        tables[f"best, worst and mean scores on {panel}"] = Sheet(*lr_plot.score_overview(series, panel))
        if times:
            tables[f"time to the best scores on {panel}"] = Sheet(*lr_plot.time_overview(series, times, panel))
    title = f"{table.study.title.partition(':')[0]} by learning rate"
    return _placed(f"{table.study.name}-lr", title, lr_plot.draw_scores(series).svg, tables)


def _figure2(table: StudyTable, there: Measurements, draw_figure2: FromRuns) -> Drawing:
    title, command = summary.PICTURES["figure02"]
    if (picture := draw_figure2(table, there.sources)) is None:
        return Drawing("figure02", title, "", made=["Not run: lossaware study run table01 --data DIR"])
    made = [*table.provenance, f"To save it: {command}"]
    return _placed("figure02", title, picture.svg, made=made)


def _saved(name: str, saved: Mapping[str, Saved]) -> Drawing:
    if name in saved:
        return _drawing(saved[name])
    title, command = summary.PICTURES[name]
    return Drawing(name, title, "", made=[f"Not made: {command}"])


def _drawing(saved: Saved) -> Drawing:
    title, _ = summary.picture_of(saved)
    tables = {name: _sheet(rows) for name, rows in saved.tables.items() if rows}
    return _placed(saved.name, title, saved.svg, tables, format_provenance([saved.made_with]))


def _placed(
    name: str, title: str, svg: str, tables: Mapping[str, Sheet] | None = None, made: Sequence[str] = ()
) -> Drawing:
    return Drawing(name, title, svg, tables or {}, made)


def _sheet(rows: Rows) -> Sheet:
    heads = list(rows[0])
    return Sheet(heads, [[_short(row[head]) for head in heads] for row in rows])


def _short(text: str) -> str:
    """A number to five digits; everything else as it is."""
    try:
        return text if text.isdigit() else f"{float(text):.5g}"
    except ValueError:
        return text
