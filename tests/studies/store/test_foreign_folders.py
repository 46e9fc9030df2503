"""Folders and files from others: no file is removed, overwritten, imported or waited for."""

import hashlib
import json
import os
import sqlite3
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from lossaware.errors import UsageError
from lossaware.studies.analysis.collect import measurements, show
from lossaware.studies.analysis.export import export
from lossaware.studies.execution.supervise import execute_missing
from lossaware.studies.report import page, results_markdown
from lossaware.studies.specs.run_spec import RunSpec
from lossaware.studies.specs.seal import sealed
from lossaware.studies.specs.study import load_study, parse_study
from lossaware.studies.specs.user_code import source_digest
from lossaware.studies.store import export as export_module
from lossaware.studies.store.database import Store
from lossaware.studies.store.exported import Exported, copy_missing_runs
from lossaware.studies.store.folder import Folder, Launch
from lossaware.studies.store.results import Sources
from lossaware.studies.training.checkpoint import _MAGIC
from support.command_line import lossaware
from support.small_grid import TEXT, Known, fill

KEY, OTHER = "0123456789abcdef", "fedcba9876543210"
SPEC = RunSpec(task="digits", optimizer="sgd", lr=0.1, seed=0, epochs=1, batch_size=64)


class NoRuns:
    """An engine without runs."""

    jobs = 1

    def execute(self, specs, data_folder, checkpoints=None):
        yield from ()


def run_study_at(folder: Path) -> None:
    with Store(folder / "results.sqlite") as store:
        list(execute_missing([], store, NoRuns(), None))


# --- removing -------------------------------------------------------------------------------------------------------


def test_only_checkpoints_of_our_own_are_removed(tmp_path):
    folder = tmp_path / "results.sqlite.checkpoints"
    folder.mkdir()
    thesis = tmp_path / "thesis.txt"
    thesis.write_text("my thesis")
    foreign = {"notes.txt", f"{KEY}.pt.bak", f".{KEY}.pt-notes.txt", f"{KEY}", "thesis.pt", f".{OTHER}.pt-abcdefgh"}
    for name in ("kept.pt", f"{KEY}-kept.pt", f".{KEY}.pt-kept"):  # a copy of the user's own
        (folder / name).write_bytes(_MAGIC + b"whole")
    for name in foreign:
        (folder / name).write_text("mine")
    for name in (f".{KEY}.pt-aaaaaaaa", f".{OTHER}.pt-bbbbbbbb"):
        (folder / name).symlink_to(thesis)
    (folder / f"{KEY}-{OTHER}").symlink_to(tmp_path)
    (folder / "a folder").mkdir()
    (folder / f".{KEY}.pt-12345678").write_bytes(_MAGIC + b"half")
    (folder / f".{KEY}.pt-abcd_fgh").write_bytes(b"")  # killed before anything was written
    before = {path.name for path in folder.iterdir()}
    run_study_at(tmp_path)
    assert before - {path.name for path in folder.iterdir()} == {f".{KEY}.pt-12345678", f".{KEY}.pt-abcd_fgh"}
    assert thesis.read_text() == "my thesis"


def test_nothing_is_removed_behind_a_link(tmp_path):
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / f".{KEY}.pt-12345678").write_bytes(_MAGIC + b"half")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "results.sqlite.checkpoints").symlink_to(elsewhere)
    with pytest.raises(UsageError, match=r"\.checkpoints: this is a link, but checkpoints need a folder"):
        run_study_at(tmp_path / "out")
    assert len(list(elsewhere.iterdir())) == 1


@pytest.mark.parametrize("content", ["a link", "my notes"])
def test_a_file_in_the_place_of_a_new_database_is_left_alone(tmp_path, content):
    thesis, new = tmp_path / "thesis.txt", tmp_path / "results.sqlite.new"
    thesis.write_text("my thesis")
    if content == "a link":
        new.symlink_to(thesis)
    else:
        new.write_text(content)
    with pytest.raises(UsageError, match=r"results\.sqlite\.new exists, but is not"):
        Store(tmp_path / "results.sqlite")
    assert thesis.read_text() == "my thesis"
    assert new.is_symlink() or new.read_text() == content


