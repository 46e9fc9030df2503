"""The file of a study: its keys and their values, and one line per mistake."""

import contextlib
import math
import re
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from lossaware.errors import UsageError
from lossaware.studies.specs.formatting import format_value
from lossaware.studies.specs.options import did_you_mean
from lossaware.studies.specs.run_spec import LARGEST, MAX_SEEDS

MAX_EPOCHS = 1_000_000
"""Maximum number of epochs of a run."""
MAX_CELLS = 10_000
"""Maximum number of cells of a table."""
MAX_RUNS = 100_000
"""Maximum number of runs of a study."""
Scalar = bool | Annotated[int, Field(ge=-LARGEST, le=LARGEST)] | float | str
Option = Scalar | None
"""A value of an option; None only in studies made in memory, as TOML does not have null."""


class _Table(BaseModel):
    """A table of the file: unknown keys are errors, and values are not converted."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class MetricSettings(_Table):
    """The metric that a cell shows of its runs.

    Attributes:
        set: ``"train"`` (the running mean while training) or ``"test"``.
        name: The measure: ``accuracy``, ``loss`` or another of the task's.
        at: The epoch of the value: ``"final"``; ``"best"`` of all epochs; or ``"reached"``, the first epoch at which a
            run with LGA has the base's final value, and its last epoch if it never does. ``"ratio"`` shows the number
            of this epoch divided by the base's epochs, and 1 if it never does (Tables 3, 4, 9 and 10).
        percent: Whether the value is a share that is shown in percent; by default for accuracies.
        higher_is_better: By default for all measures except losses.
    """

    set: Literal["train", "test"] | None = None
    name: str | None = None
    at: Literal["final", "best", "reached", "ratio"] | None = None
    percent: bool | None = None
    higher_is_better: bool | None = None

    def over(self, other: Self) -> Self:
        """These settings, with the other's for those that are not set."""
        return other.model_copy(update=self.model_dump(exclude_none=True))


class Settings(_Table):
    """Settings of runs; None or empty if not set. Options are merged by key, other settings are replaced."""

    task: str | None = None
    task_options: dict[str, Option] = {}
    optimizer: str | None = None
    optimizer_options: dict[str, Scalar] = {}
    lr: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None
    scheduler: str | None = None
    scheduler_options: dict[str, Option] = {}
    training: dict[str, Scalar] = {}
    lga: Literal[False] | dict[str, Option] | None = None
    epochs: Annotated[int, Field(ge=1, le=MAX_EPOCHS)] | None = None
    batch_size: Annotated[int, Field(ge=1, le=LARGEST)] | None = None
    precision: Literal["fp32", "bf16"] | None = None
    device: Literal["cpu", "cuda"] | None = None
    distributed: Annotated[str, Field(pattern=r"^(ddp|fsdp)-[1-9]\d*$")] | None = None
    seeds: int | list[int] | None = None

    @field_validator("seeds", mode="before")
    @classmethod
    def _check_seeds(cls, seeds: Any) -> Any:
        listed = seeds if isinstance(seeds, list) else [seeds]
        least = 0 if isinstance(seeds, list) else 1
        if not (listed and all(type(number) is int and least <= number <= LARGEST for number in listed)):
            raise ValueError("must be a number of seeds, at least 1, or a list of seeds from 0 to 2^63 - 1")
        if (len(seeds) if isinstance(seeds, list) else seeds) > MAX_SEEDS:
            raise ValueError(f"must be at most {MAX_SEEDS} seeds")
        if len(set(listed)) < len(listed):
            raise ValueError("must not name a seed twice")
        return seeds

    @field_validator("lga", mode="before")
    @classmethod
    def _check_lga(cls, lga: Any) -> Any:
        if not (lga is False or isinstance(lga, dict)):
            raise ValueError("must be false, or a table of LGA's arguments")
        return lga

    @property
    def all_seeds(self) -> Sequence[int]:
        """The list of seeds: ``3`` is 0, 1, 2."""
        return range(self.seeds) if isinstance(self.seeds, int) else self.seeds or ()

    def over(self, other: "Settings") -> "Settings":
        """These settings over the other's.

        If the other has ``lga = false``, the result has it too. Therefore the point "without" of one axis is without
        LGA at all points of another axis that sets gamma2.
        """
        changes = {name: getattr(self, name) for name in Settings.model_fields if name in self.model_fields_set}
        for name in ("task_options", "optimizer_options", "scheduler_options", "training"):
            changes[name] = {**getattr(other, name), **getattr(self, name)}
        if other.lga is False:
            changes["lga"] = False
        elif isinstance(self.lga, dict):
            changes["lga"] = {**(other.lga or {}), **self.lga}
        return Settings.model_construct(**{**dict(other), **changes})


class Point(Settings):
    """A point of an axis: the settings of its cells."""

    measure: MetricSettings = MetricSettings()


class Derived(_Table):
    """Derived rows or columns, computed from the cells of all points of an axis.

    Attributes:
        axis: Name of the axis.
        points: The statistic by its name in the table: the mean, or the population standard deviation (as in
            Table 5).
    """

    axis: str
    points: dict[str, Literal["mean", "deviation"]]


