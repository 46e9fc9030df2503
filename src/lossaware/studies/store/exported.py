"""Results as plain files that can be committed, and the way back: what one person measured, the next need not.

A study is three files in a folder: ``NAME.csv`` has the value of each cell and seed, ``NAME-epochs.csv`` every epoch of
every run, ``NAME.study.json`` the specification of each run and with what it was made. Numbers are written so that
reading them gives the same numbers, bit for bit.
"""

import csv
import io
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from lossaware.errors import UsageError
from lossaware.studies.specs.atomic import write_whole
from lossaware.studies.specs.provenance import environment, without_folders
from lossaware.studies.specs.run_spec import EpochRecord, RunSpec
from lossaware.studies.specs.study import Study
from lossaware.studies.specs.user_code import has_changed, source_digest
from lossaware.studies.store.database import Store
from lossaware.studies.store.folder import Launch
from lossaware.studies.store.results import Results, Sources

FORMAT = 1
_ENDING = ".study.json"
_GROUPS = ("train", "test", "lga")


@dataclass(frozen=True)
class _Study:
    """What ``NAME.study.json`` says: the runs and what each was made with, by key, and how they were launched.

    Of runs of a user's own code there is its digest, as `source_digest` gives it.
    """

    runs: Mapping[str, RunSpec]
    sources: Mapping[str, str]
    environments: Mapping[str, Mapping[str, str]]
    launches: Sequence[Launch]


class Exported:
    """The results in a folder of exported studies; see `Results`.

    Args:
        folder: The folder; without any exported study, or not there at all, it is empty.

    Raises:
        UsageError: The folder is none, or a file cannot be read, or is not what it says it is.
    """

    def __init__(self, folder: Path) -> None:
        if folder.exists() and not folder.is_dir():
            raise UsageError(f"{folder}: a folder of exported studies is expected, this is a file")
        self.folder = folder
        self._studies = {
            path.name.removesuffix(_ENDING): _read_study(path) for path in sorted(folder.glob(f"*{_ENDING}"))
        }
        self._epochs: dict[str, Mapping[str, list[EpochRecord]]] = {}

    @cached_property
    def _home(self) -> dict[str, str]:
        """Which study a run is read from."""
        return {key: name for name, study in reversed(self._studies.items()) for key in study.runs}

    def records(self, spec: RunSpec) -> Sequence[EpochRecord]:
        """See `Results.records`. Runs of a user's own code that was another then are none, as in a store."""
        name = self._home.get(spec.key)
        if name is None:
            return ()
        if (source := self.source(spec)) is not None and has_changed(spec.own_code, source):
            return ()
        if name not in self._epochs:
            self._epochs[name] = _read_epochs(self.folder / f"{name}-epochs.csv")
        records = self._epochs[name].get(spec.key, [])
        if [record.epoch for record in records] != list(range(1, spec.epochs + 1)):
            path = self.folder / f"{name}-epochs.csv"
            raise UsageError(f"{path}: run {spec.key} has {len(records)} of {spec.epochs} epochs: the file is damaged")
        return records

    def environment(self, spec: RunSpec) -> Mapping[str, str]:
        """See `Results.environment`."""
        name = self._home.get(spec.key)
        if name is None:
            return {}
        return self._studies[name].environments[spec.key]

    def source(self, spec: RunSpec) -> str | None:
        """The digest of the user's own code that the run was made with."""
        name = self._home.get(spec.key)
        return None if name is None else self._studies[name].sources.get(spec.key)

    def specs(self, name: str | None = None) -> list[RunSpec]:
        """All runs, or those of one study."""
        studies = self._studies.values() if name is None else filter(None, [self._studies.get(name)])
        return list({key: spec for study in studies for key, spec in study.runs.items()}.values())

    def launches(self, study: Study) -> list[Launch]:
        """How the study was run, latest last."""
        found = self._studies.get(study.name)
        return list(found.launches) if found else []


def adopt(specs: Iterable[RunSpec], exported: Exported, store: Store) -> int:
    """Take those runs into a store that it misses and that are there.

    Runs of a user's own task or optimizer are not taken: nothing says that it is still what it was.

    Returns:
        How many were taken.
    """
    taken = 0
    for spec in store.missing(specs):
        if not spec.own_code and (records := exported.records(spec)):
            store.adopt(spec, records, exported.environment(spec))
            taken += 1
    return taken


