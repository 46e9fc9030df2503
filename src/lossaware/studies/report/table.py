"""The table of texts that all reports build and all writers write."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from lossaware.studies.analysis.statistics import Verdict
from lossaware.studies.report.numbers import hyphens

Names = tuple[str, ...]


@dataclass(frozen=True)
class Cell:
    """The texts of a cell; empty if there is nothing to show.

    Attributes:
        text: The content, or the first of its lines.
        missing: Whether there is no measurement.
        mark: The letter of its entry in the legend.
        published: The published figure as it was printed.
        sign: Whether the published figure lies in the interval: ``≈``, ``≠`` or nothing.
        difference: Measured minus published.
        verdict: The verdict on the cell. It is the content if there is no text.
    """

    text: str = ""
    missing: bool = False
    mark: str = ""
    published: str = ""
    sign: str = ""
    difference: str = ""
    verdict: Verdict | None = None

    @property
    def content(self) -> str:
        """The text; if it is empty, the verdict."""
        return self.text or (self.verdict.word if self.verdict else "")

    @property
    def marked(self) -> str:
        """The content and its mark: ``56.00 [a]``."""
        return f"{self.content} [{self.mark}]" if self.mark else self.content


@dataclass(frozen=True)
class Row:
    """A row: its name along each axis, and its cells."""

    names: Names
    cells: Sequence[Cell]

    @property
    def lines(self) -> list[tuple[str, list[str]]]:
        """The lines of the row by name: measured, published, difference."""
        lines = {
            "measured": [cell.marked for cell in self.cells],
            "published": [cell.published for cell in self.cells],
            "difference": [cell.difference for cell in self.cells],
        }
        return [(name, texts) for name, texts in lines.items() if name == "measured" or any(texts)]


@dataclass(frozen=True)
class Table:
    """A table, ready to be written.

    Attributes:
        title: The heading.
        axes: Names of the columns that hold the names of the rows.
        heads: Names of each column, from the outermost level to the innermost.
        rows: From top to bottom.
        text_columns: Columns of words, aligned on the left.
        optional: Columns that are left out if the output is too narrow, with their meanings.
        with_lines: Whether to show the name of each line of a row: measured, published, difference.
        total: Whether the last row is the sum of the others.
        remark: A sentence below the title.
        head: Warnings above the table.
        explanations: Explanations of the verdicts on single rows, if their cells do not show the reason.
        legend: Meanings of the marks, and notes on single rows.
        caption: How to read the table.
        notes: Notes on the published figures.
        provenance: Date, machine and command of the measurements.
        records: The table for programs: one mapping per row or cell, with all its values.
        facts: Values that all records share.
    """

    title: str
    axes: Names
    heads: Sequence[Names]
    rows: Sequence[Row]
    text_columns: frozenset[int] = frozenset()
    optional: Mapping[int, str] = field(default_factory=dict)
    with_lines: bool = False
    total: bool = False
    remark: str = ""
    head: Sequence[str] = ()
    explanations: Sequence[str] = ()
    legend: Sequence[str] = ()
    caption: str = ""
    notes: Sequence[str] = ()
    provenance: Sequence[str] = ()
    records: Sequence[Mapping[str, Any]] = ()
    facts: Mapping[str, Any] = field(default_factory=dict)

    @property
    def below(self) -> list[str]:
        """The lines below the table, without the legend."""
        caption = " ".join(filter(None, [self.caption, *self.optional.values()]))
        return [*filter(None, [caption]), *(f"Note: {note}" for note in self.notes), *self.provenance]

    @property
    def plain_records(self) -> Sequence[Mapping[str, Any]]:
        """The `records`; if empty, the texts by column name, with hyphens for minus signs."""
        columns = [*self.axes, *map(", ".join, self.heads)]
        return self.records or [
            dict(zip(columns, (*row.names, *(hyphens(cell.content) for cell in row.cells)), strict=True))
            for row in self.rows
        ]


def plain_table(
    title: str,
    heads: Sequence[str],
    rows: Sequence[Sequence[str]],
    *,
    text_columns: Sequence[int] = (),
    total: bool = False,
) -> Table:
    """A table of texts; the first column has the names of the rows, and ``text_columns`` counts from the next."""
    return Table(
        title,
        tuple(heads[:1]),
        [(head,) for head in heads[1:]],
        [Row(tuple(row[:1]), [Cell(text) for text in row[1:]]) for row in rows],
        text_columns=frozenset(text_columns),
        total=total,
    )


def spans(names: Sequence[Names]) -> list[tuple[Names, int]]:
    """Groups of equal neighbours, with their lengths."""
    groups: list[tuple[Names, int]] = []
    for name in names:
        if groups and groups[-1][0] == name:
            groups[-1] = (name, groups[-1][1] + 1)
        else:
            groups.append((name, 1))
    return groups


def finite(value: float) -> float | None:
    """The value for a record: None if it is not finite."""
    return float(value) if math.isfinite(value) else None
