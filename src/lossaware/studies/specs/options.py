"""Calling a function with a user's options, with one clear line per mistake."""

import difflib
import inspect
import json
import sysconfig
import traceback
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from lossaware.errors import UsageError

T = TypeVar("T")
_LIBRARIES = (
    *(sysconfig.get_path(name) for name in ("stdlib", "purelib", "platlib")),
    str(Path(__file__).parents[2]),
    "<frozen",
)


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """The end of a message about an unknown word: the most similar known words, or all of them."""
    names = {name.lower(): name for name in sorted(known)}
    if close := difflib.get_close_matches(word.lower(), names, n=3, cutoff=0.6):
        return f"; did you mean {' or '.join(names[name] for name in close)}?"
    return f"; known: {', '.join(names.values())}" if names else ""


def where(error: BaseException) -> str:
    """An exception in one line: its type, its first line, and the innermost line of the user's code."""
    lines = str(error).strip().splitlines()
    text = f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__
    frames = traceback.extract_tb(error.__traceback__)
    if not frames:
        return text
    place = next((frame for frame in reversed(frames) if not frame.filename.startswith(_LIBRARIES)), frames[-1])
    return f"{text} ({place.filename}, line {place.lineno})"


def call(label: str, function: Callable[..., T], *arguments: Any, options: Mapping[str, Any]) -> T:
    """Call ``function(*arguments, **options)``.

    A text such as ``"0.9,0.99"`` becomes a tuple of numbers, as for betas and milestones, and ``"3,"`` a tuple of one
    number.

    Args:
        label: Name for messages, such as ``"optimizer 'adam'"``.
        function: The function.
        arguments: Arguments that are not the user's.
        options: The user's keyword arguments.

    Raises:
        UsageError: An option is unknown or missing, or the function refuses a value.
    """
    signature = inspect.signature(function)
    takes_any = any(parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in signature.parameters.values())
    free = list(signature.parameters)[len(arguments) :]
    for name in options:
        if name not in free and not takes_any:
            hint = did_you_mean(name, free) if free else "; it does not have options"
            raise UsageError(f"{label} has no option {name!r}{hint}")
    keywords = {name: _numbers(value) for name, value in options.items()}
    try:
        signature.bind(*arguments, **keywords)
    except TypeError as error:
        raise UsageError(f"{label}: {error}") from None
    try:
        return function(*arguments, **keywords)
    except (TypeError, ValueError) as error:
        raise UsageError(f"{label}: {error}") from error


def _numbers(value: Any) -> Any:
    if not (isinstance(value, str) and "," in value):
        return value
    try:
        return tuple(json.loads(f"[{value.removesuffix(',')}]"))
    except (json.JSONDecodeError, RecursionError):
        return value
