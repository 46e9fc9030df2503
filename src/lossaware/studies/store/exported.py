"""Results in plain files that can be committed, so that others can use them without repeating the runs.

A study has three files in a folder: ``NAME.csv`` with the value of each cell and seed, ``NAME-epochs.csv`` with each
epoch of each run, and ``NAME.study.json`` with the specification and environment of each run and all digests. Numbers
are written with all digits, so that reading gives the same bits.
"""

import csv
import hashlib
import io
import json
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from lossaware.errors import Note, UsageError
from lossaware.studies.specs.regular_file import MALFORMED, read_regular, sibling_file
from lossaware.studies.specs.run_spec import EpochRecord, RunSpec
from lossaware.studies.specs.seal import SEAL, is_sealed
from lossaware.studies.specs.study import Study
from lossaware.studies.specs.user_code import has_changed
from lossaware.studies.store.database import Store
from lossaware.studies.store.digests import find_change
from lossaware.studies.store.folder import Launch

FORMAT = 2
WITHOUT_DIGESTS = 1
"""The previous format, which is read with a note."""
ENDING = ".study.json"
GROUPS = ("train", "test", "lga")
EPOCH_DIGITS = 8
"""Digits of the digests of epochs, which only locate a change in a run."""


@dataclass(frozen=True)
class _Digests:
    """The digests of a study: of each run, of the epochs of each run, and of its other files."""

    runs: Mapping[str, str]
    epochs: Mapping[str, Sequence[str]]
    files: Mapping[str, str]


@dataclass(frozen=True)
class _Study:
    """The content of ``NAME.study.json``: runs by key, environments and launches.

    ``sources`` has the digest of the user's own code of a run, from `source_digest`.
    """

    runs: Mapping[str, RunSpec]
    sources: Mapping[str, str]
    environments: Mapping[str, Mapping[str, str]]
    launches: Sequence[Launch]
    digests: _Digests | None


class Exported:
    """The results in a folder of exported studies; see `Results`.

    Args:
        folder: The folder; it may be empty or not exist.

    Raises:
        UsageError: It is not a folder, or a file cannot be read or has changed.
    """

    def __init__(self, folder: Path) -> None:
        if folder.exists() and not folder.is_dir():
            raise UsageError(f"{folder}: a folder of exported studies is expected, this is a file")
        self.folder = folder
        self._studies = {
            path.name.removesuffix(ENDING): _read_study(path) for path in sorted(folder.glob(f"*{ENDING}"))
        }
        self._epochs: dict[str, Mapping[str, list[EpochRecord]]] = {}
        if without := self.without_digests:
            warnings.warn(
                f"{folder}: {', '.join(without)}: exported by an earlier version without digests, so that "
                f"changes are not detected; `lossaware study verify {folder} --add-digests` adds them",
                Note,
                stacklevel=2,
            )

    @cached_property
    def _study_of_run(self) -> dict[str, str]:
        """The study from which each run is read."""
        return {key: name for name, study in reversed(self._studies.items()) for key in study.runs}

    @property
    def without_digests(self) -> list[str]:
        """The names of the studies without digests."""
        return [name for name, study in self._studies.items() if study.digests is None]

    def names(self) -> list[str]:
        """The names of all studies."""
        return list(self._studies)

    def records(self, spec: RunSpec) -> Sequence[EpochRecord]:
        """See `Results.records`. As in a store, runs of a user's own code are empty if the code has changed.

        Raises:
            UsageError: A file of the run's study has changed.
        """
        name = self._study_of_run.get(spec.key)
        if name is None:
            return ()
        if (source := self.source(spec)) is not None and has_changed(spec.own_code, source):
            return ()
        return self.epochs(name)[spec.key]

    def epochs(self, name: str) -> Mapping[str, list[EpochRecord]]:
        """All epochs of all runs of a study, by the runs' keys.

        Raises:
            UsageError: A file of the study has changed.
        """
        if name not in self._epochs:
            self._epochs[name] = self._read(name)
        return self._epochs[name]

    def environment(self, spec: RunSpec) -> Mapping[str, str]:
        """See `Results.environment`."""
        name = self._study_of_run.get(spec.key)
        if name is None:
            return {}
        return self._studies[name].environments[spec.key]

    def source(self, spec: RunSpec) -> str | None:
        """The digest of the user's own code of the run."""
        name = self._study_of_run.get(spec.key)
        return None if name is None else self._studies[name].sources.get(spec.key)

    def specs(self, name: str | None = None) -> list[RunSpec]:
        """All runs, or those of one study."""
        studies = self._studies.values() if name is None else filter(None, [self._studies.get(name)])
        return list({key: spec for study in studies for key, spec in study.runs.items()}.values())

    def launches(self, study: Study) -> list[Launch]:
        """The launches of the study, latest last."""
        exported = self._studies.get(study.name)
        return list(exported.launches) if exported else []

    def _read(self, name: str) -> dict[str, list[EpochRecord]]:
        study, path = self._studies[name], self.folder / f"{name}-epochs.csv"
        content = read_regular(path)
        result = _read_epochs(path, content)
        for key, spec in study.runs.items():
            records = result.setdefault(key, [])
            if study.digests is None:
                change = find_change(spec, records, None, None, complete=True)
            else:
                epochs, run = study.digests.epochs[key], study.digests.runs[key]
                change = find_change(spec, records, epochs, run, complete=True, digits=EPOCH_DIGITS)
            if change:
                raise UsageError(f"{path}: {change}: the file is damaged")
        # Last, as the messages above are more precise.
        for file, digest in study.digests.files.items() if study.digests is not None else ():
            file_content = (
                content if file == path.name else read_regular(sibling_file(self.folder / f"{name}{ENDING}", file))
            )
            if (actual := hashlib.sha256(file_content).hexdigest()) != digest:
                raise UsageError(
                    f"{self.folder / file}: this file does not match {name}{ENDING}: its SHA-256 is {actual}"
                )
        return result