@pytest.mark.parametrize("damaged", [False, True])
def test_results_under_the_name_of_a_new_database_are_not_removed(tmp_path, damaged):
    """As after `mv results.sqlite results.sqlite.new`. Unguarded: they are taken for a creation that was killed."""
    path, new = tmp_path / "results.sqlite", tmp_path / "results.sqlite.new"
    with Store(path) as store:
        for seed in range(200 if damaged else 1):
            store.begin(replace(SPEC, seed=seed))
    path.rename(new)
    if damaged:
        new.write_bytes(new.read_bytes()[:-5000])
    before = new.read_bytes()
    with pytest.raises(UsageError, match=r"results\.sqlite\.new has runs: rename it, or move it away"):
        Store(path)
    assert new.read_bytes() == before
    assert not path.exists()


@pytest.mark.parametrize("ending", ["", "-wal", "-shm", "-journal", ".lock"])
@pytest.mark.parametrize("kind", ["link", "pipe", "device"])
def test_companions_of_a_database_are_not_written_through_links(tmp_path, ending, kind):
    """Without the check: opening a pipe blocks, and SQLite starts a journal in any file."""
    thesis = tmp_path / "thesis.txt"
    thesis.write_text("my thesis " * 1000)
    before = thesis.read_bytes()
    out = tmp_path / "out"
    with Store(out / "results.sqlite") as store:
        store.begin(SPEC)
    (out / f"results.sqlite{ending}").unlink(missing_ok=True)
    place = out / f"results.sqlite{ending}"
    regular = ending == "" and kind == "link"  # it is opened, and found to hold no results
    if kind == "pipe":
        os.mkfifo(place)
    else:
        place.symlink_to(thesis if kind == "link" else "/dev/zero")
    for read_only in (True, False):
        expected = "does not have results" if regular else f"results.sqlite{ending}"
        with pytest.raises(UsageError, match=expected) as error:
            Store(out / "results.sqlite", read_only=read_only)
        assert "\n" not in str(error.value)
    assert thesis.read_bytes() == before


@pytest.mark.parametrize(
    ("statements", "message"),
    [
        ("CREATE TRIGGER t AFTER INSERT ON epochs BEGIN DELETE FROM epochs; END", "it has the trigger 't'"),
        ("ALTER TABLE epochs RENAME TO e; CREATE VIEW epochs AS SELECT * FROM e", "it has the table 'e'"),
        ("CREATE VIEW v AS SELECT randomblob(1000000000)", "it has the view 'v'"),
        ("CREATE INDEX i ON epochs (length(train))", "it has the index 'i'"),
        ("ALTER TABLE runs ADD COLUMN c AS (length(spec))", "its tables are not those of format 2"),
        ("ALTER TABLE runs ADD COLUMN c CHECK (length(hex(zeroblob(spec))) >= 0)", "its tables are not those of"),
        ("ALTER TABLE epochs ADD COLUMN c DEFAULT (hex(randomblob(1000000000)))", "its tables are not those of"),
        ("DROP TABLE epochs; CREATE TABLE epochs (run TEXT REFERENCES runs ON DELETE CASCADE)", "its tables are not"),
        (
            "DROP TABLE environments; CREATE VIRTUAL TABLE environments USING dbstat(main)",
            "its tables are not those of",
        ),
    ],
)
@pytest.mark.parametrize("read_only", [True, False])
def test_a_database_with_foreign_sql_is_refused(tmp_path, statements, message, read_only):
    path = tmp_path / "results.sqlite"
    with Store(path) as store:
        store.begin(SPEC)
    database = sqlite3.connect(path)
    database.executescript(statements)
    database.close()
    with pytest.raises(UsageError, match=message), Store(path, read_only=read_only):
        pass


@pytest.mark.timeout(20)
def test_a_value_of_a_database_that_is_too_large_is_not_read(tmp_path):
    path = tmp_path / "results.sqlite"
    with Store(path) as store:
        store.begin(SPEC)
    database = sqlite3.connect(path)
    database.execute("UPDATE runs SET state = 'failed', message = zeroblob(20000000)")
    database.commit()
    database.close()
    with pytest.raises(UsageError, match="too big"), Store(path, read_only=True) as store:
        store.failures()


def test_launches_are_not_written_through_a_link(tmp_path, grid):
    thesis = tmp_path / "thesis.txt"
    thesis.write_text("")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "studies.jsonl").symlink_to(thesis)
    with pytest.raises(UsageError, match=r"studies\.jsonl: this is a link"):
        Folder(tmp_path / "out").note(Launch.now(grid))
    assert thesis.read_text() == ""
    (tmp_path / "out" / "studies.jsonl").unlink()
    os.mkfifo(tmp_path / "out" / "studies.jsonl")
    with pytest.raises(UsageError, match="this is a pipe"):
        Folder(tmp_path / "out").note(Launch.now(grid))


