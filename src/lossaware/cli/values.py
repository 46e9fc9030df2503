"""Parsing of command-line values."""

import math
import re
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

from cyclopts import Parameter, Token

from lossaware.errors import UsageError

if TYPE_CHECKING:
    from lossaware.studies.specs.data_folder import DataFolder
    from lossaware.studies.specs.run_spec import Options, Value


T = TypeVar("T")


def _integer(kind: type, tokens: Sequence[Token]) -> int:
    text = tokens[0].value
    try:
        value = int(text)
    except ValueError:
        raise ValueError(f"{text[:40]!r} is not an integer") from None
    if abs(value) > MAX_COUNT:
        raise ValueError(f"{text[:40]} is out of range: at most {MAX_COUNT} is allowed")
    return value


MAX_SEEDS = 10_000
"""Equal to `lossaware.studies.specs.run_spec.MAX_SEEDS`, which is not imported so that help is fast."""
MAX_VALUES = 10_000
"""Maximum number of values of an option, equal to the maximum number of cells of a study."""
MAX_COUNT = 1_000_000_000
"""Maximum number of steps, examples or epochs."""


Integer = Annotated[int, Parameter(converter=_integer)]
"""An integer; without the converter, cyclopts would round."""


# --- Parsing --------------------------------------------------------------------------------------------------------


def words(option: str, text: str) -> list[str]:
    """The parts of ``a,b,c``, without duplicates."""
    parts = [part.strip() for part in text.split(",")]
    if not all(parts):
        raise UsageError(f"{option} must be names separated by commas, got {text!r}")
    return _unique(option, parts, str)


def numbers(option: str, text: str, *, at_least: float, exclusive: bool = False) -> list[float]:
    """The numbers of ``1e-4,1e-3``, without duplicates, in order."""
    result = []
    for part in text.split(","):
        try:
            value = float(part)
        except ValueError:
            raise UsageError(f"{option} must be numbers separated by commas, got {part.strip()!r}") from None
        if not math.isfinite(value) or value < at_least or (exclusive and value == at_least):
            bound = f"{'above' if exclusive else 'at least'} {at_least:g}"
            raise UsageError(f"{option} must be finite and {bound}, got {part.strip()}")
        result.append(value)
    return _unique(option, result, lambda value: f"{value:g}")


def sizes(option: str, text: str) -> "list[float | str]":
    """Like `numbers`, at least 0; ``auto`` is allowed too."""
    result: list[float | str] = []
    for part in text.split(","):
        if (word := part.strip()).lower() == "auto" != word:
            raise UsageError(f"{option} must be numbers or auto, separated by commas, got {word!r}; did you mean auto?")
        result += ["auto"] if word == "auto" else numbers(option, part, at_least=0.0)
    return _unique(option, result, lambda value: value if isinstance(value, str) else f"{value:g}")


def assignments(option: str, texts: Sequence[str]) -> "Options":
    """The options of ``key=value`` texts; a value is a number, true, false, null, or else a text."""
    from lossaware.studies.specs.run_spec import parse_value

    result: dict[str, Value] = {}
    for text in texts:
        key, equals, value = (part.strip() for part in text.partition("="))
        if not (key.isidentifier() and equals):
            raise UsageError(f"{option} needs key=value, got {text!r}")
        if key in result:
            raise UsageError(f"{option} has {key} twice")
        result[key] = parse_value(value)
    return tuple(sorted(result.items()))


def parse_named(option: str, text: str | None) -> "tuple[Any, Options]":
    """Name and options of ``StepLR,step_size=5`` or ``MultiStepLR,milestones=3,6``."""
    if text is None:
        return None, ()
    name, *parts = text.split(",")
    if not name.strip():
        raise UsageError(f"{option} needs a name, got {text!r}")
    options: list[str] = []
    for part in parts:
        if options and re.fullmatch(r"[-+.\de\s]*", part):  # milestones=3,6
            options[-1] += f",{part}"
        else:
            options.append(part)
    return name.strip(), assignments(option, options)


def data_source(data: Path | None, no_verify: bool) -> "DataFolder | None":
    """The folder of ``--data``, with or without ``--no-verify``."""
    from lossaware.studies.specs.data_folder import DataFolder

    if data is None and no_verify:
        raise UsageError("--no-verify needs --data, whose files it is for")
    return None if data is None else DataFolder(data, verify=not no_verify)


def check_table_file(option: str, path: Path) -> None:
    """Raise `UsageError` if a table cannot be written to ``path``, or would replace a file of another kind."""
    if not path.absolute().parent.is_dir():
        raise UsageError(f"{option} {path}: there is no folder {path.parent}")
    if path.exists():
        head = b""
        if path.is_file():
            with path.open("rb") as file:
                head = file.readline(10_000)
        if not path.is_file() or (head and (b"," not in head or b"\0" in head)):
            raise UsageError(f"{option} {path} exists, but is not a table, and is not overwritten: choose another")


def _unique(option: str, values: list[T], show: Callable[[T], str]) -> list[T]:
    if len(values) > MAX_VALUES:
        raise UsageError(f"{option} has {len(values)} values; at most {MAX_VALUES} are allowed")
    for value, count in Counter(values).items():
        if count > 1:
            raise UsageError(f"{option} names {show(value)} twice")
    return values
