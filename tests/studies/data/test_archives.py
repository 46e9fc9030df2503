"""Archives: unpacked, verified, damaged, or harmful."""

import hashlib
import os
import tarfile

import pytest

from lossaware.errors import UsageError
from lossaware.studies.data.checksums import MANIFEST, Manifest
from lossaware.studies.data.files import DataFiles
from support.download import MEMBERS, TAR, ZIP, archive_set, changed, get, names, packed_tar, packed_zip, whole


@pytest.mark.parametrize(
    ("content", "name", "message"),
    [
        (packed_tar({"../evil.txt": b"out", "things/a": b"a"}), "things.tar.gz", "cannot be unpacked .*outside"),
        (packed_tar({"other/a": b"a"}), "things.tar.gz", "does not hold the folder things"),
        (packed_zip({"other/a": b"a"}), "things.zip", "does not hold the folder things"),
        (TAR[: len(TAR) // 2], "things.tar.gz", "cannot be unpacked"),
        (b"no archive at all", "things.tar.gz", "cannot be unpacked"),
        (ZIP[:100], "things.zip", "cannot be unpacked"),
        (changed(ZIP, flag=1), "things.zip", r"cannot be unpacked \(File '?things/a.bin'? is encrypted"),
        (changed(ZIP, method=97), "things.zip", r"cannot be unpacked \(.*compression"),
        (TAR[:40] + bytes(len(TAR) - 40), "things.tar.gz", "cannot be unpacked"),
    ],
    # Bytes make no name for a test: those of an archive hold the time, which every worker of xdist reads for itself.
    ids=[
        "a member outside",
        "another folder",
        "another folder in a zip",
        "half a tar",
        "no archive",
        "the start of a zip",
        "encrypted",
        "unknown compression",
        "damaged in the middle",
    ],
)
def test_an_archive_that_cannot_be_unpacked_leaves_no_folder(server, tmp_path, content, name, message):
    folder = tmp_path / "below"
    server.answers[name] = [whole(content)]
    with pytest.raises(UsageError, match=message):
        get(archive_set(server, content, name), folder)
    assert names(tmp_path) == [f"below/{name}"]
    assert [path.name for path in folder.iterdir()] == [name]


def test_members_outside_of_a_zip_stay_inside(server, tmp_path):
    content = packed_zip({"../evil.txt": b"out", "/evil2.txt": b"out", **MEMBERS})
    server.answers["things.zip"] = [whole(content)]
    get(archive_set(server, content, "things.zip"), tmp_path / "below")
    assert names(tmp_path) == ["below/things.zip", "below/things/a.bin", "below/things/more/b.txt"]


def test_a_killed_extraction_leaves_no_folder(server, tmp_path, monkeypatch):
    server.answers["things.tar.gz"] = [whole(TAR)]

    def stopped(self, *what, **more):
        (tmp_path / ".things.download" / "things").mkdir()
        raise KeyboardInterrupt

    monkeypatch.setattr(tarfile.TarFile, "extractall", stopped)
    with pytest.raises(KeyboardInterrupt):
        get(archive_set(server), tmp_path)
    assert names(tmp_path) == ["things.tar.gz"]
    assert [path.name for path in tmp_path.iterdir()] == ["things.tar.gz"]


@pytest.mark.parametrize(("content", "name"), [(TAR, "things.tar.gz"), (ZIP, "things.zip")])
def test_the_files_of_an_archive_are_verified_when_they_are_read(server, tmp_path, content, name):
    server.answers[name] = [whole(content)]
    get(archive_set(server, content, name), tmp_path)
    manifest = Manifest.load(tmp_path / "things")
    assert manifest.published
    assert set(manifest.files) == {"a.bin", "more/b.txt"}
    size, sha256 = manifest.files["more/b.txt"]
    assert (size, sha256) == (6, hashlib.sha256(b"second").hexdigest())
    files = DataFiles(tmp_path / "things")
    assert files.read("a.bin") == MEMBERS["things/a.bin"]
    assert str(files.summary()).startswith("things: verified (the published files); content ")
    (tmp_path / "things" / "a.bin").write_bytes(MEMBERS["things/a.bin"][:-1] + b"!")
    with pytest.raises(UsageError, match=r"a\.bin: it differs from the published files"):
        files.read("a.bin")


def test_a_folder_without_manifest_gets_that_of_its_archive(server, tmp_path):
    server.answers["things.tar.gz"] = [whole(TAR)]
    get(archive_set(server), tmp_path)
    (tmp_path / "things" / MANIFEST).unlink()
    (tmp_path / "things" / "a.bin").write_bytes(b"mine")
    lines = get(archive_set(server), tmp_path)
    assert f"{tmp_path / 'things'} exists; it is now compared with the published files at each reading" in lines
    assert (tmp_path / "things" / "a.bin").read_bytes() == b"mine"
    with pytest.raises(UsageError, match=r"a\.bin: 4 bytes; 25000 are expected; cut short"):
        DataFiles(tmp_path / "things").read("a.bin")


@pytest.mark.parametrize("make", [os.mkfifo, lambda path: path.symlink_to("/dev/zero"), lambda path: path.mkdir()])
def test_special_files_are_refused_immediately(server, tmp_path, make):
    make(tmp_path / "things.tar.gz")
    with pytest.raises(
        UsageError, match=r"things\.tar\.gz: this is a (pipe|device|folder); a regular file is expected"
    ):
        get(archive_set(server), tmp_path)
    assert server.requests == []
