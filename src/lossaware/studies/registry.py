"""Finding tasks: the built-in ones by name, a user's own by ``file.py:attribute`` or ``package.module:attribute``.

A new built-in task is one new file in ``tasks/``, with a ``SUMMARY`` and a ``build(**options) -> Task``; its name is
the file's, with hyphens for underscores.
"""

import ast
import hashlib
import importlib
import importlib.util
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from lossaware.errors import UsageError
from lossaware.studies.arguments import call, did_you_mean, where

if TYPE_CHECKING:
    from lossaware.studies.task import Task

_BUILT_IN = Path(__file__).with_name("tasks")


def tasks() -> dict[str, str]:
    """The names of the built-in tasks, with one line on each. Imports none of them."""
    paths = sorted(path for path in _BUILT_IN.glob("*.py") if path.stem != "__init__")
    return {path.stem.replace("_", "-"): _summary(path) for path in paths}


def load_task(name: str, options: Mapping[str, Any] | Iterable[tuple[str, Any]] = ()) -> "Task":
    """The task ``name``, built with ``options``.

    Args:
        name: One of `tasks`, or ``path/to/file.py:attribute``, or ``package.module:attribute``. The attribute is a
            function that returns a `Task` (it gets the options), or a `Task` (there are none).
        options: Keyword arguments of that function.

    Raises:
        UsageError: The task is not there, its file is broken, or an option is wrong.
    """
    from lossaware.studies.task import Task

    place, attribute = _split(name)
    module = _module(name, place)
    if not hasattr(module, attribute):
        known = [key for key in vars(module) if not key.startswith("_")]
        raise UsageError(f"task {name!r}: {place} has no {attribute!r}{did_you_mean(attribute, known)}")
    found = getattr(module, attribute)
    chosen = dict(options)
    if not isinstance(found, Task):
        if not callable(found):
            raise UsageError(f"task {name!r} is neither a Task nor a function that returns one, but {_kind(found)}")
        try:
            found = call(f"task {name!r}", found, options=chosen)
        except UsageError as error:
            # A mistake inside a user's function deserves its place; `call` keeps the cause for that.
            raise error if error.__cause__ is None else UsageError(f"task {name!r}: {where(error.__cause__)}") from None
        except Exception as error:
            raise UsageError(f"task {name!r} cannot be built: {where(error)}") from error
    elif chosen:
        raise UsageError(f"task {name!r} is a Task, not a function: it takes no options, got {', '.join(chosen)}")
    if not isinstance(found, Task):
        raise UsageError(f"task {name!r} must return a lossaware.studies.task.Task, got {_kind(found)}")
    return found


def source_digest(name: str) -> str | None:
    """16 hexadecimal digits that change with the file of a user's task; None for a built-in or unreadable one.

    Results belong to the task as it was when they were measured: a store asks this before it takes a run as done.
    """
    if ":" not in name:
        return None
    place, _ = _split(name)
    path: str | None = place
    if not _is_file(place):
        try:
            spec = importlib.util.find_spec(place)
        except (ImportError, ValueError):
            return None
        path = spec.origin if spec else None
    try:
        return hashlib.sha256(Path(path).read_bytes()).hexdigest()[:16] if path else None
    except OSError:
        return None


def built_in_module(name: str) -> str | None:
    """The module of a built-in task, for those who import it beforehand; None for a user's own."""
    return f"lossaware.studies.tasks.{name.replace('-', '_')}" if name in tasks() else None


def _split(name: str) -> tuple[str, str]:
    place, colon, attribute = name.rpartition(":")
    if colon and place and attribute:
        return place, attribute
    if name.endswith(".py"):
        raise UsageError(f"task {name!r}: say which function of the file makes the task, such as {name}:build")
    if (module := built_in_module(name)) is None:
        raise UsageError(f"unknown task {name!r}{did_you_mean(name, tasks())} (or file.py:function of your own)")
    return module, "build"


def _module(name: str, place: str) -> ModuleType:
    try:
        return _load_file(Path(place)) if _is_file(place) else importlib.import_module(place)
    except FileNotFoundError as error:
        if error.filename != place:
            raise UsageError(f"task {name!r} cannot be loaded: {where(error)}") from error
        raise UsageError(f"task {name!r}: there is no file {place}") from None
    except SyntaxError as error:
        raise UsageError(f"task {name!r}: {error.filename}, line {error.lineno}: {error.msg}") from error
    except ModuleNotFoundError as error:
        if error.name and place.startswith("lossaware."):
            raise UsageError(f"task {name!r} needs {error.name}: pip install 'lossaware[studies]'") from error
        if error.name and (place == error.name or place.startswith(f"{error.name}.")):
            raise UsageError(f"task {name!r}: there is no module {error.name!r} on the import path") from error
        raise UsageError(f"task {name!r} cannot be loaded: {where(error)}") from error
    except (Exception, SystemExit) as error:
        raise UsageError(f"task {name!r} cannot be loaded: {where(error)}") from error


def _is_file(place: str) -> bool:
    return place.endswith(".py") or "/" in place or "\\" in place


def _load_file(path: Path) -> ModuleType:
    if not path.is_file():
        raise FileNotFoundError(2, "No such file", str(path))
    # As for a script: what lies beside the file can be imported.
    if (folder := str(path.resolve().parent)) not in sys.path:
        sys.path.insert(0, folder)
    spec = importlib.util.spec_from_file_location(f"lossaware_task_{path.stem}", path)
    if spec is None or spec.loader is None:
        raise ImportError(f"{path} is no Python file")
    module = importlib.util.module_from_spec(spec)
    # Dataclasses and pickles look their module up by name while it is executed.
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def _summary(path: Path) -> str:
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        match node:
            case ast.Assign(targets=[ast.Name(id="SUMMARY")], value=ast.Constant(value=str(text))):
                return text
    raise AssertionError(f"{path.name} has no SUMMARY")


def _kind(value: object) -> str:
    return "None" if value is None else type(value).__name__
