"""`lossaware study verify` and `backup`; the results in the repository."""

import json
import shutil
import sqlite3
from pathlib import Path

import pytest

from lossaware.studies.specs.run_spec import EpochRecord
from lossaware.studies.specs.study import load_study
from lossaware.studies.store.database import Store
from lossaware.studies.store.exported import Exported
from support.command_line import captured

RESULTS = Path(__file__).parents[3] / "results"


def command(capsys, *arguments):
    return captured(capsys, "study", *arguments)


@pytest.fixture
def out(tmp_path):
    """A folder of runs."""
    folder = tmp_path / "out"
    with Store(folder / "results.sqlite") as store:
        spec = load_study("readings").specs[0]
        store.begin(spec)
        for epoch in range(1, spec.epochs + 1):
            store.record(spec, EpochRecord(epoch, {"loss": 1 / epoch}, {"loss": 2 / epoch}, None, 0.5))
    return folder


def test_the_results_of_the_repository_are_unchanged(capsys):
    code, out, err = command(capsys, "verify", RESULTS)
    assert err == ""
    assert code == 0
    exported = Exported(RESULTS)
    runs = sum(len(exported.epochs(name)) for name in exported.names())
    epochs = sum(len(records) for name in exported.names() for records in exported.epochs(name).values())
    assert out == f"{RESULTS}: {runs} runs with {epochs} epochs are unchanged.\n"
    assert runs > 2000


def test_a_folder_of_runs_is_verified(out, capsys):
    code, output, err = command(capsys, "verify", out)
    assert (code, err) == (0, "")
    assert "1 runs with 20 epochs are unchanged" in output
    database = sqlite3.connect(out / "results.sqlite")
    with database:
        database.execute("UPDATE epochs SET seconds = 0.75 WHERE epoch = 2")
    database.close()
    code, output, err = command(capsys, "verify", out)
    assert (code, output) == (2, "")
    key = load_study("readings").specs[0].key
    assert err == f"lossaware: {out / 'results.sqlite'}: epoch 2 of run {key} has changed\n"


def test_every_mistake_is_an_error(tmp_path, capsys):
    for name in ("table11", "table12"):
        for path in RESULTS.glob(f"{name}*"):
            shutil.copy(path, tmp_path)
    first, second = tmp_path / "table11-epochs.csv", tmp_path / "table12.csv"
    lines = first.read_text().splitlines(keepends=True)
    fields = lines[3].split(",")
    lines[3] = ",".join([*fields[:4], fields[4].replace("0.", "0.1", 1), *fields[5:]])
    first.write_text("".join(lines))
    second.write_text(second.read_text() + "\n")
    code, output, err = command(capsys, "verify", tmp_path)
    assert (code, output) == (2, "")
    one, other = err.splitlines()
    changed = f"epoch {fields[1]} of run {fields[0]} has changed"
    assert one == f"lossaware: {first}: {changed}: the file is damaged"
    assert other.startswith(f"lossaware: {second}: this file does not match table12.study.json: its SHA-256")


def without_digests(path):
    """As earlier versions wrote it."""
    content = json.loads(path.read_text())
    for entry in ("sha256", "files", "digests_added"):
        content.pop(entry, None)
    for run in content["runs"].values():
        del run["digest"], run["epochs"]
    path.write_text(json.dumps({**content, "format": 1}))


def test_studies_of_earlier_versions_are_read_with_one_note_and_get_digests(tmp_path, capsys):
    for path in RESULTS.glob("table1[12]*"):
        shutil.copy(path, tmp_path)
    for name in ("table11", "table12"):
        without_digests(tmp_path / f"{name}.study.json")
    tables = {path.name: path.read_bytes() for path in tmp_path.glob("*.csv")}
    code, output, err = command(capsys, "show", "table11", "--results", tmp_path, "--out", tmp_path / "none")
    assert code == 0
    note = f"lossaware: {tmp_path}: table11, table12: exported by an earlier version without digests"
    assert err.startswith(note)
    assert len(err.splitlines()) == 1
    code, output, err = command(capsys, "verify", tmp_path, "--add-digests")
    assert code == 0, err
    assert [line.split()[0] for line in output.splitlines()[:2]] == [
        str(tmp_path / f"{name}.study.json") for name in ("table11", "table12")
    ]
    assert {path.name: path.read_bytes() for path in tmp_path.glob("*.csv")} == tables
    content = json.loads((tmp_path / "table11.study.json").read_text())
    assert {"command", "date", "lossaware"} <= set(content["digests_added"])
    assert command(capsys, "verify", tmp_path)[2] == ""
    code, output, err = command(capsys, "verify", tmp_path, "--add-digests")
    assert (code, len(output.splitlines())) == (0, 1), "they have them already"


def test_a_changed_format_is_not_an_earlier_version(tmp_path, capsys):
    for path in RESULTS.glob("table11*"):
        shutil.copy(path, tmp_path)
    path = tmp_path / "table11.study.json"
    path.write_text(path.read_text().replace('"format": 2', '"format": 1'))
    code, _, err = command(capsys, "verify", tmp_path)
    assert code == 2
    assert err == f"lossaware: {path}: this file has changed: its digest does not match\n"


@pytest.mark.parametrize("make", [False, True])
def test_a_folder_without_results_is_an_error(tmp_path, capsys, make):
    folder = tmp_path / "nothing"
    if make:
        folder.mkdir()
    code, _, err = command(capsys, "verify", folder)
    expected = f"{folder} holds neither runs nor exported studies" if make else f"there is no folder {folder}"
    assert (code, err) == (2, f"lossaware: {expected}\n")


def test_a_backup_has_the_runs_and_how_they_were_launched(out, tmp_path, capsys):
    (out / "studies.jsonl").write_text("")
    code, output, err = command(capsys, "backup", tmp_path / "copy", "--out", out)
    assert (code, output, err) == (0, f"{tmp_path / 'copy' / 'results.sqlite'}\n", "")
    (out / "studies.jsonl").write_text('{"cut')
    code, output, _ = command(capsys, "backup", tmp_path / "other", "--out", out)
    assert (code, output.split()) == (
        0,
        [str(tmp_path / "other" / name) for name in ("results.sqlite", "studies.jsonl")],
    )
    with Store(tmp_path / "copy" / "results.sqlite", read_only=True) as copy:
        assert copy.counts() == (1, 20)
    code, _, err = command(capsys, "backup", tmp_path / "copy", "--out", out)
    assert code == 2
    assert "results.sqlite exists; choose another, or remove it" in err
    code, _, err = command(capsys, "backup", tmp_path / "third", "--out", tmp_path / "nowhere")
    assert code == 2
    assert "there are no results at" in err
    assert not (tmp_path / "third").exists()
