"""A user's function that trains: how it is told from one that builds a task, and what is said of it."""

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
"""The name under which a run keeps what its function returned."""


@dataclass(frozen=True)
class TrialFunction:
    """A function that trains, ``train(trial)``, and returns a score.

    Attributes:
        name: What tables and reports call it.
        summary: One line: the first of its docstring.
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


def takes_a_trial(found: object, options: Options = ()) -> bool:
    """Whether it is a function that trains, whose first argument is a trial, and not one that builds a task.

    That is so if the argument is called ``trial``, or is annotated as one, or is the only one and has no default.

    Args:
        found: What a user's name leads to.
        options: Keyword arguments that are given; the trial is not among them.
    """
    if not callable(found) or isinstance(found, type):
        return False
    try:
        parameters = list(inspect.signature(found).parameters.values())
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


def make_trial_function(what: str, function: Callable[..., Any], options: Options = ()) -> TrialFunction:
    """The function with its options, looked at before anything runs.

    Args:
        what: How messages name it.
        function: See `takes_a_trial`.
        options: Its other arguments.

    Raises:
        UsageError: An option does not exist or is missing, or the function returns nothing.
    """
    parameters = list(inspect.signature(function).parameters.values())
    takes_any = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters)
    names = [each.name for each in parameters[1:] if each.kind not in (each.VAR_KEYWORD, each.VAR_POSITIONAL)]
    for name, _ in options:
        if name not in names and not takes_any:
            hint = did_you_mean(name, names) if names else "; it has none besides the trial"
            raise UsageError(f"{what} has no option {name!r}{hint}")
    try:
        inspect.signature(function).bind(None, **dict(options))
    except TypeError as error:
        raise UsageError(f"{what}: {error}; give it by --set NAME=VALUE, or a default") from None
    if _returns_nothing(function):
        raise UsageError(f"{what} returns nothing: end it with the score, such as return accuracy")
    name = getattr(function, "__name__", "function").replace("<lambda>", "function")
    lines = (inspect.getdoc(function) or "").strip().splitlines()
    return TrialFunction(name, lines[0] if lines else "a function that trains", function, options)


def check_score(what: str, returned: Any) -> float:
    """The score that a function returned, as a number; NaN and infinity are numbers here.

    Raises:
        UsageError: It is no single number.
    """
    value = as_number(returned)
    if value is None:
        got = "nothing" if returned is None else f"{type(returned).__name__} {returned!r:.60}"
        raise UsageError(f"{what} must return its score, one number, got {got}")
    return value


def as_number(value: Any) -> float | None:
    """A number, or an array or tensor of one element, as a float; None where it is neither."""
    if isinstance(value, bool) or value is None or isinstance(value, str | bytes):
        return None
    try:
        return float(value.detach() if hasattr(value, "detach") else value)
    except (TypeError, ValueError, RuntimeError):
        return None


def _returns_nothing(function: Callable[..., Any]) -> bool:
    """Whether the function surely returns None; False where its code cannot be read."""
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(function)))
    except (OSError, TypeError, SyntaxError, ValueError):
        return False
    match tree.body:
        case [ast.FunctionDef() as definition]:
            return not any(isinstance(node, ast.Return) and node.value is not None for node in _own_nodes(definition))
    return False


def _own_nodes(definition: ast.FunctionDef) -> list[ast.AST]:
    """The nodes of a function's body, but not those of functions within it."""
    found: list[ast.AST] = []
    waiting: list[ast.AST] = list(definition.body)
    while waiting:
        node = waiting.pop()
        found.append(node)
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda | ast.ClassDef):
            waiting.extend(ast.iter_child_nodes(node))
    return found
