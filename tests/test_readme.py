"""The README's code, commands and picture work unchanged, and so does the quickstart's task."""

import re
import runpy
from pathlib import Path

import pytest

from support.command_line import lossaware

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
PYTHON = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
SHELL = re.findall(r"```sh\n(.*?)```", README, re.DOTALL)
QUICKSTART = (ROOT / "docs" / "quickstart.md").read_text()


def test_the_short_script_trains_and_shows_its_status(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    script = tmp_path / "script.py"
    script.write_text(next(code for code in PYTHON if "loader = " in code))
    variables = runpy.run_path(str(script))
    assert variables["lga"].status.steps == 24
    assert set(variables["checkpoint"]) == {"optimizer", "lga"}
    assert capsys.readouterr().out.startswith("Status(loss=")


def test_the_first_lines_are_those_of_the_script() -> None:
    """They are an excerpt, so they cannot run; their lines are in the script that runs."""
    excerpt = PYTHON[0]
    assert "LGA(optimizer, steps_per_epoch=len(loader))" in excerpt
    assert "optimizer.step(loss=loss)" in PYTHON[1]


def test_a_user_task(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    command = next(line for line in QUICKSTART.splitlines() if line.startswith("lossaware compare my_task.py:build"))
    blocks = re.findall(r"```python\n(.*?)```", QUICKSTART, re.DOTALL)
    (tmp_path / "my_task.py").write_text(next(code for code in blocks if "def build()" in code))
    monkeypatch.chdir(tmp_path)
    smaller = {"--seeds": "2", "--lrs": "1e-2", "--optimizers": "sgd"}
    words = command.split()
    for option, value in smaller.items():
        words[words.index(option) + 1] = value
    assert lossaware(*words[1:], "--epochs", "2") == 0
    output = capsys.readouterr().out
    assert re.search(r"^sgd +1e-2 +(no difference shown|too few seeds to tell) ", output, re.MULTILINE)
    assert (tmp_path / "lossaware-out" / "report.html").is_file()


def test_ci_runs_the_two_commands_of_the_readme() -> None:
    set_up, tests = next(block for block in SHELL if "venv" in block).strip().splitlines()
    ci = (ROOT / ".ci" / "run").read_text()
    assert tests in ci
    for part in set_up.split(" && "):
        command, _, arguments = part.partition(" ")
        assert command in ci
        assert all(
            word in ci for word in arguments.split() if word.startswith(("-c", "compare", "digits", "constraints"))
        )


def test_it_is_short_and_its_first_screen_has_a_picture() -> None:
    assert len(README.split()) <= 1000
    picture = re.search(r"^!\[.*\]\((.*)\)$", README, re.MULTILINE)
    assert picture
    assert (ROOT / picture[1]).is_file()
    assert README[: picture.start()].count("\n") < 15


def test_the_command_of_the_comparison_shows_its_runs() -> None:
    name, function = re.findall(r"`lossaware compare (\S+):(\w+) ", README)[0]
    assert f"def {function}(trial" in (ROOT / name).read_text()
