"""Tables as HTML, alone or in a page."""

from dataclasses import dataclass, replace
from itertools import accumulate
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from lossaware._version import __version__
from lossaware.studies.report.alignment import FIGURE, aligned
from lossaware.studies.report.plot import PALETTE, SERIES
from lossaware.studies.report.table import Row, Table, spans
from lossaware.studies.specs.escape import terminal
from lossaware.studies.specs.provenance import without_home


def write(table: Table) -> str:
    """The table as a fragment of a page, with its notes."""
    return render_template("fragment.html", table=table)


def render_template(template: str, **content: Any) -> str:
    """A page from a template of this package; all pages have the style of ``page.html``."""
    environment = Environment(
        loader=PackageLoader("lossaware.studies.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals.update(version=__version__, layout=layout, palette=PALETTE, colors=len(SERIES))
    # Marks for the direction of writing are replaced: they would reverse the digits after them.
    return terminal(without_home(environment.get_template(template).render(**content)))


@dataclass(frozen=True)
class Head:
    """A heading of columns or rows, and the number of those that it spans."""

    name: str
    span: int


@dataclass(frozen=True)
class Line:
    """A row, and the headings that begin at it."""

    names: list[Head]
    row: Row


@dataclass(frozen=True)
class Layout:
    """A table for a page.

    Attributes:
        table: The table.
        heads: Headings of the columns, one list per level.
        groups: Rows with the same names except the last, if rows have several names.
        firsts: The first columns of groups of columns.
    """

    table: Table
    heads: list[list[Head]]
    groups: list[list[Line]]
    firsts: list[int]


def layout(table: Table) -> Layout:
    """The table, ready for a template."""
    table = _aligned(table)
    levels = len(table.heads[0]) if table.heads else 0
    heads = [
        [Head(names[-1], span) for names, span in spans([head[: level + 1] for head in table.heads])]
        for level in range(levels)
    ]
    firsts = [0, *accumulate(head.span for head in heads[0])][:-1] if levels > 1 else []
    return Layout(table, heads, _groups(table), firsts)


def _aligned(table: Table) -> Table:
    """The table with figures below each other, where each cell has one figure."""
    if table.with_lines:
        return table
    columns = []
    for i in range(len(table.heads)):
        texts = [row.cells[i].text for row in table.rows]
        has_points = i not in table.text_columns and any("." in text or "%" in text for text in texts)
        columns.append(aligned(texts, FIGURE) if has_points else texts)
    rows = [
        replace(row, cells=[replace(cell, text=texts[number]) for cell, texts in zip(row.cells, columns, strict=True)])
        for number, row in enumerate(table.rows)
    ]
    return replace(table, rows=rows)


def _groups(table: Table) -> list[list[Line]]:
    if len(table.axes) == 1 or not table.with_lines:
        return [[Line([Head(name, 1) for name in row.names], row) for row in table.rows]]
    groups = []
    start = 0
    for _, count in spans([row.names[:-1] for row in table.rows]):
        rows = table.rows[start : start + count]
        # Names before the last appear once, and span all rows of their group.
        first = [Head(name, count) for name in rows[0].names[:-1]]
        groups.append([Line([*(first if i == 0 else []), Head(row.names[-1], 1)], row) for i, row in enumerate(rows)])
        start += count
    return groups