def copy_missing_runs(specs: Iterable[RunSpec], exported: Exported, store: Store) -> int:
    """Copy exported runs into a store that does not have them.

    Runs of a user's own task or optimizer are not copied, as the code may have changed.

    Returns:
        Number of copied runs.
    """
    copied = 0
    # Files of foreign code are not read.
    for spec in store.missing(spec for spec in specs if not spec.own_code):
        if records := exported.records(spec):
            store.insert_run(spec, records, exported.environment(spec))
            copied += 1
    return copied


def _read_epochs(path: Path, content: bytes) -> dict[str, list[EpochRecord]]:
    result: dict[str, list[EpochRecord]] = {}
    try:
        text = content.decode()
        if not text.endswith("\n"):
            raise UsageError(f"{path}: its last line does not end: the file is cut short")
        for line, row in enumerate(csv.DictReader(io.StringIO(text, newline=""), strict=True), 2):
            if None in row or None in row.values():
                raise UsageError(
                    f"{path}, line {line}: the number of fields differs from the header: the file is damaged"
                )
            values = {
                group: {
                    name.removeprefix(f"{group}."): float(value)
                    for name, value in row.items()
                    if name.startswith(f"{group}.") and value
                }
                for group in GROUPS
            }
            result.setdefault(row["run"], []).append(
                EpochRecord(
                    epoch=int(row["epoch"]),
                    train=values["train"],
                    test=values["test"],
                    lga=values["lga"] or None,
                    seconds=float(row["seconds"]),
                )
            )
    except (*MALFORMED, csv.Error) as error:
        raise UsageError(f"{path}: not a file of epochs ({type(error).__name__}: {error})") from None
    return result


def _read_study(path: Path) -> _Study:
    try:
        content: dict[str, Any] = json.loads(read_regular(path))
        if content["format"] not in (FORMAT, WITHOUT_DIGESTS):
            raise UsageError(f"{path}: written by another version of lossaware (format {content['format']})")
        has_digests = content["format"] == FORMAT
        if not (is_sealed(content) if has_digests else SEAL not in content):
            raise UsageError(f"{path}: this file has changed: its digest does not match")
        environments = [
            {str(name): str(value) for name, value in run_environment.items()}
            for run_environment in content["environments"]
        ]
        runs = content["runs"]
        study = _Study(
            runs={key: RunSpec.from_json(json.dumps(run["spec"])) for key, run in runs.items()},
            sources={key: str(run["source"]) for key, run in runs.items() if "source" in run},
            environments={key: environments[run["environment"]] for key, run in runs.items()},
            launches=[Launch.from_plain(plain) for plain in content.get("launches", [])],
            digests=_Digests(
                runs={key: str(run["digest"]) for key, run in runs.items()},
                epochs={key: [str(epoch) for epoch in run["epochs"]] for key, run in runs.items()},
                files={str(file): str(digest) for file, digest in content["files"].items()},
            )
            if has_digests
            else None,
        )
    except MALFORMED as error:
        raise UsageError(f"{path}: not an exported study ({type(error).__name__}: {error})") from None
    if foreign := [key for key, spec in study.runs.items() if spec.key != key]:
        raise UsageError(f"{path}: run {foreign[0]} does not match its specification")
    return study
