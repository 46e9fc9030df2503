"""The table of a study for a page: the paper's layout, with all that is known of a cell inside the cell."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from lossaware.studies.analysis.counts import comparisons
from lossaware.studies.analysis.statistics import Word
from lossaware.studies.analysis.study_table import Key, Measured, StudyTable
from lossaware.studies.report.study_table import digits_of, show_difference, show_mean, show_published, spans


@dataclass(frozen=True)
class Head:
    """A name above columns, or before rows.

    Attributes:
        name: What it says.
        span: How many it stands for.
    """

    name: str
    span: int


@dataclass(frozen=True)
class Figure:
    """What a cell says, as texts; empty where there is nothing to say.

    Attributes:
        measured: Mean and half width, or that it was not run.
        there: Whether it was.
        mark: The letter under which the legend says more.
        published: As it was printed.
        sign: Whether the published figure lies in the interval.
        difference: Measured minus published.
        word: The verdict on the cell and its base.
    """

    measured: str
    there: bool
    mark: str
    published: str
    sign: str
    difference: str
    word: Word | None


@dataclass(frozen=True)
class Line:
    """A row: the names that begin at it, and its cells."""

    names: Sequence[Head]
    figures: Sequence[Figure]


@dataclass(frozen=True)
class Grid:
    """The table.

    Attributes:
        axes: What the names of the rows are.
        heads: Names above the columns, a list a level.
        groups: Rows that have their first name in common, where rows have several.
    """

    axes: Sequence[str]
    heads: Sequence[Sequence[Head]]
    groups: Sequence[Sequence[Line]]


SIGNS = {True: "≈", False: "≠", None: ""}


def grid(table: StudyTable) -> Grid:
    """The table, ready to be laid out."""
    study, marks = table.study, table.marks
    words = {it.variant: it.verdict.word for it in comparisons(table) if it.verdict}
    heads = [
        [Head(names[-1], span) for names, span in spans([column[: level + 1] for column in study.columns])]
        for level in range(len(study.file.columns))
    ]
    lines = []
    for row in study.rows:
        digits = digits_of([table.cells[row, column] for column in study.columns])
        lines.append(
            [
                _figure((row, column), table.cells[row, column], count, marks, words)
                for column, count in zip(study.columns, digits, strict=True)
            ]
        )
    if len(study.file.rows) == 1:
        plain = [Line([Head(row[0], 1)], figures) for row, figures in zip(study.rows, lines, strict=True)]
        return Grid(study.file.rows, heads, [plain])
    groups = []
    at = 0
    for _, count in spans([row[:-1] for row in study.rows]):
        part = range(at, at + count)
        # The names before the last stand once, beside all rows of their group.
        first = [Head(name, count) for name in study.rows[at][:-1]]
        groups.append([Line([*(first if i == at else []), Head(study.rows[i][-1], 1)], lines[i]) for i in part])
        at += count
    return Grid(study.file.rows, heads, groups)


def _figure(key: Key, measured: Measured, digits: int, marks: Mapping[Key, str], words: Mapping[Key, Word]) -> Figure:
    return Figure(
        measured=show_mean(measured, digits),
        there=measured.there,
        mark=marks.get(key, ""),
        published=show_published(measured, digits),
        sign=SIGNS[measured.agrees],
        difference=show_difference(measured, digits),
        word=words.get(key),
    )
