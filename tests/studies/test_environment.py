"""What is kept of how a run was made."""

import sys

import pytest

from lossaware.studies.specs.provenance import environment

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
