"""Figures in the text of the site are read from results, and refused if they do not exist."""

import csv
import re
import statistics
import subprocess
import sys
from pathlib import Path

import pytest

from support import needs

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "results"
FIGURES = {
    "measured": 'table02 algorithm=Adam "strategy=w/o LGA" lr=1e-3',
    "printed": 'table02 algorithm=Adam "strategy=w/o LGA" lr=1e-3',
    "agreement": "table13",
    "effects": "table01 task=MNIST",
    "printed-effects": "table02 lr=1e-1",
    "value": 'figure01.csv "base=gradient descent" steps_per_status=1 gamma2=0.1 share:.3f',
    "rows": "theory-convergence.csv needed=True lga_bound_holds=True",
}


def build(folder: Path, text: str) -> tuple[int, str, str]:
    """A site of one page: exit code, messages, and the page's text."""
    for package in ("sphinx", "furo", "myst_parser"):
        needs(package)
    source = folder / "source"
    source.mkdir()
    (source / "index.md").write_text(f"# Claims\n\n{text}\n")
    options = ["-W", "--keep-going", "-q", "-c", str(ROOT / "docs"), "-D", f"results_folder={RESULTS}"]
    result = subprocess.run(
        [sys.executable, "-m", "sphinx", *options, str(source), str(folder / "site")], capture_output=True, text=True
    )
    page = folder / "site" / "index.html"
    return result.returncode, result.stderr, re.sub(r"<[^>]*>", "", page.read_text()) if page.exists() else ""


@pytest.fixture(scope="module")
def figures(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    text = "\n\n".join(f"{name} is {{{name}}}`{words}` here" for name, words in FIGURES.items())
    code, messages, page = build(tmp_path_factory.mktemp("site"), text)
    assert code == 0, messages
    return {name: match[1] for name in FIGURES if (match := re.search(rf"^{name} is (.*) here$", page, re.M))}


def stored(name: str, **cells: str) -> list[dict[str, str]]:
    """Rows of a stored table."""
    with (RESULTS / name).open(encoding="utf-8", newline="") as file:
        return [row for row in csv.DictReader(file) if cells.items() <= row.items()]


def test_a_measured_cell(figures: dict[str, str]) -> None:
    rows = stored("table02.csv", algorithm="Adam", strategy="w/o LGA", lr="1e-3")
    mean = statistics.fmean(float(row["value"]) for row in rows)
    assert figures["measured"].startswith(f"{mean:.2f} ± ")
    assert figures["printed"] == "95.55"


def test_counts(figures: dict[str, str]) -> None:
    assert re.fullmatch(r"\d+ of \d+", figures["agreement"])
    assert re.search(r"3 of 7: helps; 4 of 7: no difference shown", figures["effects"])
    assert figures["printed-effects"] == "better in 7 of 7, worse in 0"


def test_numbers_of_other_tables(figures: dict[str, str]) -> None:
    (row,) = stored("figure01.csv", base="gradient descent", steps_per_status="1", gamma2="0.1")
    assert figures["value"] == f"{float(row['share']):.3f}"
    needed = stored("theory-convergence.csv", needed="True")
    assert figures["rows"] == f"{sum(row['lga_bound_holds'] == 'True' for row in needed)} of {len(needed)}"


def test_a_name_without_a_figure_stops_the_build(tmp_path: Path) -> None:
    wrong = {
        "{measured}`table02 lr=1e-3`": "14 cells are chosen, not one",
        "{measured}`table02 speed=1`": "axis 'speed' does not exist",
        "{value}`figure01.csv share`": "rows have these values, not one",
        "{value}`none.csv share`": "none.csv",
    }
    code, messages, _ = build(tmp_path, "\n\n".join(wrong))
    assert code != 0
    for line in wrong.values():
        assert line in messages


def test_every_figure_on_the_page_of_claims_comes_from_results() -> None:
    """Outside of the list of contradictions, numbers with decimals are only in roles."""
    text = (ROOT / "docs" / "claims.md").read_text().split("## Where the paper contradicts itself")[0]
    text = re.sub(r"\{[\w-]+\}`[^`]*`", "", text)
    by_hand = set(re.findall(r"(?<![\w.])\d+\.\d+", text)) - {"3.1", "3.3", "0.02"}  # sections, and a gamma2
    assert not by_hand
