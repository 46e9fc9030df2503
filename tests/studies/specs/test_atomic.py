"""Atomic writes: files are complete, and have the permissions of any new file."""

import os
import tempfile
from typing import Any

import pytest

from lossaware.errors import UsageError
from lossaware.studies.specs.atomic import atomic_file, remove_own, umask, write_atomic


@pytest.mark.parametrize("mask", [0o077, 0o022, 0o002])
def test_new_files_have_the_permissions_that_the_umask_leaves(tmp_path, mask):
    before = os.umask(mask)
    try:
        assert umask() == mask
        write_atomic(tmp_path / "new" / "file", "content")
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
        write_atomic(tmp_path / "file", "new")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
    assert (tmp_path / "file").read_text() == "old"


CALLS = ("mkstemp", "write", "fsync", "chmod", "replace", "fsync")
"""The order of a replacement: sync of the content, then the rename, then the sync of the folder."""


class Faulty:
    """Stands for ``os`` and ``tempfile``: notes the calls, and fails or dies at one of them."""

    def __init__(self, monkeypatch, fails_at=None, error=None):
        self.calls = []
        self._fails_at, self._error = fails_at, error
        for module, name in ((tempfile, "mkstemp"), (os, "fsync"), (os, "chmod"), (os, "replace")):
            monkeypatch.setattr(module, name, self._of(module, name))

    def _of(self, module, name):
        real = getattr(module, name)

        def call(*arguments, **keywords):
            self.note(name)
            return real(*arguments, **keywords)

        return call

    def note(self, name):
        self.calls.append(name)
        if len(self.calls) - 1 == self._fails_at:
            raise self._error


def write(path, content, faulty):
    with atomic_file(path) as file:
        faulty.note("write")
        file.write(content)


def test_the_content_is_on_disk_before_the_name_and_the_name_before_it_returns(tmp_path, monkeypatch):
    faulty = Faulty(monkeypatch)
    write(tmp_path / "file", b"new", faulty)
    assert tuple(faulty.calls) == CALLS


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()], ids=["full", "Ctrl-C"])
@pytest.mark.parametrize("at", range(len(CALLS)), ids=[f"{at}-{name}" for at, name in enumerate(CALLS)])
def test_a_fault_at_any_call_leaves_one_whole_file_and_nothing_else(tmp_path, monkeypatch, at, error):
    (tmp_path / "file").write_bytes(b"old")
    faulty = Faulty(monkeypatch, at, error)
    last = at == len(CALLS) - 1  # the file is in place; it is not a failure if the folder cannot be synced
    if last and isinstance(error, OSError):
        write(tmp_path / "file", b"new", faulty)
    else:
        with pytest.raises((UsageError, KeyboardInterrupt)):
            write(tmp_path / "file", b"new", faulty)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
    assert (tmp_path / "file").read_bytes() == (b"new" if last else b"old")


@pytest.mark.parametrize("at", range(len(CALLS)), ids=[f"{at}-{name}" for at, name in enumerate(CALLS)])
def test_a_process_that_dies_at_any_call_leaves_one_whole_file_under_the_name(tmp_path, monkeypatch, at):
    """Like a kill, which runs no handler: the incomplete file remains under a temporary name."""
    (tmp_path / "file").write_bytes(b"old")
    child = os.fork()
    if not child:
        faulty: Any = Faulty(monkeypatch, at)
        faulty.note = lambda name: faulty.calls.append(name) or (len(faulty.calls) - 1 == at and os._exit(9))
        write(tmp_path / "file", b"new", faulty)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9
    assert (tmp_path / "file").read_bytes() == (b"new" if at == len(CALLS) - 1 else b"old")
    for path in tmp_path.iterdir():
        assert path.name == "file" or path.name.startswith(".file-")


def test_a_text_that_is_not_valid_is_one_line_and_leaves_the_old_file(tmp_path):
    (tmp_path / "file").write_text("old")
    with pytest.raises(UsageError, match=r"file: cannot be written .*surrogates not allowed"):
        write_atomic(tmp_path / "file", "a\ud800b")
    assert [path.read_text() for path in tmp_path.iterdir()] == ["old"]


def test_a_link_is_replaced_and_not_written_through(tmp_path):
    (tmp_path / "thesis").write_text("mine")
    (tmp_path / "file").symlink_to(tmp_path / "thesis")
    write_atomic(tmp_path / "file", "new")
    assert (tmp_path / "thesis").read_text() == "mine"
    assert not (tmp_path / "file").is_symlink()


@pytest.mark.parametrize(
    ("content", "removed"), [(b"mark and more", True), (b"mark", True), (b"ma", True), (b"", True), (b"mine", False)]
)
def test_only_our_own_files_are_removed(tmp_path, content, removed):
    path = tmp_path / "file"
    path.write_bytes(content)
    assert remove_own(path, b"mark") == removed
    assert path.exists() != removed
    link = tmp_path / "link"
    path.write_bytes(b"mark")
    link.symlink_to(path)
    assert not remove_own(link, b"mark")
    assert path.exists()
    os.mkfifo(tmp_path / "pipe")
    assert not remove_own(tmp_path / "pipe", b"mark")
    assert not remove_own(tmp_path / "nothing", b"mark")
