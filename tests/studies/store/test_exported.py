"""Results as plain files, and back."""

import csv
import json
import os
import re
import sys
from dataclasses import replace

import pytest

from lossaware.errors import Note, UsageError
from lossaware.studies.analysis.collect import show
from lossaware.studies.analysis.export import export
from lossaware.studies.specs.seal import sealed
from lossaware.studies.specs.study import Overrides, parse_study
from lossaware.studies.store import export as export_module
from lossaware.studies.store.database import Store
from lossaware.studies.store.exported import Exported, copy_missing_runs
from lossaware.studies.store.folder import Launch
from lossaware.studies.store.results import Sources
from support.small_grid import RECORD, SHORT, TEXT, Exact, Known, at, fill, text_of


def test_export_gives_back_the_same_numbers_bit_for_bit(grid, tmp_path):
    known = Exact(grid)
    files = export(show(grid, known, []), Sources([known]), [Launch.now(grid)], tmp_path / "results")
    assert [path.name for path in files] == ["grid.csv", "grid-epochs.csv", "grid.study.json"]
    back = Exported(tmp_path / "results")
    assert set(back.specs()) == set(grid.specs)
    for spec in grid.specs:
        assert repr(back.records(spec)) == repr(known.runs[spec])  # NaN is not equal to itself
        assert back.environment(spec) == known.environment(spec)
    assert [launch.overrides for launch in back.launches(grid)] == [Overrides()]


def test_the_file_of_final_values(grid, tmp_path):
    known = Known()
    fill(grid, known)
    export(show(grid, known, []), Sources([known]), [], tmp_path)
    rows = list(csv.DictReader((tmp_path / "grid.csv").open()))
    assert len(rows) == 12 * 2
    assert rows[0] == {
        "algorithm": "SGD",
        "strategy": "w/o LGA",
        "lr": "1e-3",
        "shows": "test accuracy after the last epoch",
        "seed": "0",
        "value": repr(100 * 0.51),
        "published": "90.0",
        "overridden": "",
        "run": grid.cells[at(grid, "SGD", "w/o LGA, 1e-3")].specs[0].key,
    }


def test_the_same_table_is_shown_from_an_export(grid, tmp_path):
    known = Known()
    fill(grid.overridden(SHORT), known)
    launch = Launch.now(grid.overridden(SHORT))
    export(show(grid, known, [launch]), Sources([known]), [launch], tmp_path)
    back = Exported(tmp_path)
    assert text_of(show(grid, Sources([back]), back.launches(grid))) == text_of(show(grid, known, [launch]))
    assert "Overridden: epochs = 2, seeds = 1." in text_of(show(grid, back, back.launches(grid)))


def test_a_second_export_loses_nothing_of_the_first(grid, tmp_path):
    for strategy in ("w/o LGA", "w/ LGA"):
        known = Known()
        fill(grid.overridden(Overrides({"strategy": (strategy,)})), known)
        place = Sources([known, Exported(tmp_path)])
        export(show(grid, place, []), place, [], tmp_path)
    assert set(Exported(tmp_path).specs()) == set(grid.specs)
    # Nor runs that no longer belong to the study.
    changed = parse_study(TEXT.replace("seeds = 2", "seeds = [5]"), "grid")
    known = Known()
    fill(changed, known)
    export(show(changed, known, []), Sources([known]), [], tmp_path)
    assert set(Exported(tmp_path).specs()) == {*grid.specs, *changed.specs}
    assert all(Exported(tmp_path).records(spec) for spec in grid.specs)


def test_nothing_to_export(grid, tmp_path):
    with pytest.raises(UsageError, match="has no results yet; run it first: lossaware study run grid"):
        export(show(grid, Known(), []), Sources([]), [], tmp_path)
    assert not list(tmp_path.iterdir())


def test_runs_are_imported_with_their_provenance(grid, tmp_path):
    known = Exact(grid)
    export(show(grid, known, []), Sources([known]), [], tmp_path)
    specs = grid.specs
    with Store(tmp_path / "results.sqlite") as store:
        store.begin(specs[0])
        store.record(specs[0], replace(RECORD, epoch=1, train={"loss": 9.0}))
        assert copy_missing_runs(specs[:3], Exported(tmp_path), store) == 3
        assert not store.missing(specs[:3])
        assert [spec for spec in specs if spec in store.missing(specs)] == specs[3:]
        for spec in specs[:3]:
            assert repr(store.records(spec)) == repr(known.runs[spec])
            assert store.environment(spec) == known.environment(spec)
        assert copy_missing_runs(specs[:3], Exported(tmp_path), store) == 0


