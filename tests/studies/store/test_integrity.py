"""Stored results are unchanged: a changed number gives one line that names the file, the run and the epoch."""

import json
import shutil
import sqlite3
import warnings
from dataclasses import replace

import pytest

from lossaware.errors import Note, UsageError
from lossaware.studies.specs.run_spec import EpochRecord, RunSpec, options
from lossaware.studies.store import sqlite_file
from lossaware.studies.store.database import Store
from lossaware.studies.store.digests import epoch_digest, run_digest

SPEC = RunSpec(task="digits", optimizer="sgd", lr=0.3, seed=3, epochs=3, batch_size=64, lga=options(gamma2=1e-8))
OTHER = replace(SPEC, seed=4)


def record(epoch, loss=0.125):
    return EpochRecord(epoch, {"loss": loss, "accuracy": 1 / 3}, {"loss": 2 * loss}, {"gamma2": 1e-8}, 0.25)


@pytest.fixture
def path(tmp_path):
    """A database with two complete runs."""
    path = tmp_path / "results.sqlite"
    with Store(path) as store:
        for spec in (SPEC, OTHER):
            store.begin(spec)
            for epoch in (1, 2, 3):
                store.record(spec, record(epoch, loss=0.125 * (spec.seed + epoch)))
    return path


def change(path, *statements):
    with sqlite3.connect(path) as database:
        for statement in statements:
            database.execute(statement)
    database.close()


def companions(path):
    return sorted(other.name for other in path.parent.iterdir() if other.name != path.name)


# --- digests --------------------------------------------------------------------------------------------------------


def test_a_digest_depends_on_the_run_and_on_every_number():
    one = record(1)
    changed = [
        replace(one, epoch=2),
        replace(one, train={**one.train, "loss": 0.12500000000000003}),
        replace(one, train={"loss": one.train["loss"]}),
        replace(one, train=one.test, test=one.train),
        replace(one, test={"loss": -0.25}),
        replace(one, lga=None),
        replace(one, lga={"gamma2": 1e-9}),
        replace(one, seconds=0.250001),
    ]
    digests = {epoch_digest(SPEC, each) for each in (one, *changed)} | {epoch_digest(OTHER, one)}
    assert len(digests) == len(changed) + 2
    assert epoch_digest(SPEC, replace(one, train=dict(reversed(one.train.items())))) == epoch_digest(SPEC, one)
    assert run_digest(SPEC, ["a", "b"]) != run_digest(SPEC, ["b", "a"]) != run_digest(OTHER, ["b", "a"])


def test_digests_do_not_change():
    """They are in files that others have; a change of them is a change of the format."""
    assert epoch_digest(SPEC, record(1)) == "966eaafb2d661650"
    assert run_digest(SPEC, [epoch_digest(SPEC, record(epoch)) for epoch in (1, 2, 3)]) == "992c661accb7563c"


# --- the database ---------------------------------------------------------------------------------------------------

WHERE = f"WHERE run = '{SPEC.key}' AND epoch = 2"
CHANGES = {
    "a digit of a measure": (
        f"UPDATE epochs SET test = replace(test, '1.25', '1.26') {WHERE}",
        "epoch 2 of run {} has changed",
    ),
    "a measure taken away": (f"UPDATE epochs SET test = '{{}}' {WHERE}", "epoch 2 of run {} has changed"),
    "seconds": (f"UPDATE epochs SET seconds = 0.26 {WHERE}", "epoch 2 of run {} has changed"),
    "a digest": (f"UPDATE epochs SET digest = '0123456789abcdef' {WHERE}", "epoch 2 of run {} has changed"),
    "part of a digest": (f"UPDATE epochs SET digest = substr(digest, 1, 8) {WHERE}", "epoch 2 of run {} has"),
    "no digest": (f"UPDATE epochs SET digest = NULL {WHERE}", "epoch 2 of run {} has changed"),
    "LGA's part": (f"UPDATE epochs SET lga = NULL {WHERE}", "epoch 2 of run {} has changed"),
    "an epoch less": (f"DELETE FROM epochs {WHERE}", "epoch 2 of run {} is missing"),
    "the last epoch less": (
        f"DELETE FROM epochs WHERE run = '{SPEC.key}' AND epoch = 3",
        "run {} is marked complete, and has 2 of 3 epochs",
    ),
    "no epochs": (f"DELETE FROM epochs WHERE run = '{SPEC.key}'", "run {} is marked complete, and has 0 of 3 epochs"),
    "the digest of the run": (
        f"UPDATE runs SET digest = NULL WHERE key = '{SPEC.key}'",
        "run {} has changed",
    ),
    "marked begun": (f"UPDATE runs SET state = 'begun' WHERE key = '{SPEC.key}'", "run {} has changed"),
    "epochs of another run": (
        f"UPDATE epochs SET epoch = epoch + 10 WHERE run = '{SPEC.key}'",
        f"UPDATE epochs SET run = '{SPEC.key}' WHERE run = '{OTHER.key}'",
        "epoch 1 of run {} has changed",
    ),
}