def test_pages_are_refused_if_something_else_is_in_their_place(tmp_path):
    os.mkfifo(tmp_path / "report.html")
    with pytest.raises(UsageError, match="this is a pipe"):
        page.check_replaceable(tmp_path / "report.html")
    os.mkfifo(tmp_path / "README.md")
    with pytest.raises(UsageError, match="this is a pipe"):
        results_markdown.refresh(tmp_path)
    (tmp_path / "page.html").symlink_to("/dev/zero")
    with pytest.raises(UsageError, match="this is a device"):
        page.check_replaceable(tmp_path / "page.html")


# --- code -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def trap(tmp_path, monkeypatch):
    """Packages whose import is noticed, and files that must not be opened."""
    for name in ("trapped", "trapped/inner"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text("raise SystemExit('imported')")
    (tmp_path / "trapped" / "module.py").write_text("raise SystemExit('imported')")
    os.mkfifo(tmp_path / "pipe.py")
    (tmp_path / "zero.py").symlink_to("/dev/zero")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    yield tmp_path
    assert not [name for name in sys.modules if name.startswith("trapped")]


TASKS = (
    *("trapped:build", "trapped.module:build", "trapped.inner.x:build", "this.x:build", "antigravity.x:build"),
    *(
        "/dev/zero:x",
        "/dev/stdin:x",
        "zero.py:x",
        "pipe.py:x",
        "/proc/self/mem:x",
        "folder/:x",
        ".:x",
        "..x:y",
        ":",
        "a:",
    ),
)


@pytest.mark.parametrize("task", TASKS)
def test_the_digest_of_a_source_imports_nothing_and_opens_no_device(trap, task):
    digest = source_digest([task])
    assert (digest is not None) == (task in ("trapped.module:build", "trapped:build"))
    assert not {"this", "antigravity"} & set(sys.modules)


def test_the_digest_of_a_source_opens_only_source_code(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("secret", "secret.txt", "code.py"):
        (tmp_path / name).write_text("text")
    assert source_digest(["./secret:x"]) is source_digest([f"{tmp_path}/secret.txt:x"]) is None
    assert source_digest(["code.py:x"]) is not None


def foreign(folder: Path, task: str) -> Exported:
    """An exported study as an attacker may write it, with correct digests."""
    study = parse_study(TEXT, "grid")
    known = Known()
    fill(study, known)
    export(show(study, known, []), Sources([known]), [Launch.now(study)], folder)
    path = folder / "grid.study.json"
    content = json.loads(path.read_text())
    runs, records = {}, {}
    for run in content["runs"].values():
        old = RunSpec.from_json(json.dumps(run["spec"]))
        spec = replace(old, task=task)
        records[spec.key] = known.records(old)
        digests = export_module._run_digests(spec, known.records(old))
        runs[spec.key] = {**run, "spec": json.loads(spec.to_json()), "source": "0" * 16, **digests}
    epochs = export_module._epochs_csv(records)
    content["files"]["grid-epochs.csv"] = hashlib.sha256(epochs.encode()).hexdigest()
    content["runs"] = runs
    path.write_text(json.dumps(sealed(content)))
    (folder / "grid-epochs.csv").write_text(epochs)
    return Exported(folder)


@pytest.mark.parametrize("task", TASKS)
def test_a_task_in_an_exported_study_is_neither_imported_nor_opened(trap, task):
    exported = foreign(trap / "results", task)
    [spec, *_] = exported.specs()
    assert spec.task == task
    with Store(trap / "out" / "results.sqlite") as store:
        assert copy_missing_runs(exported.specs(), exported, store) == 0
    with measurements(trap / "out", trap / "results") as results:
        results.table(load_study("table01"))
    (trap / "grid.toml").write_text(TEXT)
    assert lossaware("study", "import", "--results", trap / "results", "--out", trap / "out") == 0
    assert lossaware("study", "show", trap / "grid.toml", "--results", trap / "results", "--out", trap / "out") == 0
    assert lossaware("report", "--results", trap / "results", "--store", trap / "out", "--out", trap / "a.html") == 0
    lossaware("study", "export", trap / "grid.toml", "--to", trap / "results", "--out", trap / "out")
    lossaware("study", "verify", trap / "results")


@pytest.mark.parametrize("task", ["a\0b.py:x", "a\nb:x", "\x1b[31m:x"], ids=["zero", "newline", "escape"])
def test_names_that_are_not_printable_are_refused(trap, task):
    with pytest.raises(
        UsageError, match=r"not an exported study \(ValueError: the names .* are not printable\)"
    ) as error:
        foreign(trap / "results", task)
    assert str(error.value).isprintable()
    assert source_digest([task]) is None


def test_any_invalid_task_file_is_one_line(trap, capsys):
    for task in ("/dev/zero:x", "pipe.py:x", "a.py:x", "this.x:build"):
        assert lossaware("compare", task, "--out", trap / "out") == 2
        assert len(capsys.readouterr().err.splitlines()) == 1


def changed_files(folder: Path, name: str) -> None:
    """An exported study that names one more file, with all digests right."""
    path = folder / "grid.study.json"
    content = json.loads(path.read_text())
    content["files"][name] = "0" * 64
    path.write_text(json.dumps(sealed({key: value for key, value in content.items() if key != "sha256"})))


ELSEWHERE = ["/etc/passwd", "../secret", "a/../../secret", "..", "", "pipe/x", "a\0b"]


@pytest.mark.parametrize("name", ELSEWHERE, ids=range(len(ELSEWHERE)))
def test_an_exported_study_names_no_file_elsewhere(tmp_path, name):
    """Unguarded: the file is opened, and the message tells its digest."""
    (tmp_path / "secret").write_text("mine")
    foreign(tmp_path / "results", "digits")
    changed_files(tmp_path / "results", name)
    exported = Exported(tmp_path / "results")
    with pytest.raises(UsageError, match=r"is not the name of a file in its folder|embedded null byte") as error:
        exported.epochs("grid")
    assert "SHA-256" not in str(error.value)


def test_a_study_with_the_name_of_something_else_does_not_replace_it(tmp_path):
    results = tmp_path / "results"
    results.mkdir()
    (results / "grid.csv").write_text("step,loss\n1,0.5\n")  # the table of a plot
    with pytest.raises(UsageError, match=r"grid\.csv exists, but is not of an exported study: give the study's file"):
        foreign(results, "digits")
    assert [path.name for path in results.iterdir()] == ["grid.csv"]
    (tmp_path / "table01.toml").write_text(TEXT)
    study, known = load_study(str(tmp_path / "table01.toml")), Known()
    fill(study, known)
    with pytest.raises(UsageError, match=r"table01\.toml has the name of a built-in study, whose export"):
        export(show(study, known, []), Sources([known]), [], results)
    (results / "grid.csv").unlink()
    foreign(results, "digits")
    (results / "grid.study.json").unlink()  # an export that was killed before its last file
    foreign(results, "digits")


CHANGES = {
    "task": ["a list"], "optimizer": None, "lr": "0.1", "seed": 1.5, "epochs": "4", "batch_size": True,
    "precision": 5, "scheduler": ["x"], "task_options": [["hidden", [1]]], "optimizer_options": [["a", {}]],
    "lga": [["gamma2", 10**400]], "device": None, "distributed": 3,
}  # fmt: skip


@pytest.mark.parametrize("name", CHANGES)
def test_a_specification_of_other_types_is_refused(name):
    fields = json.loads(SPEC.to_json()) | {name: CHANGES[name]}
    with pytest.raises((ValueError, TypeError)):
        RunSpec.from_json(json.dumps(fields))
    assert RunSpec.from_json(SPEC.to_json()) == SPEC


def test_an_export_keeps_runs_of_code_that_todays_study_does_not_name(trap):
    (trap / "grid.toml").write_text(TEXT)
    (trap / "mine.py").write_text("raise SystemExit('imported')")  # of the same name as theirs, and another program
    before = foreign(trap / "results", "mine.py:x")
    numbers = before.epochs("grid")
    study = load_study(str(trap / "grid.toml"))
    known = Known()
    fill(study, known)
    export(show(study, known, []), Sources([known]), [], trap / "results")
    after = Exported(trap / "results")
    assert {spec.key for spec in after.specs()} > {spec.key for spec in before.specs()}
    assert {after.source(spec) for spec in before.specs()} == {"0" * 16}
    for spec in before.specs():
        assert after.epochs("grid")[spec.key] == numbers[spec.key]
