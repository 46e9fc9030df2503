"""The command line. Imports what a command needs only when it runs, so that help comes at once."""

import errno
import io
import json as jsons
import math
import os
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar

from lossaware._version import __version__
from lossaware.errors import UsageError

try:
    from cyclopts import App, CycloptsError, Parameter, Token, UnusedCliTokensError
    from rich.console import Console
except ImportError as error:
    raise SystemExit(f"lossaware: the command line needs {error.name}: pip install 'lossaware[studies]'") from None

if TYPE_CHECKING:
    from lossaware.studies.spec import Options, Value

T = TypeVar("T")

app = App(
    name="lossaware",
    help="Make any optimizer loss-aware (LGA), and learn honestly whether that helps.",
    version=__version__,
    default_parameter=Parameter(negative=""),
    suppress_keyboard_interrupt=False,  # `main` says how to go on
)


def _whole(kind: type, tokens: Sequence[Token]) -> int:
    try:
        return int(tokens[0].value)
    except ValueError:
        raise ValueError(f"{tokens[0].value!r} is no whole number") from None


Whole = Annotated[int, Parameter(converter=_whole)]
"""A whole number; without the converter, cyclopts rounds one that is not."""


@app.command
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

    from lossaware.studies import compare as comparing
    from lossaware.studies.engines import opened
    from lossaware.studies.ranks import named_here
    from lossaware.studies.registry import load_task
    from lossaware.studies.tables import gathered_notes, how_to_read, lead, render

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
        comparison = comparing.Comparison(
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
        outcome = comparing.compare(
            comparison, found, data=data, engine=place, out=out, console=console(sys.stderr), tensorboard=tensorboard
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


@app.command(name="tasks")
def list_tasks() -> int:
    """List the tasks that compare knows."""
    from lossaware.studies.registry import tasks

    return listing(tasks(), "Your own: my_task.py:build or package.module:build.")


@app.command(name="optimizers")
def list_optimizers() -> int:
    """List the base optimizers that compare knows."""
    from lossaware.studies.optimizers import optimizers

    return listing(optimizers(), "Any other torch.optim.Optimizer: file.py:Class, or package.module:Class.")


app.command("lossaware.studies.study_cli:app", name="study", help="Run the paper's experiments, or a grid of your own.")
app.command("lossaware.studies.data_cli:app", name="data", help="Download the public data sets, or make stand-ins.")
app.command("lossaware.studies.figure_cli:app", name="figure", help="Measure and draw the paper's two figures.")
app.command("lossaware.studies.theory_cli:app", name="theory", help="Hold the paper's theorems against runs.")
app.command("lossaware.studies.report_cli:report", name="report", help="Show everything measured, as one page.")


def main(arguments: Sequence[str] | None = None) -> None:
    """Run a command and exit: 0 done, 1 a run failed, 2 wrong input, 130 stopped by Ctrl-C."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    say = _of_one_rank(given)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # a terminal that lacks a character shall not cost the table
    try:
        for argument in given:
            if not _is_text(argument):
                raise UsageError(f"argument {argument!r} is not valid UTF-8, so no result could name it")
        code = app(
            given,
            exit_on_error=False,
            print_error=False,
            result_action="return_value",
        )
        sys.stdout.flush()
    except UsageError as error:
        say(str(error))
        code = 2
    except UnusedCliTokensError as error:
        say(f"unexpected argument {' '.join(error.unused_tokens or [])!r}")
        code = 2
    except CycloptsError as error:
        say(str(error))
        code = 2
    except KeyboardInterrupt as stop:
        say(str(stop) or "stopped")
        code = 130
    except BrokenPipeError:
        # Whoever read our output has left.
        _drop_output()
        code = 1
    except OSError as error:
        # A folder that may not be read, or an output on a full disk: what no command can foresee everywhere.
        if error.filename is None and error.errno != errno.ENOSPC:
            raise
        if error.filename is None:
            _drop_output()
        say(f"{error.filename or 'the output'}: {error.strerror}")
        code = 2
    raise SystemExit(code if isinstance(code, int) else 0)


def _of_one_rank(arguments: Sequence[str]) -> Callable[[str], None]:
    """`say`; but where processes share the runs, all find the same mistake, and only the first rank says it."""
    if not any(argument.partition("=")[0] == "--distributed" for argument in arguments):
        return say
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")  # else torch tells each rank of what may be slow
    return say if os.environ.get("RANK", "0") == "0" else lambda message: None


def _is_text(argument: str) -> bool:
    """Whether it can be written; bytes that are no UTF-8, as in a file's name, cannot."""
    try:
        argument.encode()
    except UnicodeEncodeError:
        return False
    return True


def _drop_output() -> None:
    """What cannot be written is not written; without this Python complains when it flushes at exit."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def say(message: str) -> None:
    """One line on standard error."""
    print(f"lossaware: {' '.join(message.split())}", file=sys.stderr)


def console(file: Any) -> Console:
    """A console that is wide enough for a table where no terminal says how wide it is."""
    return Console(file=file) if file.isatty() else Console(file=file, width=120)


def listing(entries: "dict[str, str]", more: str) -> int:
    """Names and one line on each."""
    width = max(map(len, entries))
    for name, summary in entries.items():
        print(f"{name:<{width}}  {summary}")
    print(f"\n{more}")
    return 0


# --- values as they are written on a command line -------------------------------------------------------------------


def words(option: str, text: str) -> list[str]:
    """The parts of ``a,b,c``, each once."""
    found = [part.strip() for part in text.split(",")]
    if not all(found):
        raise UsageError(f"{option} must be names separated by commas, got {text!r}")
    return _unique(option, found, str)


def numbers(option: str, text: str, *, at_least: float, exclusive: bool = False) -> list[float]:
    """The numbers of ``1e-4,1e-3``, each once, in order."""
    found = []
    for part in text.split(","):
        try:
            value = float(part)
        except ValueError:
            raise UsageError(f"{option} must be numbers separated by commas, got {part.strip()!r}") from None
        if not math.isfinite(value) or value < at_least or (exclusive and value == at_least):
            bound = f"{'above' if exclusive else 'at least'} {at_least:g}"
            raise UsageError(f"{option} must be finite and {bound}, got {part.strip()}")
        found.append(value)
    return _unique(option, found, lambda value: f"{value:g}")


def sizes(option: str, text: str) -> "list[float | str]":
    """As `numbers`, of at least 0; ``auto`` may be among them."""
    found: list[float | str] = []
    for part in text.split(","):
        found += ["auto"] if part.strip() == "auto" else numbers(option, part, at_least=0.0)
    return _unique(option, found, lambda value: value if isinstance(value, str) else f"{value:g}")


def assignments(option: str, texts: Sequence[str]) -> "Options":
    """The options of ``key=value`` texts; a value is a number, true, false, null, or else a text."""
    found: dict[str, Value] = {}
    for text in texts:
        key, equals, value = (part.strip() for part in text.partition("="))
        if not (key.isidentifier() and equals):
            raise UsageError(f"{option} wants key=value, got {text!r}")
        if key in found:
            raise UsageError(f"{option} gives {key} twice")
        try:
            parsed = jsons.loads(value)
        except (ValueError, RecursionError):
            parsed = value
        found[key] = parsed if isinstance(parsed, (bool, int, float, str)) or parsed is None else value
    return tuple(sorted(found.items()))


def named(option: str, text: str | None) -> "tuple[Any, Options]":
    """Name and options of ``StepLR,step_size=5`` or ``MultiStepLR,milestones=3,6``."""
    if text is None:
        return None, ()
    name, *parts = text.split(",")
    if not name.strip():
        raise UsageError(f"{option} wants a name, got {text!r}")
    options: list[str] = []
    for part in parts:
        if options and re.fullmatch(r"[-+.\de\s]*", part):  # milestones=3,6
            options[-1] += f",{part}"
        else:
            options.append(part)
    return name.strip(), assignments(option, options)


def _unique(option: str, values: list[T], show: Callable[[T], str]) -> list[T]:
    for value in values:
        if values.count(value) > 1:
            raise UsageError(f"{option} names {show(value)} twice")
    return values
