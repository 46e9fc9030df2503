"""Tables as LaTeX, for the package booktabs."""

from lossaware.studies.report.table import Table, spans
from lossaware.studies.specs.escape import latex, latex_comment


def write(table: Table) -> str:
    """The table with title, notes and provenance."""
    lead = len(table.axes) + table.with_lines
    caption = " ".join(filter(None, [f"{table.title}.", table.remark, *table.head, table.caption]))
    columns = "".join("l" if i in table.text_columns else "r" for i in range(len(table.heads)))
    out = [
        r"\begin{table}",
        r"\centering",
        rf"\caption{{{latex(caption)}}}",
        rf"\begin{{tabular}}{{{'l' * lead}{columns}}}",
        r"\toprule",
    ]
    levels = len(table.heads[0])
    for level in range(levels):
        last = level == levels - 1
        cells = [latex(axis) if last else "" for axis in table.axes] + [""] * table.with_lines
        rules = []
        start = lead + 1
        for names, count in spans([head[: level + 1] for head in table.heads]):
            cells.append(latex(names[-1]) if count == 1 else rf"\multicolumn{{{count}}}{{c}}{{{latex(names[-1])}}}")
            rules.append(rf"\cmidrule(lr){{{start}-{start + count - 1}}}")
            start += count
        out.append(" & ".join(cells) + r" \\" + ("" if last else " " + "".join(rules)))
    out.append(r"\midrule")
    for row in table.rows:
        for number, (name, texts) in enumerate(row.lines):
            titles = [latex(part) if number == 0 else "" for part in row.names]
            out.append(" & ".join([*titles, *[name] * table.with_lines, *map(latex, texts)]) + r" \\")
    below = [*table.explanations, *table.legend, *(f"Note: {note}" for note in table.notes)]
    out += [r"\bottomrule", r"\end{tabular}", *(rf"\\ {latex(line)}" for line in below), r"\end{table}"]
    out += [latex_comment(line) for line in table.provenance]  # for the owner of the file, not for readers of the paper
    return "\n".join(out) + "\n"
