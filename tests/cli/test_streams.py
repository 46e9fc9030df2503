"""Standard streams that are closed, too few open files, and the permissions of what a command writes."""

import errno
import os
import subprocess
import sys
import warnings

import pytest

from lossaware.cli import main
from lossaware.errors import Note, UsageError
from lossaware.studies.report.page import Report, render
from lossaware.studies.specs.provenance import without_home

pytestmark = pytest.mark.skipif(os.name != "posix", reason="needs a POSIX shell")
RUN = "compare digits --optimizers sgd --lrs 0.1 --seeds 1 --epochs 1 --jobs 1 --out out"


def shell(command, folder, **more):
    program = f"{sys.executable} -m lossaware"
    return subprocess.run(
        ["sh", "-c", command.replace("lossaware", program, 1)],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=250,
        **more,
    )


@pytest.mark.parametrize("closed", [">&-", "2>&-", "<&-", ">&- 2>&- <&-"])
def test_a_closed_stream_loses_only_its_own_output(tmp_path, closed):
    result = shell(f"lossaware tasks {closed}", tmp_path)
    assert result.returncode == 0
    assert result.stderr == ""
    assert ("digits" in result.stdout) == (">&-" not in closed.replace("2>&-", ""))
    result = shell(f"lossaware study show nothing {closed}", tmp_path)
    assert result.returncode == 2
    assert ("unknown study 'nothing'" in result.stderr) == ("2>&-" not in closed)


def test_a_comparison_without_any_stream_is_stored_with_the_permissions_of_the_umask(tmp_path):
    """Without the check: AttributeError after all runs, and the first opened database becomes the standard output."""
    result = shell(f"umask 077; lossaware {RUN} >&- 2>&- <&-", tmp_path)
    assert result.returncode == 0, result.stderr
    paths = sorted(path for path in (tmp_path / "out").rglob("*"))
    assert {path.name for path in paths} >= {"report.html", "results.sqlite"}
    assert {oct(path.stat().st_mode & 0o077) for path in (*paths, tmp_path / "out")} == {"0o0"}
    verified = shell("lossaware study verify out", tmp_path)
    assert "2 runs with 2 epochs are unchanged" in verified.stdout


def test_too_few_open_files_are_one_line(tmp_path):
    result = shell(f"ulimit -n 16; lossaware {RUN}", tmp_path)
    assert result.returncode in (1, 2), result.stderr
    assert "Traceback" not in result.stderr
    errors = [line for line in result.stderr.splitlines() if line.startswith("lossaware: ")]
    assert errors, result.stderr


def test_too_many_open_files_in_any_command_are_one_line(tmp_path, monkeypatch, capsys):
    def refuse(folder):
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr("lossaware.studies.store.verify.verify", refuse)
    with pytest.raises(SystemExit) as stop:
        main(["study", "verify", str(tmp_path)])
    assert stop.value.code == 2
    assert capsys.readouterr().err == "lossaware: Too many open files: raise the limit (ulimit -n), or lower --jobs\n"


@pytest.mark.parametrize("action", ["error", "ignore"])
def test_notes_are_lines_with_any_warning_filter(tmp_path, monkeypatch, capsys, action):
    """PYTHONWARNINGS would make them tracebacks, or nothing."""

    def note(folder):
        warnings.warn("a note", Note, stacklevel=1)
        raise UsageError("the end")

    monkeypatch.setattr("lossaware.studies.store.verify.verify", note)
    with warnings.catch_warnings():
        warnings.simplefilter(action)
        with pytest.raises(SystemExit):
            main(["study", "verify", str(tmp_path)])
    assert capsys.readouterr().err == "lossaware: a note\nlossaware: the end\n"


def test_home_folders_are_not_shown(monkeypatch):
    monkeypatch.setenv("HOME", "/data/people/jo")
    text = "lossaware compare /data/people/jo/x.py:build --data /home/me/data -o /Users/jo-e/out C:\\Users\\me\\a"
    assert without_home(text) == "lossaware compare ~/x.py:build --data ~/data -o ~/out ~\\a"
    for other in ("/data/people/joan", "a/home/me", "/homes/me", 'src="data:image/svg+xml;base64,/data/people/jo/"'):
        assert without_home(other) == other
    page = render(Report("t", "s", "l", [], facts={"a": {"b": "/home/me/x"}}, command=text))
    assert "people/jo" not in page
    assert "/me" not in page
    assert "~/x.py:build" in page
