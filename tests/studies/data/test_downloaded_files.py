"""Data sets of single files that are not archives."""

import gzip
import os

import pytest

from lossaware.errors import UsageError
from lossaware.studies.data.checksums import MANIFEST
from lossaware.studies.data.files import DataFiles
from lossaware.studies.data.sets import DataSet, Remote
from support.download import get, md5, names, whole

CONTENTS = {"a.gz": b"alpha" * 100, "b.gz": b"beta" * 100}
ZIPPED = {name: gzip.compress(content, mtime=0) for name, content in CONTENTS.items()}


@pytest.fixture
def files(server):
    for name, content in ZIPPED.items():
        server.answers[name] = [whole(content)]
    remotes = (Remote(server.url(name), len(ZIPPED[name]), md5(ZIPPED[name]), md5(CONTENTS[name])) for name in ZIPPED)
    return DataSet("Files", "deep/raw", ("*",), tuple(remotes))


def test_files_are_downloaded_unchanged(files, tmp_path):
    get(files, tmp_path)
    assert names(tmp_path) == ["deep/raw/a.gz", "deep/raw/b.gz"]
    assert (tmp_path / "deep" / "raw" / "a.gz").read_bytes() == ZIPPED["a.gz"]


def test_only_missing_files_are_downloaded(files, server, tmp_path):
    get(files, tmp_path)
    (tmp_path / "deep" / "raw" / "b.gz").unlink()
    server.requests.clear()
    lines = get(files, tmp_path)
    assert server.requests == ["b.gz"]
    assert lines[0] == f"{tmp_path / 'deep' / 'raw' / 'a.gz'} exists; it is the published file"


def test_one_failure_keeps_the_files_that_came(files, server, tmp_path):
    server.answers["b.gz"] = [404]
    with pytest.raises(UsageError, match=r"b\.gz cannot be downloaded"):
        get(files, tmp_path)
    assert names(tmp_path) == ["deep/raw/a.gz"]


@pytest.mark.parametrize("name", ["a.gz", "a"])
def test_the_same_content_repacked_or_unpacked_is_accepted(files, server, tmp_path, name):
    raw = tmp_path / "deep" / "raw"
    raw.mkdir(parents=True)
    recompressed = (
        gzip.compress(CONTENTS["a.gz"], compresslevel=1, mtime=7) if name.endswith(".gz") else CONTENTS["a.gz"]
    )
    (raw / name).write_bytes(recompressed)
    get(files, tmp_path)
    assert server.requests == ["b.gz"]
    assert (raw / name).read_bytes() == recompressed
    assert DataFiles(raw).read(name) == recompressed


def test_a_folder_that_cannot_be_written_is_ready_where_all_is_there(files, server, tmp_path, monkeypatch):
    get(files, tmp_path)
    (tmp_path / "deep" / "raw" / MANIFEST).unlink()
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    (tmp_path / "deep" / "raw").chmod(0o555)
    try:
        assert get(files, tmp_path)[-1] == f"{tmp_path / 'deep' / 'raw'} is ready"
    finally:
        (tmp_path / "deep" / "raw").chmod(0o755)
    assert len(server.requests) == 2
    assert not (tmp_path / "deep" / "raw" / MANIFEST).exists()


@pytest.mark.parametrize(
    "content",
    [b"other", gzip.compress(b"other", mtime=0), ZIPPED["a.gz"][:-9], b""],
    ids=["not compressed", "compressed", "cut short", "empty"],
)
def test_other_content_is_reported_and_kept(files, server, tmp_path, content):
    raw = tmp_path / "deep" / "raw"
    raw.mkdir(parents=True)
    (raw / "a.gz").write_bytes(content)
    with pytest.raises(UsageError, match=r"a\.gz exists, but is not the published file"):
        get(files, tmp_path)
    assert (raw / "a.gz").read_bytes() == content
    assert server.requests == []
