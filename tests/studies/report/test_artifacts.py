"""The files of a plot: what somebody else wrote in their place is one line."""

import hashlib
import json
from pathlib import Path

import pytest

from lossaware.errors import UsageError
from lossaware.studies.report import artifacts
from lossaware.studies.report.plot import Plot, label
from lossaware.studies.specs.seal import sealed


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with the files of a plot."""
    plot = Plot(lambda canvas: label(canvas.subplots(), "a"), (2, 1), "a plot")
    artifacts.save(tmp_path, "mine", tables={"mine": [{"a": 1, "b": 2}]}, plot=plot, settings={})
    assert [saved.name for saved in artifacts.load(tmp_path)] == ["mine"]
    return tmp_path


@pytest.mark.parametrize(
    "content",
    [[], {"made_with": []}, {"made_with": {}, "files": ["a"]}, {"made_with": {}, "files": None}],
    ids=["list", "no provenance", "list of files", "no files"],
)
def test_a_damaged_description_is_one_line(folder: Path, content: object) -> None:
    (folder / "mine.json").write_text(json.dumps(sealed(content) if isinstance(content, dict) else content))
    with pytest.raises(UsageError, match=r"mine\.json: its provenance cannot be read"):
        artifacts.load(folder)


@pytest.mark.parametrize("line", ["1,2,3", "1", "a" * 200_000, '"'], ids=["long", "short", "huge", "open"])
def test_a_table_of_another_shape_is_one_line(folder: Path, line: str) -> None:
    """With its digest, as one who wants it so would write it."""
    path, description = folder / "mine.csv", folder / "mine.json"
    path.write_text(f"{path.read_text()}{line}\n")
    content = json.loads(description.read_text())
    content["files"]["mine.csv"] = hashlib.sha256(path.read_bytes()).hexdigest()
    description.write_text(json.dumps(sealed({name: part for name, part in content.items() if name != "sha256"})))
    with pytest.raises(UsageError, match=r"mine\.csv: not a table \("):
        artifacts.load(folder)
