"""`lossaware compare`: a task trained without and with LGA from the same seeds, and what that shows."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import Parameter

from lossaware.cli.output import console, say
from lossaware.cli.values import Whole, assignments, data_source, named, numbers, sizes, words
from lossaware.errors import UsageError

if TYPE_CHECKING:
    from lossaware.studies.specs.run_spec import Value


def compare(
    task: str,
    /,
    *,
    optimizers: str = "sgd,adam",
    lrs: str = "1e-3,1e-2",
    gamma2: str | None = None,
    seeds: Whole = 5,
    epochs: Whole | None = None,
    batch_size: Whole | None = None,
    data: Path | None = None,
    no_verify: bool = False,
    jobs: Whole | None = None,
    engine: str = "local",
    ray_address: str | None = None,
    out: Path = Path("lossaware-out"),
    scheduler: str | None = None,
    settings: Annotated[list[str] | None, Parameter(name="--set", allow_repeating=True)] = None,
    steps_per_epoch: Whole | None = None,
    eps: float | None = None,
    xi: float | None = None,
    lower_bound: str | None = None,
    backoff: float | None = None,
    zero_gradient: str | None = None,
    json: bool = False,
    tensorboard: Path | None = None,
    device: Literal["cpu", "cuda"] = "cpu",
    precision: Literal["fp32", "bf16"] = "fp32",
    distributed: str | None = None,
) -> int:
    """Train a task without and with LGA from the same seeds, and say whether it helped.

    Finished runs are kept: the same command again runs only what is missing. Writes results.sqlite and report.html.

    Args:
        task: One of `lossaware tasks`, or your own: my_task.py:build or package.module:build.
        optimizers: Base optimizers (`lossaware optimizers`), separated by commas.
        lrs: Learning rates, separated by commas.
        gamma2: Sizes of LGA's correction, separated by commas; auto sets itself. Default: the task's.
        seeds: How many seeds; each runs without and with LGA. With fewer than 6, no sign test can be significant.
        epochs: Passes over the training set. Default: the task's.
        batch_size: Examples a step. Default: the task's.
        data: Folder of the data, for tasks that need one.
        no_verify: Read data files also where they differ from their checksums. Each run's record says so.
        jobs: Runs at a time. Default: one a core, and at most 8 on a GPU.
        engine: Where runs execute: local, or ray.
        ray_address: A Ray cluster that is there, HOST:PORT or auto. Default: one is started on this machine.
        out: Folder for results and report.
        scheduler: Of torch.optim.lr_scheduler, stepped once an epoch: StepLR,step_size=5,gamma=0.5.
        settings: An option of the task, key=value; may be given several times.
        steps_per_epoch: Steps that make one loss status for LGA; 1 is the letter of Algorithm 1. Default: an epoch.
        eps: Gap between loss and lower bound from which LGA acts. Default: 0.1, and 0 for gamma2 auto.
        xi: Stability constant of LGA's correction. Default: 0.01, and 1 for gamma2 auto.
        lower_bound: progressive, average, momentum or zero; options follow: progressive,log_base=2.718. Default:
            progressive, and zero for gamma2 auto.
        backoff: Factor on a fixed gamma2 each time the loss of a status rose. Default: 0.1.
        zero_gradient: push (as the paper) or rest: what happens where a gradient is exactly zero. Default: push, and
            rest for gamma2 auto.
        json: Print the results as JSON on standard output, and the tables on standard error.
        tensorboard: Folder for logs that TensorBoard reads.
        device: cpu or cuda. It is part of what a run is, as the last bits differ.
        precision: fp32, or bf16 (autocast).
        distributed: ddp or fsdp: the processes of a torchrun share each run. It is part of what a run is, too.
    """
    # What needs no library is checked before any is loaded.
    lr_values = numbers("--lrs", lrs, at_least=0.0, exclusive=True)
    gamma2_values = None if gamma2 is None else sizes("--gamma2", gamma2)
    names = words("--optimizers", optimizers)
    for option, count in (
        ("--seeds", seeds),
        ("--epochs", epochs),
        ("--batch-size", batch_size),
        ("--jobs", jobs),
        ("--steps-per-epoch", steps_per_epoch),
    ):
        if count is not None and count < 1:
            raise UsageError(f"{option} must be at least 1, got {count}")
    scheduler_name, scheduler_options = named("--scheduler", scheduler)
    bound_name, bound_options = named("--lower-bound", lower_bound)
    task_options = assignments("--set", settings or ())
    source = data_source(data, no_verify)

    from lossaware.cli.comparison import compare as carry_out
    from lossaware.studies.analysis.comparison import Comparison
    from lossaware.studies.execution.factory import opened
    from lossaware.studies.report.paired_table import gathered_notes, how_to_read, lead, render
    from lossaware.studies.specs.tasks import load_task
    from lossaware.studies.training.ranks import named_here

    found = load_task(task, task_options)
    given: dict[str, Value] = {
        "eps": eps,
        "xi": xi,
        "lower_bound": bound_name,
        "backoff": backoff,
        "zero_gradient": zero_gradient,
        "steps_per_epoch": steps_per_epoch,
        **{f"lower_bound.{key}": value for key, value in bound_options},
    }
    lga = {name: value for name, value in given.items() if value is not None}
    with opened(engine, jobs=jobs, device=device, ray_address=ray_address, distributed=distributed) as place:
        comparison = Comparison(
            task=task,
            task_options=task_options,
            optimizers=names,
            lrs=lr_values,
            gamma2s=gamma2_values or [found.gamma2],
            seeds=seeds,
            epochs=epochs or found.epochs,
            batch_size=batch_size or found.batch_size,
            lga=tuple(sorted(lga.items())),
            scheduler=scheduler_name,
            scheduler_options=scheduler_options,
            precision=precision,
            device=device,
            distributed=named_here(distributed),
        )
        outcome = carry_out(
            comparison, found, data=source, engine=place, out=out, console=console(sys.stderr), tensorboard=tensorboard
        )
    shown = console(sys.stderr if json else sys.stdout)
    for table in outcome.tables:
        shown.print(render(table))
    shown.print()
    for note in gathered_notes(outcome.tables[0]):
        shown.print(note, style="yellow", markup=False, highlight=False)
    shown.print(how_to_read(outcome.tables[0]), style="dim", markup=False, highlight=False)
    shown.print()
    for line in (lead(outcome.tables[0]), *outcome.remarks, f"Report: {outcome.report}"):
        shown.print(line, markup=False, highlight=False, soft_wrap=True)
    if json:
        print(outcome.to_json())
    if outcome.failures:
        failed = len(outcome.failures)
        say(f"{failed} run{'s' * (failed != 1)} failed, see above; the same command tries again")
        return 1
    return 0