@pytest.mark.parametrize("what", CHANGES)
def test_a_changed_run_is_refused_and_named(path, what):
    *statements, message = CHANGES[what]
    change(path, *statements)
    with Store(path, read_only=True) as store, pytest.raises(UsageError) as error:
        store.records(SPEC)
    assert f"{path}: {message.format(SPEC.key)}" in str(error.value)
    assert str(error.value).endswith("the file is damaged; running its study or comparison computes it again")


@pytest.mark.parametrize("what", CHANGES)
def test_a_changed_run_is_missing_and_starts_without_old_epochs(path, what):
    *statements, message = CHANGES[what]
    change(path, *statements)
    with Store(path) as store:
        assert SPEC in store.missing([SPEC])
        assert message.format(SPEC.key) in store.begin(SPEC)
        assert store.records(SPEC) == []
        for epoch in (1, 2, 3):
            store.record(SPEC, record(epoch))
        assert store.missing([SPEC]) == []
        assert store.begin(replace(SPEC, seed=9)) == ""
    with Store(path, read_only=True) as store:
        assert store.records(SPEC) == [record(epoch) for epoch in (1, 2, 3)]


@pytest.mark.parametrize(
    ("statement", "message"),
    [
        (
            f"UPDATE runs SET key = '0123456789abcdef' WHERE key = '{SPEC.key}'",
            "run 0123456789abcdef does not match",
        ),
        (f"UPDATE runs SET key = '' WHERE key = '{SPEC.key}'", "run  does not match"),
        ("UPDATE runs SET spec = replace(spec, '0.3', '0.4')", "does not match its specification"),
        (f"DELETE FROM runs WHERE key = '{SPEC.key}'", f"it has epochs of run {SPEC.key}, but not the run"),
        (f"UPDATE epochs SET run = 'other' {WHERE}", "it has epochs of run other, but not the run"),
        ("UPDATE runs SET state = 'done'", "CHECK constraint failed"),
        ("PRAGMA user_version = 1", "its tables are not those of format 1"),
        ("ALTER TABLE epochs RENAME COLUMN digest TO digesu", "its tables are not those of format 2"),
        ("DROP TABLE environments", "no such table: environments"),
    ],
)
def test_a_changed_file_is_refused_as_a_whole(path, statement, message):
    change(path, "PRAGMA ignore_check_constraints = ON", statement)
    for read_only in (True, False):
        with pytest.raises(UsageError, match=message) as error:
            Store(path, read_only=read_only)
        assert str(path) in str(error.value)
        assert "\n" not in str(error.value)


def test_all_that_is_wrong_is_listed(path):
    with Store(path, read_only=True) as store:
        assert store.damage() == []
    change(path, "UPDATE epochs SET seconds = 9 WHERE epoch = 3", f"DELETE FROM epochs WHERE run = '{OTHER.key}'")
    with Store(path, read_only=True) as store:
        assert sorted(store.damage()) == sorted(
            [
                f"{path}: epoch 3 of run {SPEC.key} has changed",
                f"{path}: run {OTHER.key} is marked complete, and has 0 of 3 epochs",
            ]
        )


def test_a_run_is_complete_only_with_all_its_epochs(path):
    spec = replace(SPEC, seed=7)
    with Store(path) as store:
        store.begin(spec)
        store.record(spec, record(3))
        assert not store.complete(spec)
        assert store.missing([spec]) == [spec]


# --- files of before ------------------------------------------------------------------------------------------------

