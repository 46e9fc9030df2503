"""Files that a command writes to ``results/``: tables, plots, and their provenance."""

import csv
import hashlib
import io
import json
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from lossaware.errors import Note, UsageError
from lossaware.studies.report.image import Image
from lossaware.studies.report.plot import Plot
from lossaware.studies.report.writers.csv import to_csv
from lossaware.studies.specs.atomic import write_atomic
from lossaware.studies.specs.escape import json_text
from lossaware.studies.specs.provenance import environment, without_folders
from lossaware.studies.specs.regular_file import MALFORMED, read_regular, read_text, sibling_file
from lossaware.studies.specs.seal import SEAL, is_sealed, sealed

Rows = Sequence[Mapping[str, Any]]
"""A table with the same names in each row. Numbers are written with all digits."""


@dataclass(frozen=True)
class Saved:
    """The files of one call of `save`.

    Attributes:
        name: Name of its files.
        image: The plot.
        tables: The numbers, by the file's name without its ending.
        made_with: Command, commit, machine and date of the call; see `lossaware.studies.specs.provenance`.
    """

    name: str
    image: Image
    tables: Mapping[str, Rows]
    made_with: Mapping[str, str]


def save(folder: Path, name: str, *, tables: Mapping[str, Rows], plot: Plot, settings: Mapping[str, Any]) -> None:
    """Write ``NAME.svg``, ``NAME-dark.svg``, ``NAME.png``, a CSV file per table, and ``NAME.json``.

    The last one has settings, command, commit and date, and the digests of all files.

    Args:
        folder: Target folder; created if missing. Files of these names are replaced.
        name: Name of the files.
        tables: Rows, by the file's name without its ending.
        plot: The plot.
        settings: The settings of the computation.

    Raises:
        UsageError: The folder cannot be written to.
    """
    run_environment = environment()
    run_environment["command"] = without_folders(run_environment["command"])
    files = {f"{table}.csv": to_csv(rows).encode() for table, rows in tables.items()}
    files |= {f"{name}.svg": plot.svg().encode(), f"{name}-dark.svg": plot.svg("dark").encode()}
    files[f"{name}.png"] = plot.png()
    digests = {file: hashlib.sha256(content).hexdigest() for file, content in files.items()}
    files[f"{name}.json"] = _to_json(
        {"description": plot.description, "settings": settings, "made_with": run_environment, "files": digests}
    ).encode()
    for file, content in files.items():
        write_atomic(folder / file, content)


def _to_json(content: Mapping[str, Any]) -> str:
    return json_text(sealed(content), indent=1) + "\n"


def load(folder: Path) -> list[Saved]:
    """All files that `save` wrote to a folder.

    Raises:
        UsageError: A file cannot be read or has changed.
    """
    result = []
    for path in _descriptions(folder):
        run_environment = verify(path)
        tables = {file.stem: _read_csv(file) for file in sorted(folder.glob(f"{path.stem}*.csv"))}
        result.append(Saved(path.stem, _read_image(path), tables, run_environment))
    if without := without_digests(folder):
        warnings.warn(
            f"{folder}: {', '.join(without)}: written by an earlier version without digests, so that "
            f"changes are not detected; `lossaware study verify {folder} --add-digests` adds them",
            Note,
            stacklevel=2,
        )
    return result


def verify(path: Path) -> dict[str, str]:
    """Check that the files of a plot are unchanged.

    Args:
        path: Its description, ``NAME.json``.

    Returns:
        Its provenance.

    Raises:
        UsageError: A file has changed or cannot be read.
    """
    content = _content(path)
    files = {str(name): str(digest) for name, digest in content.get("files", {}).items()}
    for name, digest in files.items():
        file = sibling_file(path, name)
        if (actual := hashlib.sha256(read_regular(file)).hexdigest()) != digest:
            raise UsageError(f"{file}: this file does not match {path.name}: its SHA-256 is {actual}")
    return {str(name): str(value) for name, value in content["made_with"].items()}


