"""Names of the previous version, which still work for one version, with a warning."""

import importlib
import warnings
from collections.abc import Callable, Mapping
from typing import Any


def renamed(module: str, names: Mapping[str, str], stacklevel: int = 2) -> Callable[[str], Any]:
    """A module's ``__getattr__`` for old names.

    Args:
        module: The module's name.
        names: From the old name to the new one, as ``"lossaware.module.Name"``.
        stacklevel: Stack level of the warning; 3 if the module's own ``__getattr__`` calls this one.
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


def old_setting(lga: Any, name: str) -> Any:
    """A setting that was an attribute of LGA.

    Raises:
        AttributeError: There was no setting of that name.
    """
    if name in ("gamma2", "law", "xi", "zero_gradient") and "settings" in vars(lga):
        warnings.warn(f"LGA.{name} is deprecated: use LGA.settings.{name}", DeprecationWarning, stacklevel=3)
        return getattr(lga.settings, name)
    raise AttributeError(f"{type(lga).__name__!r} object has no attribute {name!r}")
