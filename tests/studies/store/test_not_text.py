"""Bytes that are not text, and numbers without end, in every file that is read: one line, never a traceback."""

import json
import shutil
import warnings

import pytest

from lossaware.errors import UsageError
from lossaware.studies.analysis.collect import show
from lossaware.studies.analysis.export import export
from lossaware.studies.data.checksums import MANIFEST, Manifest
from lossaware.studies.report import artifacts
from lossaware.studies.specs.run_spec import EpochRecord, RunSpec
from lossaware.studies.specs.seal import sealed
from lossaware.studies.specs.study import load_study
from lossaware.studies.store.database import Store
from lossaware.studies.store.exported import Exported
from lossaware.studies.store.folder import Folder, Launch
from lossaware.studies.store.results import Sources
from support.small_grid import TEXT, Known, fill

SPEC = RunSpec(task="digits", optimizer="sgd", lr=0.1, seed=0, epochs=2, batch_size=64)
STRIDE = [31, pytest.param(1, marks=[pytest.mark.mutations, pytest.mark.timeout(1800)])]


@pytest.fixture(scope="module")
def database(tmp_path_factory):
    path = tmp_path_factory.mktemp("out") / "results.sqlite"
    with Store(path) as store:
        store.begin(SPEC)
        for epoch in (1, 2):
            store.record(SPEC, EpochRecord(epoch, {"loss": 1.0}, {"loss": 2.0}, None, 1.0))
    return path.read_bytes()


def read_all(path, *, read_only):
    with Store(path, read_only=read_only) as store:
        for spec in store.specs():
            store.records(spec)
            store.environment(spec)
        store.failures(), store.damage(), store.missing([SPEC]), store.counts(), store.complete_keys()
        if not read_only:
            store.begin(SPEC)


@pytest.mark.parametrize("stride", STRIDE)
@pytest.mark.parametrize("byte", [0xFF, 0xC3])
def test_a_database_with_bytes_that_are_not_text(database, tmp_path, byte, stride):
    """SQLite quotes the file in its messages, and Python cannot read a message whose bytes are not text."""
    path = tmp_path / "results.sqlite"
    refused = 0
    for place in [place for place in range(100, len(database)) if database[place]][::stride]:
        for read_only in (True, False):
            path.write_bytes(database[:place] + bytes([byte]) + database[place + 1 :])
            try:
                with warnings.catch_warnings(action="ignore"):
                    read_all(path, read_only=read_only)
            except UsageError as error:
                refused += str(error).isprintable()
            for file in tmp_path.iterdir():
                file.unlink()
    assert refused > 10


@pytest.mark.parametrize("content", [b"\xff\xfe", b"\xc3(", b"title = '\x80'", b"x = " + b"9" * 5000], ids=range(4))
def test_a_study_file(tmp_path, content):
    (tmp_path / "own.toml").write_bytes(content)
    with pytest.raises(UsageError, match=r"own\.toml") as error:
        load_study(str(tmp_path / "own.toml"))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("content", [b"\xff", b'{"format": ' + b"9" * 5000 + b"}", b"[" * 100_000], ids=range(3))
def test_a_manifest(tmp_path, content):
    (tmp_path / MANIFEST).write_bytes(content)
    with pytest.raises(UsageError, match="damaged"):
        Manifest.load(tmp_path)


@pytest.fixture(scope="module")
def exported(tmp_path_factory, request):
    from lossaware.studies.specs.study import parse_study

    study, known = parse_study(TEXT, "grid"), Known()
    fill(study, known)
    folder = tmp_path_factory.mktemp("results")
    export(show(study, known, []), Sources([known]), [Launch.now(study)], folder)
    return folder


@pytest.mark.parametrize("name", ["grid.study.json", "grid-epochs.csv"])
@pytest.mark.parametrize("content", [b"\xff", b"\xc3(\n"], ids=["ff", "c3"])
def test_an_exported_file(exported, tmp_path, name, content):
    folder = tmp_path / "results"
    shutil.copytree(exported, folder)
    whole = (folder / name).read_bytes()
    (folder / name).write_bytes(whole[:200] + content + whole[200:])
    with pytest.raises(UsageError, match=name) as error:
        Exported(folder).epochs("grid")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("number", ["9" * 400, "1e999", "9" * 5000, "-" + "9" * 400], ids=range(4))
def test_a_number_without_end_in_a_database(tmp_path, number):
    path = tmp_path / "results.sqlite"
    with Store(path) as store:
        store.begin(SPEC)
        store.record(SPEC, EpochRecord(1, {"loss": 1.0}, {"loss": 2.0}, None, 1.0))
        store._database.execute("UPDATE epochs SET train = ?", (f'{{"loss": {number}}}',))
    with Store(path, read_only=True) as store, pytest.raises(UsageError, match="epoch 1 of run"):
        store.records(SPEC)


@pytest.mark.parametrize("field", ["lr", "seed", "epochs"])
def test_a_number_without_end_in_an_exported_study(exported, tmp_path, field):
    folder = tmp_path / "results"
    shutil.copytree(exported, folder)
    content = json.loads((folder / "grid.study.json").read_text())
    next(iter(content["runs"].values()))["spec"][field] = 10**400
    (folder / "grid.study.json").write_text(json.dumps(sealed(content)))
    with pytest.raises(UsageError, match=rf"not an exported study \(ValueError: {field} is '1000"):
        Exported(folder)


@pytest.mark.parametrize("name", ["mine.svg", "mine.csv", "mine.json"])
def test_the_files_of_a_picture(tmp_path, name):
    svg = '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 1 1"></svg>'
    (tmp_path / "mine.svg").write_text(svg)
    (tmp_path / "mine.csv").write_text("a\n1\n")
    (tmp_path / "mine.json").write_text('{"made_with": {}}')
    (tmp_path / name).write_bytes(b"\xff" + (tmp_path / name).read_bytes())
    with pytest.raises(UsageError, match=name), warnings.catch_warnings(action="ignore"):
        artifacts.load(tmp_path)


def test_launches(tmp_path):
    (tmp_path / "studies.jsonl").write_bytes(b'\xff{"study": "a"}\n' + b"[" * 100_000 + b"\n" + b"9" * 5000 + b"\n")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        assert Folder(tmp_path).all_launches() == []
    assert len(caught) == 3
