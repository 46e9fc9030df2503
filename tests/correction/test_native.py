"""The C library: how it is compiled, stored and loaded, and the behaviour without it."""

from __future__ import annotations

import functools
import logging
import os
import shutil
import signal
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from lossaware import LGA
from lossaware.correction import Correction, build, native
from lossaware.correction.operators import Push
from support.pushes import needs_library

CC = shutil.which("cc")
compile_really = build.compile_by


@functools.cache
def by_cc() -> bytes:
    return compile_really(["cc"])


def compile_by(words: list[str]) -> bytes:
    """Like `build.compile_by`, but the system's compiler runs once for all tests."""
    return by_cc() if words == ["cc"] and shutil.which("cc") == CC else compile_really(words)


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty cache folder, before the first use of the library."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.delenv("CC", raising=False)
    monkeypatch.delenv("LOSSAWARE_NATIVE", raising=False)
    monkeypatch.setattr(build, "compile_by", compile_by)
    native.library.cache_clear()
    yield tmp_path / "lossaware"
    native.library.cache_clear()


def found_again() -> native.Library | None:
    """The library that a new process would load."""
    native.library.cache_clear()
    return native.library()


def works(library: native.Library | None) -> bool:
    assert library is not None
    p = torch.ones(3)
    library.push([p], [torch.tensor([0.5, 0.0, -0.5])], [1], 0, Push(1.0, 0.5, maximize=False, rest=False))
    return p.tolist() == [0.0, -1.0, 2.0]


def compiler(place: Path, name: str, script: str) -> Path:
    """A program in a separate folder."""
    place.mkdir(exist_ok=True)
    (place / name).write_text(f"#!/bin/sh\n{script}\n")
    (place / name).chmod(0o700)
    return place / name


# Kept and found again -----------------------------------------------------------------------------------------------


