"""Timing: variants take turns, and the result is the ratio of neighbouring times."""

import os
import platform
import statistics
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch

Variants = Mapping[str, Callable[[], object]]


@dataclass(frozen=True)
class Times:
    """Wall times in milliseconds, one list per variant; entry i of each is from the same round."""

    rounds: Mapping[str, list[float]]

    def median(self, name: str) -> float:
        """Median time of a variant in milliseconds."""
        return statistics.median(self.rounds[name])

    def least(self, name: str) -> float:
        """Shortest time of a variant in milliseconds: for microseconds of Python, which others only lengthen."""
        return min(self.rounds[name])

    def ratio(self, name: str, base: str) -> float:
        """Median over the rounds of the ratio of two variants; other load on the machine affects both."""
        return statistics.median(a / b for a, b in zip(self.rounds[name], self.rounds[base], strict=True))

    def difference(self, name: str, base: str) -> float:
        """Median over the rounds of the difference of two variants in milliseconds."""
        return statistics.median(a - b for a, b in zip(self.rounds[name], self.rounds[base], strict=True))


def take_turns(variants: Variants, seconds: float, *, least: int = 7, most: int = 200, calls: int = 1) -> Times:
    """Time the variants in turn, round after round.

    Args:
        variants: Functions to call, by name.
        seconds: Time after which to stop, after the minimum number of rounds.
        least: Minimum number of rounds.
        most: Maximum number of rounds.
        calls: Calls per timed turn.
    """
    rounds: dict[str, list[float]] = {name: [] for name in variants}
    names = list(variants)
    for call in variants.values():
        call()
    end = time.perf_counter() + seconds
    for turn in range(most):
        for name in names if turn % 2 == 0 else reversed(names):
            call = variants[name]
            began = time.perf_counter()
            for _ in range(calls):
                call()
            rounds[name].append((time.perf_counter() - began) / calls * 1e3)
        if turn + 1 >= least and time.perf_counter() > end:
            break
    return Times(rounds)


@contextmanager
def threads(count: int) -> Iterator[None]:
    """So many threads for torch."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def peak_extra_bytes(call: Callable[[], object]) -> int:
    """The peak of the additional memory of the process during the call (Linux; elsewhere 0)."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return 0
    before = _memory("VmRSS")
    call()
    return max(0, _memory("VmHWM") - before)


def _memory(field: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field):
            return int(line.split()[1]) * 1024
    return 0


def circumstances(command: str) -> dict[str, str]:
    """Date, commit, machine and software of the measurement."""
    processor = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        names = [line.split(":", 1)[1].strip() for line in cpuinfo.read_text().splitlines() if "model name" in line]
        processor = names[0] if names else processor
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False)
    changed = subprocess.run(
        ["git", "status", "--porcelain", "--", "src", "benchmarks"], capture_output=True, text=True, check=False
    )
    load = f"{os.getloadavg()[0]:.1f}" if hasattr(os, "getloadavg") else "unknown"
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "none"
    return {
        "date": time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime()),
        "commit": commit.stdout.strip() + (" with changes" if changed.stdout.strip() else ""),
        "machine": f"{processor}, {os.cpu_count()} cores, GPU: {device}",
        "load": load,
        "software": f"Python {platform.python_version()}, torch {torch.__version__}",
        "command": command,
    }
