"""The documentation: the site builds without a warning, code blocks run, commands exist, links lead somewhere.

A Python block with a line ``...`` is an excerpt, of which the syntax is checked; so is one below ``% skip: next``. All
other blocks of a page run one after another, as a reader would run them.
"""

from __future__ import annotations

import ast
import csv
import importlib
import re
import shlex
import subprocess
import sys
import tomllib
import urllib.parse
import warnings
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest

from lossaware.extras import INSTALL
from support import needs
from support.command_line import lossaware

ROOT = Path(__file__).parents[1]
PAGES = sorted(path for path in [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *ROOT.glob("docs/**/*.md")])
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
PACKAGES_OF_EXTRAS = {
    *(
        "jax",
        "optax",
        "flax",
        "lightning",
        "accelerate",
        "transformers",
        "schedulefree",
        "tensorboard",
        "wandb",
        "mlflow",
    )
}
"""Optional packages of a page."""


def name_of(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


def blocks(page: Path, *languages: str) -> list[tuple[int, str]]:
    """The code blocks of a page in these languages: first line and text, without the fences."""
    result = []
    for match in re.finditer(r"^```(\S+)\n(.*?)^```$", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL):
        if match[1] in languages:
            result.append((match.string.count("\n", 0, match.start(2)) + 1, match[2]))
    return result


def prose(page: Path) -> str:
    """A page without its code blocks."""
    text = re.sub(r"^(```|:::)(\S+)\n.*?^\1$", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    return re.sub(r"`[^`\n]*`", "", text)


WITH_PYTHON = [page for page in PAGES if blocks(page, "python") and page.name != "README.md"]  # see test_readme

# The site ---------------------------------------------------------------------------------------------------------


@pytest.mark.timeout(600)
def test_the_site_builds_without_a_warning(tmp_path: Path) -> None:
    for package in ("sphinx", "furo", "myst_nb"):
        needs(package)
    command = ["-m", "sphinx", "--fail-on-warning", "--keep-going", "--nitpicky", "--quiet", "--fresh-env"]
    command += ["--define", "nb_execution_mode=off"]  # test_notebooks executes them
    command += ["-D", "nb_execution_mode=off"]  # test_notebooks executes them
    result = subprocess.run(
        [sys.executable, *command, "--builder", "html", ROOT / "docs", tmp_path], capture_output=True, text=True
    )
    assert result.returncode == 0, result.stderr
    pages = sorted(path.relative_to(tmp_path).with_suffix(".md").as_posix() for path in tmp_path.glob("**/*.html"))
    assert {name_of(page).removeprefix("docs/") for page in PAGES if "docs" in page.parts} <= set(pages)
    for page in tmp_path.glob("**/*.html"):
        text = page.read_text(encoding="utf-8")
        fetched = re.findall(r"<(?:script|link|img|iframe)\b[^>]*?(?:src|href)=\"(https?:[^\"]+)", text)
        assert not fetched, f"{page.name} lets the reader's browser fetch {fetched}"


def test_measured_studies_have_curves_and_others_are_named(tmp_path: Path) -> None:
    """On a site of one page, and results from the embedded data."""
    for package in ("sphinx", "furo", "myst_nb"):
        needs(package)

    out, results, site = (str(tmp_path / name) for name in ("out", "results", "site"))
    small = ["--epochs", "1", "--seeds", "1", "--set", "task=digits", "--only", "lr=1e-3", "--jobs", "1"]
    small += ["--only", "reading=without LGA,to the letter", "--set", "lga.gamma2=1e-3"]
    for words in (["run", "readings", *small, "--out", out, "--results", results], ["export", "readings"]):
        assert lossaware("study", *words, *(["--out", out, "--to", results] if words[0] == "export" else [])) == 0
    speed = tmp_path / "results" / "speed"
    speed.mkdir()
    (speed / "step.md").write_text("A table of **milliseconds**.\n")
    source = tmp_path / "source"
    source.mkdir()
    directives = [
        "study} readings",
        "study-curves} readings",
        "study} table13",
        "study-page} table12",
        "all-studies}",
        "measured-files} speed",
    ]
    page = "\n".join(f"```{{{directive}\n```\n" for directive in directives)
    (source / "index.md").write_text(f"# Results\n\n{page}")
    command = [
        sys.executable,
        "-m",
        "sphinx",
        "-W",
        "-n",
        "-q",
        "-c",
        str(ROOT / "docs"),
        "-D",
        f"results_folder={results}",
    ]
    result = subprocess.run([*command, str(source), site], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    html = (tmp_path / "site" / "index.html").read_text(encoding="utf-8")
    with (tmp_path / "results" / "readings.csv").open(encoding="utf-8") as file:
        values = {f"{float(row['value']):.2f}" for row in csv.DictReader(file)}
    assert len(values) == 2
    # One epoch does not train the base: its cell has a mark.
    assert all(re.search(rf"<p>{re.escape(value)}( \[a\])?</p>", html) for value in values)
    assert html.count("<figcaption>digits · sgd · lr 1e-3</figcaption><picture") == 1
    assert "<strong>milliseconds</strong>" in html
    text = re.sub(r"<[^>]*>", "", html)
    assert "Overridden: task = digits" in text
    assert "Command: " in text
    assert "lossaware study run table13 --data DIR" in text
    assert "lossaware study run table12 --data DIR" in text
    assert html.index("<summary>How this was measured</summary>") < html.index("Command: ") < html.index("</details>")
    overview = [row for row in re.findall(r"<tr.*?</tr>", html, re.DOTALL) if "Table 2: MNIST" in row]
    assert re.search(r"<p>0 of 56</p>", overview[0])


def test_each_study_has_a_page() -> None:
    from lossaware.studies.specs.study import studies

    for name in studies():
        assert (ROOT / "docs" / "results" / f"{name}.md").read_text() == f"```{{study-page}} {name}\n```\n"


def test_inline_code_breaks_after_separators_and_not_within_a_word(monkeypatch: pytest.MonkeyPatch) -> None:
    needs("sphinx")
    monkeypatch.syspath_prepend(str(ROOT / "docs" / "extensions"))
    with_breaks: Callable[[str], str] = importlib.import_module("breaks").with_breaks

    def parts_of(code: str) -> list[str]:
        start, end = '<code class="docutils literal notranslate"><span class="pre">', "</span></code>"
        html = with_breaks(f"<p>{code} {start}{code}{end}</p>")
        assert html.replace("<wbr>", "") == f"<p>{code} {start}{code}{end}</p>"
        assert html.startswith(f"<p>{code} {start}")  # prose does not change
        return html.partition(start)[2].removesuffix(f"{end}</p>").split("<wbr>")

    assert parts_of("optimizer.step(loss=loss)") == ["optimizer.step(loss=loss)"]
    assert parts_of("lossaware.recipes.lightning.LossAware") == ["lossaware.", "recipes.", "lightning.", "LossAware"]
    assert parts_of("tests/frameworks/test_ranks.py::test_short") == [
        "tests/",
        "frameworks/",
        "test_ranks.py::",
        "test_short",
    ]
    assert parts_of("tests/test_a.py::test_of_a_name_that_is_rather_long")[-3:] == ["is_", "rather_", "long"]


# Python -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("page", WITH_PYTHON, ids=name_of)
def test_python_blocks_run(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sybil = needs("sybil")
    myst = needs("sybil.parsers.myst")
    used = {name for _, text in blocks(page, "python") for name in imported(text)}
    if missing := sorted(name for name in used & PACKAGES_OF_EXTRAS if find_spec(name) is None):
        pytest.skip(f"{', '.join(missing)}: not installed; pip install -e '.[everything]' brings what tests can use")
    monkeypatch.chdir(tmp_path)  # so that files are not written to the checkout
    document = sybil.Sybil(parsers=[myst.PythonCodeBlockParser(), myst.SkipParser()]).parse(page)
    document.namespace["__name__"] = "__main__"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of frameworks, which are not ours
        for example in document.examples():
            if not is_excerpt(str(example.parsed)):
                example.evaluate()


def is_excerpt(text: str) -> bool:
    return "..." in text.splitlines()


@pytest.mark.parametrize("page", WITH_PYTHON, ids=name_of)
def test_python_blocks_can_be_read(page: Path) -> None:
    for line, text in blocks(page, "python"):
        ast.parse("\n" * (line - 1) + text, filename=str(page))


def imported(text: str) -> Iterator[str]:
    """The top-level packages that a block imports, for our modules those that they need."""
    for node in ast.walk(ast.parse(text)):
        match node:
            case ast.Import(names=names):
                modules = [alias.name for alias in names]
            case ast.ImportFrom(module=str(module)):
                modules = [module]
            case _:
                continue
        for name in modules:
            parts = name.split(".")
            if parts[:3] == ["torch", "utils", "tensorboard"]:
                yield "tensorboard"
            elif parts[0] == "lossaware" and parts[1:2] in (["optax"], ["recipes"]):
                yield parts[-1]
            else:
                yield parts[0]


# Shell ------------------------------------------------------------------------------------------------------------


def commands() -> list[tuple[str, list[str]]]:
    """Every command of every page, as words, with its place."""
    result = []
    for page in PAGES:
        for line, text in blocks(page, "sh", "console"):
            for offset, command_line in enumerate(text.splitlines()):
                for command in command_line.removeprefix("$ ").split("&&"):
                    if words := shlex.split(command, comments=True):
                        if words[0] == "torchrun" and "-m" in words:  # the started command is like any other
                            words = words[words.index("-m") + 1 :]
                        result.append((f"{name_of(page)}, line {line + offset}", words))
    return result


def test_commands_exist() -> None:
    needs("cyclopts")
    from lossaware.cli import app
    from lossaware.studies.specs.optimizers import optimizers
    from lossaware.studies.specs.study import load_study
    from lossaware.studies.specs.tasks import tasks

    kinds = set()
    for place, words in commands():
        program = Path(words[0]).name
        kinds.add(program)
        if program == "pip":
            check_extras(place, words)
            continue
        if program != "lossaware":
            assert program in ("python3", "python", ".ci/run", "run", "sphinx-build", "tensorboard", "nox"), (
                f"{place}: what is {program}?"
            )
            continue
        command, bound, _ = app.parse_args(words[1:], exit_on_error=False, print_error=False)
        arguments = bound.arguments
        if command.__name__ == "compare":
            task = arguments.get("task", "")
            assert "command" in arguments or ":" in task or task in tasks(), place
            names = arguments.get("optimizers", "sgd").split(",")
            assert all(name in optimizers() or ".py:" in name for name in names), place
        elif words[1] == "study" and "name" in arguments and not arguments["name"].endswith(".toml"):
            study = load_study(arguments["name"])
            from lossaware.cli.study import _overrides

            if command.__name__ == "run":
                seeds, epochs = arguments.get("seeds"), arguments.get("epochs")
                study.overridden(
                    _overrides(study, arguments.get("only", ()), seeds, epochs, arguments.get("settings", ()))
                )
    assert {"pip", "lossaware"} <= kinds


def test_install_instructions_have_one_source() -> None:
    """Messages take the command from `lossaware.extras`, and pages give the same one, of extras that exist."""
    in_source = re.compile(r"how_to_install\([\"']([^\"']+)[\"']\)")
    extras = set(PROJECT["optional-dependencies"])
    for path in ROOT.glob("src/**/*.py"):
        text = path.read_text(encoding="utf-8")
        assert path.name == "extras.py" or "pip install" not in text, path
        assert set(in_source.findall(text)) <= extras, path
    start, end = (re.escape(part) for part in INSTALL.split("{extra}"))
    for path in [*PAGES, *ROOT.glob("examples/*.py")]:
        text = path.read_text(encoding="utf-8").replace("-c constraints.txt ", "")
        for command in re.findall(r"pip install [^`#\n&]*(?:lossaware|-e)[^`#\n&]*", text):
            install = re.match(rf"{start}([\w,]+){end}|pip install -e \.(?=\s|$)", command)
            assert install, f"{path}: {command}"
            assert not install[1] or set(install[1].split(",")) <= extras, f"{path}: {command}"


def check_extras(place: str, words: list[str]) -> None:
    """Assert that installed extras exist."""
    for word in words:
        if match := re.search(r"\[(.+)\]$", word):
            unknown = set(match[1].split(",")) - set(PROJECT["optional-dependencies"])
            assert not unknown, f"{place}: there is no extra {', '.join(unknown)}"


# Links ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", prose(page)):
        url = urllib.parse.urlsplit(target)
        if url.scheme:
            assert target.startswith("https://"), f"{name_of(page)}: {target}"
            continue
        file = (page.parent / url.path) if url.path else page
        assert file.exists(), f"{name_of(page)}: there is no {target}"
        if url.fragment and not url.fragment.startswith("lossaware."):  # Sphinx knows the places of the API
            assert url.fragment in anchors(file), f"{name_of(page)}: {file.name} has no section #{url.fragment}"


def anchors(page: Path) -> set[str]:
    """The names of a page's sections, as GitHub and MyST make them, and those that are given."""
    text = re.sub(r"^```.*?^```$", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    from_headings = {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}
    return from_headings | set(re.findall(r"^\((\S+)\)=$", text, re.MULTILINE))
