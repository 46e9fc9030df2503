"""Compilation of the C library at the first use: ``python -m benchmarks.first_use``.

Prints the times of the first LGA in a process as JSON. `benchmarks.speed` runs it in two processes, first with
an empty cache folder, then with the cache of the first one.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from benchmarks.goals import Goal
from benchmarks.parameters import AMOUNT_OF_STEP, LOSS, attach, check_correction, make_parameters


def measure() -> dict[str, float]:
    """Seconds of attaching and of the first step, and the compilers that were started in each."""
    params = make_parameters(10**6, 10)
    optimizer: Any = torch.optim.SGD(params, lr=0.0)
    optimizer.step()  # torch's own first use
    started: list[object] = []
    popen = subprocess.Popen.__init__

    def counting(self: Any, *args: Any, **kwargs: Any) -> None:
        if any(str(word).endswith("native.c") for word in (args[0] if args else kwargs["args"])):
            started.append(args)
        popen(self, *args, **kwargs)

    subprocess.Popen.__init__ = counting  # type: ignore[method-assign]
    began = time.perf_counter()
    attach(optimizer)
    attached = time.perf_counter()
    while_attaching = len(started)
    before = params[0].detach().clone()
    optimizer.step(loss=LOSS)
    first = time.perf_counter()
    gradient = params[0].grad
    assert gradient is not None
    check_correction(before, params[0].detach(), gradient, AMOUNT_OF_STEP)
    return {
        "attach": attached - began,
        "first step": first - attached,
        "compilers while attaching": while_attaching,
        "compilers in steps": len(started) - while_attaching,
    }


def goals() -> list[Goal]:
    """With an empty cache, and with one that has the library."""
    runs = []
    with tempfile.TemporaryDirectory() as folder:
        for _ in range(2):
            result = subprocess.run(
                [sys.executable, "-m", "benchmarks.first_use"],
                check=True, capture_output=True, text=True, cwd=Path(__file__).parents[1],
                env={**os.environ, "XDG_CACHE_HOME": folder},
            )  # fmt: skip
            runs.append(json.loads(result.stdout.splitlines()[-1]))
    first, second = runs
    assert first["compilers while attaching"] >= 1, "the library was there already"
    cached = second["compilers while attaching"] + second["compilers in steps"]
    return [
        Goal("first use", "compilers started in steps, nothing cached", first["compilers in steps"], 0, unit="in all"),
        Goal("first use", "compilers started, cached", cached, 0, unit="in all"),
        Goal("first use", "attaching LGA, nothing cached", first["attach"], 5.0, unit="s"),
        Goal("first use", "attaching LGA, cached", second["attach"], 0.1, unit="s"),
        Goal("first use", "first step, a million parameters, nothing cached", first["first step"], 0.1, unit="s"),
    ]


if __name__ == "__main__":
    torch.set_num_threads(1)
    print(json.dumps(measure()))
