"""A folder of results remembers how studies were run."""

import json
from dataclasses import replace

import pytest

from lossaware.errors import Note, UsageError
from lossaware.studies.store.folder import Folder, Launch
from support.small_grid import SHORT


def test_launches_are_kept_and_a_line_that_was_cut_short_is_passed_over(grid, tmp_path):
    folder = Folder(tmp_path / "new" / "out")
    assert folder.launches(grid) == []
    first = Launch.now(grid)
    folder.note(first)
    with (folder.path / "studies.jsonl").open("a") as file:
        file.write('{"study": "grid", "dig')
    second = Launch.now(grid.overridden(SHORT))
    folder.note(second)
    folder.note(Launch.now(replace(grid, name="other")))
    with pytest.warns(Note, match=r"studies\.jsonl, line 2: cut short or damaged, and ignored"):
        assert folder.launches(grid) == [first, second]
    with pytest.warns(Note):
        assert folder.launches(grid)[1].overrides == SHORT


def test_no_character_ends_the_line_of_a_launch(grid, tmp_path):
    """Python ends lines at ten characters, and JSON escapes only some of them."""
    odd = "".join(map(chr, range(0x20))) + "\x7f\x85\u2028\u2029\ud800"
    folder = Folder(tmp_path)
    launch = replace(Launch.now(grid), environment={"command": odd})
    for _ in range(2):
        folder.note(launch)
    assert folder.all_launches() == [launch, launch]


def test_a_launch_that_was_changed_is_refused(grid, tmp_path):
    folder = Folder(tmp_path)
    folder.note(Launch.now(grid.overridden(SHORT)))
    path = tmp_path / "studies.jsonl"
    text = path.read_text()
    path.write_text(text.replace('"epochs": 2', '"epochs": 3'))
    assert path.read_text() != text
    with pytest.raises(UsageError, match=r"studies\.jsonl, line 1: this has changed"):
        folder.launches(grid)
    path.write_text(json.dumps(Launch.now(grid).to_plain()) + "\n")
    assert len(folder.launches(grid)) == 1, "earlier versions wrote no digests"
