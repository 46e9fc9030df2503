"""The memory that a checkpoint takes: ``python -m benchmarks.checkpoint_memory [--parameters N]``.

A model with Adam takes a step, its checkpoint is written, and another process resumes from it. Each part runs in a
separate process. The output is the peak resident memory (VmHWM), without the memory used before the model, and
its ratio to that of the run: parameters, gradients, and both moments of Adam.
"""

import argparse
import math
import resource
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch

from lossaware.studies.specs.run_spec import RunSpec
from lossaware.studies.training import checkpoint

SPEC = RunSpec(task="digits", optimizer="adam", lr=1e-3, seed=0, epochs=2, batch_size=64)
TENSORS = 10
ROOT = Path(__file__).parents[1]


def peak() -> int:
    """The largest memory of this process so far, in bytes."""
    status = Path("/proc/self/status")
    if status.exists():  # getrusage has the memory of the parent in it, from before this program was started
        (line,) = (line for line in status.read_text().splitlines() if line.startswith("VmHWM:"))
        return 1024 * int(line.split()[1])
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def model_after_a_step(parameters: int) -> tuple[torch.nn.Module, torch.optim.Adam]:
    """A model and its optimizer after a step."""
    side = math.isqrt(parameters // TENSORS)
    model = torch.nn.Sequential(*(torch.nn.Linear(side, side, bias=False) for _ in range(TENSORS)))
    optimizer = torch.optim.Adam(model.parameters(), foreach=False)
    step(model, optimizer)
    return model, optimizer


def step(model: torch.nn.Module, optimizer: torch.optim.Adam) -> None:
    """A step with gradients of ones."""
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()


def part(name: str, parameters: int, path: Path) -> None:
    """A part in this process; prints its memory in bytes."""
    torch.set_num_threads(1)
    checkpoint.SECONDS, checkpoint.SHARE = 0.0, math.inf
    file = checkpoint.Checkpoint(path, SPEC, lambda message, _: print(message, file=sys.stderr))
    model_after_a_step(TENSORS)  # modules that the first step imports do not belong to the run
    before = peak()
    if name == "resume":
        state: Any = file.load()
        assert state is not None
    model, optimizer = model_after_a_step(parameters) if name != "resume" else resumed(parameters, state)
    if name == "write":
        file.keep(lambda: {"model": model.state_dict(), "optimizer": optimizer.state_dict()})
    print(peak() - before)


def resumed(parameters: int, state: dict[str, Any]) -> tuple[torch.nn.Module, torch.optim.Adam]:
    """A model and its optimizer from a checkpoint, after a further step; as in `training.run`."""
    side = math.isqrt(parameters // TENSORS)
    model = torch.nn.Sequential(*(torch.nn.Linear(side, side, bias=False) for _ in range(TENSORS)))
    optimizer = torch.optim.Adam(model.parameters(), foreach=False)
    model.load_state_dict(state["model"])
    optimizer.load_state_dict(state["optimizer"])
    state.clear()
    step(model, optimizer)
    return model, optimizer


def measure(parameters: int) -> dict[str, int]:
    """Bytes by part: without a checkpoint, writing one, resuming from it."""
    memory = {}
    with tempfile.TemporaryDirectory() as folder:
        for name in ("run", "write", "resume"):
            command = [sys.executable, "-m", "benchmarks.checkpoint_memory", "--part", name]
            command += ["--parameters", str(parameters), "--path", str(Path(folder) / "checkpoint.pt")]
            result = subprocess.run(command, check=True, capture_output=True, text=True, cwd=ROOT)
            memory[name] = int(result.stdout)
    return memory


def main() -> None:
    """Print one line per part."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--parameters", type=int, default=100_000_000)
    parser.add_argument("--part")
    parser.add_argument("--path", type=Path)
    arguments = parser.parse_args()
    if arguments.part:
        part(arguments.part, arguments.parameters, arguments.path)
        return
    memory = measure(arguments.parameters)
    for name, size in memory.items():
        print(f"{name:<7} {size / 2**20:8.0f} MiB  {size / memory['run']:.2f} of the run without a checkpoint")


if __name__ == "__main__":
    main()
