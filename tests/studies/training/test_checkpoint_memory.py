"""A checkpoint takes no additional memory, neither to write it nor to resume from it."""

import sys

import pytest
from benchmarks.checkpoint_memory import measure

MOST = 1.1
"""Times the memory of the run without a checkpoint."""


@pytest.mark.skipif(sys.platform == "win32", reason="reads the largest memory from POSIX's getrusage")
def test_a_checkpoint_takes_no_additional_memory():
    memory = measure(5_000_000)
    assert memory["run"] > 4 * 4 * 5_000_000, "parameters, gradients and both moments of Adam"
    assert memory["write"] < MOST * memory["run"]
    assert memory["resume"] < MOST * memory["run"]
