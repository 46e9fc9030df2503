"""The examples run as they stand, made smaller by options alone."""

import re
from pathlib import Path

import pytest

from lossaware.cli import main

EXAMPLES = Path(__file__).parents[1] / "examples"


def compared(capsys, *arguments: str) -> str:
    """What `lossaware compare` shows."""
    with pytest.raises(SystemExit) as stopped:
        main(["compare", *arguments])
    assert stopped.value.code == 0
    return capsys.readouterr().out


def test_a_loop_of_ones_own(tmp_path, capsys):
    small = ["--seeds", "2", "--epochs", "2", "--lrs", "1e-4", "--jobs", "2", "--out", str(tmp_path)]
    shown = compared(capsys, f"{EXAMPLES / 'compare_loop.py'}:train", "--direction", "maximize", *small)
    assert "Accuracy after the last epoch, %" in shown
    assert re.search(r"^1e-4 +[\d.]+ ± ", shown, re.MULTILINE)
