"""The values of a study, exported together with its runs."""

from collections.abc import Sequence
from pathlib import Path

from lossaware.studies.analysis.study_table import StudyTable
from lossaware.studies.specs.escape import csv_text
from lossaware.studies.store.export import write_study
from lossaware.studies.store.folder import Launch
from lossaware.studies.store.results import Results


def export(table: StudyTable, results: Results, launches: Sequence[Launch], folder: Path) -> list[Path]:
    """Write the results of a study; see `lossaware.studies.store.export.write_study`.

    Args:
        table: The table of the study.
        results: The store of its runs.
        launches: Its launches.
        folder: Target folder; created if missing.

    Returns:
        The files.

    Raises:
        UsageError: There are no results, or the folder cannot be written to.
    """
    specs = [spec for measured in table.cells.values() for spec in measured.cell.needed if spec.seed in measured.values]
    return write_study(table.study, specs, _final_csv(table), results, launches, folder)


def _final_csv(table: StudyTable) -> str:
    """One line per cell and seed, in the units of the table."""
    study = table.study
    heads = [*study.file.rows, *study.file.columns, "shows", "seed", "value", "published", "overridden", "run"]
    rows: list[Sequence[object]] = [heads]
    for (row, column), measured in table.cells.items():
        keys = {spec.seed: spec.key for spec in measured.cell.specs}
        published = "" if measured.cell.published is None else measured.cell.published
        for seed, value in sorted(measured.values.items()):
            values = measured.cell.metric.title, seed, repr(float(value)), published, measured.caveats
            rows.append([*row, *column, *values, keys[seed]])
    return csv_text(rows)
