"""The notebooks of ``examples/`` run from top to bottom, as a reader would run them."""

import shutil
from pathlib import Path

import pytest

from support import needs

NOTEBOOKS = sorted((Path(__file__).parents[1] / "examples").glob("*.ipynb"))


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook(path: Path, tmp_path: Path) -> None:
    for package in ("nbclient", "ipykernel"):
        needs(package)
    import nbformat
    from nbclient import NotebookClient

    shutil.copy(path, tmp_path)  # so that files are not written to the checkout
    notebook = nbformat.read(path, as_version=4)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert not any(cell.outputs for cell in code), "notebooks are committed without outputs; the site executes them"
    NotebookClient(notebook, timeout=240, kernel_name="python3", resources={"metadata": {"path": tmp_path}}).execute()
    outputs = [output for cell in code for output in cell.outputs]
    assert sum("image/png" in output.get("data", {}) for output in outputs) >= 1
    if path.stem == "method":
        assert any("image/gif" in output.get("data", {}) for output in outputs)
    if path.stem == "comparison":
        assert any("<table" in output.get("data", {}).get("text/html", "") for output in outputs)
        assert (tmp_path / "comparison.html").is_file()


def test_there_are_three() -> None:
    assert [path.stem for path in NOTEBOOKS] == ["comparison", "digits", "method"]
