"""Names of the version before, which go on working for one version and warn."""

import importlib
import warnings
from collections.abc import Callable, Mapping
from typing import Any


def renamed(module: str, names: Mapping[str, str], stacklevel: int = 2) -> Callable[[str], Any]:
    """A module's ``__getattr__`` that finds old names.

    Args:
        module: The module's name.
        names: From the old name to the new one, as ``"lossaware.module.Name"``.
        stacklevel: Of the warning; 3 where the module's own ``__getattr__`` calls this one.
    """

    def find(name: str) -> Any:
        if name not in names:
            raise AttributeError(f"module {module!r} has no attribute {name!r}")
        home, _, new = names[name].rpartition(".")
        warnings.warn(
            f"{module}.{name} is deprecated and will be removed in the next version: use {names[name]}",
            DeprecationWarning,
            stacklevel=stacklevel,
        )
        return getattr(importlib.import_module(home), new)

    return find
