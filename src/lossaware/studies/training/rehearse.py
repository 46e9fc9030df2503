"""Setting up runs without training, to detect wrong settings before the first run."""

import warnings
from collections.abc import Sequence
from dataclasses import replace

import torch
from torch.optim import Optimizer

from lossaware.errors import UsageError
from lossaware.studies.specs.optimizers import make_optimizer
from lossaware.studies.specs.options import where
from lossaware.studies.specs.run_spec import RunSpec, format_options
from lossaware.studies.specs.task import Data, Task
from lossaware.studies.training import run
from lossaware.studies.training.attach import attach_lga
from lossaware.studies.training.ranks import ranks_of
from lossaware.studies.training.reproducible import reproducible
from lossaware.studies.training.scheduler import advance, make_scheduler


def check(specs: Sequence[RunSpec], task: Task) -> None:
    """Set up each kind of run once, without training, to detect wrong settings before the first run.

    Raises:
        UsageError: A name or an option does not exist, or a value is not allowed.
    """
    for spec in {replace(spec, seed=0): spec for spec in specs}.values():
        rehearse(spec, task)


def rehearse_steps(specs: Sequence[RunSpec], task: Task, data: Data) -> None:
    """Train each arm on one batch, and test one, to detect errors before the first run.

    Runs on several ranks are skipped, as this process is only one of them.

    Raises:
        UsageError: The task does not measure a loss or the score, or another error, with its place in the user's code.
    """
    arms = {spec.arm: spec for spec in reversed(specs) if spec.distributed is None}
    for spec in reversed(arms.values()):
        try:
            devices: list[int] | None = None if spec.device == "cuda" else []
            with reproducible(spec.device, threads=None), torch.random.fork_rng(devices):
                run.rehearse_step(spec, task, data)
        except UsageError:
            raise
        except Exception as error:
            arm = f"{spec.optimizer}, {'without' if spec.lga is None else 'with LGA'}"
            raise UsageError(f"task {task.name!r}: {arm}, fails in a rehearsal of one step: {where(error)}") from error


def rehearse(spec: RunSpec, task: Task) -> None:
    """Make the optimizer, its scheduler and LGA as in a run."""
    run.check_spec(spec)
    optimizer = make_optimizer(spec.optimizer, task.make_model().parameters(), spec.lr, spec.optimizer_options)
    ranks_of(spec.distributed).check(optimizer, spec.optimizer)
    rehearse_scheduler(spec, optimizer)
    if spec.lga is not None:
        attach_lga(optimizer, spec.lga, steps=1)


def names_measured(task: Task, data: Data) -> list[str]:
    """The names of a task's measures, from a batch of two test examples; empty if that fails."""
    model = task.make_model().eval()
    try:
        with torch.no_grad():
            return list(task.measure(model, next(iter(data.test.batches(2, None)))))
    except Exception:  # the run reports it
        return []


def rehearse_scheduler(spec: RunSpec, optimizer: Optimizer) -> None:
    """Make the scheduler and step it, since torch checks some options only then.

    Raises:
        UsageError: See `make_scheduler`; or the step fails.
    """
    scheduler = make_scheduler(spec, optimizer)
    try:
        with warnings.catch_warnings(action="ignore"):  # a warning that the optimizer has not stepped yet
            advance(scheduler, 0.0)
    except Exception as error:
        settings = format_options(spec.scheduler_options)
        raise UsageError(f"scheduler {spec.scheduler!r} cannot step with {settings}: {error}") from error
