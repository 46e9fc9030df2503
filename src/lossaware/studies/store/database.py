"""Results that survive a kill: one SQLite file, one writer, a transaction an epoch.

A run is complete from the very transaction that holds its last epoch, so no moment exists at which it is half written.
"""

import json
import os
import sqlite3
import struct
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any

from lossaware.errors import UsageError
from lossaware.studies.specs.data_folder import FilesRead
from lossaware.studies.specs.provenance import environment
from lossaware.studies.specs.run_spec import EpochRecord, RunSpec
from lossaware.studies.specs.user_code import has_changed, source_digest

SCHEMA_VERSION = 1
_APPLICATION_ID = 0x4C474131  # "LGA1", as SQLite's header field for the kind of file
_SCHEMA = f"""
PRAGMA application_id = {_APPLICATION_ID};
PRAGMA user_version = {SCHEMA_VERSION};
CREATE TABLE environments (id INTEGER PRIMARY KEY, content TEXT NOT NULL);
CREATE TABLE runs (
    key TEXT PRIMARY KEY,
    spec TEXT NOT NULL,
    state TEXT NOT NULL CHECK (state IN ('begun', 'complete', 'failed')),
    message TEXT,
    source TEXT,
    environment INTEGER NOT NULL REFERENCES environments (id)
) WITHOUT ROWID;
CREATE TABLE epochs (
    run TEXT NOT NULL REFERENCES runs (key),
    epoch INTEGER NOT NULL CHECK (epoch >= 1),
    train TEXT NOT NULL,
    test TEXT NOT NULL,
    lga TEXT,
    seconds REAL NOT NULL,
    PRIMARY KEY (run, epoch)
) WITHOUT ROWID;
"""


