"""Temporary folders: those of killed processes are removed when the next one is created, and nothing else is."""

import os
import shutil
import signal
import sys
import tempfile

import pytest

from lossaware.studies.specs import temporary
from lossaware.studies.specs.temporary import temporary_folder

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="needs locks of folders")


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def left_by_a_kill(within):
    """A folder whose process got SIGKILL."""
    child = os.fork()
    if not child:
        with temporary_folder("test", within) as own:
            (own / "content").write_text("content")
            os.kill(os.getpid(), signal.SIGKILL)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    return set(within.iterdir())


def test_a_folder_is_closed_to_others_and_goes_at_the_end(tmp_path):
    with temporary_folder("test", tmp_path) as own:
        own.chmod(0o777)  # as Ray does with its folder
        assert own.parent.stat().st_mode & 0o777 == 0o700
        (own / "folder").mkdir()
        (own / "folder" / "file").touch()
        assert own.parent.parent == tmp_path
    assert names(tmp_path) == []


def test_a_folder_of_a_killed_process_goes_with_the_next_and_that_of_a_living_one_stays(tmp_path):
    (killed,) = left_by_a_kill(tmp_path)
    with temporary_folder("other", tmp_path):
        assert killed.exists()
    with temporary_folder("test", tmp_path) as living:
        assert not killed.exists()
        with temporary_folder("test", tmp_path):
            assert living.exists()
        assert left_by_a_kill(tmp_path) > {living.parent}
    with temporary_folder("test", tmp_path) as own:
        assert names(tmp_path) == [own.parent.name]


def test_foreign_files_are_kept(tmp_path):
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / temporary._MARK).touch()
    (tmp_path / "lossaware-test-a_folder").mkdir()
    (tmp_path / "lossaware-test-a_folder" / "thesis").touch()
    (tmp_path / "lossaware-test-a_link__").symlink_to(tmp_path / "thesis")
    (tmp_path / "lossaware-test-a_file__").touch()
    (tmp_path / "lossaware-test-notes").mkdir()
    (tmp_path / "lossaware-test-notes" / temporary._MARK).touch()
    (tmp_path / "lossaware-test-empty___").mkdir()  # of a process that was killed before it made its mark
    before = names(tmp_path)
    with temporary_folder("test", tmp_path):
        pass
    assert names(tmp_path) == [name for name in before if "empty" not in name]
    assert names(tmp_path / "thesis") == [temporary._MARK]
    assert names(tmp_path / "lossaware-test-a_folder") == ["thesis"]


def test_targets_of_links_are_not_removed(tmp_path):
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "text").touch()
    (killed,) = left_by_a_kill(tmp_path) - {tmp_path / "thesis"}
    (killed / "d" / "link").symlink_to(tmp_path / "thesis")
    with temporary_folder("test", tmp_path):
        assert not killed.exists()
    assert names(tmp_path / "thesis") == ["text"]


def test_folders_of_other_users_stay(tmp_path, monkeypatch):
    (killed,) = left_by_a_kill(tmp_path)
    monkeypatch.setattr(temporary, "_make", lambda within, prefix: (tmp_path, os.open(tmp_path, os.O_RDONLY)))
    monkeypatch.setattr(temporary, "_remove", lambda folder, deadline: None)
    monkeypatch.setattr(os, "getuid", lambda: os.geteuid() + 1)
    with temporary_folder("test", tmp_path):
        assert killed.exists()


def test_a_folder_that_another_process_removes_before_it_is_locked_is_made_again(tmp_path, monkeypatch):
    make, paths = tempfile.mkdtemp, []

    def removed_once(**where):
        paths.append(make(**where))
        if len(paths) == 1:
            os.rmdir(paths[0])
        return paths[-1]

    monkeypatch.setattr(tempfile, "mkdtemp", removed_once)
    with temporary_folder("test", tmp_path) as own:
        assert own.is_dir()
    assert len(paths) == 2


def test_files_written_during_removal_are_removed(tmp_path, monkeypatch):
    remove, calls = shutil.rmtree, []

    def late(path, **how):
        remove(path, **how)
        calls.append(path)
        if len(calls) == 1:  # a process that still ends
            path.mkdir()
            (path / "log").touch()

    monkeypatch.setattr(shutil, "rmtree", late)
    with temporary_folder("test", tmp_path):
        pass
    assert names(tmp_path) == []
