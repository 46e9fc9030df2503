"""Tables for a terminal."""

import io
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from rich.console import Console, Group, RenderableType
from rich.text import Text

from lossaware.studies.report.alignment import aligned
from lossaware.studies.report.table import Cell, Row, Table, spans
from lossaware.studies.specs.escape import encodable

GAP = 2
"""Spaces between columns."""
NARROWEST = 13
"""Minimum width of wrapped words, so that more columns fit next to each other."""
STYLES = {
    "helps": "bold green",
    "hurts": "bold red",
    "no difference shown": "",
    "too few seeds to tell": "yellow",
    "failed": "bold red",
}


def write(table: Table, width: int = 120) -> str:
    """The table as plain text, in lines of at most this width where it fits."""
    console = Console(file=io.StringIO(), width=width, color_system=None)
    console.print(render(table, console.width))
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def render(table: Table, width: int, encoding: str = "utf-8") -> RenderableType:
    """The table with title, legend and notes, in characters of that encoding."""
    return Group(body(table, width, encoding), below(table, width, encoding))


def body(table: Table, width: int, encoding: str = "utf-8") -> RenderableType:
    """The title and the table; columns that do not fit into the width follow in further blocks."""
    layout = _layout(table, width, encoding)
    parts = [Text(), Text(layout.table.title, style="bold")]
    parts += [Text(layout.table.remark, style="dim")] if layout.table.remark else []
    parts += [Text(line, style="yellow") for line in layout.table.head]
    for chosen in _blocks(layout, width - sum(layout.lead)):
        parts += [Text(), *_block(layout, chosen)]
    return Group(*parts)


def below(table: Table, width: int, encoding: str = "utf-8") -> RenderableType:
    """An empty line, then explanations, legend, caption, notes and provenance; nothing if all of them are empty."""
    layout = _layout(table, width, encoding)
    left_out = [table.heads[i][-1] for i in table.optional if i not in layout.columns]
    visible = replace(layout.table, optional={i: it for i, it in layout.table.optional.items() if i in layout.columns})
    lines = [Text(line) for line in visible.explanations] + [Text(line, style="yellow") for line in visible.legend]
    lines += [Text(line, style="dim") for line in visible.below]
    lines += [Text(f"Not shown in {width} columns: {', '.join(left_out)}.", style="dim")] if left_out else []
    return Group(Text(), *lines) if lines else Group()


@dataclass(frozen=True)
class _Layout:
    """The layout of a table in a given width.

    Attributes:
        table: The table, in characters of the encoding.
        lead: Widths of the columns that hold the names of rows and lines.
        columns: The widths of the other shown columns.
        texts: Their texts by row, line and column; figures are aligned.
    """

    table: Table
    lead: Sequence[int]
    columns: Mapping[int, int]
    texts: Sequence[Sequence[Mapping[int, str]]]


def _layout(table: Table, width: int, encoding: str) -> _Layout:
    table = _in_encoding(table, encoding)
    texts = _texts(table)
    columns = {
        i: GAP + max([len(head[-1]), *(len(line[i]) for row in texts for line in row)])
        for i, head in enumerate(table.heads)
    }
    always = table.text_columns - set(table.optional)
    words = max((_narrow(table, i, columns[i]) for i in columns if i in always), default=0)
    lead = _lead(table, width - words)
    room = width - sum(lead)
    if sum(columns.values()) > room:
        columns = {i: size for i, size in columns.items() if i not in table.optional}
    for i in sorted(table.text_columns & set(columns), key=lambda i: -columns[i]):
        too_wide = sum(columns.values()) - room
        if 0 < too_wide <= columns[i] - _narrow(table, i, columns[i]):
            columns[i] -= too_wide
    return _Layout(table, lead, columns, texts)


def _narrow(table: Table, column: int, width: int) -> int:
    """The minimum width of a column of words."""
    return min(width, GAP + max(NARROWEST, len(table.heads[column][-1])))


def _lead(table: Table, room: int) -> list[int]:
    """The widths of the columns of names. Long names are wrapped if a column of words would not fit."""
    lines = [max(len(name) for row in table.rows for name, _ in row.lines)] * table.with_lines
    gaps = [GAP] * (len(table.axes) - (not table.with_lines)) + [0] * (not table.with_lines)
    sizes = [max([len(axis), *(len(row.names[i]) for row in table.rows)]) for i, axis in enumerate(table.axes)]
    least = [max(len(axis), 8) for axis in table.axes]
    too_long = sum((*sizes, *gaps, *lines)) - room
    for i in sorted(range(len(sizes)), key=lambda i: -sizes[i]):
        cut = max(0, min(too_long, sizes[i] - least[i]))
        sizes[i] -= cut
        too_long -= cut
    return [*(size + gap for size, gap in zip(sizes, gaps, strict=True)), *lines]


