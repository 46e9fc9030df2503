"""A user's own code, named by ``file.py:attribute`` or ``package.module:attribute``."""

import hashlib
import importlib
import importlib.util
import sys
from collections.abc import Sequence
from importlib.machinery import PathFinder, all_suffixes
from itertools import pairwise
from pathlib import Path
from types import ModuleType
from typing import Any

from lossaware.errors import UsageError
from lossaware.studies.specs.options import did_you_mean, where
from lossaware.studies.specs.regular_file import MAX_TEXT, read_regular


def is_own(name: str) -> bool:
    """Whether a name refers to a user's own code, and not to this package."""
    return ":" in name


def load(label: str, name: str) -> Any:
    """The attribute of that name.

    Args:
        label: Name for messages, such as ``task 'my_task.py:build'``.
        name: ``file.py:attribute`` or ``package.module:attribute``.

    Raises:
        UsageError: The file, module or attribute does not exist, or the file has an error.
    """
    place, _, attribute = name.rpartition(":")
    module = _module(label, place)
    if not hasattr(module, attribute):
        known = [key for key in vars(module) if not key.startswith("_")]
        raise UsageError(f"{label}: {place} has no {attribute!r}{did_you_mean(attribute, known)}")
    return getattr(module, attribute)


def scripts_of(words: Sequence[str]) -> list[str]:
    """The names of the code that a command runs: its scripts, and its modules after ``-m``."""
    modules = [f"{after}:main" for word, after in pairwise(words) if word == "-m"]
    return [f"{word}:main" for word in words if word.endswith(".py")] + [
        module for module in modules if not module.startswith(("torch.", "accelerate."))
    ]


def source_digest(names: Sequence[str]) -> str | None:
    """Digest of the files of these names, 16 hexadecimal digits; None if no file can be read.

    Results belong to the code with which they were measured. A store compares the digest before it uses a run.
    """
    sources = [source for name in names if (source := _source(name.rpartition(":")[0])) is not None]
    if len(sources) < 2:
        return sources[0] if sources else None
    return hashlib.sha256("".join(sources).encode()).hexdigest()[:16]


def has_changed(names: Sequence[str], measured: str | None) -> bool:
    """Whether the files of these names differ from those of the digest `measured`; False if no file can be read."""
    current = source_digest(names)
    return current is not None and current != measured


def _source(place: str) -> str | None:
    """The digest of a file, or None.

    The name may be from a file of another person, of which only the table is shown. Therefore this does not import
    modules, and only opens regular files with the suffixes of Python modules.
    """
    try:
        path = place if _is_file(place) else _find_module(place)
        if path is None or not path.endswith(tuple(all_suffixes())):
            return None
        return hashlib.sha256(read_regular(Path(path), at_most=MAX_TEXT)).hexdigest()[:16]
    except UsageError:
        return None


def _find_module(name: str) -> str | None:
    """The file of a module, without importing it or its parent packages; None if it does not exist."""
    top, *inner = name.split(".")
    try:
        spec = importlib.util.find_spec(top) if top.isidentifier() else None
        for part in inner:
            if spec is None or spec.submodule_search_locations is None:
                return None
            folders = list(spec.submodule_search_locations)
            spec = PathFinder.find_spec(part, folders)
            if spec is not None and spec.origin is None:  # a folder without __init__.py
                spec.submodule_search_locations = [str(Path(folder) / part) for folder in folders]
    except (ImportError, ValueError, AttributeError):
        return None
    return None if spec is None else spec.origin


def _module(label: str, place: str) -> ModuleType:
    try:
        return _load_file(Path(place)) if _is_file(place) else importlib.import_module(place)
    except FileNotFoundError as error:
        if error.filename != place:
            raise UsageError(f"{label} cannot be loaded: {where(error)}") from error
        raise UsageError(f"{label}: there is no file {place}") from None
    except SyntaxError as error:
        raise UsageError(f"{label}: {error.filename}, line {error.lineno}: {error.msg}") from error
    except ModuleNotFoundError as error:
        if error.name and f"{place}.".startswith(f"{error.name}."):
            raise UsageError(
                f"{label}: there is no module {error.name!r} on the import path (a file needs its ending, "
                f"as in {error.name}.py:NAME)"
            ) from error
        raise UsageError(f"{label} cannot be loaded: {where(error)}") from error
    except (Exception, SystemExit) as error:
        raise UsageError(f"{label} cannot be loaded: {where(error)}") from error


def _is_file(place: str) -> bool:
    return place.endswith(".py") or "/" in place or "\\" in place


def _load_file(path: Path) -> ModuleType:
    if not path.is_file():
        raise FileNotFoundError(2, "No such file", str(path))
    # As for a script: files in the same folder can be imported.
    if (folder := str(path.resolve().parent)) not in sys.path:
        sys.path.insert(0, folder)
    spec = importlib.util.spec_from_file_location(f"lossaware_own_{path.stem}", path)
    if spec is None or spec.loader is None:
        raise ImportError(f"{path} is not a Python file")
    module = importlib.util.module_from_spec(spec)
    # Dataclasses and pickles look their module up by name while it is executed.
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module