@pytest.mark.parametrize(
    ("pattern", "mine"),
    [('task = "digits"', 'task = "my.py:build"'), ('optimizer = "[^"]*"', 'optimizer = "my.py:Own"')],
)
def test_runs_of_user_code_are_not_imported(tmp_path, pattern, mine):
    own = parse_study(re.sub(pattern, mine, TEXT), "grid")
    known = Exact(own)
    export(show(own, known, []), Sources([known]), [], tmp_path)
    with Store(tmp_path / "results.sqlite") as store:
        assert copy_missing_runs(own.specs, Exported(tmp_path), store) == 0


def test_an_export_of_other_code_is_not_used(tmp_path):
    """Without the check: figures of old code would be mixed with those of the current code."""
    file = tmp_path / "mine.py"
    file.write_text("# one\n")
    own = parse_study(TEXT.replace('optimizer = "sgd" }', f'optimizer = "{file}:Mine" }}', 1), "grid")
    folder, known = tmp_path / "results", Exact(own)
    export(show(own, known, []), Sources([known]), [], folder)
    [mine] = {spec for spec in own.specs if spec.own_code and spec.lga is None and spec.seed == 0 and spec.lr == 1e-3}
    other = next(spec for spec in own.specs if not spec.own_code)
    assert Exported(folder).records(mine)
    file.unlink()
    assert Exported(folder).records(mine)  # the code has no other digest
    export(show(own, Known(), []), Sources([]), [], folder)
    file.write_text("# two\n")
    assert not Exported(folder).records(mine)
    assert Exported(folder).records(other)
    export(show(own, Known(), []), Sources([]), [], folder)  # only it is removed
    assert mine not in Exported(folder).specs()
    assert Exported(folder).records(other)


def resealed(text: str) -> str:
    """As one who wants it so would write it."""
    try:
        return json.dumps(sealed(json.loads(text)))
    except (ValueError, RecursionError):
        return text


def test_a_description_that_was_changed_is_refused(grid, tmp_path):
    known = Known()
    fill(grid, known)
    export(show(grid, known, []), Sources([known]), [Launch.now(grid)], tmp_path)
    path = tmp_path / "grid.study.json"
    text = path.read_text()
    for change in (
        lambda text: text.replace('"title": "', '"title": "No '),
        lambda text: text.replace('"overrides": {}', '"overrides": {"seeds": 1}'),
        lambda text: text.replace('"environment": 0', '"environment": 1', 1),
        lambda text: text.replace('"sha256": "', '"sha256": "0'),
        lambda text: text.replace('"sha256"', '"sha257"'),
    ):
        assert change(text) != text
        path.write_text(change(text))
        with pytest.raises(UsageError, match=r"grid\.study\.json: this file has changed"):
            Exported(tmp_path)
    path.write_text(json.dumps(json.loads(text)))
    assert Exported(tmp_path).specs(), "how it is laid out does not count"


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("grid-epochs.csv", lambda text: text[: int(len(text) * 0.9)], "the file is cut short"),
        ("grid-epochs.csv", lambda text: text[:-1], "the file is cut short"),
        (
            "grid-epochs.csv",
            lambda text: text[: text.rindex("\n", 0, -1) + 1],
            "is marked complete, and has 3 of 4 epochs: the file is damaged",
        ),
        ("grid-epochs.csv", lambda text: text[: text.rindex(",")] + "\n", r"line \d+: the number of fields differs"),
        ("grid-epochs.csv", lambda text: text[:-1] + ",1\n", r"line \d+: the number of fields differs"),
        ("grid-epochs.csv", lambda text: text.replace("0.51", "o.51"), "not a file of epochs"),
        ("grid-epochs.csv", lambda text: text.replace("run,", "ran,"), "not a file of epochs"),
        ("grid-epochs.csv", lambda text: text.replace("0.51", "0.52"), "epoch 4 of run [0-9a-f]{16} has changed"),
        ("grid-epochs.csv", lambda text: text.replace("train.", "text.").replace("test.", "train."), "epoch 1 of run"),
        ("grid-epochs.csv", lambda text: text.replace("\n", "\r\n"), "this file does not match grid.study"),
        ("grid-epochs.csv", None, "there is no such file"),
        ("grid.csv", lambda text: text.replace("51.0", "52.0"), "this file does not match grid.study.json"),
        ("grid.csv", None, "there is no such file"),
        ("grid.study.json", lambda text: text[:100], "not an exported study"),
        ("grid.study.json", lambda text: "[" * 100_000, "not an exported study"),
        ("grid.study.json", lambda text: text.replace('"format": 2', '"format": 9'), "another version of lossaware"),
        ("grid.study.json", lambda text: text.replace('"environment": 0', '"environment": 5'), "not an exported study"),
        ("grid.study.json", lambda text: text.replace('"lr": 0.01', '"lr": 0.02'), "does not match its"),
        ("grid.study.json", lambda text: text.replace('"lr": 0.01, ', ""), "not an exported study"),
        ("grid.study.json", lambda text: text.replace('"launches": []', '"launches": [5]'), "not a launch of a study"),
        ("grid.study.json", lambda text: text.replace('"environments": [', '"environments": [3,'), "not an exported"),
    ],
)
def test_a_damaged_export_is_one_line(grid, tmp_path, name, change, message):
    known = Known()
    fill(grid, known)
    export(show(grid, known, []), Sources([known]), [], tmp_path)
    path = tmp_path / name
    if change is None:
        path.unlink()
    else:
        text = path.read_text()
        assert change(text) != text
        path.write_text(resealed(change(text)) if name == "grid.study.json" else change(text))

    def read_all() -> None:
        exported = Exported(tmp_path)
        for spec in grid.specs:
            exported.records(spec)

    with pytest.raises(UsageError, match=message) as error:
        read_all()
    assert "\n" not in str(error.value)
    assert str(path) in str(error.value)


