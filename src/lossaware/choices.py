"""Parts of the method that are chosen by name or given as an object, such as lower bounds."""

import difflib
from collections.abc import Mapping
from typing import Any


def choose(argument: str, choice: Any, known: Mapping[str, type], method: str) -> Any:
    """The part of that name, with its default arguments, or the object itself.

    Args:
        argument: The argument's name, for the message.
        choice: A name, or an object with the method.
        known: The classes that have a name.
        method: The method that an object must have, with its arguments: ``"update(lower, loss, count)"``.

    Raises:
        ValueError: The name is unknown, or the object does not have the method.
    """
    names = ", ".join(known)
    if isinstance(choice, str):
        if choice in known:
            return known[choice]()
        close = difflib.get_close_matches(choice, known, n=1)
        hint = f"; did you mean {close[0]!r}?" if close else ""
        raise ValueError(f"unknown {argument} {choice!r}: known are {names}{hint}")
    if isinstance(choice, type) or not callable(getattr(choice, method.partition("(")[0], None)):
        raise ValueError(f"{argument} must be one of {names} or an object with {method}: got {choice!r}")
    return choice


def described(value: Any) -> Any:
    """A setting as a plain value for checkpoints and messages: numbers and strings unchanged, objects by their repr.

    The default repr has the object's address; for it the class name is used.
    """
    if isinstance(value, (bool, int, float, str)):
        return value
    return type(value).__qualname__ if getattr(type(value), "__repr__", None) is object.__repr__ else repr(value)
