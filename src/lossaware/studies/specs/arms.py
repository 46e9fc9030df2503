"""The arms of a comparison: variants of the runs of a seed. The first arm is the reference of the others.

An arm is a base optimizer, a way to attach LGA, or both: ``without``, ``auto``, ``prodigy``, ``adam+auto``.
A new way to attach LGA is one entry of `WAYS`; a new base is one of `lossaware.studies.specs.optimizers`.
"""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from lossaware.errors import UsageError
from lossaware.rules import RULES
from lossaware.studies.specs.formatting import size
from lossaware.studies.specs.optimizers import name_of_class, optimizers
from lossaware.studies.specs.options import did_you_mean
from lossaware.studies.specs.run_spec import AS_CODED, Options, RunSpec, Value, parse_value
from lossaware.studies.specs.user_code import is_own

WITHOUT, LGA = "without", "lga"
WAYS: Mapping[str, float | str | None] = {WITHOUT: None, LGA: AS_CODED, **{rule: rule for rule in RULES}}
"""The gamma2 of each way to attach LGA, by name. None means without LGA.

`AS_CODED` is the gamma2 of the task, or of the user's function. Besides these names, a number is a name for that
gamma2.
"""


@dataclass(frozen=True)
class Arm:
    """One arm of a comparison.

    Attributes:
        name: Its name, which is a column of the study.
        gamma2: LGA's gamma2: a number, a rule's name, or `AS_CODED`; None is without LGA.
        optimizer: The base; None for the base of the row, or of the user's function.
        options: Keyword arguments of the base.
        lr: Its learning rate; None for that of the row.
    """

    name: str
    gamma2: float | str | None = None
    optimizer: str | None = None
    options: Options = ()
    lr: float | None = None


def arms_of_gamma2(gamma2s: Sequence[float | str]) -> list[Arm]:
    """The arms without LGA, and with LGA at each gamma2."""
    texts = [size(gamma2) for gamma2 in gamma2s]
    names = [LGA if gamma2 == AS_CODED else text for gamma2, text in zip(gamma2s, texts, strict=True)]
    if len(set(names)) < len(names):  # all digits if two would have the same name
        names = [repr(gamma2) for gamma2 in gamma2s]
    return [Arm(WITHOUT), *(Arm(name, gamma2) for name, gamma2 in zip(names, gamma2s, strict=True))]


def parse_arms(names: str | Sequence[str | type]) -> list[Arm]:
    """The arms of ``without,lga,auto`` or ``adamw,prodigy(lr=1),adamw+auto``, or of a list of such texts or classes.

    Raises:
        UsageError: An arm does not exist, there are fewer than two, or two are the same.
    """
    texts = re.split(r",(?![^(]*\))", names) if isinstance(names, str) else list(names)
    arms = [_parse(name_of_class(text) if isinstance(text, type) else str(text).strip()) for text in texts]
    if len(arms) < 2:
        raise UsageError(
            f"at least two arms are needed, separated by commas, got {names!r}; the first is the reference"
        )
    plain = [replace(arm, name="") for arm in arms]
    for number, arm in enumerate(arms):
        if plain[number] in plain[:number] or arm.name in [earlier.name for earlier in arms[:number]]:
            raise UsageError(f"arms name {arm.name} twice")
    return arms


def _parse(text: str) -> Arm:
    if (gamma2 := _way(text)) is not _NONE:
        return Arm(size(gamma2) if isinstance(gamma2, float) else text, gamma2)
    base, plus, tail = text.rpartition("+")
    way = _way(tail.strip()) if plus else _NONE
    base, gamma2 = (text, None) if way is _NONE else (base.strip(), way)  # a folder's name may contain a plus
    match = re.fullmatch(r"([^()]+?)\s*(?:\(([^()]*)\))?", base)
    name, inner = match.groups() if match else (base, None)
    if match is None or not (name in optimizers() or is_own(name)):
        raise UsageError(_unknown(text, name))
    chosen = _options(text, inner or "")
    lr = chosen.pop("lr", None)
    if lr is not None and not (isinstance(lr, int | float) and math.isfinite(lr) and lr > 0):
        raise UsageError(f"arm {text!r}: lr must be a number above 0, got {lr!r}")
    return Arm(text, gamma2, name, tuple(sorted(chosen.items())), None if lr is None else float(lr))


_NONE: Any = object()


def _way(text: str) -> Any:
    """The gamma2 of a way to attach LGA; `_NONE` if it is not one."""
    if text in WAYS:
        return WAYS[text]
    try:
        value = float(text)
    except ValueError:
        return _NONE
    return value if math.isfinite(value) and value >= 0 else _NONE


def _options(arm: str, inner: str) -> dict[str, Value]:
    """The options in the brackets of an arm: ``lr=1, weight_decay=0.1``; ``betas=0.9,0.99`` is one option."""
    result: dict[str, Value] = {}
    parts: list[str] = []
    for part in filter(None, map(str.strip, inner.split(","))):
        if parts and "=" not in part:
            parts[-1] += f",{part}"
        else:
            parts.append(part)
    for part in parts:
        key, equals, value = (word.strip() for word in part.partition("="))
        if not (key.isidentifier() and equals and value) or key in result:
            raise UsageError(f"arm {arm!r}: options are written as in adamw(lr=1e-3,weight_decay=0.1), got {part!r}")
        result[key] = parse_value(value)
    return result


def _unknown(text: str, meant: str) -> str:
    hint = did_you_mean(meant, [*WAYS, *optimizers()])
    return (
        f"unknown arm {text!r}{'' if hint.startswith('; known') else hint} (an arm is {', '.join(WAYS)}, a gamma2 such "
        "as 1e-7, one of `lossaware optimizers`, file.py:Class, or a base with LGA such as adam+auto)"
    )


def _text(gamma2: Value) -> str:
    return size(gamma2) if isinstance(gamma2, float | str) else str(gamma2)


def arm_of(spec: RunSpec) -> str:
    """The name of a run's arm. It lacks the arm's own learning rate, which cannot be distinguished from its row's."""
    gamma2 = None if spec.lga is None else dict(spec.lga).get("gamma2", AS_CODED)
    way = WITHOUT if gamma2 is None else LGA if gamma2 == AS_CODED else _text(gamma2)
    if not spec.optimizer:
        return way
    inner = ",".join(f"{name}={value}" for name, value in spec.optimizer_options)
    return spec.optimizer + f"({inner})" * bool(inner) + f"+{way}" * (gamma2 is not None)
