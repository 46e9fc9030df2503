"""The table of frameworks in the documentation: what it names is there, and it leaves no test file out."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TABLE = (ROOT / "docs" / "frameworks" / "index.md").read_text(encoding="utf-8")
NAMED = re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", TABLE)


@pytest.mark.parametrize(("file", "test"), NAMED, ids=[test for _, test in NAMED])
def test_every_named_test_exists(file: str, test: str) -> None:
    tree = ast.parse((ROOT / file).read_text(encoding="utf-8"))
    assert test in {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}


def test_every_row_names_a_test() -> None:
    table = TABLE[TABLE.index("| Shown by |") :]
    rows = [line for line in table.splitlines()[2:] if line.startswith("| ")]
    assert len(rows) == len(NAMED) >= 25


def test_every_test_file_has_a_row() -> None:
    here = {path.name for path in Path(__file__).parent.glob("test_*.py")} - {"test_table.py"}
    assert here <= {Path(file).name for file, _ in NAMED}
