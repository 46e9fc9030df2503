"""Tables as CSV: one line per record, with all its values."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from lossaware.studies.report.table import Table
from lossaware.studies.specs.escape import csv_text


def write(table: Table) -> str:
    """The records of the table."""
    return to_csv([_flat(record) for record in table.plain_records])


def to_csv(rows: Sequence[Mapping[str, Any]]) -> str:
    """Rows with the same names as CSV, with a header line; numbers have all their digits."""
    heads = list(rows[0])
    return csv_text([heads, *([row[head] for head in heads] for row in rows)])


def _flat(record: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """A flat record: names of nested records are joined by a dot; lists are JSON."""
    flat: dict[str, Any] = {}
    for name, value in record.items():
        match value:
            case Mapping():
                flat |= _flat(value, f"{prefix}{name}.")
            case list() | tuple():
                flat[prefix + name] = json.dumps(value, ensure_ascii=False)
            case _:
                flat[prefix + name] = "" if value is None else value
    return flat
