"""The SQLite file of a store: its tables, how it is made and opened, and what must hold of it as a whole."""

import contextlib
import hashlib
import json
import os
import sqlite3
import stat
import struct
import warnings
from pathlib import Path

from lossaware.errors import Note, UsageError
from lossaware.studies.specs.atomic import remove_own
from lossaware.studies.specs.regular_file import MALFORMED, check_regular
from lossaware.studies.specs.run_spec import EpochRecord, RunSpec
from lossaware.studies.store.digests import DIGITS, epoch_digest, run_digest

SCHEMA_VERSION = 2
WITHOUT_DIGESTS = 1
"""The version before; it is read with a note, and gets digests when it is written to."""
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
    environment INTEGER NOT NULL REFERENCES environments (id),
    digest TEXT
) WITHOUT ROWID;
CREATE TABLE epochs (
    run TEXT NOT NULL REFERENCES runs (key),
    epoch INTEGER NOT NULL CHECK (epoch >= 1),
    train TEXT NOT NULL,
    test TEXT NOT NULL,
    lga TEXT,
    seconds REAL NOT NULL,
    digest TEXT,
    PRIMARY KEY (run, epoch)
) WITHOUT ROWID;
"""
EPOCH_COLUMNS = "epoch, train, test, lga, seconds"
"""The columns that `epoch_of_row` takes."""
ERRORS = (sqlite3.Error, UnicodeError)
"""What SQLite raises where a file is damaged; its own messages quote text of the file, which may not be UTF-8."""
_DAMAGED = "the file is damaged; restore it from a backup, or name another"


def open_for_reading(path: Path) -> sqlite3.Connection:
    """A connection that cannot write, and leaves no file beside the database when it is closed.

    Raises:
        UsageError: The file is missing, foreign or of another version.
        sqlite3.Error: It is damaged; likewise UnicodeError.
    """
    if not path.is_file():
        raise UsageError(f"there are no results at {path}")
    version = _check_header(path)
    _check_beside(path)
    database = sqlite3.connect(_address(path), uri=True)
    try:
        database.execute("PRAGMA query_only = ON")
        _check(path, database, version)
    except BaseException:
        database.close()
        raise
    if version == WITHOUT_DIGESTS:
        warnings.warn(f"{path} is of an earlier version and has no digests: nothing tells a changed number", Note, 3)
    return database


def open_for_writing(path: Path) -> tuple[sqlite3.Connection, sqlite3.Connection]:
    """A connection, and one that keeps other writers out until it is closed. A missing file is made.

    Raises:
        UsageError: The file is foreign or of another version, or another process writes to it.
        OSError: It cannot be made.
        sqlite3.Error: It is damaged; likewise UnicodeError.
    """
    if path.exists():
        _check_header(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    _check_beside(path)
    lock = _hold_lock(path)
    try:
        if not path.exists():
            _create(path)
        version = _check_header(path)
        database = sqlite3.connect(path, isolation_level=None)
        try:
            database.execute("PRAGMA journal_mode = WAL")
            # A commit waits for the disk: an epoch is worth more than those milliseconds.
            database.execute("PRAGMA synchronous = FULL")
            database.execute("PRAGMA foreign_keys = ON")
            _check(path, database, version)
            if version == WITHOUT_DIGESTS:
                _add_digests(path, database)
        except BaseException:
            database.close()
            raise
    except BaseException:
        lock.close()
        raise
    return database, lock


def back_up(path: Path, target: Path) -> None:
    """Copy a database as it is at this moment, also while another process writes to it.

    Args:
        path: The database.
        target: The copy, whole or not there. It must not exist.

    Raises:
        UsageError: See `open_for_reading`; or the target exists, or cannot be written.
    """
    if target.exists() or target.is_symlink():
        raise UsageError(f"{target} exists; name another, or remove it")
    try:
        source = open_for_reading(path)
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            partial = beside(target, ".new")
            _make_room(partial)
            copy = sqlite3.connect(partial)
            try:
                source.backup(copy)
            finally:
                copy.close()
            open_for_reading(partial).close()
            partial.rename(target)
        finally:
            source.close()
    except (OSError, *ERRORS) as error:
        raise UsageError(f"{path} cannot be copied to {target} ({one_line(error)})") from None


def one_line(error: Exception) -> str:
    """What an error says; SQLite quotes whole tables."""
    if isinstance(error, UnicodeError):
        return "text in it is not UTF-8: the file is damaged"
    return " ".join(str(getattr(error, "strerror", None) or error).split())


def _make_room(path: Path) -> None:
    """Remove what a kill left of a database that was being made."""
    if not remove_own(path, b"SQLite format 3\0") and (path.exists() or path.is_symlink()):
        raise UsageError(f"{path} is in the way, and not a database that was being made: move it away")


def _check_beside(path: Path) -> None:
    """Refuse what SQLite would wait for, or write to, beside a database that somebody else has made."""
    for ending in ("-wal", "-shm", "-journal", ".lock", ".lock-journal"):
        there = beside(path, ending)
        with contextlib.suppress(FileNotFoundError):
            mode = there.lstat().st_mode
            if stat.S_ISLNK(mode):
                raise UsageError(f"{there}: this is a link; a regular file is expected")
            check_regular(there, mode)


def beside(path: Path, ending: str) -> Path:
    """A file with a longer name, such as ``results.sqlite.lock``."""
    return path.with_name(path.name + ending)


def _check(path: Path, database: sqlite3.Connection, version: int) -> None:
    """What must hold of the file as a whole. What holds of a run is found when the run is read."""
    # Bytes that are not text are damage, which is found by other means than an error of the decoder.
    database.text_factory = lambda content: content.decode(errors="replace")
    if (verdict := database.execute("PRAGMA integrity_check").fetchone()[0]) != "ok":
        raise sqlite3.DatabaseError(verdict.splitlines()[0])
    columns = {row[1] for row in database.execute("PRAGMA table_info (epochs)")}
    if ("digest" in columns) != (version == SCHEMA_VERSION):
        raise UsageError(f"{path}: its tables are not those of format {version}: {_DAMAGED}")
    for key, spec in database.execute("SELECT key, spec FROM runs").fetchall():
        if not isinstance(spec, str) or hashlib.sha256(spec.encode()).hexdigest()[:DIGITS] != key:
            raise UsageError(f"{path}: run {key} is not the run that its specification says: {_DAMAGED}")
    if orphan := database.execute("SELECT run FROM epochs WHERE run NOT IN (SELECT key FROM runs)").fetchone():
        raise UsageError(f"{path}: it has epochs of run {orphan[0]}, and not the run: {_DAMAGED}")
    database.execute("SELECT 1 FROM environments LIMIT 1")


def epoch_of_row(epoch: int, train: str, test: str, lga: str | None, seconds: float) -> EpochRecord:
    """The epoch in a row of the table.

    Raises:
        ValueError: It was not written by a store; likewise TypeError, KeyError and AttributeError.
    """
    return EpochRecord(epoch, _numbers(train), _numbers(test), None if lga is None else _numbers(lga), float(seconds))


def _numbers(text: str) -> dict[str, float]:
    return {name: float(value) for name, value in json.loads(text).items()}


def _add_digests(path: Path, database: sqlite3.Connection) -> None:
    """Bring a file to the present format, with digests of what it holds. What cannot be read gets none."""
    database.execute("BEGIN IMMEDIATE")
    with database:
        database.execute("ALTER TABLE runs ADD COLUMN digest TEXT")
        database.execute("ALTER TABLE epochs ADD COLUMN digest TEXT")
        for key, line, state in database.execute("SELECT key, spec, state FROM runs").fetchall():
            rows = database.execute(f"SELECT {EPOCH_COLUMNS} FROM epochs WHERE run = ? ORDER BY epoch", (key,))
            try:
                spec = RunSpec.from_json(line)
                records = [epoch_of_row(*row) for row in rows.fetchall()]
            except MALFORMED:
                continue
            digests = [epoch_digest(spec, record) for record in records]
            for record, digest in zip(records, digests, strict=True):
                database.execute(
                    "UPDATE epochs SET digest = ? WHERE run = ? AND epoch = ?", (digest, key, record.epoch)
                )
            if state == "complete" and [record.epoch for record in records] == list(range(1, spec.epochs + 1)):
                database.execute("UPDATE runs SET digest = ? WHERE key = ?", (run_digest(spec, digests), key))
        database.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
    warnings.warn(f"{path} was of an earlier version; it now has digests of what it holds", Note, stacklevel=5)


def _hold_lock(path: Path) -> sqlite3.Connection:
    lock = sqlite3.connect(beside(path, ".lock"), timeout=0, isolation_level=None)
    try:
        lock.execute("BEGIN EXCLUSIVE")
    except sqlite3.OperationalError as error:
        lock.close()
        if "locked" not in str(error):
            raise
        raise UsageError(f"{path}: another process is writing to it; wait for it, or name another") from None
    return lock


def _create(path: Path) -> None:
    # Made beside its place and then renamed: under its name the file is there whole or not at all.
    new = beside(path, ".new")
    _make_room(new)
    database = sqlite3.connect(new)
    database.executescript(f"BEGIN; {_SCHEMA} COMMIT;")
    database.close()
    new.rename(path)


def _address(path: Path) -> str:
    """The database for reading, as an address.

    A reader of a file in WAL mode makes files beside it. One that may write removes them when it is the last to leave,
    and brings what a killed writer left there into the database. Where it may not write, it is told that nobody writes.
    """
    if os.access(path.parent, os.W_OK) and os.access(path, os.W_OK):
        return path.resolve().as_uri() + "?mode=rw"
    return path.resolve().as_uri() + ("?mode=ro" if beside(path, "-wal").exists() else "?mode=ro&immutable=1")


def _check_header(path: Path) -> int:
    """Reads the kind and version from SQLite's header, for opening a foreign database may already change it."""
    try:
        check_regular(path, path.stat().st_mode)
        with path.open("rb") as file:
            header = file.read(100)
    except OSError as error:
        raise UsageError(f"{path}: cannot be read ({error.strerror})") from None
    if len(header) < 100 or header[:16] != b"SQLite format 3\0":
        raise UsageError(f"{path} is there but holds no results of lossaware; nothing was changed")
    version, application = struct.unpack(">I4xI", header[60:72])
    if application != _APPLICATION_ID:
        raise UsageError(f"{path} is a database of another program; nothing was changed")
    if version not in (SCHEMA_VERSION, WITHOUT_DIGESTS):
        raise UsageError(
            f"{path} was written by another version of lossaware (format {version}, this one reads {SCHEMA_VERSION}); "
            "name another file; nothing was changed"
        )
    return int(version)
