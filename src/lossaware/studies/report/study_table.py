"""The table of a study: measured and published figures, in the layout of the paper."""

import math
from collections.abc import Sequence
from typing import Any

from lossaware.studies.analysis.comparisons import comparisons
from lossaware.studies.analysis.study_table import Measured, StudyTable
from lossaware.studies.report.numbers import signed, true_minus, with_spread
from lossaware.studies.report.table import Cell, Row, Table, finite

NOT_RUN = "not run"
SIGNS = {True: "≈", False: "≠", None: ""}


def study_table(table: StudyTable) -> Table:
    """The study as a table. Cells with a comparison over at least two seeds have a verdict."""
    study, marks = table.study, table.marks
    verdicts = {it.variant: it.verdict for it in comparisons(table) if it.count > 1}
    rows = []
    for row in study.rows:
        measured = [table.cells[row, column] for column in study.columns]
        cells = [
            Cell(
                text=show_mean(one, digits),
                missing=not one.has_results,
                mark=marks.get((row, column), ""),
                published="" if one.cell.published is None else str(one.cell.published),
                sign=SIGNS[one.agrees],
                difference=show_difference(one, digits),
                verdict=verdicts.get((row, column)),
            )
            for one, digits, column in zip(measured, digits_of(measured), study.columns, strict=True)
        ]
        rows.append(Row(row, cells))
    file = study.file
    return Table(
        title=study.title,
        axes=tuple(file.rows),
        heads=study.columns,
        rows=rows,
        with_lines=True,
        head=table.head,
        legend=table.legend,
        caption=" ".join(filter(None, [file.caption, table.caption])),
        notes=file.notes,
        provenance=table.provenance,
        records=_records(table),
        facts={"study": study.name, "warnings": list(table.head)},
    )


def show_mean(measured: Measured, digits: int) -> str:
    """The mean, with half the width of its interval if it has one; see `with_spread`."""
    if not measured.has_results:
        return NOT_RUN

    def show(value: float) -> str:
        return true_minus(f"{value:.{digits}f}") if math.isfinite(value) else "not finite"

    half = f"{measured.summary.half_width:.{digits}f}"
    return with_spread(measured.summary, show, half, scale=measured.cell.metric.scale)


def show_difference(measured: Measured, digits: int) -> str:
    """Measured minus published; empty if they are not comparable."""
    if not math.isfinite(measured.difference):
        return ""
    return signed(f"{measured.difference:+.{digits}f}")


def digits_of(row: Sequence[Measured]) -> list[int]:
    """Decimals of each cell: 2 for percentages and ratios; otherwise as many as in the paper's row, or 4."""
    plain = [not (m.cell.metric.percent or m.cell.metric.at == "ratio") for m in row]
    published = [
        -int(m.cell.published.as_tuple().exponent)
        for m, is_plain in zip(row, plain, strict=True)
        if is_plain and m.cell.published is not None
    ]
    return [max(published, default=4) if is_plain else 2 for is_plain in plain]


def _records(table: StudyTable) -> list[dict[str, Any]]:
    """One record per cell, in the units of the table."""
    axes = (*table.study.file.rows, *table.study.file.columns)
    return [
        {
            **dict(zip(axes, (*row, *column), strict=True)),
            "measured": finite(measured.summary.mean),
            "low": finite(measured.summary.low),
            "high": finite(measured.summary.high),
            "seeds": len(measured.values),
            "seeds_wanted": len(measured.cell.specs),
            "published": measured.cell.published,
            "difference": finite(measured.difference),
            "overridden": measured.caveats if measured.has_results else "",
        }
        for (row, column), measured in table.cells.items()
    ]
