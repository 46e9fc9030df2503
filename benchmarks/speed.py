"""What LGA costs: the whole table of goals by one command.

    python -m benchmarks.speed                  # everything, about eight minutes
    python -m benchmarks.speed eager closed     # some parts
    python -m benchmarks.speed --seconds 0.2    # shorter; noisier

Writes ``goals.md``, ``speed.json``, a CSV a table and the figures to ``results/speed``; a run of some parts
replaces those alone. Every part asserts that what it timed moved the parameters as `tests/reference.py` says.
"""

import argparse
import csv
import json
import sys
import time
import warnings
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks import peers, steps, training
from benchmarks.goals import Goal, as_markdown
from benchmarks.timing import circumstances

PARTS = ("eager", "closed", "auto", "compiled", "whole", "peers", "studies", "scaling")
FOLDER = Path(__file__).parents[1] / "results" / "speed"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"one or several of {', '.join(PARTS)}; default: all")
    parser.add_argument("--seconds", type=float, default=2.0, help="time for each comparison (default: 2)")
    parser.add_argument("--output", type=Path, default=FOLDER, help="folder to write to (default: results/speed)")
    arguments = parser.parse_args()
    if unknown := [part for part in arguments.parts if part not in PARTS]:
        parser.error(f"unknown part {unknown[0]!r}: known are {', '.join(PARTS)}")
    warnings.filterwarnings("ignore", message=".*lr_scheduler.*")
    arguments.output.mkdir(parents=True, exist_ok=True)
    stored = arguments.output / "speed.json"
    parts: dict[str, Any] = json.loads(stored.read_text())["parts"] if stored.exists() else {}
    for part in arguments.parts or PARTS:
        began = time.perf_counter()
        print(f"{part} ...", file=sys.stderr, flush=True)
        goals, tables = measure(part, arguments.seconds)
        where = circumstances(" ".join(["python -m benchmarks.speed", *sys.argv[1:]]))
        seconds = round(time.perf_counter() - began)
        parts[part] = {**where, "seconds": seconds, "goals": [asdict(goal) for goal in goals], "tables": tables}
        print(as_markdown(goals), flush=True)
        for name, rows in tables.items():
            write_csv(arguments.output / f"{name}.csv", rows)
        write(arguments.output, {part: parts[part] for part in PARTS if part in parts})


def measure(part: str, seconds: float) -> tuple[list[Goal], dict[str, list[dict[str, Any]]]]:
    """The goals of a part, and its tables by name."""
    match part:
        case "eager":
            return list(steps.eager(seconds)), {}
        case "closed":
            return list(steps.closed_gate(seconds)), {}
        case "auto":
            return list(steps.self_set(seconds)), {}
        case "compiled":
            goals, rows = steps.compiled(seconds)
            return goals, {"compiled": rows}
        case "whole":
            return list(training.whole_step(2 * seconds)), {}
        case "peers":
            rows, goals = peers.peers(seconds / 2)
            return goals, {"peers": rows}
        case "studies":
            goals, hourly = training.study_loop(2 * seconds)
            return goals, {"runs_an_hour": [{"loop": name, "runs_an_hour": value} for name, value in hourly.items()]}
        case _:
            return [], {"scaling": list(steps.scaling(seconds))}


def write(folder: Path, parts: dict[str, Any]) -> None:
    """All that is known, as data, as a page, and as figures."""
    (folder / "speed.json").write_text(json.dumps({"parts": parts}, indent=1) + "\n")
    lines = ["# Speed", "", "Written by `python -m benchmarks.speed`; ratios of variants that took turns, medians.", ""]
    for part, found in parts.items():
        lines += [
            f"## {part}",
            "",
            f"{found['date']}, commit {found['commit']}, {found['machine']}, load {found['load']}, "
            f"{found['software']}; `{found['command']}`, {found['seconds']} s.",
            "",
        ]
        if found["goals"]:
            lines += [as_markdown(Goal(**goal) for goal in found["goals"]), ""]
        for name, rows in found["tables"].items():
            lines += [*table(rows), "", f"As data: `{name}.csv`.", ""]
    (folder / "goals.md").write_text("\n".join(lines))
    from benchmarks import plots

    if "scaling" in parts:
        plots.scaling(parts["scaling"]["tables"]["scaling"], folder / "scaling.svg")
    if "peers" in parts:
        plots.peers(parts["peers"]["tables"]["peers"], folder / "peers.svg")


def table(rows: list[dict[str, Any]]) -> list[str]:
    """Rows as lines of Markdown."""
    names = list(rows[0])
    lines = ["| " + " | ".join(names) + " |", "|" + "---|" * len(names)]
    for row in rows:
        lines.append("| " + " | ".join(f"{v:.3g}" if isinstance(v, float) else f"{v}" for v in row.values()) + " |")
    return lines


def write_csv(path: Path, rows: list[dict[str, Any]]) -> None:
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


if __name__ == "__main__":
    main()