@needs_library
def test_it_is_compiled_once_and_found_again(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert works(found_again())
    (built,) = cache.iterdir()
    assert cache.stat().st_mode & 0o077 == 0
    assert built.stat().st_mode & 0o077 == 0
    before = built.stat()
    monkeypatch.setenv("CC", "no-such-compiler")  # now nothing could be compiled
    monkeypatch.setenv("PATH", "")
    assert works(found_again())
    assert [(f.stat().st_ino, f.stat().st_mtime_ns) for f in cache.iterdir()] == [(before.st_ino, before.st_mtime_ns)]


DAMAGES: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda content: b"",
    "100 bytes": lambda content: content[:100],
    "1,000 bytes": lambda content: content[:1000],
    "half": lambda content: content[: len(content) // 2],
    "a byte less": lambda content: content[:-1],
    "zeros at the end": lambda content: content[:-4096] + bytes(4096),
    "another bit": lambda content: content[:9000] + bytes([content[9000] ^ 1]) + content[9001:],
}


@needs_library
@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_a_damaged_library_is_not_loaded_but_compiled_again(
    cache: Path, damage: Callable[[bytes], bytes], caplog: pytest.LogCaptureFixture
) -> None:
    """Without the check: after a full disk or a crash, the incomplete file causes a bus error in every process."""
    found_again()
    (built,) = cache.iterdir()
    whole = built.read_bytes()
    built.unlink()
    built.write_bytes(damage(whole))
    assert works(found_again())
    assert [path.read_bytes() for path in cache.iterdir()] == [whole]
    assert not caplog.records


@needs_library
def test_a_library_that_cannot_be_loaded_is_compiled_again(cache: Path) -> None:
    """As one of another system is, in a home that two share."""
    content = b"\x7fELF of another system"
    cache.mkdir(mode=0o700)
    foreign = build.store_library(cache, build.key_of(build.source()), content)
    assert works(found_again())
    assert not foreign.exists()
    assert len(list(cache.iterdir())) == 1


@needs_library
def test_a_write_that_fails_leaves_nothing(
    cache: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    assert found_again() is None
    assert list(cache.iterdir()) == []
    assert "No space left on device" in caplog.text


@needs_library
def test_it_is_on_the_disk_before_it_is_found(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the check: after a power failure the name is there, and not the content."""
    calls: list[str] = []
    fsync, replace = os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda descriptor: calls.append("fsync") or fsync(descriptor))
    monkeypatch.setattr(os, "replace", lambda a, b: calls.append("replace") or replace(a, b))
    assert found_again() is not None
    assert calls == ["fsync", "replace", "fsync"]


@needs_library
def test_processes_that_compile_it_at_the_same_time(cache: Path) -> None:
    program = "import sys; from lossaware.correction import native; sys.exit(native.library() is None)"
    paths = os.pathsep.join([str(Path(native.__file__).parents[2]), os.environ.get("PYTHONPATH", "")])
    processes = [
        subprocess.Popen([sys.executable, "-c", program], env={**os.environ, "PYTHONPATH": paths}) for _ in range(3)
    ]
    assert [process.wait() for process in processes] == [0, 0, 0]
    assert not list(cache.glob("*.tmp"))
    assert works(found_again())


@needs_library
def test_another_processor_or_another_source_makes_another_file(monkeypatch: pytest.MonkeyPatch) -> None:
    own = build.key_of(build.source())
    assert build.key_of(build.source() + b" ") != own
    monkeypatch.setattr(Path, "read_text", lambda self: "model name : Another\nflags : none")
    assert build.key_of(build.source()) != own


# Compilers ----------------------------------------------------------------------------------------------------------


FALLS_BACK: dict[str, str] = {
    "it fails": "exit 1",
    "it makes nothing": "exit 0",
    "it makes what is no library": 'echo no library > "$out"',
    "it makes another library": ': > "$source"; exec cc -shared -o "$out" "$source"',
    "it kills itself": "kill -9 $$",
}
ARGUMENTS = 'for source; do out="$before"; before="$source"; done'  # the last two


@needs_library
@pytest.mark.parametrize("script", FALLS_BACK.values(), ids=FALLS_BACK)
def test_if_the_requested_compiler_fails_another_is_used(
    cache: Path, script: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    monkeypatch.setenv("CC", str(compiler(tmp_path / "bin", "own-cc", f"{ARGUMENTS}; {script}")))
    assert works(found_again())
    assert len(list(cache.iterdir())) == 1
    assert not caplog.records


@needs_library
@pytest.mark.parametrize("asked", ["/bin/false", "no-such-compiler", "'", "/", ""])
def test_nonsense_in_cc(cache: Path, asked: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CC", asked)
    assert works(found_again())


@needs_library
def test_cc_may_have_arguments(cache: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """As ``CC="ccache gcc"`` has."""
    wrapper = compiler(tmp_path / "bin", "wrapper", f'echo "$1" > {tmp_path}/asked; exec "$@"')
    monkeypatch.setenv("CC", f"{wrapper} cc")
    assert works(found_again())
    assert (tmp_path / "asked").read_text() == "cc\n"


def test_a_compiler_that_hangs_is_stopped_with_all_that_it_has_started(
    cache: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    place = compiler(tmp_path / "bin", "cc", f"/bin/sleep 600 & echo $! > {tmp_path}/child; wait").parent
    monkeypatch.setattr(build, "_COMPILER_SECONDS", 1.0)
    monkeypatch.setenv("PATH", str(place))
    assert found_again() is None
    assert "cc takes longer than 1 seconds" in caplog.text
    child = int((tmp_path / "child").read_text())
    for _ in range(500):  # a machine with much to do takes a while to end a process that was killed
        if not is_running(child):
            return
        time.sleep(0.02)
    raise AssertionError("what the compiler has started goes on")


def is_running(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().split()[2] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


# Without it ---------------------------------------------------------------------------------------------------------


def nothing_compiles(place: Path, patch: pytest.MonkeyPatch) -> None:
    patch.setenv("PATH", str(compiler(place / "bin", "cc", "echo what a pity >&2; exit 3").parent))


def no_compiler(place: Path, patch: pytest.MonkeyPatch) -> None:
    patch.setenv("PATH", "")
    patch.setenv("CC", "own-cc")


def folder_of_mode(mode: int) -> Callable[[Path, pytest.MonkeyPatch], None]:
    def make(place: Path, patch: pytest.MonkeyPatch) -> None:
        (place / "lossaware").mkdir()
        (place / "lossaware").chmod(mode)

    return make


def folder_of_another(place: Path, patch: pytest.MonkeyPatch) -> None:
    (place / "lossaware").mkdir()
    patch.setattr(os, "getuid", lambda: 12345)


def no_folder(place: Path, patch: pytest.MonkeyPatch) -> None:
    (place / "lossaware").write_text("a file where the folder should be")


def no_home(place: Path, patch: pytest.MonkeyPatch) -> None:
    """As in a container with its own user."""

    def home() -> None:
        raise RuntimeError("Could not determine home directory.")

    patch.delenv("XDG_CACHE_HOME")
    patch.setattr(Path, "home", home)


def another_system(place: Path, patch: pytest.MonkeyPatch) -> None:
    patch.setattr(native, "IS_SUPPORTED", False)


OBSTACLES: dict[str, tuple[Callable[[Path, pytest.MonkeyPatch], None], str]] = {
    "no compiler": (no_compiler, "no C compiler found (own-cc, cc, gcc, clang); install one"),
    "compilers that fail": (nothing_compiles, "cc fails (what a pity)"),
    "a folder that all may write to": (folder_of_mode(0o702), "other users can write to"),
    "a folder that a group may write to": (folder_of_mode(0o720), "other users can write to"),
    "a folder of another user": (folder_of_another, "belongs to another user; set XDG_CACHE_HOME"),
    "no folder": (no_folder, "File exists"),
    "no home": (no_home, "no home folder; set XDG_CACHE_HOME"),
    "another system": (another_system, "it does not support"),
}


@pytest.mark.parametrize(("obstacle", "message"), OBSTACLES.values(), ids=OBSTACLES)
def test_without_it_torch_does_the_same_and_the_log_says_why_once(
    cache: Path,
    obstacle: Callable[[Path, pytest.MonkeyPatch], None],
    message: str,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    obstacle(cache.parent, monkeypatch)
    for _ in range(2):
        p = torch.nn.Parameter(torch.ones(3))
        optimizer = torch.optim.SGD([p], lr=0.0)
        LGA(optimizer, steps_per_epoch=5, gamma2=1.0, xi=0.5)
        p.grad = torch.tensor([0.5, 0.0, -0.5])
        optimizer.step(loss=1.0)  # type: ignore[call-arg]
        assert p.tolist() == [0.0, -1.0, 2.0]
    (record,) = caplog.records
    assert (record.name, record.levelno) == ("lossaware", logging.WARNING)
    assert message in record.getMessage()
    assert "LOSSAWARE_NATIVE=0" in record.getMessage()
    assert "\n" not in record.getMessage()


def test_switched_off_it_is_not_mentioned(
    cache: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("LOSSAWARE_NATIVE", "0")
    assert found_again() is None
    assert not cache.exists()
    assert not caplog.records


# When ---------------------------------------------------------------------------------------------------------------


@needs_library
def test_it_is_there_when_the_first_step_is_made(cache: Path) -> None:
    """Without the check: the first step takes a second, which is measured and shown as LGA's."""
    LGA(torch.optim.SGD([torch.nn.Parameter(torch.ones(3))], lr=0.1), steps_per_epoch=5)
    assert len(list(cache.iterdir())) == 1
    assert native.library.cache_info().currsize == 1


@pytest.mark.parametrize(
    "group",
    [
        {"params": [torch.nn.Parameter(torch.ones(3, device="meta"))]},
        {"params": [torch.nn.Parameter(torch.ones(3))], "gamma2": 0.0},
        {"params": [torch.nn.Parameter(torch.ones(3), requires_grad=False)]},
    ],
    ids=["on another device", "switched off", "frozen"],
)
def test_it_is_not_compiled_where_nothing_on_the_cpu_is_corrected(cache: Path, group: dict[str, object]) -> None:
    LGA(torch.optim.SGD([group], lr=0.1), steps_per_epoch=5)
    assert not cache.exists()


def test_importing_the_package_compiles_and_loads_nothing(cache: Path) -> None:
    code = """
import sys, torch, lossaware, lossaware.correction.native
from lossaware import LGA
loaded = [name in sys.modules for name in ("lossaware.launcher", "lossaware.compiled")]
print(*loaded, lossaware.correction.native.library.cache_info().currsize)
"""
    paths = os.pathsep.join([str(Path(native.__file__).parents[2]), os.environ.get("PYTHONPATH", "")])
    result = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": paths},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.stdout.split() == ["False", "False", "0"], result.stderr
    assert not cache.exists()


def test_a_default_device_of_the_user_is_not_in_its_way(cache: Path) -> None:
    with torch.device("meta"):
        found_again()
        p = torch.ones(3, device="cpu")
        Correction(0.5, "push").apply([(p, torch.full((3,), 0.5, device="cpu"))], 1.0)
    assert p.tolist() == [0.0] * 3


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
@needs_library
def test_a_forked_process_does_not_wait_for_the_threads_of_its_parent() -> None:
    """Unguarded: GNU's OpenMP waits forever for threads that the fork has not copied. Torch's operators do, too."""
    parameters, gradients = ([torch.ones(1000) for _ in range(100)] for _ in range(2))
    pairs = list(zip(parameters, gradients, strict=True))
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        Correction(0.01, "push").apply(pairs, 0.5)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of forks beside threads, by Python and by JAX
            child = os.fork()
        if child == 0:
            code = 1
            try:
                signal.signal(signal.SIGALRM, signal.SIG_DFL)  # it ends the process where it waits
                signal.alarm(20)
                Correction(0.01, "push").apply(pairs, 0.5)
                code = 0 if all(bool((p < 0.1).all()) for p in parameters) else 1
            finally:
                os._exit(code)
    finally:
        torch.set_num_threads(before)
    assert os.waitpid(child, 0)[1] == 0
    assert not native.Library.is_forked