def damage(folder: Path) -> list[str]:
    """Descriptions of changed files of plots, one line each."""
    errors = []
    for path in _descriptions(folder):
        try:
            verify(path)
        except UsageError as error:
            errors.append(str(error))
    return errors


def without_digests(folder: Path) -> list[str]:
    """The names of plots without digests, from earlier versions."""
    return [path.stem for path in _descriptions(folder) if SEAL not in _content(path)]


def add_digests(folder: Path) -> list[Path]:
    """Add digests of the present files to plots of earlier versions; see `save`.

    Returns:
        The written files. Each has the date and the command.
    """
    added = environment()
    added["command"] = without_folders(added["command"])
    paths = []
    for name in without_digests(folder):
        path = folder / f"{name}.json"
        study = name.removesuffix("-lr")
        # A study's plot over its learning rates also has tables with other names.
        more = ("overall", "times") if name != study else ()
        files = {*folder.glob(f"{name}*.csv"), *(folder / f"{study}-{table}.csv" for table in more)}
        files |= {path.with_suffix(ending) for ending in (".svg", ".png")}
        files |= {folder / f"{name}-dark.svg"}
        digests = {file.name: hashlib.sha256(read_regular(file)).hexdigest() for file in sorted(files) if file.exists()}
        write_atomic(path, _to_json({**_content(path), "digests_added": added, "files": digests}))
        paths.append(path)
    return paths


def _content(path: Path) -> dict[str, Any]:
    """The content of a description."""
    try:
        content: dict[str, Any] = json.loads(read_regular(path))
        content["made_with"].items()
        content.get("files", {}).items()
        unchanged = is_sealed(content) if SEAL in content or "files" in content else True
    except MALFORMED as error:
        raise UsageError(f"{path}: its provenance cannot be read ({type(error).__name__}: {error})") from None
    if not unchanged:
        raise UsageError(f"{path}: this file has changed: its digest does not match")
    return content


def _descriptions(folder: Path) -> list[Path]:
    """``NAME.json`` of each plot in a folder."""
    return [path for path in sorted(folder.glob("*.json")) if path.with_suffix(".svg").exists()]


def _read_csv(path: Path) -> list[dict[str, str]]:
    try:
        text = read_text(path)
        rows = list(csv.DictReader(io.StringIO(text, newline=""), strict=True))
        if any(None in row or None in row.values() for row in rows):
            raise ValueError("the number of fields of a line differs from the header")
        return rows
    except (ValueError, csv.Error) as error:
        raise UsageError(f"{path}: not a table ({error})") from None


_SVG = "{http://www.w3.org/2000/svg}svg"


def _read_image(path: Path) -> Image:
    """The plot with the description ``NAME.json``. Earlier versions wrote one SVG for light and dark mode."""
    light, root = _read_svg(path.with_suffix(".svg"))
    on_dark = path.with_name(f"{path.stem}-dark.svg")
    dark, _ = _read_svg(on_dark) if on_dark.exists() else (light, root)
    description = str(_content(path).get("description", root.get("aria-label", path.stem)))
    try:
        width = float(root.get("viewBox", "").split()[2])
    except (IndexError, ValueError):
        raise UsageError(f"{path.with_suffix('.svg')}: not a picture (it has no viewBox)") from None
    return Image(light, dark, description, width)


def _read_svg(path: Path) -> tuple[str, ElementTree.Element]:
    """The text of an SVG, and its root element.

    Pages show it as an image, which cannot run scripts or load files.
    """
    try:
        text = read_text(path)
        if "<!DOCTYPE" in text:
            raise ValueError("it has a DOCTYPE, which may define recursive entities")
        root = ElementTree.fromstring(text)
    except (ValueError, ElementTree.ParseError) as error:
        raise UsageError(f"{path}: not a picture ({error})") from None
    if root.tag != _SVG:
        raise UsageError(f"{path}: not a picture (its outermost element is {root.tag!r})")
    return text, root
