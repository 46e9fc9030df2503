"""The cost of LGA: the whole table of goals by one command.

    python -m benchmarks.speed                  # everything, below seven minutes on two cores
    python -m benchmarks.speed eager closed     # some parts
    python -m benchmarks.speed --seconds 0.2    # shorter; noisier
    python -m benchmarks.speed --large          # peers with 100 million parameters too, ten minutes more

Prints the table, and for each missed goal one line with the counters that explain it and the section of
``docs/speed.md`` with the attempts. Writes ``goals.md``, ``speed.json``, a CSV for each table and the figures to
``results/speed``; a run of some parts replaces only those. Every part asserts that the timed code changed the
parameters as in `tests/reference.py`. A part that fails does not stop the others; the exit code is then 1.
"""

import argparse
import csv
import json
import sys
import time
import traceback
import warnings
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks import auto, cachegrind, first_use, jax_steps, loops, memory, peers, ranks, steps, training
from benchmarks.goals import Counter, Finding, Goal, SkippedError, as_markdown, explained
from benchmarks.timing import circumstances

PARTS = (
    *("auto", "auto-compiled", "compiled", "jax", "eager", "closed", "whole", "studies", "ranks", "memory"),
    *("first-use", "peers", "scaling", "loops", "cachegrind"),
)
FOLDER = Path(__file__).parents[1] / "results" / "speed"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"one or several of {', '.join(PARTS)}; default: all")
    parser.add_argument("--seconds", type=float, default=2.0, help="time for each comparison (default: 2)")
    parser.add_argument("--large", action="store_true", help="peers with 100 million parameters too")
    parser.add_argument("--output", type=Path, default=FOLDER, help="folder to write to (default: results/speed)")
    arguments = parser.parse_args()
    if unknown := [part for part in arguments.parts if part not in PARTS]:
        parser.error(f"unknown part {unknown[0]!r}: known are {', '.join(PARTS)}")
    warnings.filterwarnings("ignore", message=".*lr_scheduler.*")
    arguments.output.mkdir(parents=True, exist_ok=True)
    stored = arguments.output / "speed.json"
    parts: dict[str, Any] = json.loads(stored.read_text())["parts"] if stored.exists() and arguments.parts else {}
    failed = []
    for part in arguments.parts or PARTS:
        began = time.perf_counter()
        print(f"{part} ...", file=sys.stderr, flush=True)
        try:
            findings, tables = measure(part, arguments.seconds, large=arguments.large)
        except SkippedError as error:
            print(f"{part}: skipped, {error}", file=sys.stderr)
            continue
        except Exception:
            traceback.print_exc()
            failed.append(part)
            continue
        where = circumstances(" ".join(["python -m benchmarks.speed", *sys.argv[1:]]))
        seconds = round(time.perf_counter() - began)
        parts[part] = {
            **where,
            "seconds": seconds,
            "goals": [asdict(finding) for finding in findings if isinstance(finding, Goal)],
            "counters": [asdict(finding) for finding in findings if isinstance(finding, Counter)],
            "tables": tables,
        }
        for name, rows in tables.items():
            write_csv(arguments.output / f"{name}.csv", rows)
        write(arguments.output, {part: parts[part] for part in PARTS if part in parts}, part)
    measured = [part for part in arguments.parts or PARTS if part in parts and part not in failed]
    goals = [Goal(**goal) for part in measured for goal in parts[part]["goals"]]
    print("\n".join([as_markdown(goals), "", *explained(goals, counters_of(parts))]), flush=True)
    if failed:
        sys.exit(f"failed: {', '.join(failed)}")


def counters_of(parts: dict[str, Any]) -> list[Counter]:
    """All that are known."""
    return [Counter(**counter) for results in parts.values() for counter in results.get("counters", [])]


def measure(part: str, seconds: float, *, large: bool) -> tuple[Sequence[Finding], dict[str, list[dict[str, Any]]]]:
    """The goals and counters of a part, and its tables by name.

    Raises:
        SkippedError: This machine lacks a program that the part needs.
    """
    match part:
        case "auto":
            return list(auto.eager(2 * seconds)), {}
        case "auto-compiled":
            return list(auto.compiled(seconds)), {}
        case "compiled":
            goals, rows = steps.compiled(seconds)
            return goals, {"compiled": rows}
        case "jax":
            findings, rows = jax_steps.goals(2 * seconds)
            return findings, {"jax_loops": rows}
        case "eager":
            return list(steps.eager(seconds)), {}
        case "closed":
            return list(steps.closed_gate(seconds)), {}
        case "whole":
            return list(training.whole_step(2 * seconds)), {}
        case "studies":
            findings, hourly = training.study_loop(2 * seconds)
            return findings, {"runs_an_hour": [{"loop": name, "runs_an_hour": value} for name, value in hourly.items()]}
        case "ranks":
            findings, rows = ranks.goals(round(50 * seconds))
            return findings, {"ranks": rows}
        case "memory":
            return list(memory.memory()), {}
        case "first-use":
            return first_use.goals(), {}
        case "peers":
            rows, goals = peers.peers(seconds / 2, (10**6, 10**7, *([10**8] if large else [])))
            return goals, {"peers": rows}
        case "loops":
            counters, rows = loops.measure(seconds)
            return counters, {"loops": rows}
        case "cachegrind":
            counters, rows = cachegrind.measure()
            return counters, {"cachegrind": rows}
        case _:
            return [], {"scaling": list(steps.scaling(seconds / 2))}


def write(folder: Path, parts: dict[str, Any], measured: str) -> None:
    """All that is known, as data and as a page; and the figure of the part that was measured last."""
    (folder / "speed.json").write_text(json.dumps({"parts": parts}, indent=1) + "\n")
    lines = ["# Speed", "", "Written by `python -m benchmarks.speed`; ratios of variants that took turns, medians.", ""]
    everything = [Goal(**goal) for results in parts.values() for goal in results["goals"]]
    lines += ["## All goals", "", as_markdown(everything), ""]
    lines += ["## Missed goals and their counters", "", *explained(everything, counters_of(parts)), ""]
    for part, results in parts.items():
        lines += [
            f"## {part}",
            "",
            f"{results['date']}, commit {results['commit']}, {results['machine']}, load {results['load']}, "
            f"{results['software']}; `{results['command']}`, {results['seconds']} s.",
            "",
        ]
        for name, rows in results["tables"].items():
            lines += [*table(rows), "", f"As data: `{name}.csv`.", ""]
    (folder / "goals.md").write_text("\n".join(lines))
    from benchmarks import plots

    if measured == "scaling":
        of_ranks = parts["ranks"]["tables"]["ranks"] if "ranks" in parts else []
        plots.scaling(parts["scaling"]["tables"]["scaling"], of_ranks, folder / "scaling.svg")
    if measured == "peers":
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
