"""Carrying out the comparison of a task, or of a function that trains, and writing its report."""

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from lossaware.studies.comparing.scoring import Scoring
from lossaware.studies.execution.command import CommandEngine
from lossaware.studies.execution.events import Engine
from lossaware.studies.execution.in_process import carry_out_here
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


def carry_out(
    study: Study,
    task: Task,
    *,
    data: DataSource,
    engine: Engine,
    out: Path,
    console: Console,
    tensorboard: Path | None = None,
) -> Outcome:
    """Carry out what is missing of a comparison, and write its report.

    Args:
        study: What to compare; see `lossaware.studies.specs.comparison`.
        task: Its task, loaded.
        data: Folder of the data, for tasks that need one.
        engine: Where its runs execute.
        out: Folder of the results (``results.sqlite``) and the report (``report.html``).
        console: Where progress is shown.
        tensorboard: Folder for logs that TensorBoard reads; None for none.

    Raises:
        UsageError: A setting, the data or the folder is not as it must be. All of this is found before the first run.
        Stopped: Ctrl-C. What is finished is in the store.
    """
    specs = study.specs
    check(specs, task)
    page, database = out / "report.html", out / "results.sqlite"
    if is_new := not database.exists():
        rehearse_steps(specs, task, task.load(data))  # its errors belong before anything is written
    report.check_writable(page)
    with Store(database) as store:
        if not is_new and (missing := store.missing(specs)):
            rehearse_steps(missing, task, task.load(data))
        failures = supervise(specs, store, engine, data=data, console=console, tensorboard=tensorboard)
        return summarize(study, task, FinishedRuns(store), page, failures)


def carry_out_trials(
    study: Study,
    what: TrialFunction | TrialCommand,
    scoring: Scoring,
    *,
    data: DataSource,
    engine: Engine | None,
    out: Path,
    console: Console,
    tensorboard: Path | None = None,
) -> Outcome:
    """The same for a function or a command that trains. Each arm is rehearsed first, by one step.

    Args:
        study: What to compare; see `lossaware.studies.specs.comparison`.
        what: The function, loaded, or the command.
        scoring: Which number is the score, and which way is better.
        data: Folder of the data, which it may ask for.
        engine: Where its runs execute; None calls a function in this process.
        out: As for `carry_out`.
        console: Likewise.
        tensorboard: Likewise; only with an engine.

    Raises:
        UsageError: An arm fails in its rehearsal, or a setting or the folder is not as it must be. All of this is
            found before the first run. After it: no run has the score.
        Stopped: Ctrl-C. What is finished is in the store.
    """
    specs = study.specs
    page, database = out / "report.html", out / "results.sqlite"
    for spec in specs:
        check_spec(spec)

    def rehearse(to_do: Sequence[RunSpec]) -> None:
        if isinstance(engine, CommandEngine):
            engine.rehearse(to_do, data)
        else:
            assert isinstance(what, TrialFunction)
            rehearse_functions(to_do, data, what)

    if is_new := not database.exists():
        rehearse(specs)  # its errors belong before anything is written
    report.check_writable(page)
    with Store(database) as store:
        if not is_new and (missing := store.missing(specs)):
            rehearse(missing)
        if engine is None:
            assert isinstance(what, TrialFunction)
            failures = carry_out_here(specs, store, what, data=data, console=console)
        else:
            failures = supervise(specs, store, engine, data=data, console=console, tensorboard=tensorboard)
        subject = scoring.subject(what, [store.records(spec) for spec in specs if store.complete(spec)])
        return summarize(scored(study, subject), subject, FinishedRuns(store), page, failures)
