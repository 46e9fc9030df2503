"""Files that a command leaves in ``results/``: tables, pictures, and with what they were made."""

import csv
import io
import json
import re
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from lossaware.errors import UsageError
from lossaware.studies.report.pictures import Picture
from lossaware.studies.specs.atomic import write_whole
from lossaware.studies.specs.provenance import environment, without_folders

Rows = Sequence[Mapping[str, Any]]
"""A table: the same names in each row; numbers are written so that reading them gives the same numbers."""


@dataclass(frozen=True)
class Saved:
    """What `save` wrote.

    Attributes:
        name: What its files are called.
        svg: The picture.
        tables: The numbers, by the file's name without its ending.
        made_with: Command, commit, machine and date; see `lossaware.studies.specs.provenance`.
    """

    name: str
    svg: str
    tables: Mapping[str, Rows]
    made_with: Mapping[str, str]


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


def load(folder: Path) -> list[Saved]:
    """All that `save` wrote to a folder.

    Raises:
        UsageError: A file cannot be read, or a picture is none that could stand in a page: it has a script, or asks for
            what lies elsewhere.
    """
    found = []
    for path in sorted(folder.glob("*.json")):
        picture = path.with_suffix(".svg")
        if picture.exists():
            tables = {file.stem: _read_csv(file) for file in sorted(folder.glob(f"{path.stem}*.csv"))}
            found.append(Saved(path.stem, _read_svg(picture), tables, _read_made_with(path)))
    return found


def _read_made_with(path: Path) -> dict[str, str]:
    try:
        made_with = json.loads(path.read_text(encoding="utf-8"))["made_with"]
        return {str(name): str(value) for name, value in made_with.items()}
    except OSError as error:
        raise UsageError(f"{path}: cannot be read ({error.strerror})") from None
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise UsageError(f"{path}: does not say how it was made ({type(error).__name__}: {error})") from None


def _read_csv(path: Path) -> list[dict[str, str]]:
    try:
        with path.open(encoding="utf-8", newline="") as file:
            return list(csv.DictReader(file, strict=True))
    except OSError as error:
        raise UsageError(f"{path}: cannot be read ({error.strerror})") from None
    except (ValueError, csv.Error) as error:
        raise UsageError(f"{path}: not a table ({error})") from None


_DRAWN = {*"svg defs g path use text tspan style clipPath rect circle line polyline polygon title desc".split()}
"""Elements that only draw."""


def _read_svg(path: Path) -> str:
    """The picture, if it only draws: it is put into a page as it is."""
    try:
        text = path.read_text(encoding="utf-8")
        elements = list(ElementTree.fromstring(text).iter())
    except OSError as error:
        raise UsageError(f"{path}: cannot be read ({error.strerror})") from None
    except (ValueError, ElementTree.ParseError) as error:
        raise UsageError(f"{path}: not a picture ({error})") from None
    for element in elements:
        tag = element.tag.rpartition("}")[2]
        if tag not in _DRAWN:
            raise UsageError(f"{path}: not a picture of lossaware: it has <{tag}>")
        for name, value in element.items():
            plain = name.rpartition("}")[2].lower()
            if plain.startswith("on") or (plain == "href" and not value.startswith("#")):
                raise UsageError(f"{path}: not a picture of lossaware: it has {plain}={value!r}")
    if "<!" in text or "<?" in text or re.search(r"url\(\s*['\"]?(?!#)|@import", text):
        raise UsageError(f"{path}: not a picture of lossaware: it asks for what lies elsewhere")
    return text