def write_study(
    study: Study, measured: Iterable[RunSpec], values: str, results: Results, launches: Sequence[Launch], folder: Path
) -> list[Path]:
    """Write the files of a study. What an earlier export had stays in, unless it was of other code.

    Args:
        study: The study.
        measured: Its runs that are to be written.
        values: The content of ``NAME.csv``.
        results: Where the runs are.
        launches: How it was run.
        folder: Where to write; made if need be.

    Returns:
        The files.

    Raises:
        UsageError: Nothing is measured, or the folder cannot be written to.
    """
    earlier = Exported(folder)
    specs = {spec.key: spec for spec in earlier.specs(study.name) if earlier.records(spec)}
    specs |= {spec.key: spec for spec in measured}
    if not specs:
        raise UsageError(
            f"{study.what}: nothing of it is measured yet; run it first: lossaware study run {study.source}"
        )
    places = Sources([results, earlier])
    environments: list[Mapping[str, str]] = []
    runs: dict[str, Any] = {}
    for key, spec in sorted(specs.items()):
        made_with = _shareable(places.environment(spec))
        if made_with not in environments:
            environments.append(made_with)
        runs[key] = {"environment": environments.index(made_with), "spec": json.loads(spec.to_json())}
        if spec.own_code and (source := source_digest(spec.own_code) or earlier.source(spec)):
            runs[key]["source"] = source
    content = {
        "format": FORMAT,
        "study": study.name,
        "title": study.title,
        "digest": study.digest,
        "exported": _shareable(environment()),
        "launches": [{**launch.to_plain(), "environment": _shareable(launch.environment)} for launch in launches],
        "environments": environments,
    }
    files = {
        folder / f"{study.name}.csv": values,
        folder / f"{study.name}-epochs.csv": _epochs_csv(specs.values(), places),
        # Last, because it is what the others are found by.
        folder / f"{study.name}{_ENDING}": _study_json(content, runs),
    }
    for path, text in files.items():
        write_whole(path, text)
    return list(files)


def _study_json(content: Mapping[str, Any], runs: Mapping[str, Any]) -> str:
    """JSON with a line a run, so that a change of one is a change of one line."""
    head = json.dumps(content, indent=1, ensure_ascii=False).removesuffix("\n}")
    lines = ",\n".join(f"  {json.dumps(key)}: {json.dumps(run, ensure_ascii=False)}" for key, run in runs.items())
    return f'{head},\n "runs": {{\n{lines}\n }}\n}}\n'


def _epochs_csv(specs: Iterable[RunSpec], results: Sources) -> str:
    """A line a run and epoch, with all that was measured then."""
    rows = []
    for spec in sorted(specs, key=lambda spec: spec.key):
        for record in results.records(spec):
            values = {"run": spec.key, "epoch": str(record.epoch), "seconds": repr(float(record.seconds))}
            for group in _GROUPS:
                measures: Mapping[str, float] = getattr(record, group) or {}
                values |= {f"{group}.{name}": repr(float(value)) for name, value in measures.items()}
            rows.append(values)
    names = dict.fromkeys(name for row in rows for name in row)
    heads = [*list(names)[:3], *(name for group in _GROUPS for name in names if name.startswith(f"{group}."))]
    file = io.StringIO()
    writer = csv.DictWriter(file, heads, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return file.getvalue()


def _read_epochs(path: Path) -> dict[str, list[EpochRecord]]:
    found: dict[str, list[EpochRecord]] = {}
    try:
        text = path.read_bytes().decode()
        if not text.endswith("\n"):
            raise UsageError(f"{path}: its last line has no end: the file is cut short")
        for line, row in enumerate(csv.DictReader(io.StringIO(text, newline=""), strict=True), 2):
            if None in row or None in row.values():
                raise UsageError(
                    f"{path}, line {line}: another number of fields than the head has: the file is damaged"
                )
            values = {
                group: {
                    name.removeprefix(f"{group}."): float(value)
                    for name, value in row.items()
                    if name.startswith(f"{group}.") and value
                }
                for group in _GROUPS
            }
            found.setdefault(row["run"], []).append(
                EpochRecord(
                    epoch=int(row["epoch"]),
                    train=values["train"],
                    test=values["test"],
                    lga=values["lga"] or None,
                    seconds=float(row["seconds"]),
                )
            )
    except OSError as error:
        raise UsageError(f"{path}: cannot be read ({error.strerror})") from None
    except (ValueError, KeyError, csv.Error) as error:
        raise UsageError(f"{path}: not a file of epochs ({type(error).__name__}: {error})") from None
    return found


def _read_study(path: Path) -> _Study:
    try:
        content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        if content["format"] != FORMAT:
            raise UsageError(f"{path}: written by another version of lossaware (format {content['format']})")
        environments = [
            {str(name): str(value) for name, value in made_with.items()} for made_with in content["environments"]
        ]
        study = _Study(
            runs={key: RunSpec.from_json(json.dumps(run["spec"])) for key, run in content["runs"].items()},
            sources={key: str(run["source"]) for key, run in content["runs"].items() if "source" in run},
            environments={key: environments[run["environment"]] for key, run in content["runs"].items()},
            launches=[Launch.from_plain(plain) for plain in content.get("launches", [])],
        )
    except OSError as error:
        raise UsageError(f"{path}: cannot be read ({error.strerror})") from None
    except (ValueError, KeyError, TypeError, AttributeError, IndexError, RecursionError) as error:
        raise UsageError(f"{path}: not an exported study ({type(error).__name__}: {error})") from None
    if foreign := [key for key, spec in study.runs.items() if spec.key != key]:
        raise UsageError(f"{path}: run {foreign[0]} is not the run that its specification says")
    return study


def _shareable(made_with: Mapping[str, str]) -> dict[str, str]:
    """What a run was made with, for others to read: folders of this machine are nobody's business."""
    found = dict(made_with)
    if "command" in found:
        found["command"] = without_folders(found["command"])
    return found
