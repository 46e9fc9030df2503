"""The program that torchrun starts in the tests of shared runs.

``sharing.py train FOLDER``: executes the specifications in ``FOLDER/specs.json``, and writes the results of each rank.
``sharing.py command ...``: the command line with a checkpoint after each epoch and short timeouts. It first writes its
process number to the folder in the environment variable ``SHARING``.
"""

import json
import math
import os
import sys
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from lossaware.cli import main
from lossaware.studies.execution import torchrun as distributed
from lossaware.studies.specs.run_spec import RunSpec
from lossaware.studies.specs.tasks import load_task
from lossaware.studies.training import checkpoint
from lossaware.studies.training.reproducible import reproducible
from lossaware.studies.training.run import _Training


def train(folder: Path) -> None:
    """Two epochs of each run, and the second epoch again, from the checkpoint of the first."""
    dist.init_process_group("gloo")
    results = []
    for line in json.loads((folder / "specs.json").read_text()):
        spec = RunSpec.from_json(line)
        task = load_task(spec.task, spec.task_options)
        with reproducible("cpu"):
            whole, parts = _Training(spec, task, task.data(None)), []
            parts.append(whole.epoch(1, None))
            state = whole.state_dict()
            if dist.get_rank() == 0:
                torch.save(state, folder / "state.pt")
            dist.barrier()
            parts.append(whole.epoch(2, None))
            resumed = _Training(spec, task, task.data(None))
            resumed.load_state_dict(torch.load(folder / "state.pt", weights_only=True))
            second = resumed.epoch(2, None)
        results.append(
            {
                "records": [{"train": part.train, "test": part.test, "lga": part.lga} for part in parts],
                "again": {"train": second.train, "test": second.test, "lga": second.lga},
                "parameters": parameters(whole),
                "parameters again": parameters(resumed),
            }
        )
    torch.save(results, folder / f"found-{dist.get_rank()}.pt")
    dist.destroy_process_group()


def parameters(training: _Training) -> list[torch.Tensor]:
    held: Any = [*training._model.parameters(), *training._model.buffers()]
    return [(p.full_tensor() if hasattr(p, "full_tensor") else p).detach().clone() for p in held]


if __name__ == "__main__":
    if sys.argv[1] == "train":
        train(Path(sys.argv[2]))
    else:
        Path(os.environ["SHARING"], os.environ["RANK"]).write_text(str(os.getpid()))
        checkpoint.SECONDS, checkpoint.SHARE = 0.0, math.inf
        distributed.GRACE = timedelta(seconds=3)
        main(sys.argv[2:])
