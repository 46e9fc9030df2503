"""Tables as JSON: title, records, and common facts."""

from decimal import Decimal
from typing import Any

from lossaware.studies.report.table import Table
from lossaware.studies.specs.escape import json_text


def write(table: Table) -> str:
    """The table as one object."""
    return json_text(to_plain(table), indent=2, allow_nan=False, default=_number) + "\n"


def to_plain(table: Table) -> dict[str, Any]:
    """The table as plain data, ready for ``json.dumps``; a number that is not finite is None."""
    return {
        "title": table.title,
        **table.facts,
        "rows": [dict(record) for record in table.plain_records],
        "remark": table.remark,
    }


def _number(value: object) -> float:
    """A published figure, a Decimal with its printed digits until here."""
    if isinstance(value, Decimal):
        return float(value)
    raise TypeError(f"{type(value).__name__} cannot be written as JSON")
