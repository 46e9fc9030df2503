"""Executing a comparison and writing its report."""

from pathlib import Path

from rich.console import Console

from lossaware.studies.analysis.comparison import Comparison
from lossaware.studies.execution.events import Engine
from lossaware.studies.execution.supervise import supervise
from lossaware.studies.report import page as report
from lossaware.studies.report.comparison import Outcome, summarize
from lossaware.studies.specs.data_folder import DataSource
from lossaware.studies.specs.task import Task
from lossaware.studies.store.database import Store
from lossaware.studies.training.rehearse import check


def compare(
    comparison: Comparison,
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
        comparison: What to compare.
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
    specs = comparison.specs()
    check(specs, task)
    page, database = out / "report.html", out / "results.sqlite"
    if not database.exists():
        task.load(data)  # its errors belong before anything is written
    report.check_writable(page)
    with Store(database) as store:
        if store.missing(specs):
            task.load(data)
        failures = supervise(specs, store, engine, data=data, console=console, tensorboard=tensorboard)
        return summarize(comparison, task, store, page, failures)
