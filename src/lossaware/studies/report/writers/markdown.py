"""Tables as Markdown."""

from collections.abc import Callable, Iterable

from lossaware.studies.report.table import Table
from lossaware.studies.specs.escape import markdown


def write(table: Table) -> str:
    """The table with title, notes and provenance."""
    out = [f"**{markdown(table.title)}**", ""]
    out += [f"{markdown(line)}\n" for line in (*filter(None, [table.remark]), *table.head)]
    out.append(grid(table))
    out += [
        "",
        *(f"{markdown(line)}  " for line in (*table.explanations, *table.legend)),
        "\n\n".join(map(markdown, table.below)),
    ]
    return "\n".join(out) + "\n"


def grid(table: Table, escape: Callable[[str], str] = markdown) -> str:
    """The grid of the table; ``escape`` converts a text to Markdown."""
    lead = len(table.axes) + table.with_lines
    marks = ["---" if i in table.text_columns else "---:" for i in range(len(table.heads))]
    out = [
        _pipes(map(escape, [*table.axes, *[""] * table.with_lines, *(", ".join(head) for head in table.heads)])),
        _pipes(["---"] * lead + marks),
    ]
    for row in table.rows:
        for number, (name, texts) in enumerate(row.lines):
            names = row.names if number == 0 else [""] * len(row.names)
            out.append(_pipes(map(escape, [*names, *[name] * table.with_lines, *texts])))
    return "\n".join(out)


def _pipes(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"
