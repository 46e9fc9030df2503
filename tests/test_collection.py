"""The names of the tests are the same in every process, so that the workers of xdist agree."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

from support.longest import LONGEST

ROOT = Path(__file__).parents[1]


def begin_to_collect(place: Path, hash_seed: int, zone: str) -> subprocess.Popen[str]:
    place.mkdir()
    environment = {"PYTHONHASHSEED": str(hash_seed), "TZ": zone, "HOME": str(place), "TMPDIR": str(place)}
    command = [sys.executable, "-m", "pytest", "--collect-only", "-q", "-n", "0", "-p", "no:cacheprovider", str(ROOT)]
    return subprocess.Popen(
        command,
        cwd=ROOT,
        env={**os.environ, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def names(collecting: subprocess.Popen[str]) -> list[str]:
    output, _ = collecting.communicate()
    assert collecting.returncode == 0, output[-2000:]
    return [line for line in output.splitlines() if "::" in line]


@pytest.mark.skipif(not (ROOT / "pyproject.toml").exists(), reason="the tests are not in their checkout")
def test_two_collections_find_the_same_tests(tmp_path: Path) -> None:
    """Without the check: a file packed at import holds the time, and xdist stops where its workers find other names.

    The two differ in their second, hash seed, time zone, home, temporary folder and, as all processes do, in addresses.
    """
    first = begin_to_collect(tmp_path / "first", 1, "UTC")
    time.sleep(1.1)
    second = begin_to_collect(tmp_path / "second", 77, "Asia/Tokyo")
    tests, second_tests = names(first), names(second)
    assert tests == second_tests
    assert len(tests) > 1000
    assert len(set(tests)) == len(tests)
    # Escaped bytes depend on the library that packed them; addresses and folders on the process and the machine.
    unsteady = re.compile(rf"\\x[0-9a-f]{{2}}|\b0x[0-9a-f]{{8,}}|{re.escape(str(ROOT))}|{re.escape(str(Path.home()))}/")
    assert [name for name in tests if unsteady.search(name)] == []


def test_the_files_that_begin_first_exist() -> None:
    names = {path.name for path in Path(__file__).parent.rglob("test_*.py")}
    assert set(LONGEST) <= names
