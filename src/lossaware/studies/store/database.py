"""Crash-safe results: one SQLite file, one writer, one transaction per epoch.

A run is marked complete in the transaction of its last epoch, so that it is never half written.
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

    A missing file is created, with its folder. A store that is open for writing holds the lock ``<path>.lock``, which
    ends with its process; readers do not need a lock.

    Args:
        path: The database file.
        read_only: Whether to only read, also while another process writes.

    Raises:
        UsageError: The file is foreign, damaged or of another version, cannot be created or written, or another process
            writes to it. An existing file is not changed.
    """

    def __init__(self, path: Path, *, read_only: bool = False) -> None:
        self.path = Path(path)
        self._environments: dict[tuple[str, str], int] = {}  # this process' own, by device and data
        self._verified: set[str] = set()  # keys of runs whose epochs were verified; other processes cannot write
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
        """Close the file and release the lock."""
        for connection in (self._database, self._lock):
            if connection is not None:
                connection.close()

    @property
    def checkpoints(self) -> Path:
        """The folder for checkpoints of the runs that are not complete: ``<path>.checkpoints``."""
        return sqlite_file.with_suffix(self.path, ".checkpoints")

    # Writing, in the order of a run.

    def begin(self, spec: RunSpec) -> str:
        """Record that a run starts, starts again or continues. Earlier epochs are kept until they are recorded again.

        They are deleted if they are damaged, or if the file of the user's task or optimizer has changed.

        Returns:
            Description of the damage of earlier epochs, in one line; empty without damage.
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
        """Record the files that a run has read."""
        with self._transaction() as database:
            row = self._environment(database, spec.device, "; ".join(map(str, files)))
            database.execute("UPDATE runs SET environment = ? WHERE key = ?", (row, spec.key))

    def record(self, spec: RunSpec, record: EpochRecord) -> None:
        """Record an epoch of a run. With its last epoch, and all others, the run is complete."""
        with self._transaction() as database:
            _insert(database, spec, record)
            if record.epoch == spec.epochs and not spec.is_open_ended:
                _complete(database, spec, spec.epochs)

    def finish(self, spec: RunSpec, epochs: int) -> None:
        """Mark an open-ended run as complete with this number of epochs, if it has all of them."""
        with self._transaction() as database:
            database.execute("DELETE FROM epochs WHERE run = ? AND epoch > ?", (spec.key, epochs))
            _complete(database, spec, epochs)

    def fail(self, spec: RunSpec, message: str) -> None:
        """Record that a run failed; it counts as missing."""
        with self._transaction() as database:
            database.execute(
                "UPDATE runs SET state = 'failed', message = ?, digest = NULL WHERE key = ?", (message, spec.key)
            )

    def insert_run(self, spec: RunSpec, records: Sequence[EpochRecord], run_environment: Mapping[str, str]) -> None:
        """Store a complete run from another place; it replaces an existing one.

        Args:
            spec: The run.
            records: All its epochs, in order.
            run_environment: Its environment; see `environment`.
        """
        content = json.dumps(dict(run_environment))
        with self._transaction() as database:
            row = database.execute("SELECT id FROM environments WHERE content = ?", (content,)).fetchone()
            row = row or (database.execute("INSERT INTO environments (content) VALUES (?)", (content,)).lastrowid,)
            database.execute("DELETE FROM epochs WHERE run = ?", (spec.key,))
            database.execute(
                "INSERT OR REPLACE INTO runs (key, spec, state, source, environment) VALUES (?, ?, 'begun', ?, ?)",
                (spec.key, spec.to_json(), source_digest(spec.own_code), *row),
            )
            for record in records:
                _insert(database, spec, record)
            _complete(database, spec, len(records) if spec.is_open_ended else spec.epochs)

    # Reading.

    def missing(self, specs: Iterable[RunSpec]) -> list[RunSpec]:
        """The runs that are not complete, each once, in order.

        A complete run counts as missing if its epochs are damaged, or if the file of the user's task or optimizer has
        changed.
        """
        complete = dict(self._rows("SELECT key, source FROM runs WHERE state = 'complete'"))
        sources: dict[tuple[str, ...], str | None] = {}
        result: dict[str, RunSpec] = {}
        for spec in specs:
            if spec.own_code not in sources:
                sources[spec.own_code] = source_digest(spec.own_code)
            if spec.key not in complete or complete[spec.key] != sources[spec.own_code] or not self._is_undamaged(spec):
                result.setdefault(spec.key, spec)
        return list(result.values())

    def complete(self, spec: RunSpec) -> bool:
        """Whether the run is complete."""
        return bool(list(self._rows("SELECT 1 FROM runs WHERE key = ? AND state = 'complete'", spec.key)))

    def complete_keys(self) -> set[str]:
        """The keys of all complete runs."""
        return {key for (key,) in self._rows("SELECT key FROM runs WHERE state = 'complete'")}

    def records(self, spec: RunSpec) -> list[EpochRecord]:
        """The epochs of a run so far, in order; empty for an unknown run.

        They are also empty if the user's own code has changed, so as not to mix them with runs of the present code.
        """
        if spec.own_code:
            sources = self._rows("SELECT source FROM runs WHERE key = ?", spec.key)
            if any(has_changed(spec.own_code, source) for (source,) in sources):
                return []
        records, damage = self._read(spec)
        if damage:
            remedy = "running its study or comparison computes it again"
            raise UsageError(f"{self.path}: {damage}: the file is damaged; {remedy}")
        return records

    def damage(self) -> list[str]:
        """Descriptions of damaged runs, one line each."""
        return [f"{self.path}: {damage}" for spec in self.specs() if (damage := self._read(spec)[1])]

    def specs(self) -> list[RunSpec]:
        """All runs that were started."""
        with self._reading("the runs"):
            return [RunSpec.from_json(line) for (line,) in self._rows("SELECT spec FROM runs ORDER BY key")]

    def failures(self) -> dict[RunSpec, str]:
        """The failed runs, with the reasons."""
        rows = self._rows("SELECT spec, message FROM runs WHERE state = 'failed' ORDER BY key")
        with self._reading("the runs"):
            return {RunSpec.from_json(line): message for line, message in rows}

    def environment(self, spec: RunSpec) -> Mapping[str, str]:
        """The environment of the run (see `lossaware.studies.specs.provenance`); empty for an unknown run."""
        rows = self._rows(
            "SELECT content FROM environments JOIN runs ON environments.id = runs.environment WHERE key = ?", spec.key
        )
        with self._reading(f"the environment of run {spec.key}"):
            return next((_texts(content) for (content,) in rows), {})

    def _read(self, spec: RunSpec) -> tuple[list[EpochRecord], str]:
        """The readable epochs of a run, and the description of its damage."""
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
        stored = [row[2] for row in rows[: len(records)]] if self._has_digests else None
        return records, find_change(spec, records, stored, rows[0][1], complete=rows[0][0] == "complete")

    def _is_undamaged(self, spec: RunSpec) -> bool:
        """Whether the epochs of a run are undamaged."""
        if spec.key not in self._verified and not self._read(spec)[1]:
            self._verified.add(spec.key)
        return spec.key in self._verified

    def _columns(self) -> set[str]:
        return {row[1] for row in self._database.execute("PRAGMA table_info (epochs)")}

    def counts(self) -> tuple[int, int]:
        """Numbers of stored runs and epochs."""
        ((runs,),), ((epochs,),) = (list(self._rows(f"SELECT count(*) FROM {table}")) for table in ("runs", "epochs"))
        return runs, epochs

    def _rows(self, query: str, *values: Any) -> Iterator[tuple[Any, ...]]:
        try:
            yield from self._database.execute(query, values).fetchall()
        except sqlite_file.ERRORS as error:
            raise UsageError(f"{self.path}: the results cannot be read ({one_line(error)})") from None

    @contextmanager
    def _reading(self, label: str) -> Iterator[None]:
        """Report values that are not valid JSON of this package as damage, which SQLite does not detect."""
        try:
            yield
        except MALFORMED as error:
            raise UsageError(f"{self.path}: {label} cannot be read, the file is damaged ({one_line(error)})") from None

    def _environment(self, database: sqlite3.Connection, device: str, data: str = "") -> int:
        """The row of this process's environment."""
        if (device, data) not in self._environments:
            content = json.dumps(environment(device) | ({"data": data} if data else {}))
            added = database.execute("INSERT INTO environments (content) VALUES (?)", (content,)).lastrowid
            assert added is not None
            self._environments[device, data] = added
        return self._environments[device, data]

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        try:
            self._database.execute("BEGIN IMMEDIATE")
            with self._database:
                yield self._database
        except sqlite_file.ERRORS as error:
            raise UsageError(f"{self.path}: the results cannot be written ({one_line(error)})") from None


def _complete(database: sqlite3.Connection, spec: RunSpec, epochs: int) -> None:
    """Mark a run as complete if it has all its epochs, at least one."""
    rows = database.execute("SELECT epoch, digest FROM epochs WHERE run = ? ORDER BY epoch", (spec.key,)).fetchall()
    if rows and [epoch for epoch, _ in rows] == list(range(1, epochs + 1)):
        database.execute(
            "UPDATE runs SET state = 'complete', message = NULL, digest = ? WHERE key = ?",
            (run_digest(spec, [digest for _, digest in rows]), spec.key),
        )


def _insert(database: sqlite3.Connection, spec: RunSpec, record: EpochRecord) -> None:
    database.execute(
        "INSERT OR REPLACE INTO epochs (run, epoch, train, test, lga, seconds, digest) VALUES (?, ?, ?, ?, ?, ?, ?)",
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


def _texts(text: str) -> dict[str, str]:
    return {name: str(value) for name, value in json.loads(text).items()}
