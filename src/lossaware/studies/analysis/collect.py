"""All available results, those of a store and exported ones, as tables of studies."""

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from lossaware.studies.analysis.study_table import StudyTable, tabulate
from lossaware.studies.specs.provenance import format_provenance
from lossaware.studies.specs.study import Overrides, Study
from lossaware.studies.store.exported import Exported
from lossaware.studies.store.folder import Folder, Launch
from lossaware.studies.store.results import Results, Sources


@dataclass(frozen=True)
class Measurements:
    """Results from several places.

    Attributes:
        sources: The runs.
        places: The folders that record the launches of studies.
    """

    sources: Sources
    places: Sequence[Folder | Exported]

    def launches(self, study: Study) -> list[Launch]:
        """The launches of the study, without duplicates, latest last."""
        result: list[Launch] = []
        for place in self.places:
            result += [launch for launch in place.launches(study) if launch not in result]
        return sorted(result, key=lambda launch: launch.environment.get("date", ""))

    def table(self, study: Study, prefer: Overrides | None = None) -> StudyTable:
        """The table of the study; for ``prefer`` see `tabulate`."""
        return show(study, self.sources, self.launches(study), prefer=prefer)


@contextlib.contextmanager
def measurements(out: Path | None, results: Path | None) -> Iterator[Measurements]:
    """The results in a folder of runs and in a folder of exported studies.

    Args:
        out: Folder of the runs, which may not exist; None for no folder.
        results: Folder of exported studies, which may not exist; None for no folder.

    Raises:
        UsageError: A file exists but cannot be read.
    """
    folders = [] if out is None else [Folder(out)]
    exported = [] if results is None else [Exported(results)]
    with contextlib.ExitStack() as stack:
        stores = [stack.enter_context(folder.reading()) for folder in folders]
        yield Measurements(Sources([*stores, *exported]), [*folders, *exported])


def show(study: Study, results: Results, launches: Sequence[Launch], *, prefer: Overrides | None = None) -> StudyTable:
    """The table of a study with its launches; for ``prefer`` see `tabulate`."""
    remarks = []
    if launches and launches[-1].digest != study.digest:
        remarks.append(
            f"The study's file has changed since it was run on {launches[-1].environment.get('date', '?')[:10]}: "
            "only runs that still belong to it are shown; the others remain stored."
        )
    table = tabulate(study, results, [launch.overrides for launch in launches], remarks, prefer=prefer)
    return replace(table, provenance=_provenance(table, results))


def _provenance(table: StudyTable, results: Results) -> list[str]:
    """Date, machine, versions and commands of a table's runs."""
    used = {spec for measured in table.cells.values() for spec in measured.cell.needed if spec.seed in measured.values}
    environments = [results.environment(spec) for spec in sorted(used, key=lambda spec: spec.key)]
    if not any(environments):
        return []
    first, *commands = format_provenance(environments)
    return [f"{len(used)} run{'s' * (len(used) != 1)}: {first}", *commands]
