"""A user's training function, and how it is distinguished from a function that builds a task."""

import ast
import inspect
import textwrap
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from lossaware.errors import UsageError
from lossaware.studies.specs.options import did_you_mean
from lossaware.studies.specs.run_spec import Options

SCORE = "score"
"""The name of the function's returned value in the results of a run."""


@dataclass(frozen=True)
class TrialFunction:
    """A training function, ``train(trial)``, which returns a score.

    Attributes:
        name: Its name in tables and reports.
        summary: The first line of its docstring.
        function: The function.
        options: Its keyword arguments besides the trial.
    """

    name: str
    summary: str
    function: Callable[..., Any]
    options: Options = ()

    def __call__(self, trial: Any) -> Any:
        """Train."""
        return self.function(trial, **dict(self.options))


def takes_a_trial(candidate: object, options: Options = ()) -> bool:
    """Whether this is a training function, whose first argument is a trial, and not one that builds a task.

    This is so if the argument is called ``trial``, or is annotated as one, or is the only one and has no default.

    Args:
        candidate: The attribute that the user named.
        options: Keyword arguments, without the trial.
    """
    if not callable(candidate) or isinstance(candidate, type):
        return False
    try:
        parameters = list(inspect.signature(candidate).parameters.values())
    except (TypeError, ValueError):
        return False
    if not parameters:
        return False
    first = parameters[0]
    positional = first.kind in (first.POSITIONAL_ONLY, first.POSITIONAL_OR_KEYWORD)
    if not positional or first.default is not first.empty or first.name in dict(options):
        return False
    annotation = first.annotation if isinstance(first.annotation, str) else getattr(first.annotation, "__name__", "")
    return first.name == "trial" or annotation.rpartition(".")[2] == "Trial" or len(parameters) == 1


def make_trial_function(label: str, function: Callable[..., Any], options: Options = ()) -> TrialFunction:
    """The function with its options, checked before the first run.

    Args:
        label: Name for messages.
        function: The function, see `takes_a_trial`.
        options: Its other arguments.

    Raises:
        UsageError: An option does not exist or is missing, or the function does not return a value.
    """
    parameters = list(inspect.signature(function).parameters.values())
    takes_any = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters)
    names = [each.name for each in parameters[1:] if each.kind not in (each.VAR_KEYWORD, each.VAR_POSITIONAL)]
    for name, _ in options:
        if name not in names and not takes_any:
            hint = did_you_mean(name, names) if names else "; it has only the trial"
            raise UsageError(f"{label} has no option {name!r}{hint}")
    try:
        inspect.signature(function).bind(None, **dict(options))
    except TypeError as error:
        raise UsageError(f"{label}: {error}; set it by --set NAME=VALUE, or give it a default") from None
    if _returns_nothing(function):
        raise UsageError(f"{label} returns nothing: end it with the score, such as return accuracy")
    name = getattr(function, "__name__", "function").replace("<lambda>", "function")
    lines = (inspect.getdoc(function) or "").strip().splitlines()
    return TrialFunction(name, lines[0] if lines else "a function that trains", function, options)


def check_score(label: str, returned: Any) -> float:
    """The score that a function returned, as a number; NaN and infinity are numbers here.

    Raises:
        UsageError: The value is not a single number.
    """
    value = as_number(returned)
    if value is None:
        description = "nothing" if returned is None else f"{type(returned).__name__} {returned!r:.60}"
        raise UsageError(f"{label} must return its score, one number, got {description}")
    return value


def as_number(value: Any) -> float | None:
    """A number, or an array or tensor of one element, as a float; None for anything else."""
    if isinstance(value, bool) or value is None or isinstance(value, str | bytes):
        return None
    try:
        return float(value.detach() if hasattr(value, "detach") else value)
    except (TypeError, ValueError, RuntimeError):
        return None


def _returns_nothing(function: Callable[..., Any]) -> bool:
    """Whether the function certainly returns None; False if its code cannot be read."""
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(function)))
    except (OSError, TypeError, SyntaxError, ValueError):
        return False
    match tree.body:
        case [ast.FunctionDef() as definition]:
            return not any(isinstance(node, ast.Return) and node.value is not None for node in _own_nodes(definition))
    return False


def _own_nodes(definition: ast.FunctionDef) -> list[ast.AST]:
    """The nodes of a function's body, without those of functions inside it."""
    nodes: list[ast.AST] = []
    queue: list[ast.AST] = list(definition.body)
    while queue:
        node = queue.pop()
        nodes.append(node)
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda | ast.ClassDef):
            queue.extend(ast.iter_child_nodes(node))
    return nodes
