"""A self-contained page of all results: counts, studies, and plots."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from lossaware.studies.analysis import lr_sensitivity as sensitivity
from lossaware.studies.analysis.collect import Measurements
from lossaware.studies.analysis.study_table import StudyTable
from lossaware.studies.report import lr_plot
from lossaware.studies.report import results_summary as summary
from lossaware.studies.report.artifacts import Rows, Saved, load
from lossaware.studies.report.image import Image
from lossaware.studies.report.plot import Plot
from lossaware.studies.report.study_table import study_table
from lossaware.studies.report.table import Table, plain_table
from lossaware.studies.report.writers.html import render_template
from lossaware.studies.specs.provenance import environment, format_provenance
from lossaware.studies.store.results import Results


@dataclass(frozen=True)
class Drawing:
    """A plot in the page.

    Attributes:
        name: Anchor for links.
        title: Its title.
        image: The plot; None without results.
        tables: Its numbers, by title.
        provenance: Date, machine and command, in lines.
    """

    name: str
    title: str
    image: Image | None = None
    tables: Mapping[str, Table] = field(default_factory=dict)
    provenance: Sequence[str] = ()


@dataclass(frozen=True)
class Part:
    """A study in the page.

    Attributes:
        name: Anchor for links.
        state: The share of cells with results.
        head: Overrides and other lines above the table.
        table: The table.
        pictures: The study over its learning rates.
    """

    name: str
    state: str
    head: Sequence[str]
    table: Table
    pictures: Sequence[Drawing]


@dataclass(frozen=True)
class Chapter:
    """A chapter of the page, in this order.

    Attributes:
        name: Anchor for links.
        title: Its heading.
        texts: Paragraphs.
        table: A table.
        caption: Explanation of the table.
        studies: Studies.
        pictures: Plots.
    """

    name: str
    title: str
    texts: Sequence[str] = ()
    table: Table | None = None
    caption: str = ""
    studies: Sequence[Part] = ()
    pictures: Sequence[Drawing] = ()


@dataclass(frozen=True)
class ResultsReport:
    """The content of the page: title, subtitle, the outcome in a few sentences, and the chapters."""

    title: str
    subtitle: str
    lead: str
    chapters: Sequence[Chapter]


FromRuns = Callable[[StudyTable, Results], Plot | None]
"""Plots a study from its runs; None without runs."""


def render(measured: Measurements, results: Path, plot_figure2: FromRuns) -> str:
    """The page as HTML.

    Args:
        measured: The results.
        results: The folder of plots from ``lossaware plot`` and ``lossaware theory``.
        plot_figure2: Plots the paper's Figure 2 from the runs of Table 1.

    Raises:
        UsageError: A file exists but cannot be read.
    """
    return render_template("results.html", report=compose(measured, results, plot_figure2))


def compose(measured: Measurements, results: Path, plot_figure2: FromRuns) -> ResultsReport:
    """The page as data; for the arguments see `render`."""
    tables = summary.all_tables(measured)
    saved = {it.name: it for it in load(results)}
    rows = summary.counted(tables)
    together = rows[-1].counts
    redrawn = {"figure02", *summary.drawn_over_rates(tables)}
    others = [it for name, it in saved.items() if name not in {*summary.PICTURES, *redrawn}]
    here = environment()
    chapters = [
        Chapter(
            "agreement",
            "Measured and published figures",
            [summary.agreement_text(together)],
            summary.agreement_table(rows),
            summary.AGREEMENT_READ,
        ),
        Chapter(
            "effects",
            "Does LGA help?",
            [summary.effects_text(together)],
            summary.effects_table(rows),
            summary.EFFECTS_READ,
        ),
        Chapter(
            "tables",
            "The paper's tables",
            [HOW_TO_READ],
            studies=[part(table, measured) for table in tables if summary.of_the_paper(table.study)],
        ),
        Chapter(
            "figures",
            "The paper's figures and theory",
            pictures=[
                _saved("figure01", saved),
                _figure2(next(table for table in tables if table.study.name == "table01"), measured, plot_figure2),
                _saved("theory", saved),
            ],
        ),
        Chapter(
            "studies",
            "Further studies",
            studies=[part(table, measured) for table in tables if not summary.of_the_paper(table.study)],
            pictures=[_drawing(it) for it in others],
        ),
        Chapter(
            "files",
            "Files and commands",
            table=summary.files_table(
                ("files", "content", "commands"),
                [
                    (it.pattern or "those of other studies", it.content, "\n".join(it.commands))
                    for it in summary.files(results, tables, list(saved.values()))
                ],
            ),
        ),
    ]
    return ResultsReport(
        title="LGA: all results",
        subtitle=f"lossaware {here['lossaware']} · {here['date'][:10]}",
        lead=summary.outcome(together),
        chapters=chapters,
    )


HOW_TO_READ = (
    "Each cell shows the measured value, with half the width of its 95 % t-interval if it has three or more seeds (the "
    "lowest and the highest seed, if the interval would be wider than all possible scores). Below it are the published "
    "figure, marked ≈ if the two agree (see above) and ≠ if they differ, and in brackets measured minus published. "
    "Cells with overridden settings do not show these. Cells with LGA also show the verdict against the same runs "
    "without LGA."
)


def part(table: StudyTable, measured: Measurements) -> Part:
    """A study, with its plot over the learning rates if it has several."""
    study = table.study
    has_results = summary.is_measured(table)
    missing = f"Not measured yet. To run it: lossaware study run {study.name}"
    return Part(
        name=study.name,
        state=summary.how_much(table) if has_results else "not run",
        head=table.head if has_results else [missing + ("" if study.specs[0].task == "digits" else " --data DIR")],
        table=study_table(table),
        pictures=[_over_rates(table, measured)] if f"{study.name}-lr" in summary.drawn_over_rates([table]) else [],
    )


def _over_rates(table: StudyTable, measured: Measurements) -> Drawing:
    series = sensitivity.all_series(table)
    times = sensitivity.times(series, measured.sources)
    series = [one for one in series if one.means]
    tables = {}
    for panel in dict.fromkeys(one.panel for one in series):
        tables[f"best, worst and mean scores on {panel}"] = lr_plot.score_overview(series, panel)
        if times:
            tables[f"time to the best scores on {panel}"] = lr_plot.time_overview(series, times, panel)
    title = f"{table.study.title.partition(':')[0]} by learning rate"
    return Drawing(f"{table.study.name}-lr", title, Image.of(lr_plot.plot_series(series)), tables)


def _figure2(table: StudyTable, measured: Measurements, plot_figure2: FromRuns) -> Drawing:
    title, command = summary.PICTURES["figure02"]
    if (plot := plot_figure2(table, measured.sources)) is None:
        return Drawing("figure02", title, provenance=["Not run: lossaware study run table01 --data DIR"])
    provenance = [*table.provenance, f"To save it: {command}"]
    return Drawing("figure02", title, Image.of(plot), provenance=provenance)


def _saved(name: str, saved: Mapping[str, Saved]) -> Drawing:
    if name in saved:
        return _drawing(saved[name])
    title, command = summary.PICTURES[name]
    return Drawing(name, title, provenance=[f"Not made: {command}"])


def _drawing(saved: Saved) -> Drawing:
    title, _ = summary.picture_of(saved)
    tables = {name: _numbers(name, rows) for name, rows in saved.tables.items() if rows}
    return Drawing(saved.name, title, saved.image, tables, format_provenance([saved.made_with]))


def _numbers(name: str, rows: Rows) -> Table:
    heads = list(rows[0])
    return plain_table(name, heads, [[_short(row[head]) for head in heads] for row in rows])


def _short(text: str) -> str:
    """A number to five digits; other texts are not changed."""
    try:
        return text if text.isdigit() else f"{float(text):.5g}"
    except ValueError:
        return text
