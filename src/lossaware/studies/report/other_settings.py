"""Cells that were measured under other settings than the study's, apart from the others."""

from dataclasses import replace

from lossaware.studies.analysis.statistics import summary
from lossaware.studies.analysis.study_table import Measured, StudyTable
from lossaware.studies.report.study_table import study_table
from lossaware.studies.report.table import Row, Table


def split_by_settings(table: StudyTable) -> list[Table]:
    """The study at its own settings, and what was measured under others as a table of its own.

    It stays one table where all measured cells are of one kind.
    """
    there = {key for key, measured in table.cells.items() if measured.there}
    changed = {key for key in there if table.cells[key].changed}
    if changed in (set(), there):
        return [study_table(table)]
    empty = {key: Measured(measured.cell, {}, summary([])) for key, measured in table.cells.items()}
    own = {key: empty[key] if key in changed else measured for key, measured in table.cells.items()}
    others = {key: measured if key in changed else empty[key] for key, measured in table.cells.items()}
    return [
        study_table(replace(table, cells=own)),
        _only_measured(study_table(replace(table, cells=others, remarks=()))),
    ]


def _only_measured(table: Table) -> Table:
    """The rows and columns that have a figure, without the published ones, which are of other settings."""
    columns = [i for i in range(len(table.heads)) if any(not row.cells[i].missing for row in table.rows)]
    rows = [
        Row(row.names, [replace(row.cells[i], published="", sign="", difference="") for i in columns])
        for row in table.rows
        if any(not cell.missing for cell in row.cells)
    ]
    return replace(
        table,
        title="Measured under other settings",
        heads=[table.heads[i] for i in columns],
        rows=rows,
        caption="",
        notes=(),
        provenance=(),
    )
