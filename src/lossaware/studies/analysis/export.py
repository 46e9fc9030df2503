"""The values of a study, exported together with its runs."""

from collections.abc import Sequence
from pathlib import Path

from lossaware.studies.analysis.study_table import StudyTable
from lossaware.studies.specs.escape import csv_text
from lossaware.studies.store.export import write_study
from lossaware.studies.store.folder import Launch
from lossaware.studies.store.results import Results


def export(table: StudyTable, results: Results, launches: Sequence[Launch], folder: Path) -> list[Path]:
    """Write what is measured of a study; see `lossaware.studies.store.export.write_study`.

    Args:
        table: The study, measured.
        results: Where its runs are.
        launches: How it was run.
        folder: Where to write; made if need be.

    Returns:
        The files.

    Raises:
        UsageError: Nothing is measured, or the folder cannot be written to.
    """
    specs = [spec for measured in table.cells.values() for spec in measured.cell.needed if spec.seed in measured.values]
    return write_study(table.study, specs, _final_csv(table), results, launches, folder)


def _final_csv(table: StudyTable) -> str:
    """A line a cell and seed, in the units of the table."""
    study = table.study
    heads = [*study.file.rows, *study.file.columns, "shows", "seed", "value", "published", "overridden", "run"]
    rows: list[Sequence[object]] = [heads]
    for (row, column), measured in table.cells.items():
        keys = {spec.seed: spec.key for spec in measured.cell.specs}
        published = "" if measured.cell.published is None else measured.cell.published
        for seed, value in sorted(measured.values.items()):
            said = measured.cell.quantity.title, seed, repr(float(value)), published, measured.said
            rows.append([*row, *column, *said, keys[seed]])
    return csv_text(rows)