class OnAMachine(Known):
    """Runs that were made with folders of a machine on the command line."""

    def environment(self, spec):
        command = "lossaware study run /home/me/grid.toml --data=/srv/me/data --out /srv/me/out"
        return {"date": "2026-01-02", "commit": "abc", "command": command}


def test_an_export_keeps_no_folder_of_a_machine(grid, tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["/home/me/bin/lossaware", "study", "export", "/home/me/grid.toml"])
    known = OnAMachine()
    fill(grid, known)
    launch = replace(Launch.now(grid), environment=known.environment(grid.specs[0]))
    export(show(grid, known, []), Sources([known]), [launch], tmp_path)
    for path in tmp_path.iterdir():
        assert "/home/me" not in path.read_text()
        assert "/srv/me" not in path.read_text()
    text = (tmp_path / "grid.study.json").read_text()
    assert text.count("lossaware study run grid.toml --data=DIR --out DIR") == 2, "of the runs, and of the launch"
    assert text.count("lossaware study export grid.toml") == 1


def test_texts_of_others_are_exported_as_they_are(grid, tmp_path):
    class Odd(Known):
        def environment(self, spec):
            return {"processor": "a\ud800\u202e\u2028b"}

    known = Odd()
    fill(grid, known)
    export(show(grid, known, []), Sources([known]), [], tmp_path)
    exported = Exported(tmp_path)
    assert {exported.environment(spec)["processor"] for spec in exported.specs()} == {"a\ud800\u202e\u2028b"}
    assert exported.epochs("grid")
    assert export_module._study_json({"runs": {"a": {"spec": {"task": "a\ud800"}}}}).encode()


def test_the_path_of_a_task_is_part_of_its_runs_with_a_note(grid, tmp_path):
    task = tmp_path / "my_task.py"
    task.write_text("")
    study = parse_study(TEXT.replace("digits", f"{task}:build"), "grid")
    known = Known()
    fill(study, known)
    with pytest.warns(Note, match=r"my_task\.py:build: the exported runs contain this path"):
        export(show(study, known, []), Sources([known]), [], tmp_path / "results")


def test_a_file_is_not_a_folder_of_exports(tmp_path):
    (tmp_path / "results").touch()
    with pytest.raises(UsageError, match="results: a folder of exported studies is expected"):
        Exported(tmp_path / "results")


def test_a_failing_disk_leaves_the_earlier_export(grid, tmp_path, monkeypatch):
    known = Known()
    fill(grid, known)
    export(show(grid, known, []), Sources([known]), [], tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}

    def full(handle: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    fill(grid, known, shift=0.001)
    with pytest.raises(UsageError, match=r"cannot be written \(No space left on device\)"):
        export(show(grid, known, []), Sources([known]), [], tmp_path)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