OLD_SCHEMA = f"""
PRAGMA application_id = {0x4C474131};
PRAGMA user_version = 1;
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


@pytest.fixture
def old(path, tmp_path):
    """The same runs in a file as earlier versions wrote it."""
    old = tmp_path / "old" / "results.sqlite"
    old.parent.mkdir()
    database = sqlite3.connect(old)
    database.executescript(OLD_SCHEMA)
    with database:
        database.execute("ATTACH ? AS new", (str(path),))
        database.execute("INSERT INTO environments SELECT * FROM new.environments")
        database.execute("INSERT INTO runs SELECT key, spec, state, message, source, environment FROM new.runs")
        database.execute("INSERT INTO epochs SELECT run, epoch, train, test, lga, seconds FROM new.epochs")
    database.close()
    return old


def test_a_file_without_digests_is_read_with_one_note(old, path):
    before = old.read_bytes()
    with pytest.warns(Note, match="of an earlier version without digests") as notes:
        store = Store(old, read_only=True)
    assert len(notes) == 1
    with store, Store(path, read_only=True) as new:
        assert store.records(SPEC) == new.records(SPEC)
        assert store.damage() == []
    assert old.read_bytes() == before
    change(old, f"DELETE FROM epochs WHERE run = '{SPEC.key}' AND epoch = 3")
    with pytest.warns(Note):
        store = Store(old, read_only=True)
    with store, pytest.raises(UsageError, match="has 2 of 3 epochs"):
        store.records(SPEC)


def test_a_file_without_digests_gets_them_when_it_is_written_to(old, path):
    with pytest.warns(Note, match="it now has digests of its content"), Store(old) as store:
        assert store.missing([SPEC, OTHER]) == []
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with Store(old, read_only=True) as store, Store(path, read_only=True) as new:
            assert store.records(SPEC) == new.records(SPEC)
    for table, columns in (("epochs", "run, epoch, digest"), ("runs", "key, digest")):
        digests = []
        for file in (old, path):
            with sqlite3.connect(file) as database:
                digests.append(database.execute(f"SELECT {columns} FROM {table}").fetchall())
            database.close()
        assert digests[0] == digests[1]


def test_unreadable_parts_of_a_file_without_digests_are_missing(old):
    change(old, f"UPDATE epochs SET test = '{{' {WHERE}", f"DELETE FROM epochs WHERE run = '{OTHER.key}' AND epoch = 3")
    with pytest.warns(Note), Store(old) as store:
        assert store.missing([SPEC, OTHER]) == [SPEC, OTHER]


def test_all_digests_are_added_or_none(old, monkeypatch):
    before = old.read_bytes()

    def killed(*what):
        raise KeyboardInterrupt

    monkeypatch.setattr(sqlite_file, "run_digest", killed)
    with pytest.raises(KeyboardInterrupt):
        Store(old)
    with pytest.warns(Note, match="without digests"):
        Store(old, read_only=True).close()
    assert len(before) == len(old.read_bytes())


# --- companion files, and copies --------------------------------------------------------------------------------------


def test_readers_leave_no_other_files(path):
    for left in ("results.sqlite.lock",):
        assert companions(path) == [left]
    with Store(path, read_only=True) as store:
        store.records(SPEC)
    assert companions(path) == ["results.sqlite.lock"]


def test_epochs_of_a_killed_writer_are_read(path, tmp_path):
    """Its database, copied while it is open, together with its log."""
    spec = replace(SPEC, seed=8)
    with Store(path) as store:
        store.begin(spec)
        store.record(spec, record(1))
        copy = tmp_path / "copy" / "results.sqlite"
        copy.parent.mkdir()
        for ending in ("", "-wal"):
            shutil.copy(f"{path}{ending}", f"{copy}{ending}")
    with Store(copy, read_only=True) as store:
        assert store.records(spec) == [record(1)]
    assert companions(copy) == []
    with Store(copy, read_only=True) as store:
        assert store.records(spec) == [record(1)]


def test_a_backup_equals_the_database_while_another_process_writes(path, tmp_path):
    spec = replace(SPEC, seed=8)
    target = tmp_path / "backup" / "results.sqlite"
    with Store(path) as store:
        store.begin(spec)
        store.record(spec, record(1))
        sqlite_file.back_up(path, target)
        store.record(spec, record(2))
    with Store(target, read_only=True) as copy:
        assert copy.records(spec) == [record(1)]
        assert copy.damage() == []
    assert target.stat().st_mode == path.stat().st_mode, "as the umask says"
    assert companions(target) == []
    with pytest.raises(UsageError, match=r"backup/results\.sqlite exists; choose another"):
        sqlite_file.back_up(path, target)


def test_a_backup_that_cannot_be_written_is_an_error(path, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match=r"cannot be copied to .*file/results\.sqlite"):
        sqlite_file.back_up(path, tmp_path / "file" / "results.sqlite")
    with pytest.raises(UsageError, match="there are no results at"):
        sqlite_file.back_up(tmp_path / "nothing.sqlite", tmp_path / "copy.sqlite")
    assert not (tmp_path / "copy.sqlite").exists()


def test_a_backup_that_breaks_leaves_nothing(path, tmp_path, monkeypatch):
    def full(opened):
        raise sqlite3.OperationalError("database or disk is full")

    read = sqlite_file.open_for_reading
    monkeypatch.setattr(
        sqlite_file, "open_for_reading", lambda opened: read(opened) if opened == path else full(opened)
    )
    target = tmp_path / "backup" / "results.sqlite"
    with pytest.raises(UsageError, match=r"cannot be copied to .*backup/results\.sqlite \(database or disk is full"):
        sqlite_file.back_up(path, target)
    assert list(target.parent.iterdir()) == []


def test_specifications_are_kept_as_their_keys_were_made(path):
    with sqlite3.connect(path) as database:
        lines = database.execute("SELECT key, spec FROM runs").fetchall()
    database.close()
    assert {key: RunSpec.from_json(line).key for key, line in lines} == {key: key for key, _ in lines}
    assert all(json.loads(line) for _, line in lines)
