"""Options of a command from a TOML file: each key is an option. The command line takes precedence."""

import tomllib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields, is_dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, get_args, get_type_hints

from lossaware.errors import UsageError

OPTION = "--config"
POSITIONAL = "task"


def expand(words: Sequence[str], commands: Mapping[str, Callable[..., Any]]) -> list[str]:
    """The command line, extended by the options of the file of ``--config`` that it does not have itself.

    ``lrs = [1e-4, 1e-3]`` is ``--lrs 1e-4,1e-3``, ``json = true`` is ``--json``, and a table ``[set]`` has the values
    of ``--set``. Paths are relative to the current folder, as on the command line.

    Args:
        words: The command line.
        commands: The functions of the commands that have the option, by name.

    Raises:
        UsageError: The file cannot be read, or has a key or a value that is not allowed.
    """
    plain = [word for word in words if word.partition("=")[0] != OPTION]
    if len(plain) == len(words) or words[0] not in commands:
        return list(words)
    plain, path = _without_option(words)
    options = _options_of(commands[words[0]])
    options[options.index("settings")] = "set"
    used = {word.partition("=")[0] for word in plain}
    from_file: list[str] = []
    for key, value in _read(path).items():
        name = key.replace("-", "_")
        if name not in options:
            from lossaware.studies.specs.options import did_you_mean

            raise UsageError(f"{path}: unknown key {key!r}{did_you_mean(name, options)}")
        option = f"--{name.replace('_', '-')}"
        if name == POSITIONAL:
            if not _has_task(plain) and "--command" not in used:
                plain = [plain[0], _text(path, key, value), *plain[1:]]
        elif name == "set":
            if not isinstance(value, dict):
                raise UsageError(f"{path}: set must be a table of options, such as [set], got {_format(value)}")
            set_options = {word.partition("=")[0] for word in _values_of(plain, option)}
            from_file += [
                word
                for inner, part in value.items()
                if inner not in set_options
                for word in (option, f"{inner}={_text(path, f'set.{inner}', part)}")
            ]
        elif option in used or (name == "command" and _has_task(plain)) or value is False:
            continue
        else:
            from_file += [option] if value is True else [f"{option}={_text(path, key, value)}"]
    return [plain[0], *from_file, *plain[1:]] if not _has_task(plain) else [*plain[:2], *from_file, *plain[2:]]


def _options_of(command: Callable[..., Any]) -> list[str]:
    """The names of a command's options; a parameter that is a dataclass has one per field."""
    names: list[str] = []
    for name, kind in get_type_hints(command).items():
        group = next(filter(is_dataclass, get_args(kind)), None)
        names += [name] if group is None else [field.name for field in fields(group)]
    return [name for name in names if name not in ("config", "return")]


def _without_option(words: Sequence[str]) -> tuple[list[str], Path]:
    """The command line without ``--config``, and its file."""
    rest: list[str] = []
    files: list[str] = []
    remaining = iter(words)
    for word in remaining:
        name, equals, value = word.partition("=")
        if name == OPTION:
            files.append(value if equals else next(remaining, ""))
        else:
            rest.append(word)
    if len(files) != 1 or not files[0]:
        raise UsageError(f"{OPTION} needs one file, such as {OPTION} compare.toml")
    return rest, Path(files[0])


def _read(path: Path) -> dict[str, Any]:
    from lossaware.studies.specs.regular_file import MAX_SETTINGS, read_text

    try:
        return tomllib.loads(read_text(path, at_most=MAX_SETTINGS))
    except UsageError as error:
        raise UsageError(f"{OPTION} {error}") from None
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{path}: not valid TOML: {error}") from None


def _text(path: Path, key: str, value: Any) -> str:
    """A value as it is written on a command line."""
    if isinstance(value, bool):
        return str(value).lower()
    parts = value if isinstance(value, list) else [value]
    if not (parts and all(isinstance(part, int | float | str) for part in parts)):
        raise UsageError(
            f"{path}: {key} must be a number, a text, true, false or a list of these, got {_format(value)}"
        )
    try:
        return ",".join(str(part) for part in parts)
    except ValueError:  # a hexadecimal number of thousands of digits
        raise UsageError(f"{path}: {key} is {_format(value)}") from None


def _format(value: Any) -> str:
    from lossaware.studies.specs.formatting import format_value

    return format_value(value)


def _has_task(words: Sequence[str]) -> bool:
    return len(words) > 1 and not words[1].startswith("-")


def _values_of(words: Sequence[str], option: str) -> list[str]:
    """The values that a command line gives to an option."""
    values = [after for word, after in pairwise(words) if word == option]
    return values + [word.partition("=")[2] for word in words if word.startswith(f"{option}=")]
