"""The table of tested features: its tests exist, and it is complete."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TABLES = (ROOT / "docs" / "frameworks" / "tested.md").read_text(encoding="utf-8")
ON_CPU, _, ON_GPU = TABLES.partition("| On a GPU |")
NAMED = re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", TABLES)
PROMISED = [
    *(
        "Schedulers",
        "bfloat16",
        "float16",
        "GradScaler",
        "fused",
        "overflows",
        "accumulation",
        "clipping",
        "torch.compile",
    ),
    *(
        "torch.compile",
        "DDP",
        "FSDP2",
        "DCP into another number of ranks",
        "EMA",
        "SWA",
        "Lightning",
        "two optimizers",
        "Fabric",
    ),
    *("Accelerate", "`save_state` and `load_state`", "Transformers", "resume from checkpoint"),
    *("pytorch_optimizer", "schedulefree", "bitsandbytes", "torchao", "Muon"),
]


def function(file: str, name: str) -> ast.FunctionDef:
    tree = ast.parse((ROOT / file).read_text(encoding="utf-8"))
    return next(node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name == name)


@pytest.mark.parametrize(("file", "test"), NAMED)
def test_every_named_test_exists(file: str, test: str) -> None:
    assert function(file, test)


@pytest.mark.parametrize(("file", "test"), re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", ON_GPU))
def test_the_device_of_a_run_is_selected(file: str, test: str) -> None:
    """By the mark, or by a fixture that has it."""
    test_function = function(file, test)
    marks = [ast.unparse(decorator) for decorator in test_function.decorator_list]
    assert "pytest.mark.cuda" in marks or {"device", "kernels"} & {argument.arg for argument in test_function.args.args}


def test_every_promise_has_a_row() -> None:
    assert [word for word in PROMISED if word not in ON_CPU] == []


def test_every_row_names_a_test() -> None:
    rows = [line for line in TABLES.splitlines() if line.startswith("| ") and not line.endswith("| Test |")]
    assert len(rows) == len(NAMED) >= 34


def test_every_test_file_has_a_row() -> None:
    here = {path.name for path in Path(__file__).parent.glob("test_*.py")} - {"test_table.py"}
    assert here <= {Path(file).name for file, _ in NAMED}


def test_the_readme_leads_to_it() -> None:
    assert "(docs/frameworks/tested.md)" in (ROOT / "README.md").read_text(encoding="utf-8")
