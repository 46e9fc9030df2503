"""Everything measured that is at hand: the runs of a store and those that were exported, as tables of studies."""

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
    """What was measured, wherever it lies.

    Attributes:
        sources: The runs.
        places: The folders that know how studies were run.
    """

    sources: Sources
    places: Sequence[Folder | Exported]

    def launches(self, study: Study) -> list[Launch]:
        """How the study was run, each time once, latest last."""
        found: list[Launch] = []
        for place in self.places:
            found += [launch for launch in place.launches(study) if launch not in found]
        return sorted(found, key=lambda launch: launch.environment.get("date", ""))

    def table(self, study: Study, prefer: Overrides | None = None) -> StudyTable:
        """The study as it was measured; ``prefer`` as for `tabulate`."""
        return show(study, self.sources, self.launches(study), prefer=prefer)


@contextlib.contextmanager
def measurements(out: Path | None, results: Path | None) -> Iterator[Measurements]:
    """What is in a folder of runs, and in one of exported studies.

    Args:
        out: Folder of the runs, which need not exist; None for none.
        results: Folder of exported studies, which need not exist; None for none.

    Raises:
        UsageError: A file is there but cannot be read.
    """
    folders = [] if out is None else [Folder(out)]
    exported = [] if results is None else [Exported(results)]
    with contextlib.ExitStack() as stack:
        stores = [stack.enter_context(folder.reading()) for folder in folders]
        yield Measurements(Sources([*stores, *exported]), [*folders, *exported])


def show(study: Study, results: Results, launches: Sequence[Launch], *, prefer: Overrides | None = None) -> StudyTable:
    """The table of a study as it was run; ``prefer`` as for `tabulate`."""
    remarks = []
    if launches and launches[-1].digest != study.digest:
        remarks.append(
            f"The study's file has changed since it was run on {launches[-1].environment.get('date', '?')[:10]}: "
            "shown is what still belongs to it; what does not is kept."
        )
    table = tabulate(study, results, [launch.overrides for launch in launches], remarks, prefer=prefer)
    return replace(table, provenance=_provenance(table, results))


def _provenance(table: StudyTable, results: Results) -> list[str]:
    """When, where and by what commands the runs of a table were made."""
    shown = {spec for measured in table.cells.values() for spec in measured.cell.needed if spec.seed in measured.values}
    made_with = [results.environment(spec) for spec in sorted(shown, key=lambda spec: spec.key)]
    if not any(made_with):
        return []
    said, *commands = format_provenance(made_with)
    return [f"{len(shown)} run{'s' * (len(shown) != 1)}: {said}", *commands]
