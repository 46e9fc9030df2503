"""Data files match their checksums; anything else gives a one-line error immediately."""

import gzip
import hashlib
import json
import os
import socket
import warnings
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lossaware.errors import UsageError
from lossaware.studies.data import checksums
from lossaware.studies.data.checksums import MANIFEST, Manifest, make_manifest, record_files
from lossaware.studies.data.files import DataFiles
from lossaware.studies.data.images import MAX_PIXELS, read_image
from lossaware.studies.data.sets import DATA_SETS, DataSet, Remote
from lossaware.studies.specs import regular_file
from lossaware.studies.specs.data_folder import DataFolder, reading
from lossaware.studies.specs.regular_file import read_regular


@pytest.fixture
def folder(tmp_path):
    """Three files and their manifest."""
    place = tmp_path / "set"
    (place / "more").mkdir(parents=True)
    for name, content in (("a", b"alpha"), ("more/b", b"beta"), ("more/c", b"gamma")):
        (place / name).write_bytes(content)
    make_manifest(place, ["a", "more/*"], published=False).save(place)
    return place


def test_unchanged_files_are_read(folder):
    files = DataFiles(folder)
    assert [files.read(name) for name in ("a", *files.names("more/*"))] == [b"alpha", b"beta", b"gamma"]
    date = Manifest.load(folder).date[:10]
    listed = "".join(
        f"{hashlib.sha256(content).hexdigest()}  {name}\n"
        for name, content in (("a", b"alpha"), ("more/b", b"beta"), ("more/c", b"gamma"))
    )
    content = hashlib.sha256(listed.encode()).hexdigest()[:16]
    assert str(files.summary()) == f"set: verified (the files recorded on {date}); content {content}"


def test_a_changed_file_is_refused(folder):
    (folder / "a").write_bytes(b"alphA")
    digest = hashlib.sha256(b"alphA").hexdigest()
    with pytest.raises(
        UsageError, match=rf"set/a: it differs from the files recorded on .* \(its SHA-256 is {digest}\)"
    ):
        DataFiles(folder).read("a")
    (folder / "a").write_bytes(b"alph")
    with pytest.raises(UsageError, match="set/a: 4 bytes; 5 are expected; cut short"):
        DataFiles(folder).read("a")


def test_the_change_of_a_moment_ago_is_seen(folder):
    """Same size, same time: no cached digest is used."""
    files = DataFiles(folder)
    before = (folder / "a").stat()
    files.read("a")
    (folder / "a").write_bytes(b"Alpha")
    os.utime(folder / "a", ns=(before.st_atime_ns, before.st_mtime_ns))
    with pytest.raises(UsageError, match="set/a: it differs"):
        files.read("a")


def test_more_and_fewer_files_are_refused(folder):
    (folder / "more" / "d").write_bytes(b"delta")
    files = DataFiles(folder)
    with pytest.raises(UsageError, match=rf"more/d: {MANIFEST} does not list this file"):
        [files.read(name) for name in files.names("more/*")]
    for name in ("b", "c"):
        (folder / "more" / name).unlink()
    with pytest.raises(UsageError, match=r"more/b: the file is missing, but .* lists it and 1 more"):
        files.names("more/*")


def test_without_verification_all_is_read_and_recorded(folder):
    (folder / "a").write_bytes(b"changed")
    (folder / "more" / "d").write_bytes(b"delta")
    (folder / "more" / "b").unlink()
    with reading(DataFolder(Path(), verify=False)) as current:
        files = DataFiles(folder)
        assert files.read("a") == b"changed"
        assert [files.read(name) for name in files.names("more/*")] == [b"gamma", b"delta"]
    assert files.summary().verdict == "not verified (--no-verify); changed: a, more/b, more/d"
    assert current.files == (files.summary(),)
    with pytest.raises(UsageError, match="set/a: 7 bytes; 5 are expected"):
        DataFiles(folder).read("a")


