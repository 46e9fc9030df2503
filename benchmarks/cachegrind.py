"""Instructions and cache misses of the C pass, counted by valgrind: they do not depend on other work of the machine."""

import platform
import re
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.goals import Counter, SkippedError
from lossaware.correction import build

ELEMENTS = 1 << 20
"""As in ``pass_driver.c``."""
LINES = {"fixed": 2.0, "means": 3.0, "bfloat16 means": 2.5}
"""Passes, and the cache lines of 64 bytes that hold 16 elements of what each reads: no pass can miss fewer."""


class Counts(NamedTuple):
    """Of one process."""

    instructions: int
    misses: int
    """Of reads and writes in the first-level cache."""


def parsed(messages: str) -> Counts:
    """The counts that cachegrind writes at the end of a process.

    Raises:
        ValueError: There are no counts.
    """
    matches = [re.search(rf"{name} *: *([\d,]+)", messages) for name in (r"I +refs", r"D1 +misses")]
    if None in matches:
        raise ValueError(f"cachegrind did not write its counts: {messages.strip()[-200:]}")
    return Counts(*(int(match[1].replace(",", "")) for match in matches if match))


def measure() -> tuple[list[Counter], list[dict[str, Any]]]:
    """Instructions for each element, and first-level misses for 16 of them, of each pass.

    Raises:
        SkippedError: There is no valgrind or no C compiler.
    """
    if shutil.which("valgrind") is None:
        raise SkippedError("valgrind is not installed")
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        driver = built(Path(folder))
        for name, lines in LINES.items():
            one, three = (_counted(driver, name, passes) for passes in (1, 3))
            elements = 2 * ELEMENTS
            rows.append(
                {
                    "pass": name,
                    "instructions for an element": (three.instructions - one.instructions) / elements,
                    "misses for 16 elements": 16 * (three.misses - one.misses) / elements,
                    "lines of 16 elements": lines,
                }
            )
    counters = [
        Counter('"auto", eager', "", "instructions for an element", rows[1]["instructions for an element"], ""),
        Counter('"auto", eager', "", "misses for the 3 lines of 16 elements", rows[1]["misses for 16 elements"], ""),
    ]
    return counters, rows


def built(folder: Path) -> Path:
    """The program of ``pass_driver.c``, for AVX2 on x86, as valgrind does not know AVX-512.

    Raises:
        SkippedError: There is no C compiler.
    """
    try:
        compiler = build.compilers()[0]
    except build.NoLibraryError as error:
        raise SkippedError(str(error)) from error
    driver = folder / "driver"
    tuning = ["-march=haswell"] if platform.machine() in ("x86_64", "AMD64") else []
    flags = [flag for flag in build.FLAGS if flag not in ("-fPIC", "-shared")]
    sources = ["-I", str(Path(build.__file__).parent), str(Path(__file__).with_name("pass_driver.c"))]
    subprocess.run([*compiler, *flags, *tuning, *sources, "-o", str(driver)], check=True)
    return driver


def _counted(driver: Path, name: str, passes: int) -> Counts:
    command = ["valgrind", "--tool=cachegrind", "--cache-sim=yes", "--cachegrind-out-file=/dev/null"]
    result = subprocess.run([*command, str(driver), name, str(passes)], check=True, capture_output=True, text=True)
    return parsed(result.stderr)
