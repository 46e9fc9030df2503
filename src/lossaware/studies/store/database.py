"""Results that survive a kill: one SQLite file, one writer, a transaction an epoch.

A run is complete from the very transaction that holds its last epoch, so no moment exists at which it is half written.
"""

import json
import sqlite3
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any

from lossaware.errors import UsageError
from lossaware.studies.specs.data_folder import FilesRead
from lossaware.studies.specs.provenance import environment
from lossaware.studies.specs.regular_file import MALFORMED
from lossaware.studies.specs.run_spec import EpochRecord, RunSpec
from lossaware.studies.specs.user_code import has_changed, source_digest
from lossaware.studies.store import sqlite_file
from lossaware.studies.store.digests import epoch_digest, find_change, run_digest
from lossaware.studies.store.sqlite_file import EPOCH_COLUMNS, epoch_of_row, one_line


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
        self._sound: set[str] = set()  # runs whose epochs were found to be what was written; nobody else writes
        self._lock: sqlite3.Connection | None = None
        try:
            if read_only:
                self._database = sqlite_file.open_for_reading(self.path)
            else:
                self._database, self._lock = sqlite_file.open_for_writing(self.path)
        except (OSError, *sqlite_file.ERRORS) as error:
            raise UsageError(f"{self.path}: the results cannot be opened ({one_line(error)})") from None
        self._has_digests = self._columns() >= {"digest"}

    def __enter__(self) -> "Store":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Closes the file and lets other writers in."""
        for connection in (self._database, self._lock):
            if connection is not None:
                connection.close()

    @property
    def checkpoints(self) -> Path:
        """The folder for checkpoints of the runs that are not complete: ``<path>.checkpoints``."""
        return sqlite_file.beside(self.path, ".checkpoints")

    # Writing, in the order in which a run goes.

    def begin(self, spec: RunSpec) -> str:
        """A run starts, starts again or goes on. Its earlier epochs stay until they are told again.

        They do not where they are not what was written, or where the file of a user's task or optimizer has changed
        since.

        Returns:
            What is wrong with earlier epochs, in a line; empty where nothing is.
        """
        source = source_digest(spec.own_code)
        damage = self._read(spec)[1]
        with self._transaction() as database:
            row = database.execute("SELECT source FROM runs WHERE key = ?", (spec.key,)).fetchone()
            if damage or (row is not None and row[0] != source):
                database.execute("DELETE FROM epochs WHERE run = ?", (spec.key,))
            database.execute(
                "INSERT INTO runs (key, spec, state, source, environment) VALUES (?, ?, 'begun', ?, ?) "
                "ON CONFLICT (key) DO UPDATE SET state = 'begun', message = NULL, source = excluded.source, "
                "environment = excluded.environment, digest = NULL",
                (spec.key, spec.to_json(), source, self._environment(database, spec.device)),
            )
        return damage

    def data_read(self, spec: RunSpec, files: Sequence[FilesRead]) -> None:
        """A run that has begun has read these files."""
        with self._transaction() as database:
            made_with = self._environment(database, spec.device, "; ".join(map(str, files)))
            database.execute("UPDATE runs SET environment = ? WHERE key = ?", (made_with, spec.key))

    def record(self, spec: RunSpec, record: EpochRecord) -> None:
        """An epoch of a run that has begun; with its last epoch, and all before, the run is complete."""
        with self._transaction() as database:
            self._insert(database, spec, record)
            if record.epoch == spec.epochs and not spec.is_open_ended:
                self._complete(database, spec, spec.epochs)

    def finish(self, spec: RunSpec, epochs: int) -> None:
        """A run that is open-ended is complete with this many epochs, if all of them are there."""
        with self._transaction() as database:
            database.execute("DELETE FROM epochs WHERE run = ? AND epoch > ?", (spec.key, epochs))
            self._complete(database, spec, epochs)

    def fail(self, spec: RunSpec, message: str) -> None:
        """A run ended without its last epoch; it counts as missing."""
        with self._transaction() as database:
            database.execute(
                "UPDATE runs SET state = 'failed', message = ?, digest = NULL WHERE key = ?", (message, spec.key)
            )

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
                "INSERT OR REPLACE INTO runs (key, spec, state, source, environment) VALUES (?, ?, 'begun', ?, ?)",
                (spec.key, spec.to_json(), source_digest(spec.own_code), *place),
            )
            for record in records:
                self._insert(database, spec, record)
            self._complete(database, spec, len(records) if spec.is_open_ended else spec.epochs)

    # Reading.

    def missing(self, specs: Iterable[RunSpec]) -> list[RunSpec]:
        """Those that are not complete, each once, in order.

        A complete run counts as missing where its epochs are not what was written, and, if it is of a user's own task
        or optimizer, once its file has changed.
        """
        done = dict(self._rows("SELECT key, source FROM runs WHERE state = 'complete'"))
        sources: dict[tuple[str, ...], str | None] = {}
        found: dict[str, RunSpec] = {}
        for spec in specs:
            if spec.own_code not in sources:
                sources[spec.own_code] = source_digest(spec.own_code)
            if spec.key not in done or done[spec.key] != sources[spec.own_code] or not self._is_sound(spec):
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
        records, damage = self._read(spec)
        if damage:
            again = "running its study or comparison computes it again"
            raise UsageError(f"{self.path}: {damage}: the file is damaged; {again}")
        return records

    def damage(self) -> list[str]:
        """What is wrong with the runs, a line for each run that is not what was written."""
        return [f"{self.path}: {damage}" for spec in self.specs() if (damage := self._read(spec)[1])]

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

    def _read(self, spec: RunSpec) -> tuple[list[EpochRecord], str]:
        """The epochs of a run that can be read, and what is wrong with the run."""
        digests = "runs.digest, epochs.digest" if self._has_digests else "NULL, NULL"
        # One statement, so that another process cannot write in between.
        query = f"SELECT state, {digests}, {EPOCH_COLUMNS} FROM runs LEFT JOIN epochs ON key = run WHERE key = ?"
        rows = list(self._rows(f"{query} ORDER BY epoch", spec.key))
        records: list[EpochRecord] = []
        for *_, epoch, train, test, lga, seconds in rows:
            if epoch is None:
                break  # a run without epochs
            try:
                records.append(epoch_of_row(epoch, train, test, lga, seconds))
            except MALFORMED as error:
                return records, f"epoch {epoch} of run {spec.key} cannot be read ({one_line(error)})"
        if not rows:
            return records, ""
        kept = [row[2] for row in rows[: len(records)]] if self._has_digests else None
        return records, find_change(spec, records, kept, rows[0][1], complete=rows[0][0] == "complete")

    def _is_sound(self, spec: RunSpec) -> bool:
        """Whether the epochs of a run are what was written."""
        if spec.key not in self._sound and not self._read(spec)[1]:
            self._sound.add(spec.key)
        return spec.key in self._sound

    def _columns(self) -> set[str]:
        return {row[1] for row in self._database.execute("PRAGMA table_info (epochs)")}

    def counts(self) -> tuple[int, int]:
        """How many runs and epochs are stored."""
        ((runs,),), ((epochs,),) = (list(self._rows(f"SELECT count(*) FROM {table}")) for table in ("runs", "epochs"))
        return runs, epochs

    def _rows(self, query: str, *values: Any) -> Iterator[tuple[Any, ...]]:
        try:
            yield from self._database.execute(query, values).fetchall()
        except sqlite_file.ERRORS as error:
            raise UsageError(f"{self.path}: the results cannot be read ({one_line(error)})") from None

    @contextmanager
    def _reading(self, what: str) -> Iterator[None]:
        """What is no JSON, or not of our form, was not written by us; SQLite alone does not notice."""
        try:
            yield
        except MALFORMED as error:
            raise UsageError(f"{self.path}: {what} cannot be read, the file is damaged ({one_line(error)})") from None

    def _environment(self, database: sqlite3.Connection, device: str, data: str = "") -> int:
        """The row of this process' environment."""
        if (device, data) not in self._environments:
            content = json.dumps(environment(device) | ({"data": data} if data else {}))
            added = database.execute("INSERT INTO environments (content) VALUES (?)", (content,)).lastrowid
            assert added is not None
            self._environments[device, data] = added
        return self._environments[device, data]

    @staticmethod
    def _complete(database: sqlite3.Connection, spec: RunSpec, epochs: int) -> None:
        """Mark a run complete if all its epochs are there, and there is one."""
        rows = database.execute("SELECT epoch, digest FROM epochs WHERE run = ? ORDER BY epoch", (spec.key,)).fetchall()
        if rows and [epoch for epoch, _ in rows] == list(range(1, epochs + 1)):
            database.execute(
                "UPDATE runs SET state = 'complete', message = NULL, digest = ? WHERE key = ?",
                (run_digest(spec, [digest for _, digest in rows]), spec.key),
            )

    @staticmethod
    def _insert(database: sqlite3.Connection, spec: RunSpec, record: EpochRecord) -> None:
        database.execute(
            "INSERT OR REPLACE INTO epochs (run, epoch, train, test, lga, seconds, digest) "
            "VALUES (?, ?, ?, ?, ?, ?, ?)",
            (
                spec.key,
                record.epoch,
                json.dumps(dict(record.train)),
                json.dumps(dict(record.test)),
                None if record.lga is None else json.dumps(dict(record.lga)),
                record.seconds,
                epoch_digest(spec, record),
            ),
        )

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        try:
            self._database.execute("BEGIN IMMEDIATE")
            with self._database:
                yield self._database
        except sqlite_file.ERRORS as error:
            raise UsageError(f"{self.path}: the results cannot be written ({one_line(error)})") from None


def _texts(text: str) -> dict[str, str]:
    return {name: str(value) for name, value in json.loads(text).items()}
