"""Files that a command leaves in ``results/``: tables, pictures, and with what they were made."""

import csv
import io
import json
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lossaware.errors import UsageError
from lossaware.studies.atomic import write_whole
from lossaware.studies.environment import environment
from lossaware.studies.pictures import Picture
from lossaware.studies.study_results import without_folders

Rows = Sequence[Mapping[str, Any]]
"""A table: the same names in each row; numbers are written so that reading them gives the same numbers."""


def check_writable(folder: Path) -> None:
    """Make sure, before anything is computed, that files can be written to the folder; it is made if need be.

    Raises:
        UsageError: They cannot.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except FileExistsError:
        raise UsageError(f"cannot write to {folder}: it is a file, not a folder") from None
    except OSError as error:
        raise UsageError(f"cannot write to {folder}: {error.strerror}") from None


def save(folder: Path, name: str, *, tables: Mapping[str, Rows], picture: Picture, settings: Mapping[str, Any]) -> None:
    """Write ``NAME.svg``, ``NAME.png``, a CSV file a table, and ``NAME.json`` with settings, command, commit and date.

    Args:
        folder: Where to; made if need be. Files of these names are replaced.
        name: What the files are called.
        tables: Rows, by the file's name without its ending.
        picture: What it looks like.
        settings: What decided the numbers.

    Raises:
        UsageError: The folder cannot be written to.
    """
    made_with = environment()
    made_with["command"] = without_folders(made_with["command"])
    files = {f"{table}.csv": to_csv(rows).encode() for table, rows in tables.items()}
    files |= {f"{name}.svg": picture.svg.encode(), f"{name}.png": picture.png}
    content = {"settings": settings, "made_with": made_with}
    files[f"{name}.json"] = (json.dumps(content, indent=1, ensure_ascii=False) + "\n").encode()
    for file, content_bytes in files.items():
        write_whole(folder / file, content_bytes)


def to_csv(rows: Rows) -> str:
    """The rows as CSV, with a line of names."""
    file = io.StringIO()
    writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return file.getvalue()