def _texts(table: Table) -> list[list[dict[int, str]]]:
    lines = [[list(texts) for _, texts in row.lines] for row in table.rows]
    for i in range(len(table.heads)):
        if i not in table.text_columns:
            column = iter(aligned([line[i] for row in lines for line in row]))
            for line in (line for row in lines for line in row):
                line[i] = next(column)
    return [[dict(enumerate(line)) for line in row] for row in lines]


def _in_encoding(table: Table, encoding: str) -> Table:
    """The table in characters of the encoding."""

    def plain(text: str) -> str:
        return encodable(text, encoding)

    def cell(it: Cell) -> Cell:
        return replace(it, text=plain(it.text), published=plain(it.published), difference=plain(it.difference))

    return replace(
        table,
        title=plain(table.title),
        axes=tuple(map(plain, table.axes)),
        heads=[tuple(map(plain, head)) for head in table.heads],
        rows=[Row(tuple(map(plain, row.names)), [cell(it) for it in row.cells]) for row in table.rows],
        remark=plain(table.remark),
        caption=plain(table.caption),
        optional={i: plain(it) for i, it in table.optional.items()},
        head=[*map(plain, table.head)],
        explanations=[*map(plain, table.explanations)],
        legend=[*map(plain, table.legend)],
        notes=[*map(plain, table.notes)],
        provenance=[*map(plain, table.provenance)],
    )


def _block(layout: _Layout, chosen: Sequence[int]) -> list[Text]:
    """Some columns of the table, a text per line."""
    table, lead, widths = layout.table, layout.lead, dict(layout.columns)
    heads = [table.heads[i] for i in chosen]
    levels = len(heads[0])
    # A name above several columns may be wider than the columns.
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
                text += "".join(_placed(layout, names[-1], i, widths[i]) for i in chosen[start : start + count])
            else:
                size = sum(widths[i] for i in chosen[start : start + count])
                text += " " * GAP + f" {names[-1]} ".center(size - GAP, "\u2500")
            start += count
        lines.append(Text(text.rstrip() if last else text, style="bold", no_wrap=True))
    for row, texts in zip(table.rows, layout.texts, strict=True):
        lines += _row(layout, row, texts, chosen, widths)
    return lines


def _row(
    layout: _Layout, row: Row, texts: Sequence[Mapping[int, str]], chosen: Sequence[int], widths: Mapping[int, int]
) -> list[Text]:
    lead = layout.lead
    lines = []
    for number, ((name, _), line_texts) in enumerate(zip(row.lines, texts, strict=True)):
        titles = row.names if number == 0 else [""] * len(row.names)
        gaps = [GAP] * (len(titles) - (not layout.table.with_lines)) + [0]
        names = [_wrapped(it, size - gap) for it, size, gap in zip(titles, lead, gaps, strict=False)]
        cells = {
            i: _wrapped(line_texts[i], widths[i] - GAP) if i in layout.table.text_columns else [line_texts[i]]
            for i in chosen
        }
        for part in range(max(map(len, (*names, *cells.values())), default=1)):
            line = Text(no_wrap=True)
            for title, size in zip(names, lead, strict=False):
                line.append((title[part] if part < len(title) else "").ljust(size))
            if layout.table.with_lines:
                line.append((name if part == 0 else "").ljust(lead[-1]), style="dim")
            for i in chosen:
                text = cells[i][part] if part < len(cells[i]) else ""
                line.append(_placed(layout, text, i, widths[i]), style=_style(row.cells[i]) if number == 0 else "dim")
            line.rstrip()
            lines.append(line)
    return lines


def _placed(layout: _Layout, text: str, column: int, width: int) -> str:
    left = column in layout.table.text_columns
    return " " * GAP + text.ljust(width - GAP) if left else text.rjust(width)


def _wrapped(text: str, width: int) -> list[str]:
    """The text in lines of at most this width."""
    return [text] if len(text) <= width else textwrap.wrap(text, width)


def _style(cell: Cell) -> str:
    return STYLES[cell.verdict.word] if cell.verdict and not cell.text else ""


def _blocks(layout: _Layout, room: int) -> list[list[int]]:
    """Blocks of columns that fit into the width: groups with the same first name, or parts of a too wide group."""
    heads, widths = layout.table.heads, layout.columns
    groups: list[list[int]] = []
    for i in widths:
        if groups and len(heads[i]) > 1 and heads[groups[-1][0]][0] == heads[i][0]:
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
