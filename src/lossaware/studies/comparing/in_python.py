"""`lossaware.compare`: a comparison from Python or a notebook."""

import inspect
import math
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Literal

from rich.console import Console
from torch.optim import Optimizer

from lossaware.errors import UsageError
from lossaware.studies.comparing.execute import execute_trials
from lossaware.studies.comparing.result import Result
from lossaware.studies.comparing.scoring import Scoring
from lossaware.studies.specs.arms import Arm, arms_of_gamma2, parse_arms
from lossaware.studies.specs.comparison import trial_comparison
from lossaware.studies.specs.run_spec import AS_CODED, Value, options
from lossaware.studies.specs.temporary import temporary_folder
from lossaware.studies.specs.trial_function import make_trial_function, takes_a_trial


def compare(
    train: Callable[..., Any],
    *,
    direction: Literal["maximize", "minimize"],
    seeds: int = 6,
    lrs: float | Sequence[float] | None = None,
    arms: str | Sequence[str | type[Optimizer]] | None = None,
    gamma2: float | str | Sequence[float | str] | None = None,
    epochs: int | None = None,
    score: str | None = None,
    percent: bool | None = None,
    margin: float | None = None,
    set: Mapping[str, Value] | None = None,  # noqa: A002
    lga: Mapping[str, Value] | None = None,
    device: Literal["cpu", "cuda"] = "cpu",
    data: str | Path | None = None,
    out: str | Path | None = None,
    progress: bool = True,
) -> Result:
    """Train in several arms from the same seeds, by default without and with LGA, and say whether it helped.

    The runs are executed in this process, one after another. Before the first run, each arm is rehearsed for one step.

    Args:
        train: A function ``train(trial)`` that trains and returns its score; see `lossaware.Trial`.
        direction: Whether a higher score is better.
        seeds: Number of seeds; each runs in every arm. With fewer than 6, no sign test can be significant.
        lrs: Learning rates, which the function reads as ``trial.lr``. None if it has its own.
        arms: The compared arms: ``["without", "lga", "auto"]``, or a text, ``"adamw,prodigy(lr=1)"``; the first is the
            reference. None is ``["without", "lga"]``, with LGA as the function attaches it. Other bases come from
            ``trial.make_optimizer``. A class such as ``torch.optim.AdamW`` can be an arm, too.
        gamma2: Sizes of LGA's correction, one arm per size besides ``"without"``; instead of ``arms``.
        epochs: Overrides the function's argument of ``trial.epochs``.
        score: The name of a reported number to compare; None compares what the function returns.
        percent: Whether to show the score as a percentage. None does so for an accuracy between 0 and 1.
        margin: The largest irrelevant difference, in units of the score: half a point of accuracy is 0.005. The result
            states whether the whole interval is within it.
        set: Keyword arguments of the function besides the trial.
        lga: LGA's other settings, over those in the function's code.
        device: ``trial.device``.
        data: ``trial.data``.
        out: A folder for finished runs, so that a repeated call executes only missing runs. It requires that the
            function is in a file. None keeps only the result.
        progress: Whether to show progress.

    Raises:
        UsageError: A setting is not allowed, or an arm fails in its rehearsal. The message has one line.

    Example:
        .. code-block:: python

            result = lossaware.compare(train, direction="maximize", lrs=[1e-4, 1e-3])
            print(result.verdict)
    """
    if not takes_a_trial(train, options(**(set or {}))):
        raise UsageError(f"compare needs a function of one argument, the trial: def train(trial), got {train!r:.80}")
    if isinstance(seeds, bool) or not isinstance(seeds, int) or seeds < 1:
        raise UsageError(f"seeds must be an integer of at least 1, got {seeds!r}")
    if epochs is not None and (isinstance(epochs, bool) or not isinstance(epochs, int) or epochs < 1):
        raise UsageError(f"epochs must be an integer of at least 1, got {epochs!r}")
    if margin is not None and not 0 < margin < math.inf:
        raise UsageError(f"margin must be a number above 0, got {margin!r}")
    function = make_trial_function(f"function {train.__name__!r}", train, options(**(set or {})))
    study = trial_comparison(
        function.name,
        "function",
        {
            "task": _place(train, needs_file=out is not None),
            "task_options": dict(function.options),
            "seeds": seeds,
            "epochs": epochs or 0,
            "batch_size": 0,
            "device": device,
        },
        lrs=[0.0] if lrs is None else _rates(lrs),
        arms=_arms(arms, gamma2),
        lga=lga,
    )
    scoring = Scoring.of(direction, score, percent)
    with ExitStack() as stack:
        folder = Path(out) if out is not None else stack.enter_context(temporary_folder("compare"))
        console = Console(file=sys.stderr, quiet=not progress)
        outcome = execute_trials(
            study,
            function,
            scoring,
            data=None if data is None else Path(data),
            engine=None,
            out=folder,
            console=console,
            margin=margin,
        )
        return Result(outcome, page=(folder / "report.html").read_text(encoding="utf-8"))


def _rates(lrs: Any) -> list[float]:
    rates = [lrs] if isinstance(lrs, int | float | str) else list(lrs)
    for lr in rates:
        if isinstance(lr, bool) or not isinstance(lr, int | float):
            raise UsageError(f"lrs must be numbers above 0, such as lrs=[1e-4, 1e-3], got {lr!r}")
    return [float(lr) for lr in rates]


def _arms(
    arms: str | Sequence[str | type[Optimizer]] | None, gamma2: float | str | Sequence[float | str] | None
) -> list[Arm]:
    if arms is not None and gamma2 is not None:
        raise UsageError(f"gamma2={gamma2!r} cannot be combined with arms={arms!r}, but may be in it")
    if arms is not None:
        return parse_arms(arms)
    sizes = [AS_CODED] if gamma2 is None else [gamma2] if isinstance(gamma2, int | float | str) else list(gamma2)
    return arms_of_gamma2(sizes)


def _place(train: Callable[..., Any], *, needs_file: bool) -> str:
    """The function's place in the specification: ``FILE.py:NAME``, or a placeholder if it is not in a file.

    Raises:
        UsageError: A file is needed, and no file has the function by its name.
    """
    name = getattr(train, "__qualname__", "function")
    try:
        file = inspect.getsourcefile(train)
    except TypeError:
        file = None
    if file is not None and file.endswith(".py") and Path(file).is_file() and name.isidentifier():
        return f"{file}:{name}"
    if needs_file:
        raise UsageError(
            f"out={'...'}: results belong to the file of their code, and {name} is not in a file, or is within "
            "another function: move it to a file, or omit out and save result.report(path)"
        )
    return f"(in memory):{name}"
