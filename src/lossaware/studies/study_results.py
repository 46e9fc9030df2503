"""What is there of a study: how it was run, and where its runs are read from."""

import contextlib
import json
import os
import shlex
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

from pydantic import ValidationError

from lossaware.errors import UsageError
from lossaware.studies.environment import environment
from lossaware.studies.spec import EpochRecord, RunSpec
from lossaware.studies.store import Store
from lossaware.studies.study import Overrides, Study
from lossaware.studies.study_table import Results, StudyTable, tabulate

COMMANDS = 3
"""How many commands are shown at most."""


@dataclass(frozen=True)
class Launch:
    """One time a study was run.

    Attributes:
        study: Its name.
        digest: `Study.digest` at that time.
        overrides: What differed from its file.
        environment: Command, commit, machine and date; see `lossaware.studies.environment`.
    """

    study: str
    digest: str
    overrides: Overrides
    environment: Mapping[str, str]

    @classmethod
    def now(cls, study: Study) -> "Launch":
        """This one."""
        return cls(study.name, study.digest, study.overrides, environment())

    def to_plain(self) -> dict[str, Any]:
        """As plain values."""
        return {
            "study": self.study,
            "digest": self.digest,
            "overrides": self.overrides.to_plain(),
            "environment": dict(self.environment),
        }

    @classmethod
    def from_plain(cls, plain: Mapping[str, Any]) -> "Launch":
        """What `to_plain` gave.

        Raises:
            ValueError: It did not.
        """
        try:
            overrides = Overrides.from_plain(plain["overrides"])
            environment = {str(name): str(value) for name, value in plain["environment"].items()}
            return cls(plain["study"], plain["digest"], overrides, environment)
        except ValidationError as error:
            raise ValueError(f"no launch of a study: {error.errors()[0]['msg']}") from None
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"no launch of a study: {error}") from None


class Folder:
    """A folder of results, as ``compare`` has it too: ``results.sqlite``, and ``studies.jsonl`` with a line a launch.

    Args:
        path: The folder; it need not exist.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.database = path / "results.sqlite"
        self._launches = path / "studies.jsonl"

    def launches(self, study: Study) -> list[Launch]:
        """How the study was run before, latest last."""
        try:
            lines = self._launches.read_text(encoding="utf-8").splitlines()
        except FileNotFoundError:
            return []
        except (OSError, UnicodeDecodeError) as error:
            raise UsageError(
                f"{self._launches}: cannot be read ({getattr(error, 'strerror', None) or error})"
            ) from None
        found = []
        for line in lines:
            # A line that a kill cut short tells of a launch that wrote no run.
            with contextlib.suppress(ValueError, RecursionError):
                found.append(Launch.from_plain(json.loads(line)))
        return [launch for launch in found if launch.study == study.name]

    def note(self, launch: Launch) -> None:
        """Add a launch, on disk when this returns."""
        line = json.dumps(launch.to_plain(), ensure_ascii=False) + "\n"
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            with self._launches.open("a+b") as file:
                # After a line that was cut short, a new one starts.
                if file.tell():
                    file.seek(-1, os.SEEK_END)
                    line = line if file.read(1) == b"\n" else "\n" + line
                file.write(line.encode())
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise UsageError(f"{self._launches}: cannot be written ({error.strerror})") from None

    @contextlib.contextmanager
    def reading(self) -> Iterator[Results]:
        """The runs that are there."""
        if not self.database.exists():
            yield Sources([])
            return
        with Store(self.database, read_only=True) as store:
            yield store


class Sources:
    """Several places of results, or none; a run is taken from the first that has most of it."""

    def __init__(self, places: Sequence[Results]) -> None:
        self._places = places

    def records(self, spec: RunSpec) -> Sequence[EpochRecord]:
        """See `Results.records`."""
        found: Sequence[EpochRecord] = ()
        for place in self._places:
            if len(records := place.records(spec)) > len(found):
                found = records
        return found

    def environment(self, spec: RunSpec) -> Mapping[str, str]:
        """See `Results.environment`."""
        most = len(self.records(spec))
        return next((place.environment(spec) for place in self._places if len(place.records(spec)) == most), {})

    def specs(self) -> Sequence[RunSpec]:
        """See `Results.specs`."""
        return list(dict.fromkeys(spec for place in self._places for spec in place.specs()))


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
    said, *commands = made_with_said(made_with)
    return [f"{len(shown)} run{'s' * (len(shown) != 1)}: {said}", *commands]


def made_with_said(environments: Iterable[Mapping[str, str]]) -> list[str]:
    """When, where and with what something was made, and by which commands, in lines.

    Args:
        environments: See `lossaware.studies.environment`; at least one is not empty.
    """
    found: dict[str, dict[str, None]] = {}
    for made_with in environments:
        for name, value in made_with.items():
            found.setdefault(name, {})[value] = None
    dates = sorted({date[:10] for date in found.get("date", {})})
    parts = [" to ".join(dict.fromkeys([dates[0], dates[-1]]))] if dates else []
    parts += [" / ".join(found[name]) for name in ("processor", "device") if name in found]
    parts += [f"{name} {' / '.join(found[name])}" for name in ("lossaware", "commit", "torch") if name in found]
    said = [f"{', '.join(parts)}."]
    commands = list(dict.fromkeys(map(without_folders, found.get("command", {}))))
    said += [f"Command: {command}" for command in commands[:COMMANDS]]
    if more := len(commands[COMMANDS:]):
        said.append(f"... and {more} more command{'s' * (more != 1)}.")
    return said


def without_folders(command: str) -> str:
    """A command in which absolute paths are reduced to a file's name, or to ``DIR``."""
    try:
        words = shlex.split(command)
    except ValueError:
        return command
    return shlex.join(_reduced(word) for word in words)


def _reduced(word: str) -> str:
    option, equals, value = word.rpartition("=")
    for path in (PurePosixPath(value), PureWindowsPath(value)):
        if path.is_absolute():
            return option + equals + (path.name if path.suffix else "DIR")
    return word
