"""Options from a TOML file, and completion in a shell."""

import re

import pytest

from lossaware.cli.app import app
from lossaware.cli.compare import compare
from lossaware.cli.config_file import expand
from lossaware.errors import UsageError
from support.command_line import lossaware

FILE = """
task = "train.py:train"
direction = "maximize"
lrs = [1e-4, 1e-3]
arms = ["adamw", "prodigy(lr=1)"]
seeds = 3
json = true
no_verify = false
batch-size = 32

[set]
hidden = 8
betas = [0.8, 0.9]
wide = true
"""

DOTTED = ".".join("a" * 3000)


@pytest.fixture
def expanded(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def expand_(words: str, text: str = FILE) -> list[str]:
        (tmp_path / "compare.toml").write_text(text)
        return expand(words.split(), {"compare": compare})

    return expand_


def test_each_key_is_an_option(expanded):
    assert expanded("compare --config compare.toml") == [
        "compare",
        "train.py:train",
        "--direction=maximize",
        "--lrs=0.0001,0.001",
        "--arms=adamw,prodigy(lr=1)",
        "--seeds=3",
        "--json",
        "--batch-size=32",
        *["--set", "hidden=8", "--set", "betas=0.8,0.9", "--set", "wide=true"],
    ]


@pytest.mark.parametrize(
    "value",
    [f"0x{'f' * 5000}", f"[0x{'f' * 5000}]", f"[[0x{'f' * 5000}]]", f"{{{DOTTED} = 1}}"],
    ids=["number", "in a list", "nested", "dotted"],
)
def test_a_value_without_end_is_one_line(expanded, value):
    for key in ("lrs", "seeds", "set"):
        with pytest.raises(UsageError, match=r"^compare.toml: (lrs|seeds|set).* (too long|too deeply)|set must be a"):
            expanded("compare digits --config compare.toml", f"{key} = {value}")


def test_the_command_line_goes_before_the_file(expanded):
    words = expanded("compare mine.py:train --seeds 6 --set hidden=9 --config=compare.toml --lrs=1")
    assert words[:2] == ["compare", "mine.py:train"]
    assert "--seeds=3" not in words
    assert not any(word.startswith("--lrs=0") for word in words)
    assert "hidden=8" not in words
    assert words[-5:] == ["--seeds", "6", "--set", "hidden=9", "--lrs=1"]
    assert "train.py:train" not in expanded("compare --command true --config compare.toml")
    assert "--command=true" not in expanded("compare digits --config compare.toml", 'command = "true"')


def test_other_commands_and_command_lines_do_not_change(expanded):
    for words in ("compare digits --lrs 1", "study run --config compare.toml", ""):
        assert expanded(words) == words.split()


def test_every_option_can_be_in_a_file(expanded, capsys):
    assert lossaware("compare", "--help") == 0
    names = set(re.findall(r"^│ +--([a-z0-9-]+)", capsys.readouterr().out, re.MULTILINE))
    assert {"seeds", "clip", "lower-bound"} < names
    for name in names - {"config", "set", "command"}:
        words = expanded("compare digits --config compare.toml", f"{name} = 3")
        assert words[2] == f"--{name}=3"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("lr = 1", "compare.toml: unknown key 'lr'; did you mean lrs"),
        ("lrs = []", r"compare.toml: lrs must be a number, a text, true, false or a list of these, got \[\]"),
        ("seeds = {n = 1}", "compare.toml: seeds must be a number"),
        ("set = 3", r"set must be a table of options, such as \[set\], got 3"),
        ("seeds = = 3", "compare.toml: not valid TOML"),
        ("config = 'a.toml'", "unknown key 'config'"),
    ],
)
def test_mistakes_in_a_file(expanded, text, message):
    with pytest.raises(UsageError, match=message):
        expanded("compare digits --config compare.toml", text)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("compare --config", "--config needs one file, such as --config compare.toml"),
        ("compare --config nowhere.toml", "nowhere.toml"),
        ("compare --config compare.toml", "--seeds must be at least 1, got 0"),
    ],
)
def test_a_mistake_is_one_line(expanded, capsys, words, message):
    expanded("compare", 'task = "digits"\nseeds = 0')
    assert lossaware(*words.split()) == 2
    error = capsys.readouterr().err
    assert message in error
    assert len(error.splitlines()) == 1


def test_a_shell_can_complete_the_command():
    script = app.generate_completion(shell="bash")
    assert "compare" in script
    assert "--arms" in script
