"""The tables of the studies in a folder of results, each read once for a whole site."""

from functools import lru_cache
from pathlib import Path

from sphinx.environment import BuildEnvironment

from lossaware.studies.analysis.collect import show
from lossaware.studies.analysis.study_table import StudyTable
from lossaware.studies.specs.study import load_study
from lossaware.studies.store.exported import Exported
from lossaware.studies.store.results import Sources

State = tuple[tuple[str, int, int], ...]


def study_table(env: BuildEnvironment, folder: Path, name: str) -> StudyTable:
    """The table of a study with its results in the folder; the page depends on them."""
    env.note_dependency(str(folder / f"{name}.study.json"))
    return _table(folder, _state(folder), name)


def exported_in(folder: Path) -> Exported:
    """The results in the folder."""
    return _exported(folder, _state(folder))


def _state(folder: Path) -> State:
    """The names, times and sizes of all files: a changed file is read again."""
    files = ((path.name, path.stat()) for path in sorted(folder.glob("*")))
    return tuple((name, stat.st_mtime_ns, stat.st_size) for name, stat in files)


@lru_cache(maxsize=1)
def _exported(folder: Path, state: State) -> Exported:
    return Exported(folder)


@lru_cache(maxsize=64)
def _table(folder: Path, state: State, name: str) -> StudyTable:
    study, exported = load_study(name), _exported(folder, state)
    return show(study, Sources([exported]), exported.launches(study))
