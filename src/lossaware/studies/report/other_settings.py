"""Separate tables for cells that were measured under other settings than the study's."""

from dataclasses import replace

from lossaware.studies.analysis.statistics import summary
from lossaware.studies.analysis.study_table import Measured, StudyTable
from lossaware.studies.report.study_table import study_table
from lossaware.studies.report.table import Row, Table


def split_by_settings(table: StudyTable) -> list[Table]:
    """The table of the study at its own settings, and a table of cells under other settings.

    There is only one table if all measured cells are of one kind.
    """
    measured = {key for key, measured in table.cells.items() if measured.has_results}
    changed = {key for key in measured if table.cells[key].changed}
    if changed in (set(), measured):
        return [study_table(table)]
    empty = {key: Measured(measured.cell, {}, summary([])) for key, measured in table.cells.items()}
    own = {key: empty[key] if key in changed else measured for key, measured in table.cells.items()}
    others = {key: measured if key in changed else empty[key] for key, measured in table.cells.items()}
    return [
        study_table(replace(table, cells=own)),
        _only_measured(study_table(replace(table, cells=others, remarks=()))),
    ]


def _only_measured(table: Table) -> Table:
    """The rows and columns with results, without the published figures, which are for other settings."""
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
