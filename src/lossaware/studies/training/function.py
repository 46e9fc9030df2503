"""One run of a function that trains: a specification in, a record an epoch out."""

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
    """Train as a function says; gives the number of epochs.

    Python's, NumPy's and torch's generators are seeded before it is called, and afterwards as they were.

    Args:
        spec: What to run.
        data: The folder that the user named.
        listener: Hears of the epochs.
        folder: The run's own folder, which is made when the function asks for it.
        function: The function; None loads the one that the specification names.
        threads: How many threads torch computes on; None leaves that as it is.

    Raises:
        UsageError: The function uses its trial wrongly, or returns no score.
        Exception: Whatever the function raises.
    """
    function = function or load_function(spec)
    trial = Trial(spec, folder=folder, data=path_of(data), listener=listener)
    with _seeded(spec.seed), reproducible(spec.device, threads), warnings.catch_warnings():
        warnings.simplefilter("ignore", GateWarning)  # tables and reports tell it
        returned = function(trial)
    return trial.finish(check_score(f"function {function.name!r}", returned))


def load_function(spec: RunSpec) -> TrialFunction:
    """The function that a specification names.

    Raises:
        UsageError: It is not there, or is a task.
    """
    found = load_subject(spec.task, spec.task_options)
    if isinstance(found, Task):
        raise UsageError(f"{spec.task!r} is a task, and no function that trains")
    return found


def rehearse_functions(specs: Sequence[RunSpec], data: DataSource, function: TrialFunction) -> None:
    """Run each arm to its first step or report, so that what fails there fails before the first run.

    Raises:
        UsageError: What failed, in one line.
    """
    arms = {spec.arm: spec for spec in reversed(specs)}
    for spec in reversed(arms.values()):
        _rehearse(spec, data, function)


def _rehearse(spec: RunSpec, data: DataSource, function: TrialFunction) -> None:
    with temporary_folder("trial") as folder:
        trial = Trial(spec, folder=folder, data=path_of(data), rehearsal=True)
        what = f"{function.name}, arm {trial.arm!r}, fails in a rehearsal of one step"
        try:
            with _seeded(spec.seed), reproducible(spec.device, None), warnings.catch_warnings():
                warnings.simplefilter("ignore")  # they come again in the run
                returned = function(trial)
        except Rehearsed:
            return
        except UsageError as error:
            raise UsageError(f"{what}: {error}") from error
        except (Exception, SystemExit) as error:
            raise UsageError(f"{what}: {where(error)}") from error
        if isinstance(returned, Task):
            raise UsageError(f"{function.name} returns a Task: its argument is missing, give it by --set NAME=VALUE")
        trial.seen()
        check_score(f"function {function.name!r}", returned)


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """All generators start from the seed, and go on afterwards from where they were."""
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
