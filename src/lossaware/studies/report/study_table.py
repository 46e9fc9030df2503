"""The table of a study as text, Markdown, LaTeX and CSV, in the layout of the paper."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from rich.console import Group, RenderableType
from rich.text import Text

from lossaware.studies.analysis.study_table import Measured, StudyTable
from lossaware.studies.specs.escape import csv_text, latex, latex_comment, markdown
from lossaware.studies.specs.study import Coordinates

NOT_RUN = "not run"
GAP = 2  # spaces between columns


# --- writing --------------------------------------------------------------------------------------------------------


Lines = Sequence[tuple[str, Callable[[Measured, int], str]]]
"""What each row of the table consists of: a name, and how it is written to a number of digits."""


def show_mean(measured: Measured, digits: int) -> str:
    """The mean, with half the width of its interval where it has one."""
    if not measured.there:
        return NOT_RUN
    mean, half = measured.summary.mean, measured.summary.half_width
    shown = f"{mean:.{digits}f}" if math.isfinite(mean) else "not finite"
    return f"{shown} ± {half:.{digits}f}" if math.isfinite(half) else shown


def show_published(measured: Measured, digits: int) -> str:
    """The published figure as it was printed; empty without one."""
    return "" if measured.cell.published is None else str(measured.cell.published)


def show_difference(measured: Measured, digits: int) -> str:
    """Measured minus published; empty where they are not to be compared."""
    if not math.isfinite(measured.difference):
        return ""
    shown = f"{measured.difference:+.{digits}f}"
    return shown if float(shown) else shown[1:]


LINES: Lines = (("measured", show_mean), ("published", show_published), ("difference", show_difference))


@dataclass(frozen=True)
class _Grid:
    """A table as texts: what any format is written from.

    Attributes:
        heads: The names of each column, one a column axis.
        rows: The names of each row, then the name of the line, then its cells.
    """

    heads: Sequence[Coordinates]
    rows: Sequence[tuple[Coordinates, Sequence[tuple[str, Sequence[str]]]]]


def _grid(table: StudyTable) -> _Grid:
    study, marks = table.study, table.marks
    lines = LINES if any(m.cell.published is not None for m in table.cells.values()) else LINES[:1]
    rows = []
    for row in study.rows:
        measured = [table.cells[row, column] for column in study.columns]
        digits = digits_of(measured)
        texts = []
        for name, write in lines:
            cells = list(map(write, measured, digits))
            if name == "measured":
                cells = [
                    f"{text} [{marks[row, column]}]" if (row, column) in marks else text
                    for text, column in zip(cells, study.columns, strict=True)
                ]
            if any(cells):
                texts.append((name, cells))
        rows.append((row, texts))
    return _Grid(study.columns, rows)


def digits_of(row: Sequence[Measured]) -> list[int]:
    """Decimals of each cell: 2 for percentages and ratios; for the rest as many as the paper gives in the row, or 4."""
    plain = [not (m.cell.quantity.percent or m.cell.quantity.at == "ratio") for m in row]
    published = [
        -int(m.cell.published.as_tuple().exponent)
        for m, is_plain in zip(row, plain, strict=True)
        if is_plain and m.cell.published is not None
    ]
    return [max(published, default=4) if is_plain else 2 for is_plain in plain]


def to_text(table: StudyTable, width: int) -> RenderableType:
    """The table for a terminal; columns that do not fit beside the others follow below them."""
    grid = _grid(table)
    axes = table.study.file.rows
    lead = [max(len(axis), *(len(row[i]) for row, _ in grid.rows)) + 3 for i, axis in enumerate(axes)]
    lead.append(max(len(name) for _, lines in grid.rows for name, _ in lines))
    widths = [
        GAP + max(len(head[-1]), *(len(cells[i]) for _, lines in grid.rows for _, cells in lines))
        for i, head in enumerate(grid.heads)
    ]
    parts: list[RenderableType] = [Text(), Text(table.study.title, style="bold")]
    parts += [Text(line, style="yellow") for line in table.head]
    for chosen in _blocks(grid.heads, widths, width - sum(lead)):
        parts += [Text(), *_block(grid, axes, chosen, lead, widths)]
    parts.append(Text())
    parts += [Text(line, style="yellow") for line in table.legend]
    parts += [Text(line, style="dim") for line in _tail(table)]
    return Group(*parts)


def _tail(table: StudyTable) -> list[str]:
    """What is shown below the table."""
    file = table.study.file
    return [
        " ".join(filter(None, [file.caption, table.caption])),
        *(f"Note: {note}" for note in file.notes),
        *table.provenance,
    ]


def _block(
    grid: _Grid, axes: Sequence[str], chosen: Sequence[int], lead: Sequence[int], widths: Sequence[int]
) -> list[Text]:
    """Some columns of the table, a text a line."""
    widths = list(widths)
    heads = [grid.heads[i] for i in chosen]
    levels = len(heads[0])
    # A name above several columns may be wider than they are together.
    for level in range(levels - 1):
        start = 0
        for names, count in spans([head[: level + 1] for head in heads]):
            inside = chosen[start : start + count]
            widths[inside[-1]] += max(0, GAP + len(names[-1]) + 4 - sum(widths[i] for i in inside))
            start += count
    lines = []
    for level in range(levels):
        last = level == levels - 1
        text = "".join((axis if last else "").ljust(size) for axis, size in zip((*axes, ""), lead, strict=True))
        start = 0
        for names, count in spans([head[: level + 1] for head in heads]):
            size = sum(widths[i] for i in chosen[start : start + count])
            text += names[-1].rjust(size) if last else " " * GAP + f" {names[-1]} ".center(size - GAP, "\u2500")
            start += count
        lines.append(Text(text, style="bold", no_wrap=True))
    for row, texts in grid.rows:
        for number, (name, cells) in enumerate(texts):
            line = Text(no_wrap=True)
            for part, size in zip(row, lead[:-1], strict=True):
                line.append((part if number == 0 else "").ljust(size))
            line.append(name.ljust(lead[-1]), style="dim")
            line.append("".join(cells[i].rjust(widths[i]) for i in chosen), style="" if number == 0 else "dim")
            lines.append(line)
    return lines


def _blocks(heads: Sequence[Coordinates], widths: Sequence[int], room: int) -> list[list[int]]:
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


def to_markdown(table: StudyTable) -> str:
    """The table as Markdown."""
    grid = _grid(table)
    axes = table.study.file.rows
    heads = [*axes, "", *(", ".join(head) for head in grid.heads)]
    out = [f"**{markdown(table.study.title)}**", ""]
    out += [f"{markdown(line)}\n" for line in table.head]
    out.append(_pipes(heads))
    out.append(_pipes(["---"] * (len(axes) + 1) + ["---:"] * len(grid.heads)))
    for row, lines in grid.rows:
        for number, (name, cells) in enumerate(lines):
            out.append(_pipes([*(row if number == 0 else [""] * len(row)), name, *cells]))
    out += ["", *(f"{markdown(line)}  " for line in table.legend), "\n\n".join(map(markdown, _tail(table)))]
    return "\n".join(out) + "\n"


def _pipes(cells: Iterable[str]) -> str:
    return f"| {' | '.join(map(markdown, cells))} |"


def to_latex(table: StudyTable) -> str:
    """The table as LaTeX, for the package booktabs."""
    grid = _grid(table)
    axes = table.study.file.rows
    lead = len(axes) + 1
    file = table.study.file
    caption = " ".join(filter(None, [f"{file.title}.", *table.head, file.caption, table.caption]))
    out = [
        r"\begin{table}",
        r"\centering",
        rf"\caption{{{latex(caption)}}}",
    ]
    out += [rf"\begin{{tabular}}{{{'l' * lead}{'r' * len(grid.heads)}}}", r"\toprule"]
    for level in range(len(grid.heads[0])):
        last = level == len(grid.heads[0]) - 1
        cells = [latex(axis) if last else "" for axis in axes] + [""]
        rules = []
        start = lead + 1
        for names, count in spans([head[: level + 1] for head in grid.heads]):
            cells.append(latex(names[-1]) if count == 1 else rf"\multicolumn{{{count}}}{{c}}{{{latex(names[-1])}}}")
            rules.append(rf"\cmidrule(lr){{{start}-{start + count - 1}}}")
            start += count
        out.append(" & ".join(cells) + r" \\" + ("" if last else " " + "".join(rules)))
    out.append(r"\midrule")
    for row, lines in grid.rows:
        for number, (name, texts) in enumerate(lines):
            titles = [latex(part) if number == 0 else "" for part in row]
            out.append(" & ".join([*titles, name, *map(latex, texts)]) + r" \\")
    below = [*table.legend, *(f"Note: {note}" for note in file.notes)]
    out += [r"\bottomrule", r"\end{tabular}", *(rf"\\ {latex(line)}" for line in below), r"\end{table}"]
    out += [latex_comment(line) for line in table.provenance]  # for whoever keeps the file; no reader of the paper asks
    return "\n".join(out) + "\n"


def spans(names: Sequence[Coordinates]) -> list[tuple[Coordinates, int]]:
    """Equal neighbours as one, with their number."""
    found: list[tuple[Coordinates, int]] = []
    for name in names:
        if found and found[-1][0] == name:
            found[-1] = (name, found[-1][1] + 1)
        else:
            found.append((name, 1))
    return found


CSV_COLUMNS = ("measured", "low", "high", "seeds", "seeds_wanted", "published", "difference", "overridden")


def to_csv(table: StudyTable) -> str:
    """The table for machines: a line a cell, with everything that is known of it, in the units of the table."""
    study = table.study
    rows: list[Sequence[object]] = [[*study.file.rows, *study.file.columns, *CSV_COLUMNS]]
    for (row, column), measured in table.cells.items():
        values = measured.summary
        rows.append(
            [
                *row,
                *column,
                *(_plain(value) for value in (values.mean, values.low, values.high)),
                len(measured.values),
                len(measured.cell.specs),
                "" if measured.cell.published is None else measured.cell.published,
                _plain(measured.difference),
                measured.said if measured.there else "",
            ]
        )
    return csv_text(rows)


def _plain(value: float) -> str:
    return repr(float(value)) if math.isfinite(value) else ""


FORMATS: Mapping[str, Callable[[StudyTable], str]] = {"markdown": to_markdown, "latex": to_latex, "csv": to_csv}
"""The formats that are files rather than a screen."""
