"""Child processes import nothing from the current folder, which may belong to another user."""

import multiprocessing
import os

import pytest

from lossaware.studies.execution.processes import quiet_start
from support import child

SHADOWED = ("threading", "selectors", "signal", "struct", "socket", "warnings", "collections", "random", "torch")
"""Modules of the same names as those that Python, and a worker, import first."""


@pytest.fixture
def trapped(tmp_path, monkeypatch):
    for name in SHADOWED:
        (tmp_path / f"{name}.py").write_text(f"open('imported', 'a').write('{name}')")
    monkeypatch.chdir(tmp_path)
    yield
    assert not (tmp_path / "imported").exists()


@pytest.mark.parametrize("chosen", [None, "1"])
def test_a_process_imports_nothing_from_the_current_folder(trapped, monkeypatch, chosen):
    """Unguarded: `python -c` has the current folder first on its path."""
    monkeypatch.delenv("PYTHONSAFEPATH", raising=False)
    if chosen:
        monkeypatch.setenv("PYTHONSAFEPATH", chosen)
    process = multiprocessing.get_context("spawn").Process(target=child.main)
    with quiet_start():
        process.start()
    process.join()
    # What the process starts itself, such as a user's command, is as the user wants it.
    assert process.exitcode == (child.SAFE if chosen else child.USUAL)
    assert os.environ.get("PYTHONSAFEPATH") == chosen