def test_a_known_file_gives_no_message(tmp_path):
    (tmp_path / "a").write_bytes(b"anything")
    files = DataFiles(tmp_path, "cifar-10-batches-bin")
    assert files.read("a") == b"anything"
    assert str(files.summary()).startswith("cifar-10-batches-bin: not verified (no checksums are known); content ")


@pytest.mark.parametrize("name", ["a.gz", "a"])
def test_published_files_are_known_without_a_manifest(tmp_path, monkeypatch, name):
    """Byte for byte, compressed in another way, or not compressed."""
    published = gzip.compress(b"alpha" * 100, mtime=0)
    md5s = (hashlib.md5(content).hexdigest() for content in (published, b"alpha" * 100))
    things = DataSet("Things", "things", ("a*",), (Remote("https://x/a.gz", len(published), *md5s),))
    monkeypatch.setitem(DATA_SETS, "things", things)
    right = [published, gzip.compress(b"alpha" * 100, mtime=7)] if name == "a.gz" else [b"alpha" * 100]
    wrong = [gzip.compress(b"Alpha" * 100), published[:-4], b"alpha"]
    for content in right:
        (tmp_path / name).write_bytes(content)
        files = DataFiles(tmp_path, "things")
        assert files.read(name) == content
        assert str(files.summary()).startswith("things: verified (the published files); ")
    for content in wrong:
        (tmp_path / name).write_bytes(content)
        with pytest.raises(UsageError, match=rf"{name}: it differs from the published files"):
            DataFiles(tmp_path, "things").read(name)
        assert DataFiles(tmp_path).read(name) == content, "of another place nothing is known"


def test_recorded_checksums_override_published_ones(tmp_path):
    raw = tmp_path / "MNIST" / "raw"
    raw.mkdir(parents=True)
    (raw / "train-labels-idx1-ubyte").write_bytes(b"others")
    with pytest.raises(UsageError, match="train-labels-idx1-ubyte: it differs from the published files"):
        DataFiles(raw, "MNIST/raw").read("train-labels-idx1-ubyte")
    assert record_files(DATA_SETS["mnist"], tmp_path) == [raw]
    assert DataFiles(raw, "MNIST/raw").read("train-labels-idx1-ubyte") == b"others"


def test_recording_nothing_is_an_error(tmp_path):
    with pytest.raises(UsageError, match=r"there is no folder .*MNIST/raw"):
        record_files(DATA_SETS["mnist"], tmp_path)
    (tmp_path / "bag_data").mkdir()
    with pytest.raises(UsageError, match=r"bag_data has no file that matches last/\*, last_msk/\*"):
        record_files(DATA_SETS["segmentation"], tmp_path)


@pytest.mark.parametrize(
    "damage",
    [
        lambda text: text[:-9],
        lambda text: "",
        lambda text: "[]",
        lambda text: text.replace('"files"', '"file"'),
        lambda text: text.replace("true", "1").replace("false", '"no"'),
        lambda text: text.replace('"date": "', '"date": "x'),
        lambda text: text.replace("[5, ", "[5.0, "),
        lambda text: text.replace("[5, ", "[-5, "),
        lambda text: text.replace("[5, ", "["),
        lambda text: text[:-12] + text[-11:],
        lambda text: "[" * 100_000,
    ],
)
def test_a_damaged_manifest_is_an_error(folder, damage):
    path = folder / MANIFEST
    path.write_text(damage(path.read_text()))
    with pytest.raises(UsageError, match=rf"{MANIFEST}: damaged .*; write it again with") as error:
        DataFiles(folder)
    assert "\n" not in str(error.value)
    with reading(DataFolder(Path(), verify=False)):
        assert DataFiles(folder).read("a") == b"alpha"


def test_a_manifest_of_another_version_is_an_error(folder):
    content = json.loads((folder / MANIFEST).read_text())
    (folder / MANIFEST).write_text(json.dumps({**content, "format": 2}))
    with pytest.raises(UsageError, match="format 2; this version of lossaware reads 1"):
        DataFiles(folder)


