"""Compiles the C library, and caches it in the user's cache folder.

The library is loaded into the process, so it must be complete and the user's own: only the user can write to the
folder, files are written atomically, and the name has the digest of the content, which is compared at each loading.
"""

import contextlib
import hashlib
import os
import platform
import shutil
import signal
import stat
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

# Without contraction to fused multiply-adds and without fast-math, for the same bits as torch's operators.
FLAGS = ("-O3", "-std=gnu11", "-fPIC", "-shared", "-ffp-contract=off", "-fno-math-errno", "-fno-trapping-math")
_TUNINGS = (("-march=native",), ("-mcpu=native",), ())
_COMPILERS = ("cc", "gcc", "clang")
_COMPILER_SECONDS = 60.0
"""Time limit for each compiler. It takes about a second on an idle machine, and twenty times as long on a busy one."""


class NoLibraryError(Exception):
    """The library is not available; the message has the reason and the remedy."""


def source() -> bytes:
    """The C source."""
    return Path(__file__).with_name("native.c").read_bytes()


def cached_libraries(folder: Path, key: str) -> Iterator[Path]:
    """The complete libraries of this key in the folder. Others are removed."""
    for path in sorted(folder.glob(f"correction-{key}-*.so")):
        with contextlib.suppress(OSError):
            if path.name == _name(key, path.read_bytes()):
                yield path
            else:
                path.unlink()


def private_folder() -> Path:
    """The cache folder. Its libraries are executed, so only the user may write to it.

    Raises:
        NoLibraryError: Others can write to it, or it belongs to another user.
        OSError: It cannot be created.
    """
    try:
        folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "lossaware"
    except RuntimeError as error:
        raise NoLibraryError(
            "this user has no home folder; set XDG_CACHE_HOME to a folder of the user's own"
        ) from error
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    status = folder.stat()
    if status.st_uid != os.getuid():
        raise NoLibraryError(f"{folder} belongs to another user; set XDG_CACHE_HOME to a folder of your own")
    if status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise NoLibraryError(f"other users can write to {folder}; run chmod go-w {folder}")
    return folder


def key_of(content: bytes) -> str:
    """The key of the library: a digest of code, flags and processor (of machines that share a home folder)."""
    processor = platform.platform() + platform.processor()
    with contextlib.suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        processor += "".join(sorted({line for line in lines if line.startswith(("model name", "flags", "Features"))}))
    return hashlib.sha256(b"\0".join([content, " ".join(FLAGS).encode(), processor.encode()])).hexdigest()[:20]


def store_library(folder: Path, key: str, content: bytes) -> Path:
    """Write a library to the folder.

    Raises:
        OSError: The folder cannot be written to.
    """
    path = folder / _name(key, content)
    descriptor, scratch = tempfile.mkstemp(prefix="correction-", suffix=".tmp", dir=folder)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(scratch, 0o700)
        os.replace(scratch, path)  # atomic, so that no process reads a partial file
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(scratch)
        raise
    entries = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(entries)
    finally:
        os.close(entries)
    return path


def compilers() -> list[list[str]]:
    """The available compiler commands: that of ``CC``, and the usual names.

    Raises:
        NoLibraryError: There are none.
    """
    own = os.environ.get("CC", "").split()
    commands = [words for words in (own, *([name] for name in _COMPILERS)) if words and shutil.which(words[0])]
    if not commands:
        raise NoLibraryError(f"no C compiler found ({', '.join(filter(None, [*own[:1], *_COMPILERS]))}); install one")
    return commands


def compile_by(compiler: list[str]) -> bytes:
    """The library, compiled by this compiler.

    Args:
        compiler: A command and its arguments.

    Raises:
        NoLibraryError: It fails, or takes too long.
        OSError: Temporary files cannot be written.
    """
    name = " ".join(compiler)
    with tempfile.TemporaryDirectory(prefix="lossaware-", ignore_cleanup_errors=True) as scratch:
        text, compiled, messages = (Path(scratch) / name for name in ("native.c", "native.so", "messages"))
        text.write_bytes(source())
        for tuning in _TUNINGS:
            code = _run([*compiler, *FLAGS, *tuning, "-o", str(compiled), str(text)], messages)
            if code is None:
                raise NoLibraryError(f"{name} takes longer than {_COMPILER_SECONDS:g} seconds")
            if code == 0 and compiled.exists():
                return compiled.read_bytes()
        first = next(iter(messages.read_text(errors="replace").splitlines()), f"exit status {code}")
    raise NoLibraryError(f"{name} fails ({first})")


def _run(command: list[str], messages: Path) -> int | None:
    """The exit status of a command; None on timeout."""
    with messages.open("wb") as file:
        # Output goes to a file and the whole process group is killed: a leftover process would keep a pipe open.
        try:
            # No new session (setsid): Linux may schedule sessions as groups, and on a busy machine the compiler would
            # then wait for a minute.
            running = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=file, stderr=file, process_group=0)
        except OSError as error:
            file.write(str(error).encode())
            return 127
        try:
            return running.wait(_COMPILER_SECONDS)
        except subprocess.TimeoutExpired:
            return None
        finally:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(running.pid, signal.SIGKILL)
            running.wait()


def _name(key: str, content: bytes) -> str:
    return f"correction-{key}-{hashlib.sha256(content).hexdigest()[:40]}.so"
