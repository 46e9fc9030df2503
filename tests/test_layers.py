"""Data flows one way: which parts of the package may import which."""

import ast
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

import lossaware

PACKAGE = Path(lossaware.__file__).parent
ALLOWED = {
    "specs": set(),
    "tasks": {"specs", "models", "data"},
    "models": {"specs"},
    "data": {"specs", "models"},
    "training": {"specs"},
    "store": {"specs"},
    "execution": {"specs", "training", "store"},
    "analysis": {"specs", "store"},
    "report": {"specs", "store", "analysis"},
    "paper": {"specs", "store", "analysis", "report"},
    "comparing": {"specs", "training", "store", "execution", "analysis", "report"},
    "task": {"specs"},  # the public names of specs/task.py
}
"""For each part of ``studies/``, the other parts that it may import."""
ROOMS = {*ALLOWED, "cli"}


def part(module: str) -> str:
    """``specs`` for ``lossaware.studies.specs.task``, ``cli`` for ``lossaware.cli.app``, ``method`` for all others."""
    names = module.split(".")
    return names[2] if names[1:2] == ["studies"] and len(names) > 2 else "cli" if names[1:2] == ["cli"] else "method"


def imported(path: Path) -> set[str]:
    """The modules of the package that a file imports, those imported inside functions included."""
    result = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            result |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path}: relative import"
            inside = node.module in ("lossaware", "lossaware.studies")
            result |= {f"{node.module}.{alias.name}" for alias in node.names} if inside else {str(node.module)}
    return {module for module in result if module.split(".")[0] == "lossaware"}


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_no_part_imports_from_above(path: Path) -> None:
    module = ".".join(["lossaware", *path.relative_to(PACKAGE).with_suffix("").parts])
    here = part(module)
    if here == "cli" or module in ("lossaware.__main__", "lossaware.__init__"):  # the latter names all that is public
        return
    imported_parts = {part(other) for other in imported(path)} - {here, "method"}
    assert imported_parts <= ALLOWED.get(here, set()), (
        f"{here} imports {sorted(imported_parts - ALLOWED.get(here, set()))}"
    )


def test_every_folder_of_studies_has_its_place() -> None:
    folders = {path.name for path in (PACKAGE / "studies").iterdir() if path.is_dir() and any(path.glob("*.py"))}
    assert folders <= set(ALLOWED)


def module_of(path: Path) -> str:
    names = ["lossaware", *path.relative_to(PACKAGE).with_suffix("").parts]
    return ".".join(names[:-1] if names[-1] == "__init__" else names)


def imports(path: Path, modules: set[str]) -> set[str]:
    """The modules that a file imports; of ``from package import module`` that is the module."""
    result = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            result |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            within = {f"{node.module}.{alias.name}" for alias in node.names}
            result |= {name if name in modules else str(node.module) for name in within}
    return result & modules


def test_no_module_imports_itself_by_way_of_others() -> None:
    """Imports inside functions and for the type checker count, too.

    Only `lossaware` itself, which finds its public names when they are used, may name all.
    """
    paths = {module_of(path): path for path in PACKAGE.rglob("*.py")}
    del paths["lossaware"]
    assert len(paths) > 50
    graph = {module: imports(path, set(paths)) for module, path in paths.items()}
    assert "lossaware.law" in graph["lossaware.settings"]
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(" -> ".join(reversed(error.args[1])))


def test_the_readme_is_short() -> None:
    path = PACKAGE / "lga.py"
    text = path.read_text(encoding="utf-8")
    (lga,) = (node for node in ast.parse(text).body if isinstance(node, ast.ClassDef) and node.name == "LGA")
    assert len(text.splitlines()) < 300
    assert lga.end_lineno is not None
    assert lga.end_lineno - lga.lineno < 250


TESTS = Path(__file__).parent
MAY_BE_LONGER = {"reference.py"}
"""Files of more than 450 lines, whose first lines say why."""


@pytest.mark.parametrize("folder", [PACKAGE, TESTS], ids=["src", "tests"])
def test_files_and_classes_are_short(folder: Path) -> None:
    files, classes = {}, {}
    for path in folder.rglob("*.py"):
        text = path.read_text(encoding="utf-8")
        name = path.relative_to(folder).as_posix()
        if (lines := len(text.splitlines())) > 450 and name not in MAY_BE_LONGER:
            files[name] = lines
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.ClassDef) and (lines := (node.end_lineno or 0) - node.lineno + 1) > 250:
                classes[f"{name}: {node.name}"] = lines
    assert (files, classes) == ({}, {})


def test_longer_files_say_why() -> None:
    for name in MAY_BE_LONGER:
        assert "more than 450 lines" in (TESTS / name).read_text(encoding="utf-8")[:2000]


METHOD = sorted([*PACKAGE.glob("*.py"), *(PACKAGE / "correction").glob("*.py")])


@pytest.mark.parametrize("path", METHOD, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_no_module_of_the_method_uses_private_names_of_another(path: Path) -> None:
    """Names with an underscore that belong to the package; those of torch are another matter."""
    private = set()
    for other in METHOD:
        for node in ast.walk(ast.parse(other.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef | ast.ClassDef):
                private.add(node.name)
            elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
                private.add(node.attr)
    private = {name for name in private if name.startswith("_") and not name.endswith("__")}
    assert "_stepper" in private
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Attribute) and node.attr in private:
            of_itself = isinstance(node.value, ast.Name) and node.value.id in ("self", "cls")
            assert of_itself or ast.unparse(node) == "optimizer._opt_called", f"{path.name}:{node.lineno}"
        elif isinstance(node, ast.ImportFrom) and str(node.module).startswith("lossaware"):
            assert not private & {alias.name for alias in node.names}, f"{path.name}:{node.lineno}"
