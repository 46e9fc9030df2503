"""Execution of the comparison of a task, or of a training function, and its report."""

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from lossaware.studies.comparing.scoring import Scoring
from lossaware.studies.execution.command import CommandEngine
from lossaware.studies.execution.events import Engine
from lossaware.studies.execution.in_process import execute_in_process
from lossaware.studies.execution.supervise import supervise
from lossaware.studies.report import page as report
from lossaware.studies.report.comparison import Outcome, summarize
from lossaware.studies.specs.comparison import scored
from lossaware.studies.specs.data_folder import DataSource
from lossaware.studies.specs.run_spec import RunSpec
from lossaware.studies.specs.study import Study
from lossaware.studies.specs.task import Task
from lossaware.studies.specs.trial_command import TrialCommand
from lossaware.studies.specs.trial_function import TrialFunction
from lossaware.studies.store.database import Store
from lossaware.studies.store.results import FinishedRuns
from lossaware.studies.training.function import rehearse_functions
from lossaware.studies.training.rehearse import check, rehearse_steps
from lossaware.studies.training.run import check_spec


def execute_comparison(
    study: Study,
    task: Task,
    *,
    data: DataSource,
    engine: Engine,
    out: Path,
    console: Console,
    tensorboard: Path | None = None,
    margin: float | None = None,
) -> Outcome:
    """Execute the missing runs of a comparison, and write its report.

    Args:
        study: The comparison; see `lossaware.studies.specs.comparison`.
        task: Its task, loaded.
        data: Folder of the data, for tasks that need it.
        engine: The engine that executes the runs.
        out: Folder of the results (``results.sqlite``) and the report (``report.html``).
        console: Output of progress.
        tensorboard: Folder of TensorBoard logs; None for no logs.
        margin: The largest difference that does not matter, in units of the score as measured.

    Raises:
        UsageError: A setting, the data or the folder is not valid. All of this is checked before the first run.
        Stopped: Ctrl-C. Finished epochs are in the store.
    """
    specs = study.specs
    check(specs, task)
    page, database = out / "report.html", out / "results.sqlite"
    if is_new := not database.exists():
        rehearse_steps(specs, task, task.load(data))  # report its errors before writing files
    report.check_replaceable(page)
    with Store(database) as store:
        if not is_new and (missing := store.missing(specs)):
            rehearse_steps(missing, task, task.load(data))
        failures = supervise(specs, store, engine, data=data, console=console, tensorboard=tensorboard)
        return summarize(study, task, FinishedRuns(store), page, failures, margin=margin)


def execute_trials(
    study: Study,
    program: TrialFunction | TrialCommand,
    scoring: Scoring,
    *,
    data: DataSource,
    engine: Engine | None,
    out: Path,
    console: Console,
    tensorboard: Path | None = None,
    margin: float | None = None,
) -> Outcome:
    """Like `execute_comparison`, for a training function or command. Each arm is first rehearsed with one step.

    Args:
        study: The comparison; see `lossaware.studies.specs.comparison`.
        program: The function, loaded, or the command.
        scoring: The score, and its direction.
        data: Folder of the data, which the function may read.
        engine: The engine that executes the runs; None calls a function in this process.
        out: See `execute_comparison`.
        console: See `execute_comparison`.
        tensorboard: See `execute_comparison`; only with an engine.
        margin: See `execute_comparison`.

    Raises:
        UsageError: An arm fails in its rehearsal, or a setting or the folder is not valid, all checked before the
            first run; or, after the runs, none has the score.
        Stopped: Ctrl-C. Finished epochs are in the store.
    """
    specs = study.specs
    page, database = out / "report.html", out / "results.sqlite"
    for spec in specs:
        check_spec(spec)

    def rehearse(to_do: Sequence[RunSpec]) -> None:
        if isinstance(engine, CommandEngine):
            engine.rehearse(to_do, data)
        else:
            assert isinstance(program, TrialFunction)
            rehearse_functions(to_do, data, program)

    if is_new := not database.exists():
        rehearse(specs)  # report its errors before writing files
    report.check_replaceable(page)
    with Store(database) as store:
        if not is_new and (missing := store.missing(specs)):
            rehearse(missing)
        if engine is None:
            assert isinstance(program, TrialFunction)
            failures = execute_in_process(specs, store, program, data=data, console=console)
        else:
            failures = supervise(specs, store, engine, data=data, console=console, tensorboard=tensorboard)
        subject = scoring.subject(program, [store.records(spec) for spec in specs if store.complete(spec)])
        return summarize(scored(study, subject), subject, FinishedRuns(store), page, failures, margin=margin)
