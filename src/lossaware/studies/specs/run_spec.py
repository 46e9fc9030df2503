"""What one run is, and what it yields: plain frozen data that every later stage reads."""

import hashlib
import json
import shlex
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from types import NoneType
from typing import Any

from lossaware.studies.specs.user_code import is_own, scripts_of

Value = bool | int | float | str | None
Options = tuple[tuple[str, Value], ...]
"""Keyword arguments as sorted pairs, so that a specification can be hashed."""


def options(**values: Value) -> Options:
    """Keyword arguments as `Options`."""
    return tuple(sorted(values.items()))


def format_options(given: Options) -> str:
    """Options as a message shows them: ``gamma=0.5, step_size=3``."""
    return ", ".join(f"{name}={value!r}" for name, value in given)


def parse_value(text: str) -> Value:
    """A value as it is written on a command line: a number, true, false, null, or else a text."""
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
"""The defaults of `lossaware.LGA`, written out: a run's specification says what it was, whatever defaults become."""
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
"""The same for a gamma2 that sets itself; a rule with other constants gives other runs."""


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
"""The same for gamma2 by agreement, which reads no other setting."""

_DEFAULTS: Mapping[Any, Mapping[str, Any]] = {"auto": SELF_SET_DEFAULTS, "agreement": AGREEMENT_DEFAULTS}

_WHOLE = ("steps_per_epoch", "gamma2.statuses_per_epoch", "gamma2.steps_at_least", "gamma2.status_steps")


def lga_options(given: Mapping[str, Any]) -> Options:
    """LGA's arguments as they stand in a specification: with all defaults, so that equal runs have equal keys."""
    whole = {**_DEFAULTS.get(given.get("gamma2"), LGA_DEFAULTS), **given}
    if whole.get("upper_bound") == "first":
        del whole["upper_bound"]  # so that runs from before there was a choice keep their keys
    return options(
        **{name: float(value) if type(value) is int and name not in _WHOLE else value for name, value in whole.items()}
    )


VALIDATION = "validation_"
"""What is measured on a validation set has the name that it has on the test set, after this."""
AS_CODED = "as coded"
"""In place of a gamma2: LGA has the settings that the code of a user's function gives it."""


def function_options(gamma2: float | str, others: Mapping[str, Any]) -> Options:
    """LGA's arguments that go over those in the code of a function that trains.

    Args:
        gamma2: Its size; a rule by name, which brings all its constants; or `AS_CODED`.
        others: Its other arguments.
    """
    if isinstance(gamma2, str) and gamma2 != AS_CODED:
        return lga_options({**others, "gamma2": gamma2})
    return options(**others) if gamma2 == AS_CODED else options(**{**others, "gamma2": gamma2})


