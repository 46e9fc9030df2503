"""Files written whole: what is under their names is complete, and has the permissions of any new file."""

import os

import pytest

from lossaware.errors import UsageError
from lossaware.studies.specs.atomic import umask, write_whole


@pytest.mark.parametrize("mask", [0o077, 0o022, 0o002])
def test_new_files_have_the_permissions_that_the_umask_leaves(tmp_path, mask):
    before = os.umask(mask)
    try:
        assert umask() == mask
        write_whole(tmp_path / "new" / "file", "content")
        (tmp_path / "other").write_text("content")
    finally:
        os.umask(before)
    assert (tmp_path / "new" / "file").stat().st_mode == (tmp_path / "other").stat().st_mode
    assert (tmp_path / "new").stat().st_mode & 0o777 == 0o777 & ~mask


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("old")

    def full(handle):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(UsageError, match=r"file: cannot be written \(No space left on device\)"):
        write_whole(tmp_path / "file", "new")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
    assert (tmp_path / "file").read_text() == "old"