class Store:
    """The results in the file ``path``; a context manager.

    A missing file is made, with its folder. While a store is open for writing, ``<path>.lock`` is held, which dies with
    its process; readers need no lock.

    Args:
        path: The database file.
        read_only: Whether to only read, also while another process writes.

    Raises:
        UsageError: The file is foreign, damaged or of another version, cannot be made or written, or another process
            writes to it. What is there is left as it is.
    """

    def __init__(self, path: Path, *, read_only: bool = False) -> None:
        self.path = Path(path)
        self._environments: dict[tuple[str, str], int] = {}  # this process' own, by device and data
        self._lock: sqlite3.Connection | None = None
        try:
            if read_only:
                if not self.path.is_file():
                    raise UsageError(f"there are no results at {self.path}")
                _check_header(self.path)
                self._database = sqlite3.connect(_read_only_address(self.path), uri=True)
            else:
                self._open_for_writing()
            self._database.execute("SELECT 1 FROM runs, epochs, environments LIMIT 1")
            if (verdict := self._database.execute("PRAGMA quick_check").fetchone()[0]) != "ok":
                raise sqlite3.DatabaseError(verdict.splitlines()[0])
        except (OSError, sqlite3.Error) as error:
            self.close()
            reason = error.strerror if isinstance(error, OSError) else error
            raise UsageError(f"{self.path}: the results cannot be opened ({reason})") from None
        except UsageError:
            self.close()
            raise

    def __enter__(self) -> "Store":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Closes the file and lets other writers in."""
        for connection in (getattr(self, "_database", None), self._lock):
            if connection is not None:
                connection.close()

    @property
    def checkpoints(self) -> Path:
        """The folder for checkpoints of the runs that are not complete: ``<path>.checkpoints``."""
        return _beside(self.path, ".checkpoints")

    # Writing, in the order in which a run goes.

    def begin(self, spec: RunSpec) -> None:
        """A run starts, starts again or goes on. Its earlier epochs stay until they are told again.

        Where the file of a user's task or optimizer has changed since, they do not: they are of another one.
        """
        source = source_digest(spec.own_code)
        with self._transaction() as database:
            row = database.execute("SELECT source FROM runs WHERE key = ?", (spec.key,)).fetchone()
            if row is not None and row[0] != source:
                database.execute("DELETE FROM epochs WHERE run = ?", (spec.key,))
            database.execute(
                "INSERT INTO runs (key, spec, state, source, environment) VALUES (?, ?, 'begun', ?, ?) "
                "ON CONFLICT (key) DO UPDATE SET state = 'begun', message = NULL, source = excluded.source, "
                "environment = excluded.environment",
                (spec.key, spec.to_json(), source, self._environment(database, spec.device)),
            )

    def data_read(self, spec: RunSpec, files: Sequence[FilesRead]) -> None:
        """A run that has begun has read these files."""
        with self._transaction() as database:
            made_with = self._environment(database, spec.device, "; ".join(map(str, files)))
            database.execute("UPDATE runs SET environment = ? WHERE key = ?", (made_with, spec.key))

    def record(self, spec: RunSpec, record: EpochRecord) -> None:
        """An epoch of a run that has begun; with its last epoch the run is complete."""
        with self._transaction() as database:
            self._insert(database, spec, record)
            if record.epoch == spec.epochs:
                database.execute("UPDATE runs SET state = 'complete', message = NULL WHERE key = ?", (spec.key,))

    def fail(self, spec: RunSpec, message: str) -> None:
        """A run ended without its last epoch; it counts as missing."""
        with self._transaction() as database:
            database.execute("UPDATE runs SET state = 'failed', message = ? WHERE key = ?", (message, spec.key))

    def adopt(self, spec: RunSpec, records: Sequence[EpochRecord], made_with: Mapping[str, str]) -> None:
        """A complete run that was measured elsewhere takes the place of whatever is here of it.

        Args:
            spec: The run.
            records: All its epochs, in order.
            made_with: Its environment; see `environment`.
        """
        content = json.dumps(dict(made_with))
        with self._transaction() as database:
            row = database.execute("SELECT id FROM environments WHERE content = ?", (content,)).fetchone()
            place = row or (database.execute("INSERT INTO environments (content) VALUES (?)", (content,)).lastrowid,)
            database.execute("DELETE FROM epochs WHERE run = ?", (spec.key,))
            database.execute(
                "INSERT OR REPLACE INTO runs (key, spec, state, source, environment) VALUES (?, ?, 'complete', ?, ?)",
                (spec.key, spec.to_json(), source_digest(spec.own_code), *place),
            )
            for record in records:
                self._insert(database, spec, record)

    # Reading.

    def missing(self, specs: Iterable[RunSpec]) -> list[RunSpec]:
        """Those that are not complete, each once, in order.

        A complete run of a user's own task or optimizer counts as missing once its file has changed.
        """
        done = dict(self._rows("SELECT key, source FROM runs WHERE state = 'complete'"))
        sources: dict[tuple[str, ...], str | None] = {}
        found: dict[str, RunSpec] = {}
        for spec in specs:
            if spec.own_code not in sources:
                sources[spec.own_code] = source_digest(spec.own_code)
            if spec.key not in done or done[spec.key] != sources[spec.own_code]:
                found.setdefault(spec.key, spec)
        return list(found.values())

    def complete(self, spec: RunSpec) -> bool:
        """Whether all epochs of the run are there."""
        return bool(list(self._rows("SELECT 1 FROM runs WHERE key = ? AND state = 'complete'", spec.key)))

    def complete_keys(self) -> set[str]:
        """The keys of all complete runs."""
        return {key for (key,) in self._rows("SELECT key FROM runs WHERE state = 'complete'")}

    def records(self, spec: RunSpec) -> list[EpochRecord]:
        """The epochs of a run so far, in order; empty for an unknown run.

        So are those of a user's own code that was another then, which would stand beside those of today's.
        """
        if spec.own_code:
            sources = self._rows("SELECT source FROM runs WHERE key = ?", spec.key)
            if any(has_changed(spec.own_code, source) for (source,) in sources):
                return []
        rows = self._rows("SELECT epoch, train, test, lga, seconds FROM epochs WHERE run = ? ORDER BY epoch", spec.key)
        with self._reading(f"the epochs of run {spec.key}"):
            return [
                EpochRecord(
                    epoch=epoch,
                    train=_numbers(train),
                    test=_numbers(test),
                    lga=None if lga is None else _numbers(lga),
                    seconds=float(seconds),
                )
                for epoch, train, test, lga, seconds in rows
            ]

    def specs(self) -> list[RunSpec]:
        """All runs that ever began."""
        with self._reading("the runs"):
            return [RunSpec.from_json(line) for (line,) in self._rows("SELECT spec FROM runs ORDER BY key")]

    def failures(self) -> dict[RunSpec, str]:
        """The runs that failed, and why."""
        rows = self._rows("SELECT spec, message FROM runs WHERE state = 'failed' ORDER BY key")
        with self._reading("the runs"):
            return {RunSpec.from_json(line): message for line, message in rows}

    def environment(self, spec: RunSpec) -> Mapping[str, str]:
        """What the run was made with (see `lossaware.studies.specs.provenance`); empty for an unknown run."""
        rows = self._rows(
            "SELECT content FROM environments JOIN runs ON environments.id = runs.environment WHERE key = ?", spec.key
        )
        with self._reading(f"the environment of run {spec.key}"):
            return next((_texts(content) for (content,) in rows), {})

    def _rows(self, query: str, *values: Any) -> Iterator[tuple[Any, ...]]:
        try:
            yield from self._database.execute(query, values).fetchall()
        except sqlite3.Error as error:
            raise UsageError(f"{self.path}: the results cannot be read ({error})") from None

    @contextmanager
    def _reading(self, what: str) -> Iterator[None]:
        """What is no JSON, or not of our form, was not written by us; SQLite alone does not notice."""
        try:
            yield
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise UsageError(f"{self.path}: {what} cannot be read, the file is damaged ({error})") from None

    def _environment(self, database: sqlite3.Connection, device: str, data: str = "") -> int:
        """The row of this process' environment."""
        if (device, data) not in self._environments:
            content = json.dumps(environment(device) | ({"data": data} if data else {}))
            added = database.execute("INSERT INTO environments (content) VALUES (?)", (content,)).lastrowid
            assert added is not None
            self._environments[device, data] = added
        return self._environments[device, data]

    @staticmethod
    def _insert(database: sqlite3.Connection, spec: RunSpec, record: EpochRecord) -> None:
        database.execute(
            "INSERT OR REPLACE INTO epochs (run, epoch, train, test, lga, seconds) VALUES (?, ?, ?, ?, ?, ?)",
            (
                spec.key,
                record.epoch,
                json.dumps(dict(record.train)),
                json.dumps(dict(record.test)),
                None if record.lga is None else json.dumps(dict(record.lga)),
                record.seconds,
            ),
        )

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        try:
            self._database.execute("BEGIN IMMEDIATE")
            with self._database:
                yield self._database
        except sqlite3.Error as error:
            raise UsageError(f"{self.path}: the results cannot be written ({error})") from None

    def _open_for_writing(self) -> None:
        if self.path.exists():
            _check_header(self.path)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._lock = self._hold_lock()
        if not self.path.exists():
            self._create()
        self._database = sqlite3.connect(self.path, isolation_level=None)
        self._database.execute("PRAGMA journal_mode = WAL")
        # A commit waits for the disk: an epoch is worth more than those milliseconds.
        self._database.execute("PRAGMA synchronous = FULL")
        self._database.execute("PRAGMA foreign_keys = ON")

    def _hold_lock(self) -> sqlite3.Connection:
        lock = sqlite3.connect(_beside(self.path, ".lock"), timeout=0, isolation_level=None)
        try:
            lock.execute("BEGIN EXCLUSIVE")
        except sqlite3.OperationalError as error:
            lock.close()
            if "locked" not in str(error):
                raise
            raise UsageError(f"{self.path}: another process is writing to it; wait for it, or name another") from None
        return lock

    def _create(self) -> None:
        # Made beside its place and then renamed: under its name the file is there whole or not at all.
        new = _beside(self.path, ".new")
        new.unlink(missing_ok=True)
        database = sqlite3.connect(new)
        database.executescript(f"BEGIN; {_SCHEMA} COMMIT;")
        database.close()
        new.rename(self.path)