# --- what lies in place of a file -----------------------------------------------------------------------------------


def make_socket(path):
    with socket.socket(socket.AF_UNIX) as end:
        end.bind(str(path))


KINDS = {
    "a pipe": os.mkfifo,
    "a folder": lambda path: path.mkdir(),
    "a socket": make_socket,
    "a device": lambda path: path.symlink_to("/dev/zero"),
    "a link to a missing file": lambda path: path.symlink_to("nothing"),
    "Too many levels of symbolic links": lambda path: path.symlink_to(path.name),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["a", MANIFEST])
def test_irregular_files_are_refused_immediately(folder, monkeypatch, kind, name):
    monkeypatch.chdir(folder)  # as the address of a socket must be short
    (folder / name).unlink()
    KINDS[kind]((folder / name).relative_to(folder))
    with pytest.raises(UsageError, match=rf"{name}: .*{kind}"):
        DataFiles(folder).read("a")


def test_a_link_to_a_file_is_followed_and_compared(folder, tmp_path):
    (folder / "a").rename(tmp_path / "elsewhere")
    (folder / "a").symlink_to(tmp_path / "elsewhere")
    assert DataFiles(folder).read("a") == b"alpha"
    (tmp_path / "elsewhere").write_bytes(b"ALPHA")
    with pytest.raises(UsageError, match="it differs"):
        DataFiles(folder).read("a")


def test_files_that_are_too_large_are_refused_before_reading(tmp_path):
    with (tmp_path / "large").open("wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(UsageError, match=r"large: 1099511627776 bytes; at most 1073741824 are read"):
        read_regular(tmp_path / "large")


def test_a_file_that_grows_while_it_is_read_is_an_error(tmp_path, monkeypatch):
    (tmp_path / "log").write_bytes(b"one\n")
    checked = regular_file.check_regular

    def then_grows(path, mode):
        checked(path, mode)
        if growing.pop(0):
            with path.open("ab") as file:
                file.write(b"more\n")

    growing = [True, False]
    monkeypatch.setattr(regular_file, "check_regular", then_grows)
    assert read_regular(tmp_path / "log") == b"one\nmore\n", "before it was opened"
    growing = [False, True]
    with pytest.raises(UsageError, match="log: it changed while it was read"):
        read_regular(tmp_path / "log")


def test_a_gzip_bomb_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(checksums, "MAX_BYTES", 1 << 20)
    bomb = gzip.compress(bytes(4 << 20))
    remote = Remote("https://x/a.gz", 1, "0" * 32, hashlib.md5(bytes(4 << 20)).hexdigest())
    assert not checksums.is_published(remote, "a.gz", bomb)


# --- images ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("side", [9_000, 12_500, 20_000])
def test_an_image_of_too_many_pixels_is_refused_before_decoding(tmp_path, monkeypatch, side):
    """Just above the limit, above that at which Pillow warns, and above that at which it refuses."""
    assert side**2 > MAX_PIXELS
    Image.new("1", (side, side)).save(tmp_path / "large.png")
    monkeypatch.setattr(Image.Image, "load", None)
    with (
        warnings.catch_warnings(record=True) as further_lines,
        pytest.raises(UsageError, match=rf"large\.png: the image has more than {MAX_PIXELS} pixels"),
    ):
        read_image(DataFiles(tmp_path), "large.png", 224, resize=True)
    assert further_lines == []


@pytest.mark.parametrize("kind", ["EPS", "GIF", "PPM", "TIFF"])
def test_other_formats_are_not_decoded(tmp_path, kind):
    """Pillow hands some of them to other programs; the name of a file does not decide."""
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(tmp_path / "a.png", format=kind)
    with pytest.raises(UsageError, match=r"a\.png: this is not an image \(JPEG, PNG, BMP, WEBP are read\)"):
        read_image(DataFiles(tmp_path), "a.png", 8)
