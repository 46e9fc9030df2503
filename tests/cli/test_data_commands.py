"""The commands of `lossaware data`."""

import io
import re

import pytest

from lossaware.studies.data.checksums import MANIFEST, record_files
from lossaware.studies.data.files import DataFiles
from lossaware.studies.data.sets import DATA_SETS
from support.command_line import captured
from support.download import TAR, archive_set, cut, get, whole


def command(capsys, *arguments):
    return captured(capsys, "data", *arguments)


def test_the_command_downloads_and_reports(server, tmp_path, monkeypatch, capsys):
    server.answers["things.tar.gz"] = [whole(TAR)]
    monkeypatch.setitem(DATA_SETS, "things", archive_set(server))
    code, _, error = command(capsys, "get", "things", "--data", tmp_path)
    assert code == 0
    assert error.splitlines() == ["unpacking things.tar.gz", f"{tmp_path / 'things'} is ready"]
    assert (tmp_path / "things" / "a.bin").is_file()


def test_the_command_shows_a_bar_on_a_terminal(server, tmp_path, monkeypatch):
    from rich.console import Console

    from lossaware.cli import data as data_cli

    server.answers["things.tar.gz"] = [cut(TAR), whole(TAR)]
    stream = io.StringIO()
    console = Console(file=stream, force_terminal=True, width=100)
    with data_cli._bars(console) as bar:
        get(archive_set(server), tmp_path, bar=bar)
    output = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", stream.getvalue())
    assert "things.tar.gz" in output
    assert f"{len(TAR)}/{len(TAR)} bytes" in output


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("get", "cifar", "--data", "d"), "unknown data set 'cifar'; did you mean cifar10"),
        (("get", "tacos", "--data", "d"), "tacos cannot be downloaded: train.json"),
        (("get", "segmentation", "--data", "d"), "segmentation cannot be downloaded: .*bag_data"),
        (("stand-in", "tacos", "--data", "no-such-folder"), "there is no folder no-such-folder/tacos"),
        (("stand-in", "tacos", "--data", "d", "--seed", "-1"), "--seed must be at least 0, got -1"),
        (("record", "imagenet", "--data", "d"), "unknown data set 'imagenet'; did you mean tinyimagenet"),
        (("record", "cifar10", "--data", "d"), "there is no folder d/cifar-10-batches-bin"),
        (("get", "mnist"), "--data"),
    ],
)
def test_mistakes_are_one_line(capsys, tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    code, _, error = command(capsys, *arguments)
    assert code == 2
    assert re.search(message, error)
    assert error.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_the_list_shows_existing_data(capsys, tmp_path):
    (tmp_path / "cifar-100-binary").mkdir()
    code, out, _ = command(capsys, "list", "--data", tmp_path)
    assert code == 0
    states = {line.split()[0]: line.split()[1] for line in out.splitlines()[:6]}
    expected = dict.fromkeys(DATA_SETS, "missing")
    assert states == {**expected, "cifar100": "present"}


def test_the_command_records_existing_files(capsys, tmp_path):
    raw = tmp_path / "MNIST" / "raw"
    raw.mkdir(parents=True)
    (raw / "train-labels-idx1-ubyte").write_bytes(b"mine")
    code, out, _ = command(capsys, "record", "mnist", "--data", tmp_path)
    assert (code, out) == (0, f"{raw / MANIFEST} is written\n")
    assert DataFiles(raw, "MNIST/raw").read("train-labels-idx1-ubyte") == b"mine"


def test_stand_ins_by_the_command(capsys, tmp_path):
    (tmp_path / "tacos").mkdir()
    for part in ("train", "val", "test"):
        (tmp_path / "tacos" / f"{part}.json").write_text(
            f'{{"{part}.avi": {{"timestamps": [[0, 9]], "sentences": ["x"], "fps": 29.4, "num_frames": 100}}}}'
        )
    record_files(DATA_SETS["tacos"], tmp_path)
    code, _, error = command(capsys, "stand-in", "tacos", "--data", tmp_path)
    assert (code, error.split()[:2]) == (0, ["3", "videos"])
    assert len(list((tmp_path / "tacos" / "stand-in-features").glob("*.npy"))) == 3