def _numbers(text: str) -> dict[str, float]:
    return {name: float(value) for name, value in json.loads(text).items()}


def _texts(text: str) -> dict[str, str]:
    return {name: str(value) for name, value in json.loads(text).items()}


def _beside(path: Path, ending: str) -> Path:
    return path.with_name(path.name + ending)


def _read_only_address(path: Path) -> str:
    # Readers of a file in WAL mode make files beside it, unless told that nobody writes.
    written = _beside(path, "-wal").exists() or os.access(path.parent, os.W_OK)
    return path.resolve().as_uri() + ("?mode=ro" if written else "?mode=ro&immutable=1")


def _check_header(path: Path) -> None:
    """Reads the kind and version from SQLite's header, for opening a foreign database may already change it."""
    try:
        with path.open("rb") as file:
            header = file.read(100)
    except OSError as error:
        raise UsageError(f"{path}: cannot be read ({error.strerror})") from None
    if len(header) < 100 or header[:16] != b"SQLite format 3\0":
        raise UsageError(f"{path} is there but holds no results of lossaware; nothing was changed")
    version, application = struct.unpack(">I4xI", header[60:72])
    if application != _APPLICATION_ID:
        raise UsageError(f"{path} is a database of another program; nothing was changed")
    if version != SCHEMA_VERSION:
        raise UsageError(
            f"{path} was written by another version of lossaware (format {version}, this one reads {SCHEMA_VERSION}); "
            "name another file; nothing was changed"
        )
