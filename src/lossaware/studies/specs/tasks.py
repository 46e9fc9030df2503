"""Tasks: built-in ones by name, a user's own by ``file.py:attribute`` or ``package.module:attribute``.

A new built-in task is one new file in ``tasks/``, with a ``SUMMARY`` and a ``build(**options) -> Task``. Its name is
the file's, with hyphens for underscores. A task with equally frequent classes has their number in ``CLASSES``.
"""

import ast
import importlib
import inspect
from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lossaware.errors import UsageError
from lossaware.extras import how_to_install
from lossaware.studies.specs import user_code as own_code
from lossaware.studies.specs.options import call, did_you_mean, where
from lossaware.studies.specs.trial_function import TrialFunction, make_trial_function, takes_a_trial

if TYPE_CHECKING:
    from lossaware.studies.specs.task import Task

_BUILT_IN = Path(__file__).parents[1] / "tasks"


def tasks() -> dict[str, str]:
    """The names of the built-in tasks, with a summary. Does not import them."""
    paths = sorted(path for path in _BUILT_IN.glob("*.py") if path.stem != "__init__")
    return {path.stem.replace("_", "-"): _summary(path) for path in paths}


def _file(name: str) -> Path:
    return _BUILT_IN / f"{name.replace('-', '_')}.py"


def load_task(name: str, options: Mapping[str, Any] | Iterable[tuple[str, Any]] = ()) -> "Task":
    """The task ``name``, built with ``options``.

    Args:
        name: One of `tasks`, or ``path/to/file.py:attribute``, or ``package.module:attribute``. The attribute is a
            function that returns a `Task`, or a `Task` (without options).
        options: Keyword arguments of that function.

    Raises:
        UsageError: The task does not exist, its file has an error, or an option is wrong.
    """
    subject = load_subject(name, options)
    if isinstance(subject, TrialFunction):
        raise UsageError(f"task {name!r} is a training function (its argument is a trial), which only compare supports")
    return subject


def load_subject(name: str, options: Mapping[str, Any] | Iterable[tuple[str, Any]] = ()) -> "Task | TrialFunction":
    """The task ``name``, see `load_task`; or the user's training function, if the attribute is one.

    Raises:
        UsageError: See `load_task`; or the function does not have an option, or returns nothing.
    """
    chosen = dict(options)
    attribute = own_code.load(f"task {name!r}", name) if own_code.is_own(name) else _built_in(name)
    if own_code.is_own(name) and takes_a_trial(attribute, tuple(chosen.items())):
        return make_trial_function(name, attribute, tuple(sorted(chosen.items())))
    return _build(name, attribute, chosen)


def takes_option(name: str, option: str) -> bool:
    """Whether the function that builds the task, or that trains, has an argument of that name, or takes any.

    Raises:
        UsageError: The task does not exist.
    """
    subject = own_code.load(f"task {name!r}", name) if own_code.is_own(name) else _built_in(name)
    try:
        parameters = inspect.signature(subject).parameters.values()
    except (TypeError, ValueError):  # a Task has none
        return False
    return any(each.name == option or each.kind is each.VAR_KEYWORD for each in parameters)


def _build(name: str, attribute: Any, chosen: dict[str, Any]) -> "Task":
    from lossaware.studies.specs.task import Task

    if not isinstance(attribute, Task):
        if not callable(attribute):
            raise UsageError(f"task {name!r} is neither a Task nor a function that returns one, but {_kind(attribute)}")
        try:
            attribute = call(f"task {name!r}", attribute, options=chosen)
        except UsageError as error:
            # A mistake inside a user's function is reported with its place, from the cause that `call` keeps.
            raise error if error.__cause__ is None else UsageError(f"task {name!r}: {where(error.__cause__)}") from None
        except Exception as error:
            raise UsageError(f"task {name!r} cannot be built: {where(error)}") from error
    elif chosen:
        raise UsageError(f"task {name!r} is a Task, not a function: it does not take options, got {', '.join(chosen)}")
    if not isinstance(attribute, Task):
        raise UsageError(f"task {name!r} must return a lossaware.studies.task.Task, got {_kind(attribute)}")
    return attribute


def built_in_module(name: str) -> str | None:
    """The module of a built-in task, for importing it beforehand; None for a user's own."""
    return f"lossaware.studies.tasks.{name.replace('-', '_')}" if name in tasks() else None


def _built_in(name: str) -> Any:
    if name.endswith(".py"):
        raise UsageError(
            f"task {name!r}: name the function of the file that trains or makes the task, such as {name}:train"
        )
    if (module := built_in_module(name)) is None:
        raise UsageError(f"unknown task {name!r}{did_you_mean(name, tasks())} (or file.py:function of your own)")
    try:
        return importlib.import_module(module).build
    except ModuleNotFoundError as error:
        raise UsageError(f"task {name!r} needs {error.name}: {how_to_install('studies')}") from error


@cache
def classes(name: str) -> int | None:
    """Number of equally frequent classes of a built-in task; None for all others. Does not import tasks."""
    value = _constant(_file(name), "CLASSES") if name in tasks() else None
    assert value is None or isinstance(value, int)
    return value


def _summary(path: Path) -> str:
    text = _constant(path, "SUMMARY")
    assert isinstance(text, str), f"{path.name} has no SUMMARY"
    return text


def _constant(path: Path, name: str) -> object:
    """The value of a module-level constant, read without importing the module; None if it does not exist."""
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        match node:
            case ast.Assign(targets=[ast.Name(id=target)], value=ast.Constant(value=value)) if target == name:
                return value
    return None


def _kind(value: object) -> str:
    return "None" if value is None else type(value).__name__
