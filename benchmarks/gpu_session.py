"""All work that needs a GPU, the most important first, within 25 minutes.

    python -m benchmarks.gpu_session --data DIR --out FOLDER

1. the tests for GPUs, `pytest -m cuda`;
2. `benchmarks.gpu`: the cost of LGA, and MNIST's column of Table 1 with one seed;
3. in the remaining time, CIFAR-10's column of Table 1: SGD without and with LGA first, then the other optimizers.

It may be interrupted at any time: ``FOLDER`` contains the log lines, measurements, and epochs so far, and
``FOLDER/session.json`` the state of each part. The same command with the same folder continues. Tests and benchmark
that have ended with the same source are skipped, unless ``--again`` is passed; an interrupted run resumes from its last
checkpoint. At the end, complete runs are exported to ``FOLDER/results``; copy these files to ``results/``.

The exit code is 0 if every part is done, 1 otherwise, 130 after Ctrl-C.
"""

import argparse
import hashlib
import json
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import torch

from lossaware.studies.specs.provenance import environment

ROOT = Path(__file__).parents[1]
GRACE = 30.0
"""Seconds that a part gets to stop in good order, and the export likewise."""

TESTS = ["pytest", "-m", "cuda", "-n", "0", "-v", "--tb=short", "tests"]
BENCHMARK = ["benchmarks.gpu", "--seeds", "1"]
TABLE = ["table01", "--only", "task=CIFAR-10", "--device", "cuda"]
STUDIES = {"SGD on CIFAR-10": [*TABLE, "--only", "algorithm=SGD", "--seeds", "2"], "CIFAR-10": TABLE}


@dataclass(frozen=True)
class Part:
    """A command of the session.

    Attributes:
        name: The name of the log.
        command: Arguments of Python.
        minutes: Its time limit; None for all remaining time.
        resumes: Whether it stores its own state, so that it is started again to continue, or to find that it is done.
    """

    name: str
    command: Sequence[str]
    minutes: float | None = None
    resumes: bool = False


def parts(data: Path, out: Path) -> list[Part]:
    """The parts, the most important first."""
    folders = ["--data", str(data), "--out", str(out), "--results", str(out / "results")]
    return [
        Part("tests", ["-m", *TESTS], minutes=6),
        Part("benchmark", ["-m", *BENCHMARK, "--data", str(data), "--output", str(out / "speed")], minutes=6),
        *(
            Part(name, ["-m", "lossaware", "study", "run", *study, *folders], resumes=True)
            for name, study in STUDIES.items()
        ),
    ]


def execute_part(part: Part, out: Path, seconds: float) -> str:
    """Execute it, with its output in a log.

    Returns:
        ``"done"``, ``"failed"`` (its exit code was not 0), or ``"cut off"`` (its time was over).
    """
    with (out / f"{part.name.replace(' ', '-')}.log").open("a") as log:
        print(f"$ python {shlex.join(part.command)}", file=log, flush=True)
        process = start(part.command, log)
        try:
            return "failed" if process.wait(seconds) else "done"
        except subprocess.TimeoutExpired:
            return "cut off"
        finally:
            stop(process)


def start(command: Sequence[str], log: IO[str]) -> "subprocess.Popen[bytes]":
    """Start Python in a new process group, so that all its processes can be stopped together."""
    return subprocess.Popen(
        [sys.executable, "-u", *command], cwd=ROOT, stdout=log, stderr=subprocess.STDOUT, start_new_session=True
    )


def stop(process: "subprocess.Popen[bytes]") -> None:
    """Interrupt it as Ctrl-C does, and kill it if it does not stop."""
    for number in (signal.SIGINT, signal.SIGKILL):
        if process.poll() is None:
            os.killpg(process.pid, number)
            try:
                process.wait(GRACE)
            except subprocess.TimeoutExpired:
                continue


def export(out: Path) -> None:
    """Write the complete runs as files; the log says if there are none."""
    command = ["-m", "lossaware", "study", "export", TABLE[0], "--out", str(out), "--to", str(out / "results")]
    execute_part(Part("export", command), out, GRACE)


def session(data: Path, out: Path, minutes: float, again: bool = False) -> bool:
    """Execute all parts that are not done yet.

    Args:
        data: Folder of the data.
        out: Folder for all output.
        minutes: Time limit of all parts together.
        again: Repeat tests and benchmark that have ended.

    Returns:
        Whether all are done.
    """
    end = time.monotonic() + 60 * minutes - 2 * GRACE
    out.mkdir(parents=True, exist_ok=True)
    here = environment("cuda")
    source = source_digest()
    known = read(out)
    results: dict[str, Mapping[str, object]] = dict(known)
    complete = True
    for part in parts(data, out):
        before = known.get(part.name, {})
        if not (again or part.resumes) and before.get("source") == source and before.get("state") in ("done", "failed"):
            complete = complete and before["state"] == "done"
            print(f"{part.name}: {before['state']} before, with the same source", flush=True)
            continue
        left = end - time.monotonic()
        seconds = min(left, 60 * part.minutes) if part.minutes else left
        if seconds < 1:
            print(f"{part.name}: no time is left", flush=True)
            complete = False
            continue
        note: dict[str, object] = {name: here[name] for name in ("date", "commit", "device", "torch") if name in here}
        note |= {"command": f"python {shlex.join(part.command)}", "source": source}
        began = time.monotonic()
        write(out, results | {part.name: note | {"state": "cut off"}})  # until it is known to be better
        state = execute_part(part, out, seconds)
        results[part.name] = note | {"state": state, "seconds": round(time.monotonic() - began)}
        write(out, results)
        print(f"{part.name}: {state} after {results[part.name]['seconds']} s", flush=True)
        complete = complete and state == "done"
    export(out)
    return complete


def source_digest() -> str:
    """A digest of package, tests and benchmarks, also without Git."""
    digest = hashlib.sha256()
    for folder in ("src", "tests", "benchmarks"):
        for path in sorted([*(ROOT / folder).rglob("*.py"), *(ROOT / folder).rglob("*.c")]):
            digest.update(f"{path.relative_to(ROOT)}\n".encode() + path.read_bytes())
    return digest.hexdigest()[:16]


def read(out: Path) -> dict[str, dict[str, object]]:
    """The states of the parts after earlier sessions."""
    try:
        content: dict[str, dict[str, object]] = json.loads((out / "session.json").read_text())
    except FileNotFoundError:
        return {}
    return content


def write(out: Path, results: Mapping[str, Mapping[str, object]]) -> None:
    """Keep how far each part came."""
    new = out / "session.json.new"
    new.write_text(json.dumps(results, indent=1) + "\n")
    new.replace(out / "session.json")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="folder with MNIST/raw and cifar-10-batches-bin")
    parser.add_argument("--out", type=Path, required=True, help="folder that keeps everything; the same one goes on")
    parser.add_argument("--minutes", type=float, default=25.0, help="time for all of it (default: %(default)s)")
    parser.add_argument("--again", action="store_true", help="repeat tests and benchmark that have ended")
    arguments = parser.parse_args()
    if not torch.cuda.is_available():
        sys.exit("benchmarks.gpu_session needs a CUDA GPU, and here is none")
    for number in (signal.SIGINT, signal.SIGTERM):  # the part is stopped in good order
        signal.signal(number, signal.default_int_handler)
    data, out = arguments.data.absolute(), arguments.out.absolute()
    try:
        sys.exit(0 if session(data, out, arguments.minutes, arguments.again) else 1)
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main()
