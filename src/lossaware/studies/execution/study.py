"""Execution of a study: its missing runs, after all checks."""

from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path

from rich.console import Console

from lossaware.errors import UsageError
from lossaware.studies.execution.events import Engine
from lossaware.studies.execution.reuse import copy_equal_runs
from lossaware.studies.execution.supervise import supervise
from lossaware.studies.specs.data_folder import DataSource
from lossaware.studies.specs.options import did_you_mean
from lossaware.studies.specs.run_spec import RunSpec
from lossaware.studies.specs.study import Study
from lossaware.studies.specs.task import Task
from lossaware.studies.specs.tasks import load_task
from lossaware.studies.store.database import Store
from lossaware.studies.store.exported import Exported, copy_missing_runs
from lossaware.studies.store.folder import Folder, Launch
from lossaware.studies.store.results import Sources
from lossaware.studies.training.rehearse import check, names_measured


def run_study(
    study: Study,
    *,
    data: DataSource,
    engine: Engine,
    out: Path,
    results: Path | None,
    console: Console,
    tensorboard: Path | None = None,
) -> int:
    """Execute the runs of a study that are neither in ``out`` nor in ``results``.

    Args:
        study: The study with its overrides.
        data: Folder of the data, for tasks that need it.
        engine: The engine that executes the runs.
        out: Folder of the store.
        results: Folder of exported studies, from which runs are copied; None for no folder.
        console: Output of progress.
        tensorboard: Folder of TensorBoard logs; None for no logs.

    Returns:
        Number of failed runs.

    Raises:
        UsageError: A setting, the data or the folder is not valid. All of this is checked before the first run.
        Stopped: Ctrl-C. Finished epochs are in the store.
    """
    specs = study.specs
    exported = Exported(results) if results is not None else None
    folder = Folder(out)
    if checked := not folder.database.exists():
        # Before writing files.
        _check(study, [spec for spec in specs if exported is None or not exported.records(spec)], data)

    def report(line: str) -> None:
        console.print(line, markup=False, highlight=False, soft_wrap=True)

    with Store(folder.database) as store:
        if exported is not None and (copied := copy_missing_runs(specs, exported, store)):
            report(f"{copied} of {len(specs)} runs are taken from {results}.")
        if not checked:
            _check(study, store.missing(specs), data)
        folder.note(Launch.now(study))
        if copied := copy_equal_runs(specs, Sources([store, *([exported] if exported else [])]), store):
            report(
                f"{copied} of {len(specs)} runs are already parts of others: of longer ones, or of ones without a "
                "scheduler that never acts."
            )
        if not store.missing(specs):
            report(f"All {len(specs)} runs are already finished.")
        return len(supervise(specs, store, engine, data=data, console=console, tensorboard=tensorboard))


def _check(study: Study, specs: Sequence[RunSpec], data: DataSource) -> None:
    """Check before the first run that these can be run."""
    _check_data(study, _tasks(study, specs), data)


_TaskKey = tuple[str, str]


def _tasks(study: Study, specs: Sequence[RunSpec]) -> dict[_TaskKey, Task]:
    """The tasks of a study. Each kind of run is set up once, to detect wrong settings."""
    groups: dict[_TaskKey, list[RunSpec]] = {}
    for spec in specs:
        groups.setdefault((spec.task, repr(spec.task_options)), []).append(spec)
    tasks = {}
    for key, group in groups.items():
        try:
            tasks[key] = load_task(group[0].task, group[0].task_options)
            one_model = cache(tasks[key].make_model)  # shared by all, as it is not trained
            check(group, replace(tasks[key], model=one_model))
        except UsageError as error:
            raise UsageError(f"{study.label}: {error}") from None
    return tasks


def _check_measures(study: Study, task: str, known: Sequence[str]) -> None:
    """Refuse a measure that the task does not have, before the runs instead of in the table after them."""
    for cell in study.cells.values():
        name = cell.metric.name
        if known and name not in known and study.chosen(cell) and any(spec.task == task for spec in cell.specs):
            raise UsageError(f"task {task!r} does not measure {name!r}{did_you_mean(name, known)}")


def _check_data(study: Study, tasks: "dict[_TaskKey, Task]", data: DataSource) -> None:
    """Load the data of each task once, so that missing data is reported before the first run.

    If some tasks have their data, the message says how to run those.
    """
    available, errors = [], []
    for (name, _), task in tasks.items():
        try:
            _check_measures(study, name, names_measured(task, task.load(data)))
            available.append(name)
        except UsageError as error:
            errors.append(error)
    if not errors:
        return
    hint = ""
    for axis, points in study.file.axes.items():
        available_points = [name for name, point in points.items() if point.task in available]
        if available_points and study.overrides.only.get(axis) != tuple(available_points):
            hint = f" (data is available for --only {axis}={','.join(available_points)})"
    raise UsageError(f"{study.label}: {errors[0]}{hint}")
