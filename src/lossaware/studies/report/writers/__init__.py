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
    """Raise `UsageError` if the format does not exist."""
    if name not in formats():
        raise UsageError(f"unknown format {name!r}{did_you_mean(name, formats())}")


def write(table: Table, name: str) -> str:
    """The table in the format of that name.

    Raises:
        UsageError: The format does not exist.
    """
    check_format(name)
    text = importlib.import_module(f"{__name__}.{name}").write(table)
    assert isinstance(text, str)
    return text
