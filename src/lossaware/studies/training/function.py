"""One run of a training function: from a specification to one record per epoch."""

import random
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch

from lossaware.errors import GateWarning, UsageError
from lossaware.studies.specs.data_folder import DataSource, path_of
from lossaware.studies.specs.options import where
from lossaware.studies.specs.run_spec import RunSpec
from lossaware.studies.specs.task import Task
from lossaware.studies.specs.tasks import load_subject
from lossaware.studies.specs.temporary import temporary_folder
from lossaware.studies.specs.trial_function import TrialFunction, check_score
from lossaware.studies.training.reproducible import reproducible
from lossaware.studies.training.trial import Listener, Rehearsed, Trial


def run_function(
    spec: RunSpec,
    data: DataSource,
    listener: Listener,
    folder: Path,
    *,
    function: TrialFunction | None = None,
    threads: int | None = None,
) -> int:
    """Call a training function, and return the number of its epochs.

    Python's, NumPy's and torch's generators are seeded before the call, and restored after it.

    Args:
        spec: The run.
        data: The user's data folder.
        listener: Receives the epochs.
        folder: The run's own folder, created when the function reads it.
        function: The function; None loads it from the specification.
        threads: Number of torch's threads; None does not change it.

    Raises:
        UsageError: The function uses its trial wrongly, or returns no score.
        Exception: The function's exceptions.
    """
    function = function or load_function(spec)
    trial = Trial(spec, folder=folder, data=path_of(data), listener=listener)
    with _seeded(spec.seed), reproducible(spec.device, threads), warnings.catch_warnings():
        warnings.simplefilter("ignore", GateWarning)  # tables and reports show it
        returned = function(trial)
    return trial.finish(check_score(f"function {function.name!r}", returned))


def load_function(spec: RunSpec) -> TrialFunction:
    """The training function of a specification.

    Raises:
        UsageError: It does not exist, or is a task.
    """
    subject = load_subject(spec.task, spec.task_options)
    if isinstance(subject, Task):
        raise UsageError(f"{spec.task!r} is a task, not a training function")
    return subject


def rehearse_functions(specs: Sequence[RunSpec], data: DataSource, function: TrialFunction) -> None:
    """Run each arm to its first step or report, so that mistakes appear before the first run.

    Raises:
        UsageError: An arm fails. The message has one line.
    """
    arms = {spec.arm: spec for spec in reversed(specs)}
    for spec in reversed(arms.values()):
        _rehearse(spec, data, function)


def _rehearse(spec: RunSpec, data: DataSource, function: TrialFunction) -> None:
    with temporary_folder("trial") as folder:
        trial = Trial(spec, folder=folder, data=path_of(data), rehearsal=True)
        label = f"{function.name}, arm {trial.arm!r}, fails in a rehearsal of one step"
        try:
            with _seeded(spec.seed), reproducible(spec.device, None), warnings.catch_warnings():
                warnings.simplefilter("ignore")  # the run shows them again
                returned = function(trial)
        except Rehearsed:
            return
        except UsageError as error:
            raise UsageError(f"{label}: {error}") from error
        except (Exception, SystemExit) as error:
            raise UsageError(f"{label}: {where(error)}") from error
        if isinstance(returned, Task):
            raise UsageError(f"{function.name} returns a Task: its argument is missing: pass --set NAME=VALUE")
        trial.check_calls()
        check_score(f"function {function.name!r}", returned)


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """A context with seeded generators, which are restored at the end."""
    import numpy

    python, array, own = random.getstate(), numpy.random.get_state(), torch.get_rng_state()
    random.seed(seed)
    numpy.random.seed(seed % 2**32)
    torch.manual_seed(seed)
    try:
        yield
    finally:
        random.setstate(python)
        numpy.random.set_state(array)
        torch.set_rng_state(own)
