"""Packaging: the files in the wheel, the cost of an import, and public types."""

import csv
import itertools
import re
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from importlib import metadata
from pathlib import Path

import pytest

import lossaware
from support import needs

ROOT = Path(__file__).parents[1]
BUILD = "import hatchling.build, sys; print(hatchling.build.build_{kind}(sys.argv[1]))"


def build(kind: str, folder: Path, source: Path = ROOT) -> Path:
    needs("hatchling")
    result = subprocess.run(
        [sys.executable, "-c", BUILD.format(kind=kind), str(folder)],
        cwd=source,
        capture_output=True,
        text=True,
        check=True,
    )
    return folder / result.stdout.split()[-1]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build("wheel", tmp_path_factory.mktemp("wheel"))


def test_the_wheel_has_all_that_the_package_reads(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    package = ROOT / "src"
    expected = {
        str(path.relative_to(package))
        for path in (package / "lossaware").rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert expected <= names
    assert "lossaware/py.typed" in names
    assert any(name.endswith("licenses/LICENSE") for name in names)


def needed_by(name: str) -> set[str]:
    """The installed distributions that one needs, itself included, without extras."""
    waiting, packages = [name], set[str]()
    while waiting:
        name = re.sub(r"[-_.]+", "-", waiting.pop()).lower()
        if name not in packages:
            try:
                requirements = metadata.requires(name) or []
            except metadata.PackageNotFoundError:
                continue  # for another system
            packages.add(name)
            waiting += [re.split(r"[^\w.-]", one)[0] for one in requirements if "extra ==" not in one]
    return packages


def test_the_core_from_the_wheel_needs_torch_alone(wheel: Path, tmp_path: Path) -> None:
    """A loss-aware step runs with only torch, its dependencies and the wheel."""
    for name in needed_by("torch"):
        for file in metadata.files(name) or []:
            top = file.parts[0]
            if top not in ("..", "__pycache__") and not (tmp_path / top).exists():
                (tmp_path / top).symlink_to(Path(str(metadata.distribution(name).locate_file(top))))
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path)
    program = """
import sys, warnings
sys.path.append(sys.argv[1])
warnings.simplefilter("ignore")  # torch says that it has no NumPy
import lossaware
assert "torch" not in sys.modules
import torch
p = torch.nn.Parameter(torch.ones(3))
p.grad = torch.ones(3)
optimizer = torch.optim.SGD([p], lr=0.0)
lossaware.LGA(optimizer, steps_per_epoch=1, gamma2=0.1)
optimizer.step(loss=1.0)
assert (p < 1).all()
print(lossaware.__file__, "numpy" in sys.modules)
"""
    result = subprocess.run(
        [sys.executable, "-I", "-S", "-c", program, str(tmp_path)], capture_output=True, text=True, check=False
    )
    assert result.stdout == f"{tmp_path / 'lossaware' / '__init__.py'} False\n", result.stderr


def test_an_import_costs_a_handful_of_small_modules() -> None:
    """Counted, not timed: only torch and our own modules, and none that only some users need."""
    program = """
import sys, torch
before = set(sys.modules)
import lossaware
alone = set(sys.modules) - before
from lossaware import LGA
print(*sorted(alone), "|", *sorted(set(sys.modules) - before - alone))
"""
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    lossaware_modules, with_lga = (part.split() for part in result.stdout.split("|"))
    assert lossaware_modules == ["lossaware", "lossaware._version", "lossaware.errors"]
    assert all(re.fullmatch(r"lossaware(\.[a-z0-9_]+)+", name) for name in with_lga)
    assert len(with_lga) <= 28
    of_some = "agreement agreement_stepper base_bound compiled deprecated launcher law_kernel optax recipes studies"
    of_some += " tensor_scales uneven_inputs"
    assert not set(with_lga) & {f"lossaware.{name}" for name in of_some.split()}


def test_the_source_archive_makes_the_same_wheel(wheel: Path, tmp_path: Path) -> None:
    archive = build("sdist", tmp_path)
    assert re.fullmatch(rf"lossaware-{re.escape(lossaware.__version__)}\.tar\.gz", archive.name)
    with tarfile.open(archive) as packed:
        packed.extractall(tmp_path, filter="data")
    source = tmp_path / archive.name.removesuffix(".tar.gz")
    assert {path.name for path in (ROOT / "examples").glob("*.*")} <= {
        path.name for path in (source / "examples").iterdir()
    }
    rebuilt = build("wheel", tmp_path, tmp_path / archive.name.removesuffix(".tar.gz"))
    assert rebuilt.name == wheel.name
    with zipfile.ZipFile(wheel) as ours, zipfile.ZipFile(rebuilt) as theirs:
        assert {(i.filename, i.CRC) for i in ours.infolist()} == {(i.filename, i.CRC) for i in theirs.infolist()}


def test_the_release_is_uploaded_only_by_the_flag_and_runs_the_commands_of_the_readme(tmp_path: Path) -> None:
    script = ROOT / ".ci" / "release"
    wrong = subprocess.run([script, "--publish"], capture_output=True, text=True, check=False)
    assert (wrong.returncode, wrong.stderr) == (2, "usage: .ci/release [--upload]\n")
    *_, condition, upload, _ = script.read_text().splitlines()
    assert condition == "if [ $# = 1 ]; then"
    assert script.read_text().count(" upload ") == 1
    assert 'twine" upload' in upload
    [extract] = re.findall(r"^(sed .* README.md .*) >", script.read_text(), re.MULTILINE)
    commands = subprocess.run(["bash", "-c", extract], cwd=ROOT, capture_output=True, text=True, check=True)
    assert [line.split()[0] for line in commands.stdout.splitlines()] == ["python3", ".venv/bin/python"]


def test_no_two_files_of_tests_have_one_name() -> None:
    """Pytest would stop before the first test, but only where it is given both of them."""
    names = [path.name for path in (ROOT / "tests").rglob("test_*.py")]
    assert sorted(set(names)) == sorted(names)


VERSIONED = "torch numpy scipy jax optax lightning accelerate transformers momo-opt schedulefree prodigyopt".split()
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def versions() -> list[tuple[dict[str, str], dict[str, str]]]:
    """The rows of the table of tested versions, and the versions of each, Python's among them."""
    with (ROOT / "results" / "versions.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    lists = [[*row["versions"].split(", "), f"python {row['python']}"] for row in rows]
    return [(row, dict(it.split(" ") for it in of_row)) for row, of_row in zip(rows, lists, strict=True)]


@pytest.mark.parametrize("package", ["python", *VERSIONED])
def test_the_minimum_version_is_the_lowest_of_the_table(package: str) -> None:
    extras = PROJECT["optional-dependencies"].values()
    requirements = [f"python{PROJECT['requires-python']}", *PROJECT["dependencies"], *itertools.chain(*extras)]
    [minimum] = {release(it.removeprefix(f"{package}>=")) for it in requirements if it.startswith(f"{package}>=")}
    tried = {release(of_row[package]) for _, of_row in versions() if package in of_row}
    lowest = min(tried)[:2] if package == "python" else min(tried)  # the table has Python's last part, too
    assert lowest == minimum


def test_every_row_of_the_table_of_versions_passed() -> None:
    assert [row for row, _ in versions() if not (int(row["passed"]) > 0 and row["failed"] == "0")] == []


def test_the_contract_over_versions_runs_tests_that_exist_and_has_a_row_for_each_part() -> None:
    program = (ROOT / "noxfile.py").read_text()
    files = re.findall(r'"(tests/[^"]+)"', program)
    assert files
    assert [name for name in files if not (ROOT / name).is_file()] == []
    assert set(re.findall(r'^    "(\w+)": \(', program, re.MULTILINE)) == {row["part"] for row, _ in versions()}


def release(version: str) -> tuple[int, ...]:
    """The numbers of a version, without zeros at the end, so that 2.5 equals 2.5.0."""
    numbers = [int(part) for part in re.findall(r"\d+", version.partition("+")[0])]
    while numbers and numbers[-1] == 0:
        numbers.pop()
    return tuple(numbers)


def test_the_version_is_the_same_everywhere() -> None:
    assert f"\nversion: {lossaware.__version__}\n" in (ROOT / "CITATION.cff").read_text()


def test_a_typed_program_of_a_user(tmp_path: Path) -> None:
    """The public names have types that a strict checker accepts, and wrong uses that it finds."""
    needs("mypy")
    program = tmp_path / "program.py"
    program.write_text(
        """
import torch
from lossaware import LGA, Average, Progressive, Status
from lossaware.agreement import Agreement

optimizer = torch.optim.Adam([torch.nn.Parameter(torch.ones(3))])
with LGA(optimizer, steps_per_epoch=10, lower_bound=Progressive(log_base=2.0)) as lga:
    lga.observe(torch.ones(()))
    optimizer.step()
    status: Status = lga.status
    share: float = status.open_share
    count: int = status.statuses
    kept: dict[str, object] = lga.state_dict()


class Zero:
    def update(self, lower: float, loss: float, count: float) -> float:
        return 0.0


LGA(optimizer, steps_per_epoch=10, lower_bound=Zero())
LGA(optimizer, steps_per_epoch=10, lower_bound=Average())
LGA(optimizer, steps_per_epoch="ten")  # E
LGA(optimizer)  # E
LGA(optimizer, gamma2="agreement")
LGA(optimizer, gamma2=Agreement(status_steps=10), xi=None)
LGA(optimizer, gamma2="auto")  # E
lga.status.omega = 1.0  # E
"""
    )
    result = subprocess.run(
        [sys.executable, "-m", "mypy", "--strict", "--cache-dir", str(tmp_path / "cache"), str(program)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    lines = {int(line.split(":")[1]) for line in result.stdout.splitlines() if ": error:" in line}
    expected = {number for number, line in enumerate(program.read_text().splitlines(), 1) if line.endswith("# E")}
    assert lines == expected, result.stdout
