"""Compiles the C library, keeps it in the user's cache folder, and finds it there again.

What is found is loaded into the process, so it must be whole and nobody else's: the folder belongs to the user alone,
a file is written under another name and put in place when it is on the disk, and its name holds the digest of its
content, which is compared each time.
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

# No contraction to fused multiply-adds and no fast-math: the bits are to be those of torch's operators.
_FLAGS = ("-O3", "-std=gnu11", "-fPIC", "-shared", "-ffp-contract=off", "-fno-math-errno", "-fno-trapping-math")
_TUNINGS = (("-march=native",), ("-mcpu=native",), ())
_COMPILERS = ("cc", "gcc", "clang")
_COMPILER_SECONDS = 15.0
"""How long each compiler may take; it needs less than one on an idle machine."""


class NoLibraryError(Exception):
    """The library cannot be had; the message says why, and what to do."""


def source() -> bytes:
    """The C source."""
    return Path(__file__).with_name("native.c").read_bytes()


def kept(folder: Path, key: str) -> Iterator[Path]:
    """The libraries of that key in the folder that are whole. Others are removed."""
    for path in sorted(folder.glob(f"correction-{key}-*.so")):
        with contextlib.suppress(OSError):
            if path.name == _name(key, path.read_bytes()):
                yield path
            else:
                path.unlink()


def private_folder() -> Path:
    """The cache folder. What lies there is run, so nobody else may be able to write to it.

    Raises:
        NoLibraryError: Others may write to it, or it is somebody else's.
        OSError: It cannot be made.
    """
    try:
        folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "lossaware"
    except RuntimeError as error:
        raise NoLibraryError(
            "this user has no home folder; set XDG_CACHE_HOME to a folder of the user's own"
        ) from error
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    found = folder.stat()
    if found.st_uid != os.getuid():
        raise NoLibraryError(f"{folder} belongs to another user; set XDG_CACHE_HOME to a folder of your own")
    if found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise NoLibraryError(f"others may write to {folder}; chmod go-w {folder}")
    return folder


def key_of(content: bytes) -> str:
    """What the library depends on: other code, flags or another processor (of a shared home) have another key."""
    processor = platform.platform() + platform.processor()
    with contextlib.suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        processor += "".join(sorted({line for line in lines if line.startswith(("model name", "flags", "Features"))}))
    return hashlib.sha256(b"\0".join([content, " ".join(_FLAGS).encode(), processor.encode()])).hexdigest()[:20]


def keep(folder: Path, key: str, content: bytes) -> Path:
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
        os.replace(scratch, path)  # at once, so that no process ever finds half a file
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
    """The commands that may compile it: that of ``CC``, and the usual names; those that are there.

    Raises:
        NoLibraryError: None is there.
    """
    asked = os.environ.get("CC", "").split()
    found = [words for words in (asked, *([name] for name in _COMPILERS)) if words and shutil.which(words[0])]
    if not found:
        raise NoLibraryError(
            f"no C compiler is there ({', '.join(filter(None, [*asked[:1], *_COMPILERS]))}); install one"
        )
    return found


def compile_by(compiler: list[str]) -> bytes:
    """The library as this compiler makes it.

    Args:
        compiler: A command and its arguments.

    Raises:
        NoLibraryError: It fails, or takes too long.
        OSError: There is no place for temporary files.
    """
    name = " ".join(compiler)
    with tempfile.TemporaryDirectory(prefix="lossaware-", ignore_cleanup_errors=True) as scratch:
        text, built, messages = (Path(scratch) / name for name in ("native.c", "native.so", "messages"))
        text.write_bytes(source())
        for tuning in _TUNINGS:
            code = _run([*compiler, *_FLAGS, *tuning, "-o", str(built), str(text)], messages)
            if code is None:
                raise NoLibraryError(f"{name} takes longer than {_COMPILER_SECONDS:g} seconds")
            if code == 0 and built.exists():
                return built.read_bytes()
        first = next(iter(messages.read_text(errors="replace").splitlines()), f"exit status {code}")
    raise NoLibraryError(f"{name} fails ({first})")


def _run(command: list[str], messages: Path) -> int | None:
    """The exit status of a command; None where it takes too long."""
    with messages.open("wb") as file:
        # Output goes to a file, and all processes end together: one that is left would keep a pipe open.
        try:
            running = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=file, stderr=file, start_new_session=True
            )
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
