"""A self-contained HTML page: tables with verdicts, figures, and facts of the runs."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from lossaware.errors import UsageError
from lossaware.studies.report.curves import Figure
from lossaware.studies.report.table import Table
from lossaware.studies.report.writers.html import render_template
from lossaware.studies.specs.atomic import check_writable, write_atomic
from lossaware.studies.specs.regular_file import check_regular

_GENERATOR = '<meta name="generator" content="lossaware'


@dataclass(frozen=True)
class Plots:
    """Figures with an optional heading and an optional sentence."""

    heading: str
    text: str
    figures: Sequence[Figure]


@dataclass(frozen=True)
class Section:
    """A part of the page: a heading, and optionally text, a table and plots.

    A folded section shows only its heading until a reader opens it.
    """

    heading: str
    text: str = ""
    table: Table | None = None
    plots: Sequence[Plots] = ()
    folded: bool = False


@dataclass(frozen=True)
class Report:
    """The content of a page.

    Attributes:
        title: Title of the page.
        subtitle: One line below the title.
        lead: The outcome, in a sentence or two.
        sections: The body.
        badges: The verdicts at the top: each word, and how it is shown, such as ``3 no difference shown``.
        legend: Labels of the series in the figures, in the order of their colours.
        facts: Groups of facts on the runs: heading, then names and values.
        command: The exact command.
    """

    title: str
    subtitle: str
    lead: str
    sections: Sequence[Section]
    badges: Sequence[tuple[str, str]] = ()
    legend: Sequence[str] = ()
    facts: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    command: str = ""


def render(report: Report) -> str:
    """The page as HTML."""
    return render_template("report.html", report=report)


def check_replaceable(path: Path) -> None:
    """Check that a report can be written to ``path``, and create its folder.

    Raises:
        UsageError: The folder cannot be written to, or an existing file is not a report of this package.
    """
    check_writable(path.parent)
    try:
        if not path.exists():
            return
        check_regular(path, path.stat().st_mode)
        with path.open(encoding="utf-8", errors="replace") as file:
            head = file.read(2000)
    except OSError as error:
        raise UsageError(f"cannot write to {path.parent}: {error.strerror or error}") from None
    if _GENERATOR not in head:
        raise UsageError(f"{path} is not a report of lossaware and is not overwritten: choose another --out")


def write(report: Report, path: Path) -> None:
    """Write the page atomically.

    Raises:
        UsageError: See `check_replaceable`; or the disk is full.
    """
    check_replaceable(path)
    write_atomic(path, render(report))
