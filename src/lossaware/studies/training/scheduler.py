"""torch's learning-rate schedulers by name, stepped once per epoch or after each step."""

from dataclasses import replace
from inspect import signature
from typing import Any

from torch.optim import Optimizer, lr_scheduler
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau

from lossaware.errors import UsageError
from lossaware.studies.specs.options import call, did_you_mean
from lossaware.studies.specs.run_spec import RunSpec, format_options, options
from lossaware.studies.training.loop_options import loop_options


def make_scheduler(spec: RunSpec, optimizer: Optimizer, steps: int = 1) -> LRScheduler | None:
    """The scheduler of ``spec`` for the optimizer; None if it has none.

    Args:
        spec: The run.
        optimizer: Its optimizer.
        steps: Steps of an epoch, where the scheduler steps after each.
    """
    if spec.scheduler is None:
        if spec.scheduler_options:
            raise UsageError(f"scheduler_options need a scheduler, got only {format_options(spec.scheduler_options)}")
        return None
    known = {
        name: kind
        for name, kind in vars(lr_scheduler).items()
        if isinstance(kind, type) and issubclass(kind, LRScheduler) and not name.endswith("LRScheduler")
    }
    if spec.scheduler not in known:
        raise UsageError(f"unknown scheduler {spec.scheduler!r}{did_you_mean(spec.scheduler, known)}")
    if isinstance(milestones := dict(spec.scheduler_options).get("milestones", ()), str) and "," not in milestones:
        # torch would use its characters as milestones.
        raise UsageError(
            f"scheduler {spec.scheduler!r}: milestones must be integers separated by commas, a single one as '3,': "
            f"got {milestones!r}"
        )
    if any("lr" not in group for group in optimizer.param_groups):
        raise UsageError(f"scheduler {spec.scheduler!r}: optimizer {spec.optimizer!r} has no learning rate to change")
    chosen_kind = known[spec.scheduler]
    if loop_options(spec).interval == "step" and (length := _LENGTHS.get(spec.scheduler)):
        highest = {"max_lr": spec.lr} if spec.scheduler == "OneCycleLR" else {}
        chosen = {length: spec.epochs * steps, **highest, **dict(spec.scheduler_options)}  # it ends with the run
        spec = replace(spec, scheduler_options=options(**chosen))
    scheduler = _with_example(spec, chosen_kind, optimizer)
    assert isinstance(scheduler, LRScheduler)
    return scheduler


def _with_example(spec: RunSpec, kind: Any, optimizer: Optimizer) -> Any:
    """The scheduler. If arguments are missing, the error message has an example with all of them."""
    label = f"scheduler {spec.scheduler!r}"
    try:
        return call(label, kind, optimizer, options=dict(spec.scheduler_options))
    except UsageError as error:
        needed = [
            each.name
            for each in list(signature(kind).parameters.values())[1:]
            if each.default is each.empty and each.kind is each.POSITIONAL_OR_KEYWORD
        ]
        if "missing" not in str(error) or not needed:
            raise
        example = ",".join(f"{name}={_EXAMPLES.get(name, spec.epochs)}" for name in needed)
        raise UsageError(f"{error}; for example {spec.scheduler},{example}") from error


_EXAMPLES = {"step_size": 5, "gamma": 0.5, "milestones": "5,10", "max_lr": 0.1, "base_lr": 1e-3}
"""Example values for a message; for any other argument it is the number of epochs."""


_LENGTHS = {"CosineAnnealingLR": "T_max", "OneCycleLR": "total_steps", "PolynomialLR": "total_iters"}
"""The argument of a scheduler with the number of its steps."""


def advance(scheduler: LRScheduler | None, loss: float) -> None:
    """Step the scheduler, after an epoch with this mean training loss or after a step."""
    if isinstance(scheduler, ReduceLROnPlateau):
        scheduler.step(loss)
    elif scheduler is not None:
        scheduler.step()
