"""Tables for a terminal."""

import io
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass

from rich.console import Console, Group, RenderableType
from rich.text import Text

from lossaware.studies.report.table import Cell, Names, Row, Table, spans

GAP = 2
"""Spaces between columns."""
NARROWEST = 12
"""A last column of words is wrapped down to so many characters, so that it stays beside the others."""
STYLES = {"helps": "bold green", "hurts": "bold red", "no difference shown": "", "too few seeds to tell": "yellow"}


def write(table: Table) -> str:
    """The table as plain text."""
    console = Console(file=io.StringIO(), width=120, color_system=None)
    console.print(render(table, console.width))
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def render(table: Table, width: int) -> RenderableType:
    """The table with everything around it."""
    return Group(body(table, width), below(table))


def body(table: Table, width: int) -> RenderableType:
    """The table below its title; columns that do not fit beside the others follow below them."""
    parts = [Text(), Text(table.title, style="bold")]
    parts += [Text(table.remark, style="dim")] if table.remark else []
    parts += [Text(line, style="yellow") for line in table.head]
    layout = _layout(table, width)
    for chosen in _blocks(table.heads, layout.widths, width - sum(layout.lead)):
        parts += [Text(), *_block(layout, chosen)]
    return Group(*parts)


def below(table: Table) -> RenderableType:
    """Legend, caption, notes and provenance, after an empty line; nothing where there are none."""
    lines = [Text(line) for line in table.explanations] + [Text(line, style="yellow") for line in table.legend]
    lines += [Text(line, style="dim") for line in table.below]
    return Group(Text(), *lines) if lines else Group()


@dataclass(frozen=True)
class _Layout:
    """The table and the widths of its columns: those of names, and those of cells."""

    table: Table
    lead: Sequence[int]
    widths: Sequence[int]


def _layout(table: Table, width: int) -> _Layout:
    lead = [max([len(axis), *(len(row.names[i]) for row in table.rows)]) + 3 for i, axis in enumerate(table.axes)]
    if table.with_lines:
        lead.append(max(len(name) for row in table.rows for name, _ in row.lines))
    widths = [
        GAP + max([len(head[-1]), *(len(texts[i]) for row in table.rows for _, texts in row.lines)])
        for i, head in enumerate(table.heads)
    ]
    last = len(widths) - 1
    room = width - sum(lead) - sum(widths[:-1])
    if last in table.text_columns and widths[last] > room >= GAP + NARROWEST:
        widths[last] = room
    return _Layout(table, lead, widths)


def _block(layout: _Layout, chosen: Sequence[int]) -> list[Text]:
    """Some columns of the table, a text per line."""
    table, lead, widths = layout.table, layout.lead, list(layout.widths)
    heads = [table.heads[i] for i in chosen]
    levels = len(heads[0])
    # A name above several columns may be wider than they are together.
    for level in range(levels - 1):
        start = 0
        for names, count in spans([head[: level + 1] for head in heads]):
            inside = chosen[start : start + count]
            widths[inside[-1]] += max(0, GAP + len(names[-1]) + 4 - sum(widths[i] for i in inside))
            start += count
    lines = []
    titles = (*table.axes, "") if table.with_lines else table.axes
    for level in range(levels):
        last = level == levels - 1
        text = "".join((axis if last else "").ljust(size) for axis, size in zip(titles, lead, strict=True))
        start = 0
        for names, count in spans([head[: level + 1] for head in heads]):
            if last:
                text += "".join(_aligned(layout, names[-1], i, widths[i]) for i in chosen[start : start + count])
            else:
                size = sum(widths[i] for i in chosen[start : start + count])
                text += " " * GAP + f" {names[-1]} ".center(size - GAP, "\u2500")
            start += count
        lines.append(Text(text.rstrip() if last else text, style="bold", no_wrap=True))
    for row in table.rows:
        lines += _row(layout, row, chosen, widths)
    return lines


def _row(layout: _Layout, row: Row, chosen: Sequence[int], widths: Sequence[int]) -> list[Text]:
    lead = layout.lead
    lines = []
    for number, (name, texts) in enumerate(row.lines):
        wrapped = {i: _wrapped(layout, texts[i], i, widths[i]) for i in chosen}
        for part in range(max(map(len, wrapped.values()), default=1)):
            line = Text(no_wrap=True)
            for title, size in zip(row.names, lead, strict=False):
                line.append((title if number == part == 0 else "").ljust(size))
            if layout.table.with_lines:
                line.append((name if part == 0 else "").ljust(lead[-1]), style="dim")
            for i in chosen:
                text = wrapped[i][part] if part < len(wrapped[i]) else ""
                line.append(_aligned(layout, text, i, widths[i]), style=_style(row.cells[i]) if number == 0 else "dim")
            line.rstrip()
            lines.append(line)
    return lines


def _aligned(layout: _Layout, text: str, column: int, width: int) -> str:
    left = column in layout.table.text_columns
    return " " * GAP + text.ljust(width - GAP) if left else text.rjust(width)


def _wrapped(layout: _Layout, text: str, column: int, width: int) -> list[str]:
    """The lines of a cell: only words are wrapped."""
    if column not in layout.table.text_columns or len(text) <= width - GAP:
        return [text]
    return textwrap.wrap(text, width - GAP) or [""]


def _style(cell: Cell) -> str:
    return STYLES[cell.verdict.word] if cell.verdict and not cell.text else ""


def _blocks(heads: Sequence[Names], widths: Sequence[int], room: int) -> list[list[int]]:
    """Columns that go beside each other: as many groups of one first name as fit, or parts of a group that does not."""
    groups: list[list[int]] = []
    for i, head in enumerate(heads):
        if groups and len(head) > 1 and heads[groups[-1][0]][0] == head[0]:
            groups[-1].append(i)
        else:
            groups.append([i])

    def size(columns: Sequence[int]) -> int:
        return sum(widths[i] for i in columns)

    blocks: list[list[int]] = [[]]
    for group in groups:
        if size(blocks[-1]) + size(group) <= room:
            blocks[-1] += group
        elif size(group) <= room:
            blocks.append(list(group))
        else:
            for i in group:
                if not blocks[-1] or size(blocks[-1]) + widths[i] > room or heads[blocks[-1][0]][0] != heads[i][0]:
                    blocks.append([])
                blocks[-1].append(i)
    return [block for block in blocks if block]
