"""Run specification and epoch records: plain frozen data that all later stages read."""

import hashlib
import json
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, fields
from functools import cached_property
from types import NoneType
from typing import Any, cast

from lossaware.studies.specs.user_code import is_own, scripts_of

Value = bool | int | float | str | None
Options = tuple[tuple[str, Value], ...]
"""Keyword arguments as sorted pairs, so that a specification is hashable."""


def options(**values: Value) -> Options:
    """Keyword arguments as `Options`."""
    return tuple(sorted(values.items()))


def format_options(values: Options) -> str:
    """Options for messages: ``gamma=0.5, step_size=3``."""
    return ", ".join(f"{name}={value!r}" for name, value in values)


def parse_value(text: str) -> Value:
    """A value from a command line: a number, true, false, null, or otherwise a text."""
    try:
        parsed = json.loads(text)
    except (ValueError, RecursionError):
        return text
    return parsed if isinstance(parsed, bool | int | float | str) or parsed is None else text


LGA_DEFAULTS: Mapping[str, Any] = {
    "gamma2": 1e-8,
    "eps": 0.1,
    "xi": 0.01,
    "lower_bound": "progressive",
    "backoff": 0.1,
    "zero_gradient": "push",
}
"""The defaults of `lossaware.LGA`, written out, so that specifications do not change when defaults change."""
SELF_SET_DEFAULTS: Mapping[str, Any] = {
    "gamma2": "auto",
    "eps": 0.0,
    "xi": 1.0,
    "lower_bound": "zero",
    "zero_gradient": "rest",
    "gamma2.reach": 0.02,
    "gamma2.momentum": 0.9,
    "gamma2.growth": 1.3,
    "gamma2.shrink": 0.6,
    "gamma2.fade": 0.93,
    "gamma2.certainty": 1.0,
    "gamma2.statuses_per_epoch": 10,
    "gamma2.steps_at_least": 25,
}
"""The defaults for ``gamma2="auto"``, with all constants of the rule."""


AGREEMENT_DEFAULTS: Mapping[str, Any] = {
    "gamma2": "agreement",
    "gamma2.initial": 6e-4,
    "gamma2.smallest": 2e-5,
    "gamma2.largest": 0.02,
    "gamma2.momentum": 0.9,
    "gamma2.rate": 0.03,
    "gamma2.early": 3.0,
    "gamma2.shrink": 0.6,
    "gamma2.fade": 0.93,
    "gamma2.certainty": 2.5,
    "gamma2.status_steps": 25,
}
"""The defaults for ``gamma2="agreement"``, which does not use other settings."""

_DEFAULTS: Mapping[Any, Mapping[str, Any]] = {"auto": SELF_SET_DEFAULTS, "agreement": AGREEMENT_DEFAULTS}

_INTEGERS = ("steps_per_epoch", "gamma2.statuses_per_epoch", "gamma2.steps_at_least", "gamma2.status_steps")


def lga_options(chosen: Mapping[str, Any]) -> Options:
    """LGA's arguments in a specification: with all defaults, so that equal runs have equal keys."""
    complete = {**_DEFAULTS.get(chosen.get("gamma2"), LGA_DEFAULTS), **chosen}
    # Later settings are omitted at their defaults, so that runs of earlier versions keep their keys.
    if complete.get("upper_bound") == "first":
        del complete["upper_bound"]
    if complete.get("gamma2.mean_dtype", "") is None:
        del complete["gamma2.mean_dtype"]
    return options(
        **{
            name: float(value) if type(value) is int and name not in _INTEGERS else value
            for name, value in complete.items()
        }
    )


VALIDATION = "validation_"
"""Prefix of the names of measures on the validation set."""
AS_CODED = "as coded"
"""In place of a gamma2: use the settings in the code of the user's function."""


def function_options(gamma2: float | str, others: Mapping[str, Any]) -> Options:
    """LGA's arguments that override those in the code of a training function.

    Args:
        gamma2: A number; the name of a rule, with all its constants; or `AS_CODED`.
        others: Other arguments.
    """
    if isinstance(gamma2, str) and gamma2 != AS_CODED:
        return lga_options({**others, "gamma2": gamma2})
    return options(**others) if gamma2 == AS_CODED else options(**{**others, "gamma2": gamma2})


