"""The C library: how it is compiled, kept and found again, and what happens where there is none."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from pairs import needs_library

from lossaware.correction import Correction, native
from lossaware.correction.operators import Push


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path


def found_anew() -> native.Library | None:
    """What a new process would find."""
    return native.library.__wrapped__()


@needs_library
def test_it_is_compiled_once_and_found_again(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert found_anew() is not None
    (built,) = (cache / "lossaware").iterdir()
    assert (cache / "lossaware").stat().st_mode & 0o077 == 0
    before = built.stat()
    monkeypatch.setenv("CC", "no-such-compiler")  # nothing could be compiled now
    monkeypatch.setenv("PATH", "")
    library = found_anew()
    assert library is not None
    p = torch.ones(3)
    library.push([p], [torch.tensor([0.5, 0.0, -0.5])], [1], 0, Push(1.0, 0.5, maximize=False, rest=False))
    assert p.tolist() == [0.0, -1.0, 2.0]
    assert [(f.stat().st_ino, f.stat().st_mtime_ns) for f in (cache / "lossaware").iterdir()] == [
        (before.st_ino, before.st_mtime_ns)
    ]


@needs_library
def test_another_processor_or_another_source_makes_another_file(monkeypatch: pytest.MonkeyPatch) -> None:
    source = Path(native.__file__).with_name("native.c").read_bytes()
    own = native._digest(source)
    assert native._digest(source + b" ") != own
    monkeypatch.setattr(Path, "read_text", lambda self: "model name : Another\nflags : none")
    assert native._digest(source) != own


def others_may_write(folder: Path) -> dict[str, str]:
    (folder / "lossaware").mkdir()
    (folder / "lossaware").chmod(0o777)
    return {}


def no_folder(folder: Path) -> dict[str, str]:
    (folder / "lossaware").write_text("a file where the folder should be")
    return {}


def a_damaged_library(folder: Path) -> dict[str, str]:
    source = Path(native.__file__).with_name("native.c").read_bytes()
    (folder / "lossaware").mkdir(mode=0o700)
    (folder / "lossaware" / f"correction-{native._digest(source)}.so").write_bytes(b"half a file")
    return {}


OBSTACLES: dict[str, Callable[[Path], dict[str, str]]] = {
    "switched off": lambda _: {"LOSSAWARE_NATIVE": "0"},
    "no compiler": lambda _: {"CC": "no-such-compiler", "PATH": ""},
    "a compiler that fails": lambda _: {"CC": "false"},
    "a cache folder that others may write to": others_may_write,
    "no cache folder": no_folder,
    "a damaged library": a_damaged_library,
}


@pytest.mark.parametrize("obstacle", OBSTACLES.values(), ids=OBSTACLES)
def test_without_it_torch_does_the_same_in_silence(
    cache: Path,
    obstacle: Callable[[Path], dict[str, str]],
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    for name, value in obstacle(cache).items():
        monkeypatch.setenv(name, value)
    found = found_anew()
    assert found is None
    monkeypatch.setattr(native, "library", lambda: found)
    p = torch.ones(3)
    Correction(0.5, "push").apply([(p, torch.tensor([0.5, 0.0, -0.5]))], 1.0)
    assert p.tolist() == [0.0, -1.0, 2.0]
    assert capfd.readouterr() == ("", "")


def test_importing_the_package_compiles_and_loads_nothing(cache: Path) -> None:
    """Start-up costs nothing, and neither does a gate that never opens."""
    code = """
import sys, torch, lossaware, lossaware.correction.native
optimizer = torch.optim.SGD([torch.nn.Parameter(torch.ones(3))], lr=0.1)
lossaware.LGA(optimizer, steps_per_epoch=1)
optimizer.step(loss=0.0)
loaded = [name in sys.modules for name in ("lossaware.kernels", "lossaware.compiled")]
print(*loaded, lossaware.correction.native.library.cache_info().currsize)
"""
    paths = os.pathsep.join([str(Path(native.__file__).parents[2]), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": paths},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout.split() == ["False", "False", "0"], done.stderr
    assert list(cache.iterdir()) == []


def test_a_user_without_a_home_has_no_library(monkeypatch: pytest.MonkeyPatch) -> None:
    """Unguarded: the first step would fail, as in a container with a user of its own."""

    def no_home() -> None:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.delenv("LOSSAWARE_NATIVE", raising=False)
    monkeypatch.setattr(native.Path, "home", no_home)
    assert native.library.__wrapped__() is None
