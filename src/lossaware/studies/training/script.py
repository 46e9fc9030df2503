"""`lossaware.trial`: the trial of a script that ``lossaware compare --command`` starts, or that runs by itself."""

import json
import os
import random
import sys
import threading
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from lossaware.errors import UsageError
from lossaware.studies.specs.regular_file import MALFORMED
from lossaware.studies.specs.run_spec import EpochRecord, RunSpec
from lossaware.studies.training.trial import STANDALONE, Listener, Trial

ENVIRONMENT = "LOSSAWARE_TRIAL"
"""The environment variable that has an `Assignment`."""
_LOOK_EVERY = 2.0
"""Interval in seconds at which a script checks that its parent process exists."""


@dataclass(frozen=True)
class Assignment:
    """The parameters of a script from its parent process.

    Attributes:
        run: The specification of the run, from `RunSpec.to_json`.
        reports: The file to which reports are added, one JSON object per line.
        folder: The run's own folder.
        data: The user's data folder, or None.
        rehearsal: Whether to end after one step.
        process: The process that waits for the reports; when it dies, the script ends.
    """

    run: str
    reports: str
    folder: str
    data: str | None
    rehearsal: bool
    process: int

    def to_json(self) -> str:
        """The assignment in one line, for the environment variable."""
        return json.dumps(asdict(self))


def trial(*, lr: float = 0.0, seed: int = 0) -> Trial:
    """The trial of this script: from ``lossaware compare --command``, or a standalone one.

    Standalone, the script trains with LGA as its code attaches it, and prints its reports. The generators of Python,
    NumPy and torch are seeded.

    Args:
        lr: The learning rate of a standalone script.
        seed: The seed of a standalone script.

    Example:
        .. code-block:: python

            trial = lossaware.trial(lr=1e-3)
            optimizer = torch.optim.AdamW(model.parameters(), lr=trial.lr)
            trial.attach(optimizer, steps_per_epoch=len(loader))
    """
    text = os.environ.get(ENVIRONMENT)
    if text is None:
        spec = RunSpec(sys.argv[0], "", lr, seed, 0, 0, lga=(), kind="function")
        result = Trial(spec, folder=Path(STANDALONE), listener=Listener(epoch=_print))
    else:
        try:
            assignment = Assignment(**json.loads(text))
        except MALFORMED:
            raise UsageError(f"{ENVIRONMENT} is not from `lossaware compare --command`: unset it") from None
        threading.Thread(target=_end_with, args=(assignment.process,), daemon=True).start()
        result = Trial(
            RunSpec.from_json(assignment.run),
            folder=Path(assignment.folder),
            data=None if assignment.data is None else Path(assignment.data),
            listener=_to_file(Path(assignment.reports)),
            rehearsal=assignment.rehearsal,
        )
    _seed(result.seed)
    return result


def _to_file(path: Path) -> Listener:
    """A listener that adds its events to a file, on the first rank only."""

    def add(**report: Any) -> None:
        if _is_first_rank():
            with path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(report) + "\n")

    add(began=True)
    return Listener(
        epoch=lambda record: add(epoch=asdict(record)),
        length=lambda epochs: add(length=epochs),
        progress=lambda *where: add(progress=where),
        rehearsed=lambda: add(rehearsed=True),
    )


def _is_first_rank() -> bool:
    if dist.is_available() and dist.is_initialized():
        return dist.get_rank() == 0
    names = ("RANK", "LOCAL_RANK", "NODE_RANK", "OMPI_COMM_WORLD_RANK", "SLURM_PROCID")
    return all(os.environ.get(name, "0") == "0" for name in names)


def _print(record: EpochRecord) -> None:
    if _is_first_rank():
        values = ", ".join(f"{name} {value:.4g}" for name, value in record.test.items())
        print(f"epoch {record.epoch}: {values}")


def _seed(seed: int) -> None:
    random.seed(seed)
    torch.manual_seed(seed)
    if (numpy := sys.modules.get("numpy")) is not None:
        numpy.random.seed(seed % 2**32)


def _end_with(process: int) -> None:
    """End this script when the process no longer exists: nothing reads its reports, and the run may be restarted."""
    while True:
        time.sleep(_LOOK_EVERY)
        try:
            os.kill(process, 0)
        except ProcessLookupError:
            os._exit(1)
        except PermissionError:
            return  # another user's process: that of a launcher on another machine