@dataclass(frozen=True)
class RunSpec:
    """Everything that decides the numbers of one run, and nothing else.

    Attributes:
        task: Name of a registered task, or ``module:attribute`` / ``file.py:attribute`` of a user's own; where the run
            is a function that trains, its place.
        task_options: Keyword arguments of the function that builds the task, or that trains.
        optimizer: Name of the base optimizer, or, likewise, of a user's own; ``""`` where a function makes its own.
        optimizer_options: Its keyword arguments besides the learning rate.
        lr: Learning rate, above 0; 0 where a function that trains has its own.
        scheduler: Name of a scheduler of ``torch.optim.lr_scheduler``, stepped once an epoch, or None.
        scheduler_options: Its keyword arguments.
        lga: Keyword arguments of `lossaware.LGA` where the run is with LGA, None where it is without. A missing
            ``steps_per_epoch`` means the number of batches in an epoch. Where a function trains, these are the
            arguments that go over those in its code.
        seed: Decides initialisation, data order and augmentation; the same without and with LGA.
        epochs: Passes over the training set, at least 1; 0 where a function that trains decides.
        batch_size: Examples a step, at least 1; 0 likewise.
        precision: ``"fp32"`` or ``"bf16"`` (autocast).
        device: ``"cpu"`` or ``"cuda"``, whose sums differ in their last bits.
        distributed: ``"ddp-2"`` or ``"fsdp-2"``: how the run is shared by how many ranks, whose sums differ likewise;
            None where it is one process.
        kind: ``"task"``, or ``"function"`` where a function of the user's own trains, or ``"command"`` where a command
            does, which is the task then.
        training: Options of a task's training loop: ``accumulate``, ``clip``, ``interval``; see
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
        """One canonical line; equal specifications give equal lines."""
        fields = asdict(self)
        for name, usual in (("device", "cpu"), ("distributed", None), ("kind", "task"), ("training", ())):
            if fields[name] == usual:
                del fields[name]  # so that runs from before there was a choice keep their keys
        return json.dumps(fields, sort_keys=True, separators=(",", ":"))

    @classmethod
    def from_json(cls, line: str) -> "RunSpec":
        """The specification that `to_json` wrote.

        Raises:
            ValueError: It did not; likewise TypeError, KeyError and AttributeError.
        """
        fields: dict[str, Any] = json.loads(line)
        for name in ("task_options", "optimizer_options", "scheduler_options", "lga", "training"):
            if fields.get(name) is not None:
                fields[name] = tuple((key, value) for key, value in fields[name])
        _check_types(fields)
        spec = cls(**fields)
        if not all(name.isprintable() for name in (spec.task, spec.optimizer, *spec.own_code)):
            raise ValueError(f"the names {spec.task!r}, {spec.optimizer!r} are not printable")
        return spec

    @property
    def is_open_ended(self) -> bool:
        """Whether the run itself says after which epoch it is complete."""
        return self.kind != "task"

    @property
    def arm(self) -> tuple[Any, ...]:
        """What makes it another arm than the runs of the same seed and learning rate: its base, and LGA."""
        return self.optimizer, self.optimizer_options, self.lga

    @property
    def own_code(self) -> tuple[str, ...]:
        """The names of a user's own code that it runs; what was measured belongs to the code as it was then."""
        codes = scripts_of(shlex.split(self.task)) if self.kind == "command" else [self.task]
        return tuple(filter(is_own, (*codes, self.optimizer)))

    @property
    def caution(self) -> str:
        """What every result of it must say, as its data are none that anybody measured; empty where they are."""
        return "stand-in features" if ("features", "stand-in") in self.task_options else ""

    @property
    def key(self) -> str:
        """The run's name in a store: 16 hexadecimal digits of the SHA-256 of `to_json`."""
        return hashlib.sha256(self.to_json().encode()).hexdigest()[:16]


MAX_SEEDS = 10_000
"""How many seeds a run may have."""
LARGEST = 2**63 - 1
"""The largest whole number in a specification, whether it is a seed, a count or an option."""
_TYPES: Mapping[str, tuple[type, ...]] = {
    **dict.fromkeys(("task", "optimizer", "precision", "device", "kind"), (str,)),
    **dict.fromkeys(("scheduler", "distributed"), (str, NoneType)),
    **dict.fromkeys(("seed", "epochs", "batch_size"), (int,)),
    "lr": (int, float),
}
_VALUES = (bool, int, float, str, NoneType)


def _check_types(fields: Mapping[str, Any]) -> None:
    """Raise ValueError where a field is of another type, as it may be in a file that somebody else wrote."""
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
    """What is known after an epoch.

    Attributes:
        epoch: Counted from 1.
        train: Mean over the epoch's examples of each measure, taken while training (``loss``, ``accuracy``, ...).
        test: The same measures over the test set, with the parameters at the end of the epoch.
        lga: The fields of `lossaware.Status` at the end of the epoch; None without LGA.
        seconds: Wall time of the training part of the epoch, without the test.
    """

    epoch: int
    train: Mapping[str, float]
    test: Mapping[str, float]
    lga: Mapping[str, float] | None
    seconds: float
