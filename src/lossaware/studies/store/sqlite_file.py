"""The SQLite file of a store: tables, creation, opening, and checks of the whole file."""

import contextlib
import hashlib
import json
import os
import sqlite3
import stat
import struct
import tempfile
import warnings
from pathlib import Path

from lossaware.errors import Note, UsageError
from lossaware.studies.specs.atomic import remove_own, sync_folder, umask
from lossaware.studies.specs.regular_file import MALFORMED, check_regular
from lossaware.studies.specs.run_spec import EpochRecord, RunSpec
from lossaware.studies.store.digests import DIGITS, epoch_digest, run_digest

SCHEMA_VERSION = 2
WITHOUT_DIGESTS = 1
"""The previous version, which is read with a note, and gets digests when it is opened for writing."""
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
_TABLES = ("environments", "runs", "epochs")
_WITH_DIGESTS = ("runs", "epochs")
_DIGEST = ",digestTEXT"  # the column without spaces; its position differs in files of an earlier version
LARGEST_VALUE = 1 << 24
"""Maximum size of a value in bytes; an epoch has some hundred."""
LARGEST_NEW = 1 << 15
"""Maximum size of a database without runs in bytes."""
EPOCH_COLUMNS = "epoch, train, test, lga, seconds"
"""The columns for `epoch_of_row`."""
ERRORS = (sqlite3.Error, UnicodeError)
"""Exceptions for damaged files. SQLite's messages quote text of the file, which may not be UTF-8."""
_DAMAGED = "the file is damaged; restore it from a backup, or name another"


def open_for_reading(path: Path) -> sqlite3.Connection:
    """A read-only connection, which leaves no other files next to the database when it is closed.

    Raises:
        UsageError: The file is missing, foreign or of another version.
        sqlite3.Error: It is damaged.
        UnicodeError: It is damaged.
    """
    if not path.is_file():
        raise UsageError(f"there are no results at {path}")
    version = _check_header(path)
    _check_companions(path)
    database = sqlite3.connect(_address(path), uri=True)
    try:
        database.execute("PRAGMA query_only = ON")
        _check(path, database, version)
    except BaseException:
        database.close()
        raise
    if version == WITHOUT_DIGESTS:
        warnings.warn(f"{path} is of an earlier version without digests, so that changes are not detected", Note, 3)
    return database


def open_for_writing(path: Path) -> tuple[sqlite3.Connection, sqlite3.Connection]:
    """A connection, and one that locks out other writers until it is closed. A missing file is created.

    Raises:
        UsageError: The file is foreign or of another version, or another process writes to it.
        OSError: It cannot be created.
        sqlite3.Error: It is damaged.
        UnicodeError: It is damaged.
    """
    if path.exists():
        _check_header(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    _check_companions(path)
    lock = _hold_lock(path)
    try:
        if not path.exists():
            _create(path)
        version = _check_header(path)
        database = sqlite3.connect(path, isolation_level=None)
        try:
            database.execute("PRAGMA journal_mode = WAL")
            # A commit waits for the disk, which takes milliseconds.
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
    """Copy the present database, also while another process writes to it.

    Args:
        path: The database.
        target: The copy, written atomically. It must not exist.

    Raises:
        UsageError: See `open_for_reading`; or the target exists, or cannot be written.
    """
    if target.exists() or target.is_symlink():
        raise UsageError(f"{target} exists; choose another, or remove it")
    try:
        source = open_for_reading(path)
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            handle, name = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}-")
            os.close(handle)
            partial = Path(name)
            try:
                copy = sqlite3.connect(partial)
                try:
                    source.backup(copy)
                finally:
                    copy.close()
                open_for_reading(partial).close()
                partial.chmod(0o666 & ~umask())
                partial.rename(target)
            except BaseException:
                partial.unlink(missing_ok=True)
                raise
            sync_folder(target.parent)
        finally:
            source.close()
    except (OSError, *ERRORS) as error:
        raise UsageError(f"{path} cannot be copied to {target} ({one_line(error)})") from None


def one_line(error: Exception) -> str:
    """The message of an error in one line; SQLite's messages quote whole tables."""
    if isinstance(error, UnicodeError):
        return "text in it is not UTF-8: the file is damaged"
    return " ".join(str(getattr(error, "strerror", None) or error).split())


def _remove_leftover(path: Path) -> None:
    """Remove an unfinished database without runs, left by a process that was killed while it created the database."""
    if _has_runs(path):
        raise UsageError(f"{path} has runs: rename it, or move it away")
    if not remove_own(path, b"SQLite format 3\0") and (path.exists() or path.is_symlink()):
        raise UsageError(f"{path} exists, but is not an unfinished database: move it away")


def _has_runs(path: Path) -> bool:
    try:
        database = open_for_reading(path)
    except (UsageError, OSError, *ERRORS):
        # A damaged database that may have runs is not removed either.
        return path.is_file() and path.stat().st_size > LARGEST_NEW
    try:
        return database.execute("SELECT 1 FROM runs LIMIT 1").fetchone() is not None
    finally:
        database.close()


def _check_companions(path: Path) -> None:
    """Refuse special files next to a foreign database, on which SQLite would block or to which it would write."""
    for ending in ("-wal", "-shm", "-journal", ".lock", ".lock-journal"):
        companion = with_suffix(path, ending)
        with contextlib.suppress(FileNotFoundError):
            mode = companion.lstat().st_mode
            if stat.S_ISLNK(mode):
                raise UsageError(f"{companion}: this is a link; a regular file is expected")
            check_regular(companion, mode)


