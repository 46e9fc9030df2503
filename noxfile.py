"""The contract over the lowest and the newest versions of what ``pyproject.toml`` names; needs nox and uv.

    nox -s contract                           # Python 3.11 to 3.13, lowest and newest, with torch as in constraints.txt
    nox -s "contract-3.11(lowest)" -- --torch 2.6.0 --parts eager,compiled

Each part adds its row to ``results/versions.csv``, which ``docs/frameworks/versions.md`` shows. A build of torch with
CUDA takes 5 GB, so this is run by hand, and not in CI.
"""

import argparse
import csv
import datetime
import re
import subprocess
import tomllib
from pathlib import Path
from xml.etree import ElementTree

import nox

nox.options.default_venv_backend = "uv"

ROOT = Path(__file__).parent
RECORD = ROOT / "results" / "versions.csv"
EXTRAS = "studies,jax,peers,lightning,accelerate,transformers,tensorboard,notebook"
PARTS = {
    "eager": (["tests/test_law.py", "tests/test_hooks.py", "tests/test_trajectories.py"], ["torch", "numpy"]),
    "compiled": (["tests/test_compiled.py", "tests/test_compiled_push.py"], ["torch"]),
    "distributed": (["tests/test_distributed.py"], ["torch"]),
    "kernel": (["tests/test_kernels.py"], ["triton", "torch", "numpy"]),
    "optax": (["tests/test_optax.py"], ["jax", "optax", "numpy"]),
    "comparison": (["tests/studies/comparing/test_in_python.py"], ["torch", "numpy", "scipy"]),
    "lightning": (["tests/frameworks/test_lightning.py"], ["lightning", "torch"]),
    # Without most of the tests that launch processes, each of which takes a minute.
    "accelerate": (
        ["tests/frameworks/test_accelerate.py", "-k=not uneven and (not launched or usual)"],
        ["accelerate", "torch"],
    ),
    "transformers": (["tests/frameworks/test_transformers.py"], ["transformers", "accelerate", "torch"]),
    "peers": (["tests/frameworks/test_third_party.py"], ["momo-opt", "schedulefree", "prodigyopt", "torch"]),
}
"""The name of a part, its tests, and the packages whose versions matter for it."""


@nox.session(python=["3.11", "3.12", "3.13"])
@nox.parametrize("resolution", ["lowest-direct", "highest"], ids=["lowest", "newest"])
def contract(session: nox.Session, resolution: str) -> None:
    """Install one end of the versions, run the parts, and record the outcome."""
    pinned = (ROOT / "constraints.txt").read_text().strip().removeprefix("torch==")
    parser = argparse.ArgumentParser(prog="nox -s contract --")
    parser.add_argument("--torch", default=pinned, help="the version of torch")
    parser.add_argument("--parts", default=",".join(PARTS), help="only these parts")
    parser.add_argument("--having", action="append", default=[], help="a further requirement, such as numpy<2")
    chosen = parser.parse_args(session.posargs)

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    # A row names the commit, so it has to be what runs.
    session.run("git", "diff", "--exit-code", "--stat", "HEAD", "--", "src", "tests", "pyproject.toml", external=True)
    tools = [it for it in project["optional-dependencies"]["dev"] if it.startswith(("hypothesis", "pytest"))]
    session.install("--resolution", resolution, "-e", f".[{EXTRAS}]", f"torch=={chosen.torch}", *tools, *chosen.having)
    failures = 0
    for part in chosen.parts.split(","):
        tests, packages = PARTS[part]
        report = Path(session.create_tmp()) / f"{part}.xml"
        report.unlink(missing_ok=True)
        pytest = ["python", "-m", "pytest", "-q", f"--junit-xml={report}"]
        if not session.run(*pytest, *tests, success_codes=[0, 1, 2]):
            continue  # nox --install-only
        counts = ElementTree.parse(report).getroot().find("testsuite").attrib
        failed = int(counts["failures"]) + int(counts["errors"])
        skipped = int(counts["skipped"])
        _record(
            part=part,
            versions=_versions(session, packages),
            python=_output(session, "import platform; print(platform.python_version())"),
            passed=int(counts["tests"]) - failed - skipped,
            failed=failed,
            skipped=skipped,
        )
        failures += failed
    if failures:
        session.error(f"{failures} tests failed")


def _output(session: nox.Session, program: str) -> str:
    return str(session.run("python", "-c", program, silent=True)).strip()


def _versions(session: nox.Session, packages: list[str]) -> str:
    program = f"from importlib.metadata import version as v; print(*(f'{{p}} {{v(p)}}' for p in {packages}), sep=', ')"
    return _output(session, program)


def _record(**row: object) -> None:
    """Add a row, in place of an older one of the same part and versions."""
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    row |= {"date": datetime.date.today().isoformat(), "commit": commit.stdout.strip()}
    with RECORD.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    same = ("part", "versions", "python")
    rows = [it for it in rows if any(it[name] != row[name] for name in same)] + [row]
    with RECORD.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(row), lineterminator="\n")
        writer.writeheader()
        writer.writerows(sorted(rows, key=_place))


def _place(row: dict[str, object]) -> tuple[object, ...]:
    """Rows by part, then by versions as numbers, so that 2.10 comes after 2.9."""
    numbers = [[int(number) for number in re.findall(r"\d+", str(row[name]))] for name in ("versions", "python")]
    return list(PARTS).index(str(row["part"])), *numbers
