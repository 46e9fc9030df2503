"""The provenance of runs."""

import sys

import pytest

from lossaware.studies.specs.provenance import LONGEST, environment, format_provenance, without_folders, without_home

MODULE = "/somewhere/lossaware/__main__.py"


@pytest.mark.parametrize(
    ("program", "torchrun", "command"),
    [
        ("/somewhere/bin/lossaware", {}, "lossaware compare 'my task.py:build'"),
        (MODULE, {}, "python -m lossaware compare 'my task.py:build'"),
        (
            MODULE,
            {"TORCHELASTIC_RUN_ID": "none", "LOCAL_WORLD_SIZE": "2", "GROUP_WORLD_SIZE": "1"},
            "torchrun --nproc_per_node 2 -m lossaware compare 'my task.py:build'",
        ),
        (
            MODULE,
            {"TORCHELASTIC_RUN_ID": "none", "LOCAL_WORLD_SIZE": "4", "GROUP_WORLD_SIZE": "3"},
            "torchrun --nnodes 3 --nproc_per_node 4 -m lossaware compare 'my task.py:build'",
        ),
    ],
)
def test_the_command_can_be_typed_again(monkeypatch, program, torchrun, command):
    monkeypatch.delenv("TORCHELASTIC_RUN_ID", raising=False)
    for name, value in torchrun.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(sys, "argv", [program, "compare", "my task.py:build"])
    assert environment()["command"] == command


@pytest.mark.parametrize(
    ("command", "published"),
    [
        (
            "lossaware study run table02 --data /home/me/data --jobs 2",
            "lossaware study run table02 --data DIR --jobs 2",
        ),
        ("lossaware study run --data=/home/me/data", "lossaware study run --data=DIR"),
        ("lossaware study run /home/me/grid.toml", "lossaware study run grid.toml"),
        (r"lossaware study run 'C:\me\grid.toml'", "lossaware study run grid.toml"),
        (
            "lossaware study run sub/grid.toml --only 'strategy=w/ LGA'",
            "lossaware study run sub/grid.toml --only 'strategy=w/ LGA'",
        ),
    ],
)
def test_no_folder_of_a_machine_is_published(command, published):
    assert without_folders(command) == published


@pytest.mark.timeout(20)
def test_a_text_without_end_is_shortened_and_takes_no_time():
    long = "data:" * 200_000
    for line in format_provenance([{"date": long, "processor": long, "command": long, "data": long}]):
        assert len(line) < LONGEST + 10
    assert without_home(f"{long} /home/me/x") == f"{long} ~/x"


@pytest.mark.parametrize(
    ("count", "last"), [(3, "Command: run 2"), (4, "... and 1 more command."), (5, "2 more commands.")]
)
def test_of_many_commands_the_first_are_named(count, last):
    assert format_provenance({"command": f"run {number}"} for number in range(count))[-1].endswith(last)