def with_suffix(path: Path, ending: str) -> Path:
    """The path with a suffix, such as ``results.sqlite.lock``."""
    return path.with_name(path.name + ending)


def _check(path: Path, database: sqlite3.Connection, version: int) -> None:
    """Check the file as a whole. Runs are checked when they are read."""
    database.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, LARGEST_VALUE)
    # Bytes that are not text are damage, which is detected later; the decoder must not fail.
    database.text_factory = lambda content: content.decode(errors="replace")
    _check_schema(path, database, version)
    if (verdict := database.execute("PRAGMA integrity_check").fetchone()[0]) != "ok":
        raise sqlite3.DatabaseError(verdict.splitlines()[0])
    for key, spec in database.execute("SELECT key, spec FROM runs").fetchall():
        if not isinstance(spec, str) or hashlib.sha256(spec.encode()).hexdigest()[:DIGITS] != key:
            raise UsageError(f"{path}: run {key} does not match its specification: {_DAMAGED}")
    if orphan := database.execute("SELECT run FROM epochs WHERE run NOT IN (SELECT key FROM runs)").fetchone():
        raise UsageError(f"{path}: it has epochs of run {orphan[0]}, but not the run: {_DAMAGED}")
    database.execute("SELECT 1 FROM environments LIMIT 1")


def _check_schema(path: Path, database: sqlite3.Connection, version: int) -> None:
    """Refuse SQL objects that a store does not have, because they would run while we read or write."""
    database.execute("PRAGMA trusted_schema = OFF")
    objects = database.execute("SELECT type, name, sql FROM sqlite_master").fetchall()
    if other := sorted((kind, name) for kind, name, _ in objects if kind != "table" or name not in _TABLES):
        kind, name = other[0]
        raise UsageError(f"{path}: it has the {kind} {name!r}, which no results of lossaware have: {_DAMAGED}")
    # Constraints, defaults and computed columns are SQL as well.
    expected = _without_spaces(_SCHEMA)
    for _, name, sql in objects:
        if (_DIGEST in _without_spaces(sql)) != (name in _WITH_DIGESTS and version == SCHEMA_VERSION) or (
            _without_spaces(sql).replace(_DIGEST, "") not in expected.replace(_DIGEST, "")
        ):
            raise UsageError(f"{path}: its tables are not those of format {version}: {_DAMAGED}")


def _without_spaces(sql: str | None) -> str:
    return "".join((sql or "").split())


def epoch_of_row(epoch: int, train: str, test: str, lga: str | None, seconds: float) -> EpochRecord:
    """The epoch in a row of the table.

    Raises:
        ValueError: It was not written by a store.
        TypeError: It was not written by a store.
        KeyError: It was not written by a store.
        AttributeError: It was not written by a store.
    """
    return EpochRecord(epoch, _numbers(train), _numbers(test), None if lga is None else _numbers(lga), float(seconds))


def _numbers(text: str) -> dict[str, float]:
    return {name: float(value) for name, value in json.loads(text).items()}


def _add_digests(path: Path, database: sqlite3.Connection) -> None:
    """Convert a file to the present format, with digests of its content, except of unreadable runs."""
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
    warnings.warn(f"{path} was of an earlier version; it now has digests of its content", Note, stacklevel=5)


def _hold_lock(path: Path) -> sqlite3.Connection:
    lock = sqlite3.connect(with_suffix(path, ".lock"), timeout=0, isolation_level=None)
    try:
        lock.execute("BEGIN EXCLUSIVE")
    except sqlite3.OperationalError as error:
        lock.close()
        if "locked" not in str(error):
            raise
        raise UsageError(f"{path}: another process is writing to it; wait for it, or choose another") from None
    return lock


def _create(path: Path) -> None:
    # Created under another name and then renamed, so that the file is always complete.
    new = with_suffix(path, ".new")
    _remove_leftover(new)
    database = sqlite3.connect(new)
    database.executescript(f"BEGIN; {_SCHEMA} COMMIT;")
    database.close()
    new.rename(path)


def _address(path: Path) -> str:
    """The URI of the database for reading.

    A reader of a file in WAL mode creates files next to it. With write permission, the last connection removes
    them, and recovers the changes of a killed writer. Without it, the database is opened as immutable.
    """
    if os.access(path.parent, os.W_OK) and os.access(path, os.W_OK):
        return path.resolve().as_uri() + "?mode=rw"
    return path.resolve().as_uri() + ("?mode=ro" if with_suffix(path, "-wal").exists() else "?mode=ro&immutable=1")


def _check_header(path: Path) -> int:
    """Read kind and version from SQLite's header, since opening a foreign database may change it."""
    try:
        check_regular(path, path.stat().st_mode)
        with path.open("rb") as file:
            header = file.read(100)
    except OSError as error:
        raise UsageError(f"{path}: cannot be read ({error.strerror})") from None
    if len(header) < 100 or header[:16] != b"SQLite format 3\0":
        raise UsageError(f"{path} exists but does not have results of lossaware; nothing was changed")
    version, application = struct.unpack(">I4xI", header[60:72])
    if application != _APPLICATION_ID:
        raise UsageError(f"{path} is a database of another program; nothing was changed")
    if version not in (SCHEMA_VERSION, WITHOUT_DIGESTS):
        raise UsageError(
            f"{path} was written by another version of lossaware (format {version}, this one reads {SCHEMA_VERSION}); "
            "choose another file; nothing was changed"
        )
    return int(version)
