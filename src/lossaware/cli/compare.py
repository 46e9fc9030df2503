"""`lossaware compare`: train a task without and with LGA from the same seeds, and judge the difference."""

import math
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import Parameter

from lossaware.cli.compare_options import LgaOptions, TaskOptions
from lossaware.cli.output import console, print_message
from lossaware.cli.values import (
    MAX_SEEDS,
    Integer,
    assignments,
    check_table_file,
    data_source,
    numbers,
    parse_named,
    sizes,
    words,
)
from lossaware.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from lossaware.studies.specs.run_spec import Options, Value


def compare(
    task: str | None = None,
    /,
    *,
    command: str | None = None,
    direction: Literal["maximize", "minimize"] | None = None,
    lrs: str | None = None,
    arms: str | None = None,
    gamma2: str | None = None,
    seeds: Integer = 6,
    epochs: Integer | None = None,
    data: Path | None = None,
    no_verify: bool = False,
    jobs: Integer | None = None,
    engine: str = "local",
    ray_address: str | None = None,
    out: Path = Path("lossaware-out"),
    settings: Annotated[list[str] | None, Parameter(name="--set", allow_repeating=True)] = None,
    json: bool = False,
    csv: Path | None = None,
    config: Path | None = None,
    tensorboard: Path | None = None,
    score: str | None = None,
    percent: bool | None = None,
    margin: float | None = None,
    device: Literal["cpu", "cuda"] = "cpu",
    of_task: Annotated[TaskOptions | None, Parameter(name="*", group="Training of a task")] = None,
    of_lga: Annotated[LgaOptions | None, Parameter(name="*", group="Settings of LGA")] = None,
) -> int:
    """Train in several arms from the same seeds, by default without and with LGA, and say whether it helped.

    TASK is a task, or a function of your own that trains: def train(trial), which returns a score (docs/compare.md).

    Finished runs are kept: repeating the command executes only missing runs. Writes results.sqlite and report.html.

    Args:
        task: One of `lossaware tasks`, or your own: train.py:train, my_task.py:build or package.module:build.
        command: A command that trains, in place of TASK: "accelerate launch train.py --lr {lr} --seed {seed}". Its
            script calls lossaware.trial().
        direction: Whether a higher score is better: maximize or minimize. A function needs it; a task knows.
        lrs: Learning rates, separated by commas. Default: 1e-3,1e-2; a function may have its own.
        arms: The compared arms, separated by commas; the first is the reference: without,lga,auto, a gamma2,
            an optimizer such as prodigy(lr=1), file.py:Class, adam+auto. Default: without,lga.
        gamma2: Sizes of LGA's correction, separated by commas; auto adapts it. --gamma2 1e-7,auto is
            --arms without,1e-7,auto.
        seeds: Number of seeds; each runs in every arm. With fewer than 6, no sign test can be significant.
        epochs: Passes over the training set. Default: the task's.
        data: Folder of the data, for tasks that need one.
        no_verify: Read data files even if they differ from their checksums. Each run's record states it.
        jobs: Runs at a time. Default: one per core, and at most 8 on a GPU.
        engine: The engine that executes the runs: local or ray.
        ray_address: An existing Ray cluster, HOST:PORT or auto. Default: a new one on this machine.
        out: Folder for results and report.
        settings: An option of the task, of its optimizers or of the function, key=value; may be given several times:
            --set hidden=32 --set weight_decay=0.1.
        json: Print the results as JSON on standard output, and the tables on standard error.
        csv: File for the scores, one line per run.
        config: TOML file with any of these options, such as lrs = [1e-4, 1e-3]; the command line overrides it.
        tensorboard: Folder for TensorBoard's logs.
        score: The name of a reported number to compare. Default: the returned score.
        percent: Show a function's score as a percentage. Default: an accuracy between 0 and 1.
        margin: The largest irrelevant difference, in units of the score: half a point of accuracy is 0.005. The report
            states whether the whole interval is within it.
        device: cpu or cuda. It is part of a run's specification, as the last bits differ.
        of_task: Options of the training of a task.
        of_lga: Settings of LGA.
    """
    loop, of_lga = of_task or TaskOptions(), of_lga or LgaOptions()
    lga = of_lga.arguments()
    # Checks that need no library are before the imports, so that they are fast.
    lr_values = None if lrs is None else numbers("--lrs", lrs, at_least=0.0, exclusive=True)
    gamma2_values = None if gamma2 is None else sizes("--gamma2", gamma2)
    names = None if loop.optimizers is None else words("--optimizers", loop.optimizers)
    for option, count in (
        ("--seeds", seeds),
        ("--epochs", epochs),
        ("--batch-size", loop.batch_size),
        ("--jobs", jobs),
        ("--accumulate", loop.accumulate),
        ("--patience", loop.patience),
        ("--steps-per-epoch", of_lga.steps_per_epoch),
    ):
        if count is not None and count < 1:
            raise UsageError(f"{option} must be at least 1, got {count}")
    if margin is not None and not 0 < margin < math.inf:
        raise UsageError(f"--margin must be a number above 0, got {margin:g}")
    if seeds > MAX_SEEDS:
        raise UsageError(f"--seeds must be at most {MAX_SEEDS}, got {seeds}")
    if csv is not None:
        check_table_file("--csv", csv)
    scheduler_name, scheduler_options = parse_named("--scheduler", loop.scheduler)
    task_options = assignments("--set", settings or ())
    source = data_source(data, no_verify)

    from lossaware.studies.comparing.execute import execute_comparison, execute_trials
    from lossaware.studies.comparing.scoring import Scoring
    from lossaware.studies.execution.command import CommandEngine
    from lossaware.studies.execution.factory import open_engine
    from lossaware.studies.report.writers import text
    from lossaware.studies.specs.arms import arms_of_gamma2, parse_arms
    from lossaware.studies.specs.atomic import write_atomic
    from lossaware.studies.specs.comparison import comparison, trial_comparison
    from lossaware.studies.specs.run_spec import AS_CODED
    from lossaware.studies.specs.task import Task
    from lossaware.studies.specs.tasks import load_subject
    from lossaware.studies.specs.trial_command import TrialCommand
    from lossaware.studies.training.ranks import named_here

    if (task is None) == (command is None):
        raise UsageError("name what to train: either a task, or train.py:train, or --command")
    bases = [*(names or ["sgd", "adam"])] if command is None else []
    own, optimizer_options = _split(str(task), task_options, bases) if command is None else ((), {})
    subject = TrialCommand(command) if command is not None else load_subject(str(task), own)
    is_command = isinstance(subject, TrialCommand)
    is_task = isinstance(subject, Task)
    if optimizer_options and not is_task:
        load_subject(str(task), task_options)  # a function has its own optimizer: this raises the error on its options
    for option, value, allowed in (
        ("--direction", direction, not is_task),
        ("--score", score, not is_task),
        ("--percent", percent, not is_task),
        *((option, value, is_task) for option, value in loop.used()),
        ("--set", settings, not is_command),
        ("--engine", None if engine == "local" else engine, not is_command),
    ):
        if value is not None and not allowed:
            whose = "a task defines it" if is_task else "the function or command sets it"
            if option == "--optimizers":
                whose += "; compare optimizers by --arms sgd,adamw"
            raise UsageError(f"{option} cannot be used with {command or task}: {whose}")
    if margin is not None and margin >= 1 and (percent or (isinstance(subject, Task) and subject.percent)):
        raise UsageError(f"--margin must be below 1, as the score is a share: 0.005 is half a point; got {margin:g}")
    if arms is not None and gamma2_values is not None:
        raise UsageError(f"--gamma2 {gamma2} cannot be combined with --arms, but may be in it: --arms {arms},{gamma2}")
    sides = parse_arms(arms) if arms is not None else arms_of_gamma2(gamma2_values or [AS_CODED])
    has_bases, has_lrs = all(arm.optimizer for arm in sides), all(arm.lr for arm in sides)
    for option, value, is_unused in (("--optimizers", loop.optimizers, has_bases), ("--lrs", lrs, has_lrs)):
        if value is not None and is_unused:
            raise UsageError(f"{option} {value} would do nothing: every arm has its own, as --arms says")
    if isinstance(subject, Task):
        epochs, batch_size = epochs or subject.epochs, loop.batch_size or subject.batch_size
        names = [""] if has_bases else names or ["sgd", "adam"]
        lr_values = [0.0] if has_lrs else lr_values or [1e-3, 1e-2]
    else:
        scoring, batch_size = Scoring.of(direction, score, percent), 0
        lr_values = lr_values or [0.0]
    with open_engine(
        engine, jobs=jobs, device=device, ray_address=ray_address, distributed=loop.distributed
    ) as run_engine:
        settings_of_all: dict[str, Any] = {
            "task": command or str(task),
            "task_options": dict(own),
            "seeds": seeds,
            "epochs": epochs or 0,
            "batch_size": batch_size,
            "scheduler": scheduler_name,
            "scheduler_options": dict(scheduler_options),
            "precision": loop.precision,
            "device": device,
            "distributed": named_here(loop.distributed),
            "training": loop.training(),
        }
        if isinstance(subject, TrialCommand):
            run_engine = CommandEngine(subject, jobs)
        how: dict[str, Any] = {
            "data": source,
            "engine": run_engine,
            "out": out,
            "tensorboard": tensorboard,
            "margin": margin,
        }
        how["console"] = console(sys.stderr)
        if isinstance(subject, Task):
            study = comparison(
                subject,
                settings_of_all,
                optimizers=names or [],
                lrs=lr_values,
                arms=sides,
                gamma2=subject.gamma2,
                optimizer_options=optimizer_options,
                lga=lga,
            )
            outcome = execute_comparison(study, subject, **how)
        else:
            kind: Literal["function", "command"] = "command" if isinstance(subject, TrialCommand) else "function"
            study = trial_comparison(subject.name, kind, settings_of_all, lrs=lr_values, arms=sides, lga=lga)
            outcome = execute_trials(study, subject, scoring, **how)
    screen = console(sys.stderr if json else sys.stdout)
    for table in outcome.tables:
        screen.print(text.body(table, screen.width, screen.encoding))
    screen.print(text.below(outcome.tables[0], screen.width, screen.encoding))
    screen.print()
    for line in (outcome.lead, *outcome.remarks, f"Report: {outcome.report}"):
        screen.print(line, markup=False, highlight=False, soft_wrap=True)
    if json:
        print(outcome.to_json())
    if csv is not None:
        write_atomic(csv, outcome.to_csv())
    if outcome.failures:
        failed = len(outcome.failures)
        print_message(f"{failed} run{'s' * (failed != 1)} failed, see above; the same command tries again")
        return 1
    return 0


def _split(task: str, arguments: "Options", bases: "Sequence[str]") -> "tuple[Options, dict[str, Value]]":
    """Options of the task, and options of its optimizers, which the task lacks and an optimizer has."""
    from lossaware.studies.specs import optimizers, tasks

    theirs = {
        name: value
        for name, value in arguments
        if not tasks.takes_option(task, name) and any(optimizers.takes_option(base, name) for base in bases)
    }
    return tuple((name, value) for name, value in arguments if name not in theirs), theirs