class StudyFile(_Table):
    """The content of a study's file.

    Attributes:
        published_seeds: Number of experiments per published figure, which is their mean: five in the paper
            (section 4.1), one in Table 4.
    """

    title: str
    caption: str = ""
    notes: list[str] = []
    rows: list[str]
    columns: list[str]
    base: Settings = Settings()
    measure: MetricSettings
    axes: dict[str, dict[str, Point]]
    derived: Derived | None = None
    published: dict[str, Any] = {}
    published_seeds: Annotated[int, Field(ge=1)] = 5


def parse_settings(assignments: Mapping[str, Any]) -> Settings:
    """Settings from a command line: ``{"epochs": 3, "batch_size": "32", "lga.gamma2": "1e-7", "pad": "0"}``.

    Names that are not settings are options of the task, as for ``compare --set``.

    Raises:
        UsageError: A key is unknown, or a value is not valid.
    """
    nested: dict[str, Any] = {}
    for key, value in assignments.items():
        name, dot, inner = key.partition(".")
        if isinstance(value, str):
            with contextlib.suppress(ValueError, RecursionError):  # a word without quotes is a text
                value = tomllib.loads(f"value = {value}")["value"]
        if name not in Settings.model_fields:
            name, dot, inner = "task_options", ".", key
        if not dot:
            nested[name] = value
        elif isinstance(nested.setdefault(name, {}), dict):
            nested[name][inner] = value
        else:
            raise UsageError(f"--set {key}: {name} does not have parts")
    try:
        return Settings.model_validate(nested)
    except ValidationError as error:
        raise UsageError(f"--set {explain(error)}") from None


def check_axes(label: str, file: StudyFile) -> None:
    """Raise `UsageError` if the axes of a file are not consistent; ``label`` names the study."""
    placed = [*file.rows, *file.columns]
    for axis in placed:
        if axis not in file.axes:
            raise UsageError(f"{label}: unknown axis {axis!r}{did_you_mean(axis, file.axes)}")
    if missing := [axis for axis in file.axes if placed.count(axis) != 1]:
        raise UsageError(f"{label}: axis {missing[0]!r} must appear once in rows and columns")
    if empty := [axis for axis, points in file.axes.items() if not points]:
        raise UsageError(f"{label}: axis {empty[0]!r} has no points")
    if (cells := math.prod(map(len, file.axes.values()))) > MAX_CELLS:
        raise UsageError(f"{label}: its axes make {cells} cells; at most {MAX_CELLS} are allowed")
    if file.base.lga is False:
        for axis, points in file.axes.items():
            if unused := [name for name, point in points.items() if isinstance(point.lga, dict)]:
                place = f"axes.{axis}.{unused[0]}.lga"
                raise UsageError(f"{label}: {place} has no effect, as base.lga = false takes precedence")
    if file.derived:
        if file.derived.axis not in file.axes:
            raise UsageError(f"{label}: unknown axis {file.derived.axis!r}{did_you_mean(file.derived.axis, placed)}")
        if both := set(file.derived.points) & set(file.axes[file.derived.axis]):
            raise UsageError(f"{label}: {min(both)!r} is both a point and derived")


def explain(error: ValidationError) -> str:
    """The first mistake in a file, and the number of others."""
    problems = {_place(problem["loc"]): problem for problem in reversed(error.errors(include_url=False))}
    # For a union, pydantic reports its place and also the place inside, which has the mistake.
    outer = {place[:length] for place in problems for length in range(len(place))}
    places = [place for place in problems if place not in outer]
    place = places[-1]
    problem = problems[place]
    name = ".".join(place)
    if problem["type"] == "extra_forbidden":
        message = f"unknown key {name!r}{did_you_mean(place[-1], _fields(place))}"
    elif problem["type"] == "missing":
        message = f"{name!r} is missing"
    else:
        text = _EXPECTED.get(problem["loc"][-1], problem["msg"].removeprefix("Value error, "))
        message = f"{name}: {text[0].lower()}{text[1:]}, got {format_value(problem['input'])}" if name else text
    more = len(places) - 1
    return message + (f" (and {more} more mistake{'s' * (more != 1)})" if more else "")


_MEMBERS = ("bool", "int", "constrained-int", "float", "str")
_EXPECTED = dict.fromkeys(_MEMBERS, "must be a number, a text, true or false")


def _place(location: Iterable[int | str]) -> tuple[str, ...]:
    """The place in the file, without pydantic's marks for the members of a union."""
    return tuple(str(part) for part in location if not re.search(r"[\[\]]", str(part)) and part not in _MEMBERS)


def _fields(place: Sequence[str]) -> Iterable[str]:
    """The allowed keys next to the last one of a place."""
    if place[-2:-1] == ("measure",):
        return MetricSettings.model_fields
    match place[0], len(place):
        case _, 1:
            return StudyFile.model_fields
        case "axes", _:
            return Point.model_fields
        case "derived", _:
            return Derived.model_fields
        case _:
            return Settings.model_fields


def split_points(text: str, points: Iterable[str]) -> tuple[str, ...]:
    """The names of ``a,b``. A name of the axis that has a comma itself counts as one."""
    parts = [part.strip() for part in text.split(",")]
    known = {tuple(part.strip() for part in point.split(",")): point for point in points}
    names = []
    while parts:
        count = max((len(of) for of in known if of == tuple(parts[: len(of)])), default=1)
        names.append(known.get(tuple(parts[:count]), parts[0]))
        del parts[:count]
    return tuple(names)
