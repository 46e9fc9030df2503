"""Formats of tables: each module has ``write(table)``, and the name of the module is the name of the format."""

import importlib
import pkgutil

from lossaware.errors import UsageError
from lossaware.studies.report.table import Table
from lossaware.studies.specs.options import did_you_mean


def formats() -> list[str]:
    """The names of all formats."""
    return [module.name for module in pkgutil.iter_modules(__path__)]


def check_format(name: str) -> None:
    """Raise `UsageError` where there is no such format."""
    if name not in formats():
        raise UsageError(f"unknown format {name!r}{did_you_mean(name, formats())}")


def write(table: Table, name: str) -> str:
    """The table in the format of that name.

    Raises:
        UsageError: There is no such format.
    """
    check_format(name)
    text = importlib.import_module(f"{__name__}.{name}").write(table)
    assert isinstance(text, str)
    return text
