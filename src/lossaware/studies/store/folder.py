"""A folder of results: the database of runs, and the launches of studies."""

import contextlib
import json
import os
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from lossaware.errors import Note, UsageError
from lossaware.studies.specs.atomic import write_atomic
from lossaware.studies.specs.escape import json_text
from lossaware.studies.specs.provenance import environment
from lossaware.studies.specs.regular_file import MALFORMED, check_regular, read_regular
from lossaware.studies.specs.seal import SEAL, is_sealed, sealed
from lossaware.studies.specs.study import Overrides, Study
from lossaware.studies.store.database import Store
from lossaware.studies.store.results import Results, Sources
from lossaware.studies.store.sqlite_file import back_up


@dataclass(frozen=True)
class Launch:
    """One launch of a study.

    Attributes:
        study: Name of the study.
        digest: `Study.digest` at that time.
        overrides: Differences from the study's file.
        environment: Command, commit, machine and date; see `lossaware.studies.specs.provenance`.
    """

    study: str
    digest: str
    overrides: Overrides
    environment: Mapping[str, str]

    @classmethod
    def now(cls, study: Study) -> "Launch":
        """The present launch."""
        return cls(study.name, study.digest, study.overrides, environment())

    def to_plain(self) -> dict[str, Any]:
        """The launch as plain values."""
        return {
            "study": self.study,
            "digest": self.digest,
            "overrides": self.overrides.to_plain(),
            "environment": dict(self.environment),
        }

    @classmethod
    def from_plain(cls, plain: Mapping[str, Any]) -> "Launch":
        """The launch from a result of `to_plain`.

        Raises:
            ValueError: The values are not valid.
        """
        try:
            overrides = Overrides.from_plain(plain["overrides"])
            environment = {str(name): str(value) for name, value in plain["environment"].items()}
            return cls(plain["study"], plain["digest"], overrides, environment)
        except ValidationError as error:
            raise ValueError(f"not a launch of a study: {error.errors()[0]['msg']}") from None
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"not a launch of a study: {error}") from None


class Folder:
    """A folder of results, also of ``compare``: ``results.sqlite``, and ``studies.jsonl`` with one line per launch.

    Args:
        path: The folder; it may not exist.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.database = path / "results.sqlite"
        self._launches = path / "studies.jsonl"

    def launches(self, study: Study) -> list[Launch]:
        """The launches of the study, latest last."""
        return [launch for launch in self.all_launches() if launch.study == study.name]

    def all_launches(self) -> list[Launch]:
        """The launches of all studies, latest last.

        Raises:
            UsageError: The file cannot be read, or a line has changed.
        """
        if not self._launches.exists() and not self._launches.is_symlink():
            return []
        launches = []
        text = read_regular(self._launches).decode(errors="replace").removesuffix("\n")
        for number, line in enumerate(text.split("\n") if text else [], 1):
            where = f"{self._launches}, line {number}"
            try:
                content = json.loads(line)
                if SEAL in content and not is_sealed(content):
                    raise UsageError(f"{where}: this has changed: the file is damaged")
                launches.append(Launch.from_plain(content))
            except MALFORMED:
                # If a kill has cut the line short, this launch had not executed runs yet.
                warnings.warn(f"{where}: cut short or damaged, and ignored", Note, stacklevel=2)
        return launches

    def note(self, launch: Launch) -> None:
        """Add a launch; it is on disk when this returns."""
        line = json_text(sealed(launch.to_plain())) + "\n"
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            if self._launches.is_symlink():
                raise UsageError(f"{self._launches}: this is a link, and links are not followed for writing; remove it")
            if self._launches.exists():
                check_regular(self._launches, self._launches.stat().st_mode)
            with self._launches.open("a+b") as file:
                # Start a new line after one that was cut short.
                if file.tell():
                    file.seek(-1, os.SEEK_END)
                    line = line if file.read(1) == b"\n" else "\n" + line
                file.write(line.encode())
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise UsageError(f"{self._launches}: cannot be written ({error.strerror})") from None

    def back_up(self, target: Path) -> list[Path]:
        """Copy the present runs, also while another process writes them.

        Args:
            target: The folder of the copy, which must not have runs.

        Returns:
            The files.

        Raises:
            UsageError: There are no runs, the target has runs, or it cannot be written.
        """
        copy = Folder(target)
        # First the launches, since each is written before its runs.
        launches = read_regular(self._launches) if self._launches.exists() else b""
        back_up(self.database, copy.database)
        if launches:
            write_atomic(copy._launches, launches)
        return [path for path in (copy.database, copy._launches) if path.exists()]

    @contextlib.contextmanager
    def reading(self) -> Iterator[Results]:
        """The runs of the folder, as a context."""
        if not self.database.exists():
            yield Sources([])
            return
        with Store(self.database, read_only=True) as store:
            yield store
