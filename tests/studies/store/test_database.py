"""The store: results are read as written, other files are not changed, one writer at a time."""

import math
import os
import sqlite3
import subprocess
import sys
from dataclasses import replace
from typing import Any

import pytest

from lossaware.errors import UsageError
from lossaware.studies.specs.run_spec import EpochRecord, RunSpec, options
from lossaware.studies.store.database import Store
from lossaware.studies.store.sqlite_file import SCHEMA_VERSION

SPEC = RunSpec(
    task="digits", optimizer="sgd", lr=0.1 + 0.2, seed=3, epochs=2, batch_size=64, lga=options(gamma2=1e-8, name=None)
)
OTHER = replace(SPEC, seed=4)


def record(epoch, loss=0.1):
    return EpochRecord(epoch, {"loss": loss, "accuracy": 1 / 3}, {"loss": 2 * loss}, {"gamma2": 1e-8}, 0.25)


def fill(store, spec, epochs):
    store.begin(spec)
    for epoch in range(1, epochs + 1):
        store.record(spec, record(epoch))


@pytest.fixture
def path(tmp_path):
    return tmp_path / "out" / "results.sqlite"


def test_records_come_out_bit_for_bit_in_order(path):
    odd = EpochRecord(1, {"loss": math.nan, "b": math.inf, "a": 0.1 + 0.2}, {"loss": -math.inf}, None, 5e-324)
    with Store(path) as store:
        store.begin(SPEC)
        store.record(SPEC, odd)
        store.record(SPEC, record(2))
    with Store(path, read_only=True) as store:
        first, second = store.records(SPEC)
        assert second == record(2)
        assert repr(first) == repr(odd)  # NaN is not equal to itself; the order of measures counts
        assert store.specs() == [SPEC]
        assert store.records(OTHER) == []
        assert store.environment(SPEC)["python"] == sys.version.split()[0]
        assert store.environment(OTHER) == {}


def test_a_run_is_complete_with_its_last_epoch(path):
    with Store(path) as store:
        assert store.missing([SPEC, OTHER, SPEC]) == [SPEC, OTHER]
        fill(store, SPEC, 1)
        assert not store.complete(SPEC)
        assert store.missing([OTHER, SPEC]) == [OTHER, SPEC]
        store.record(SPEC, record(2))
        assert store.complete(SPEC)
        assert store.missing([SPEC, OTHER]) == [OTHER]


def test_epochs_are_replaced_as_they_come(path):
    """A run that starts again loses no epoch before the new ones are stored."""
    spec = replace(SPEC, epochs=3)
    with Store(path) as store:
        fill(store, spec, 2)
        store.begin(spec)
        assert store.records(spec) == [record(1), record(2)]
        store.record(spec, record(1, loss=9.0))
        assert store.records(spec) == [record(1, loss=9.0), record(2)]
        assert not store.complete(spec)


def test_failures_are_kept_until_the_run_succeeds(path):
    with Store(path) as store:
        fill(store, SPEC, 1)
        store.fail(SPEC, "out of luck")
        assert store.failures() == {SPEC: "out of luck"}
        assert store.missing([SPEC]) == [SPEC]
    with Store(path) as store:
        fill(store, SPEC, 2)
        assert store.failures() == {}
        assert store.missing([SPEC]) == []


@pytest.mark.parametrize("kind", ["task", "optimizer"])
def test_a_changed_user_file_makes_its_runs_missing(path, tmp_path, kind):
    (tmp_path / "task.py").write_text("# its task\n")
    file = tmp_path / f"{kind}.py"
    file.write_text("# one\n")
    changes: dict[str, Any] = {"task": f"{tmp_path / 'task.py'}:build", kind: f"{file}:build"}
    spec = replace(SPEC, **changes)
    with Store(path) as store:
        fill(store, spec, 2)
        assert store.missing([spec]) == []
        file.write_text("# two\n")
        assert store.missing([spec]) == [spec]
        assert store.records(spec) == []  # it would be mixed with runs of the new code
        if kind == "task":
            file.unlink()
            assert len(store.records(spec)) == 2  # the code has no other digest
            file.write_text("# two\n")
        store.begin(spec)
        assert store.records(spec) == []


def test_a_user_package_that_fails_gives_one_line(path, tmp_path, monkeypatch):
    """A one-line error when it is loaded; a store only compares the digest of its file."""
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "__init__.py").write_text("raise RuntimeError('not today')\n")
    (tmp_path / "broken" / "tasks.py").write_text("")
    monkeypatch.syspath_prepend(str(tmp_path))
    spec = replace(SPEC, task="broken.tasks:build")
    with Store(path) as store:
        assert store.missing([spec]) == [spec]
        assert store.records(spec) == []


def test_a_second_writer_is_refused_and_readers_are_not(path):
    with Store(path) as store:
        store.begin(SPEC)
        store.record(SPEC, record(1))
        with pytest.raises(UsageError, match="another process is writing to it"):
            Store(path)
        with Store(path, read_only=True) as reader:
            assert reader.records(SPEC) == [record(1)]
            store.record(SPEC, record(2))
            assert reader.complete(SPEC)
            with pytest.raises(UsageError, match="cannot be written"):
                reader.begin(OTHER)
        code = (
            "import sys; from pathlib import Path; from lossaware.errors import UsageError\n"
            "from lossaware.studies.store.database import Store\n"
            "try: Store(Path(sys.argv[1]))\nexcept UsageError: sys.exit(7)"
        )
        assert subprocess.run([sys.executable, "-c", code, str(path)], check=False).returncode == 7
    with Store(path) as store:
        assert store.complete(SPEC)


