"""Everything measured that is at hand: the runs of a store and those that were exported, as tables of studies."""

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from lossaware.studies.study import Overrides, Study
from lossaware.studies.study_exchange import Exported
from lossaware.studies.study_results import Folder, Launch, Sources, show
from lossaware.studies.study_table import StudyTable


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