@dataclass(frozen=True)
class RunSpec:
    """The settings that determine the numbers of one run.

    Attributes:
        task: Name of a registered task, or ``module:attribute`` / ``file.py:attribute`` of a user's own; for a
            training function, its place.
        task_options: Keyword arguments of the function that builds the task, or of the training function.
        optimizer: Name of the base optimizer, or of a user's own; ``""`` if a training function makes its own.
        optimizer_options: Its keyword arguments besides the learning rate.
        lr: Learning rate, above 0; 0 if a training function has its own.
        scheduler: Name of a scheduler of ``torch.optim.lr_scheduler``, stepped once per epoch, or None.
        scheduler_options: Its keyword arguments.
        lga: Keyword arguments of `lossaware.LGA`; None without LGA. A missing ``steps_per_epoch`` means the number of
            batches in an epoch. For a training function, these arguments override those in its code.
        seed: Determines initialisation, data order and augmentation; the same without and with LGA.
        epochs: Passes over the training set, at least 1; 0 if a training function determines them.
        batch_size: Examples per step, at least 1; 0 if a training function determines them.
        precision: ``"fp32"`` or ``"bf16"`` (autocast).
        device: ``"cpu"`` or ``"cuda"``, which differ in the last bits.
        distributed: ``"ddp-2"`` or ``"fsdp-2"``: mode and number of ranks, which also change the last bits; None for
            one process.
        kind: ``"task"``, ``"function"`` for a user's training function, or ``"command"`` for a training command, which
            is then the task.
        training: Options of a task's training loop: ``accumulate``, ``clip``, ``interval``, ``patience``; see
            `lossaware.studies.training.loop_options`.
    """

    task: str
    optimizer: str
    lr: float
    seed: int
    epochs: int
    batch_size: int
    task_options: Options = ()
    optimizer_options: Options = ()
    scheduler: str | None = None
    scheduler_options: Options = ()
    lga: Options | None = None
    precision: str = "fp32"
    device: str = "cpu"
    distributed: str | None = None
    kind: str = "task"
    training: Options = ()

    def to_json(self) -> str:
        """The specification as one line of JSON. Equal specifications give equal lines."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        for name, usual in (("device", "cpu"), ("distributed", None), ("kind", "task"), ("training", ())):
            if values[name] == usual:
                del values[name]  # so that runs of earlier versions keep their keys
        return json.dumps(values, sort_keys=True, separators=(",", ":"))

    @classmethod
    def from_json(cls, line: str) -> "RunSpec":
        """The specification from a result of `to_json`.

        Raises:
            ValueError: The line is not valid.
            TypeError: The line is not valid.
            KeyError: The line is not valid.
            AttributeError: The line is not valid.
        """
        values: dict[str, Any] = json.loads(line)
        for name in ("task_options", "optimizer_options", "scheduler_options", "lga", "training"):
            if values.get(name) is not None:
                values[name] = tuple((key, value) for key, value in values[name])
        _check_types(values)
        spec = cls(**values)
        if not all(name.isprintable() for name in (spec.task, spec.optimizer, *spec.own_code)):
            raise ValueError(f"the names {spec.task!r}, {spec.optimizer!r} are not printable")
        return spec

    @property
    def is_open_ended(self) -> bool:
        """Whether the run itself determines its number of epochs."""
        return self.kind != "task" or self.patience is not None

    @property
    def patience(self) -> int | None:
        """Early stopping: the number of epochs without a better validation score; None without early stopping."""
        return cast(int | None, dict(self.training).get("patience"))  # `loop_options` checks its type

    def is_finished(self, epochs: int) -> bool:
        """Whether a run with this number of stored epochs has all. Those of open-ended runs are stored at their end."""
        return epochs > 0 and (self.is_open_ended or epochs >= self.epochs)

    @property
    def arm(self) -> tuple[Any, ...]:
        """The arm among the runs of the same seed and learning rate: base and LGA."""
        return self.optimizer, self.optimizer_options, self.lga

    @property
    def own_code(self) -> tuple[str, ...]:
        """The names of the user's own code that the run executes. Results belong to this version of the code."""
        codes = scripts_of(shlex.split(self.task)) if self.kind == "command" else [self.task]
        return tuple(filter(is_own, (*codes, self.optimizer)))

    @property
    def caution(self) -> str:
        """Warning shown when the data are synthetic; empty for real data."""
        return "stand-in features" if ("features", "stand-in") in self.task_options else ""

    @cached_property
    def key(self) -> str:
        """The run's name in a store: 16 hexadecimal digits of the SHA-256 of `to_json`."""
        return hashlib.sha256(self.to_json().encode()).hexdigest()[:16]


MAX_SEEDS = 10_000
"""Maximum number of seeds."""
LARGEST = 2**63 - 1
"""The largest integer in a specification: a seed, a count or an option."""
_TYPES: Mapping[str, tuple[type, ...]] = {
    **dict.fromkeys(("task", "optimizer", "precision", "device", "kind"), (str,)),
    **dict.fromkeys(("scheduler", "distributed"), (str, NoneType)),
    **dict.fromkeys(("seed", "epochs", "batch_size"), (int,)),
    "lr": (int, float),
}
_VALUES = (bool, int, float, str, NoneType)


def _check_types(fields: Mapping[str, Any]) -> None:
    """Raise ValueError if a field has a wrong type, which is possible in files of other people."""
    for name, value in fields.items():
        if name in _TYPES:
            _check_value(name, value, _TYPES[name])
        elif value is not None:
            for key, option in value:
                _check_value(name, key, (str,))
                _check_value(f"{name} {key}", option, _VALUES)


def _check_value(name: str, value: Any, types: tuple[type, ...]) -> None:
    if type(value) not in types or (type(value) is int and abs(value) > LARGEST):
        raise ValueError(f"{name} is {str(value)[:40]!r}")


@dataclass(frozen=True)
class EpochRecord:
    """The record of an epoch.

    Attributes:
        epoch: Number of the epoch, from 1.
        train: Mean over the epoch's examples of each measure during training (``loss``, ``accuracy``, ...).
        test: The same measures over the test set, with the parameters at the end of the epoch.
        lga: The fields of `lossaware.Status` at the end of the epoch; None without LGA.
        seconds: Wall time of the training part of the epoch, without the test.
    """

    epoch: int
    train: Mapping[str, float]
    test: Mapping[str, float]
    lga: Mapping[str, float] | None
    seconds: float
