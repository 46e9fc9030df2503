"""Provenance of a run: versions, machine, commit, command and date."""

import os
import platform
import re
import shlex
import subprocess
import sys
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path, PurePosixPath, PureWindowsPath

from lossaware._version import __version__


def environment(device: str = "cpu") -> dict[str, str]:
    """Description of the software and the machine, in plain texts.

    Args:
        device: The device, see `lossaware.studies.specs.run_spec.RunSpec`.

    Returns:
        ``lossaware``, ``python``, ``torch``, ``numpy``, ``scikit-learn`` (versions, if installed), ``system``,
        ``processor``, ``cores``, ``device`` (the GPU, if used), ``commit`` (in a Git checkout; ``+ changes`` if there
        are any), ``command`` and ``date`` (UTC). A store adds ``data`` if a run read files: their names, and whether
        they were verified.
    """
    result = {"lossaware": __version__, "python": platform.python_version()}
    for package in ("torch", "numpy", "scikit-learn"):
        try:
            result[package] = version(package)
        except PackageNotFoundError:
            continue
    result |= {"system": platform.platform(), "processor": processor(), "cores": str(os.cpu_count() or 1)}
    if device != "cpu":
        result["device"] = processor(device)
    if commit := _commit():
        result["commit"] = commit
    return result | {"command": _command(), "date": datetime.now(UTC).isoformat(timespec="seconds")}


@cache
def processor(device: str = "cpu") -> str:
    """The name of the processor, or of the GPU if that is the device."""
    if device == "cuda":
        import torch

        return torch.cuda.get_device_name() if torch.cuda.is_available() else device
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def _commit() -> str | None:
    """The commit of the imported package; None if its files are not in a Git checkout."""
    here = Path(__file__)

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(here.parent), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()

    try:
        # A virtual environment may be inside another checkout; only tracked files have a commit.
        git("ls-files", "--error-unmatch", here.name)
        return git("rev-parse", "--short=12", "HEAD") + (" + changes" if git("status", "--porcelain", "-uno") else "")
    except (OSError, subprocess.SubprocessError):
        return None


def _command() -> str:
    program, *arguments = sys.argv or [""]
    name = Path(program).name
    if name == "__main__.py":
        return shlex.join([*_launcher(), "-m", Path(program).parent.name, *arguments])
    return shlex.join([name, *arguments])


def _launcher() -> list[str]:
    """The program that runs a module: Python, or torchrun, which sets these variables."""
    if "TORCHELASTIC_RUN_ID" not in os.environ:
        return ["python"]
    nodes = os.environ.get("GROUP_WORLD_SIZE", "1")
    several = [] if nodes == "1" else ["--nnodes", nodes]
    return ["torchrun", *several, "--nproc_per_node", os.environ.get("LOCAL_WORLD_SIZE", "1")]


COMMANDS = 3
"""Maximum number of shown commands."""
LONGEST = 1000
"""Maximum number of characters of a line."""


def format_provenance(environments: Iterable[Mapping[str, str]]) -> list[str]:
    """Date, machine, versions and commands, in lines.

    Args:
        environments: See `environment`; at least one is not empty.
    """
    values: dict[str, dict[str, None]] = {}
    for environment in environments:
        for name, value in environment.items():
            values.setdefault(name, {})[value] = None
    dates = sorted({date[:10] for date in values.get("date", {})})
    parts = [" to ".join(dict.fromkeys([dates[0], dates[-1]]))] if dates else []
    parts += [" / ".join(values[name]) for name in ("processor", "device") if name in values]
    parts += [f"{name} {' / '.join(values[name])}" for name in ("lossaware", "commit", "torch") if name in values]
    lines = [f"{', '.join(parts)}."]
    commands = list(dict.fromkeys(without_folders(_shortened(command)) for command in values.get("command", {})))
    lines += [f"Command: {command}" for command in commands[:COMMANDS]]
    if more := len(commands[COMMANDS:]):
        lines.append(f"... and {more} more command{'s' * (more != 1)}.")
    lines += [f"Data: {files}" for files in values.get("data", {})]
    return [_shortened(line) for line in lines]


def _shortened(text: str) -> str:
    return text if len(text) <= LONGEST else f"{text[:LONGEST]} ..."


def without_home(text: str) -> str:
    """A text or page with home folders replaced by ``~``, so that it does not contain a user's name."""
    try:
        home = Path.home()
    except RuntimeError:
        home = Path("/")
    own = [re.escape(str(home))] if len(home.parts) > 1 else []
    folders = "|".join([*own, r"(?:/home|/Users|[A-Za-z]:\\Users)[/\\][^/\\\s\"'<>:;,&]+"])
    # The data of images is not changed. Texts cannot contain this pattern, because HTML escapes their quotes.
    return re.sub(rf'(="data:[^"]*")|(?<![\w.])(?:{folders})(?![\w.-])', lambda match: match[1] or "~", text)


def without_folders(command: str) -> str:
    """A command with absolute paths reduced to the file name, or to ``DIR``."""
    try:
        words = shlex.split(command)
    except ValueError:
        return command
    return shlex.join(_reduced(word) for word in words)


def _reduced(word: str) -> str:
    option, equals, value = word.rpartition("=")
    for path in (PurePosixPath(value), PureWindowsPath(value)):
        if path.is_absolute():
            return option + equals + (path.name if path.suffix else "DIR")
    return word