def make_database(path, application_id, user_version):
    with sqlite3.connect(path) as database:
        database.execute("CREATE TABLE runs (x)")
        database.execute(f"PRAGMA application_id = {application_id}")
        database.execute(f"PRAGMA user_version = {user_version}")
    database.close()


@pytest.mark.parametrize("read_only", [False, True])
@pytest.mark.parametrize("kind", ["empty", "text", "foreign", "version", "damaged", "folder"])
def test_foreign_files_are_reported_and_not_changed(tmp_path, read_only, kind):
    path = tmp_path / "results.sqlite"
    if kind == "empty":
        path.touch()
        message = "does not have results of lossaware; nothing was changed"
    elif kind == "text":
        path.write_text("my notes " * 100)
        message = "does not have results of lossaware; nothing was changed"
    elif kind == "foreign":
        make_database(path, 1234, SCHEMA_VERSION)
        message = "database of another program; nothing was changed"
    elif kind == "version":
        make_database(path, 0x4C474131, SCHEMA_VERSION + 1)
        message = f"another version of lossaware \\(format {SCHEMA_VERSION + 1}, this one reads {SCHEMA_VERSION}\\)"
    elif kind == "damaged":
        with Store(path) as store:
            fill(store, SPEC, 2)
        content = path.read_bytes()
        path.write_bytes(content[:4096] + bytes(len(content) - 4096))
        message = "cannot be opened"
    else:
        path.mkdir()
        message = "this is a folder|there are no results"
    before = path.read_bytes() if path.is_file() else None
    with pytest.raises(UsageError, match=message) as error:
        Store(path, read_only=read_only)
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)
    assert before == (path.read_bytes() if path.is_file() else None)


@pytest.mark.parametrize(
    ("damage", "read"),
    [
        ("UPDATE epochs SET test = '{'", lambda store: store.records(SPEC)),
        ("UPDATE epochs SET train = '[]'", lambda store: store.records(SPEC)),
        ("UPDATE epochs SET test = '{\"loss\": null}'", lambda store: store.records(SPEC)),
        ('UPDATE epochs SET lga = \'{"loss": "x"}\'', lambda store: store.records(SPEC)),
        ("UPDATE epochs SET seconds = 'x'", lambda store: store.records(SPEC)),
        ("UPDATE runs SET spec = '{}'", lambda store: store.specs()),
        ("UPDATE runs SET spec = '[]', state = 'failed'", lambda store: store.failures()),
        ("UPDATE environments SET content = ''", lambda store: store.environment(SPEC)),
        ("UPDATE environments SET content = '[]'", lambda store: store.environment(SPEC)),
    ],
)
def test_content_from_others_is_one_line(path, damage, read):
    with Store(path) as store:
        fill(store, SPEC, 2)
    with sqlite3.connect(path) as database:
        database.execute(damage)
    database.close()
    with pytest.raises(UsageError, match="the file is damaged") as error, Store(path, read_only=True) as store:
        read(store)
    assert str(path) in str(error.value)


def test_places_that_cannot_be_written(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match="cannot be opened"):
        Store(tmp_path / "file" / "results.sqlite")
    with pytest.raises(UsageError, match="there are no results at"):
        Store(tmp_path / "nowhere.sqlite", read_only=True)
    assert not (tmp_path / "nowhere.sqlite").exists()


@pytest.mark.skipif(os.geteuid() == 0, reason="the superuser may write everywhere")
def test_a_read_only_folder(path):
    with Store(path) as store:
        fill(store, SPEC, 2)
    path.with_name(path.name + ".lock").unlink()
    path.parent.chmod(0o555)
    try:
        with Store(path, read_only=True) as store:
            assert store.complete(SPEC)
        with pytest.raises(UsageError, match="cannot be opened"):
            Store(path)
        with pytest.raises(UsageError, match="cannot be opened"):
            Store(path.parent / "other.sqlite")
    finally:
        path.parent.chmod(0o755)


def test_an_interrupted_creation_is_made_good(path):
    path.parent.mkdir()
    path.with_name(path.name + ".new").write_bytes(b"SQLite format 3\0 half a database")
    with Store(path) as store:
        fill(store, SPEC, 2)
        assert store.complete(SPEC)
    assert not path.with_name(path.name + ".new").exists()


def test_specifications_survive_their_journey():
    assert RunSpec.from_json(SPEC.to_json()) == SPEC
    assert SPEC.key != OTHER.key


# --- runs that say themselves when they are complete ----------------------------------------------------------------


def test_an_open_ended_run_is_complete_when_it_reports_its_end(tmp_path):
    spec = RunSpec("train.py:train", "", 0.0, 0, 0, 0, kind="function")
    records = [EpochRecord(epoch, {}, {"score": 0.5}, None, 0.1) for epoch in (1, 2, 3)]
    with Store(tmp_path / "results.sqlite") as store:
        store.begin(spec)
        store.finish(spec, 0)
        assert not store.complete(spec)
        for record in records:
            store.record(spec, record)
        assert not store.complete(spec)
        store.finish(spec, 2)
        assert store.complete(spec)
        assert store.records(spec) == records[:2]
        assert store.missing([spec]) == []
        assert store.damage() == []
        store._database.execute("UPDATE epochs SET seconds = 7 WHERE epoch = 1")
        assert len(store.damage()) == 1
    with Store(tmp_path / "other.sqlite") as store:
        store.begin(spec)
        store.record(spec, records[1])
        store.finish(spec, 2)  # the first is missing
        assert not store.complete(spec)
