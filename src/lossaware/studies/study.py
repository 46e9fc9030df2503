"""Studies: a grid of runs from a TOML file, with the published figures beside it.

A study is base settings and axes. A point of an axis has a name and settings that override; the cross product of the
points gives the cells of a table, and the settings of a cell with each seed give its runs. `README.md` beside the
paper's own studies (folder ``paper``) describes the file.
"""

import contextlib
import hashlib
import itertools
import re
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from decimal import Decimal
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from lossaware.errors import UsageError
from lossaware.studies.arguments import did_you_mean
from lossaware.studies.spec import RunSpec, lga_options, options

BUILT_IN = Path(__file__).parent
"""Where the package's own studies lie: ``paper/*.toml`` and ``readings.toml``."""

Scalar = bool | int | float | str
Coordinates = tuple[str, ...]
"""The names of a cell's points, along the row axes or along the column axes."""


class _Table(BaseModel):
    """A table of the file: unknown keys are errors, and values are taken as TOML has them."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class Shown(_Table):
    """What a cell shows of its runs.

    Attributes:
        set: ``"train"`` (the running mean while training) or ``"test"``.
        name: The measure: ``accuracy``, ``loss`` or another of the task's.
        at: Which epoch's value: ``"final"``; ``"best"`` of all epochs; ``"reached"``, where a run with LGA first has
            the base's final value (its own final one where it never does); or ``"ratio"``, not the value but the
            number of that epoch by the base's epochs, 1 where it never does (Tables 3, 4, 9 and 10).
        percent: Whether the value is a share that is shown in percent; by default accuracies are.
        higher_is_better: By default all but losses.
    """

    set: Literal["train", "test"] | None = None
    name: str | None = None
    at: Literal["final", "best", "reached", "ratio"] | None = None
    percent: bool | None = None
    higher_is_better: bool | None = None

    def over(self, other: Self) -> Self:
        """These settings, and the other's where these say nothing."""
        return other.model_copy(update=self.model_dump(exclude_none=True))


class Settings(_Table):
    """Settings of runs; None or empty where nothing is said. Options are merged key by key, the rest is replaced."""

    task: str | None = None
    task_options: dict[str, Scalar] = {}
    optimizer: str | None = None
    optimizer_options: dict[str, Scalar] = {}
    lr: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None
    scheduler: str | None = None
    scheduler_options: dict[str, Scalar] = {}
    lga: Literal[False] | dict[str, Scalar] | None = None
    epochs: Annotated[int, Field(ge=1)] | None = None
    batch_size: Annotated[int, Field(ge=1)] | None = None
    precision: Literal["fp32", "bf16"] | None = None
    device: Literal["cpu", "cuda"] | None = None
    distributed: Annotated[str, Field(pattern=r"^(ddp|fsdp)-[1-9]\d*$")] | None = None
    seeds: int | list[int] | None = None

    @field_validator("seeds", mode="before")
    @classmethod
    def _check_seeds(cls, seeds: Any) -> Any:
        listed = seeds if isinstance(seeds, list) else [seeds]
        least = 0 if isinstance(seeds, list) else 1
        if not (listed and all(type(number) is int and number >= least for number in listed)):
            raise ValueError("must be how many, at least 1, or a list of seeds of at least 0")
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
        """The seeds by number: ``3`` is 0, 1, 2."""
        return range(self.seeds) if isinstance(self.seeds, int) else self.seeds or ()

    def over(self, other: "Settings") -> "Settings":
        """These settings over the other's.

        ``lga = false`` stays false whatever the other says, so that the point "without" of one axis is without LGA at
        every point of another axis that says how large gamma2 is there.
        """
        changes = {name: getattr(self, name) for name in Settings.model_fields if name in self.model_fields_set}
        for name in ("task_options", "optimizer_options", "scheduler_options"):
            changes[name] = {**getattr(other, name), **getattr(self, name)}
        if other.lga is False:
            changes["lga"] = False
        elif isinstance(self.lga, dict):
            changes["lga"] = {**(other.lga or {}), **self.lga}
        return Settings.model_construct(**{**dict(other), **changes})


class Point(Settings):
    """A point of an axis: what its cells have of their own."""

    measure: Shown = Shown()


class Derived(_Table):
    """Further rows or columns, computed over all points of an axis from what their cells show.

    Attributes:
        axis: Its name.
        points: What is computed by its name in the table: the mean, or the standard deviation of the population (which
            is what Table 5 has).
    """

    axis: str
    points: dict[str, Literal["mean", "deviation"]]


class StudyFile(_Table):
    """A study as its file says it."""

    title: str
    caption: str = ""
    notes: list[str] = []
    rows: list[str]
    columns: list[str]
    base: Settings = Settings()
    measure: Shown
    axes: dict[str, dict[str, Point]]
    derived: Derived | None = None
    published: dict[str, Any] = {}


@dataclass(frozen=True)
class Quantity:
    """What a cell shows, with nothing left open; see `Shown`."""

    set: Literal["train", "test"]
    name: str
    at: Literal["final", "best", "reached", "ratio"]
    percent: bool
    higher_is_better: bool

    @property
    def title(self) -> str:
        """What it is, in words."""
        measure = f"test {self.name}" if self.set == "test" else f"running training {self.name}"
        return {
            "final": f"{measure} after the last epoch",
            "best": f"best {measure} of all epochs",
            "reached": f"{measure} when the base's final value is reached, or after the last epoch",
            "ratio": f"share of the epochs needed to reach the base's final {measure}",
        }[self.at]


@dataclass(frozen=True)
class Cell:
    """A cell of the table.

    Attributes:
        row: Its points along the row axes.
        column: Its points along the column axes.
        quantity: What it shows.
        specs: Its runs, one a seed; empty for a derived cell.
        published: The published figure as it was printed; None where there is none.
        derived: What it computes of which other cells.
    """

    row: Coordinates
    column: Coordinates
    quantity: Quantity
    specs: tuple[RunSpec, ...]
    published: Decimal | None = None
    derived: tuple[Literal["mean", "deviation"], tuple[tuple[Coordinates, Coordinates], ...]] | None = None

    @property
    def compares(self) -> bool:
        """Whether what it shows depends on the runs without LGA as well."""
        return self.quantity.at in ("reached", "ratio")

    @property
    def needed(self) -> tuple[RunSpec, ...]:
        """All runs it is made from."""
        return (*self.specs, *(without_lga(spec) for spec in self.specs)) if self.compares else self.specs


@dataclass(frozen=True)
class Overrides:
    """What makes a study smaller, or another, than its file says.

    Attributes:
        only: Points that are run, by axis; an axis that is not named is run whole.
        settings: Settings that go over all others.
    """

    only: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    settings: Settings = field(default_factory=Settings)

    def to_plain(self) -> dict[str, Any]:
        """As plain values; empty where nothing is overridden."""
        plain: dict[str, Any] = self.settings.model_dump(exclude_unset=True)
        if self.only:
            plain["only"] = {axis: list(points) for axis, points in self.only.items()}
        return plain

    @classmethod
    def from_plain(cls, plain: Mapping[str, Any]) -> "Overrides":
        """What `to_plain` gave."""
        settings = {name: value for name, value in plain.items() if name != "only"}
        only = {axis: tuple(points) for axis, points in plain.get("only", {}).items()}
        return cls(only, Settings.model_validate(settings))


@dataclass(frozen=True)
class Study:
    """A study, ready to be run or shown.

    Attributes:
        name: The file's name without its ending.
        file: What the file says.
        digest: 16 hexadecimal digits that change with whatever decides its runs or cells.
        what: How messages name it.
        overrides: What differs from the file.
    """

    name: str
    file: StudyFile
    digest: str
    what: str
    overrides: Overrides = field(default_factory=Overrides)

    @property
    def title(self) -> str:
        """Its title."""
        return self.file.title

    @property
    def source(self) -> str:
        """What a command calls it: its name, or the path of its file."""
        return self.what.removeprefix("study ")

    def overridden(self, overrides: Overrides) -> "Study":
        """The same study, smaller or otherwise changed.

        Raises:
            UsageError: An axis, or a point of one, does not exist.
        """
        only = {}
        for axis, names in overrides.only.items():
            found = _match(f"{self.what}: axis", axis, self.file.axes)
            what = f"{self.what}: point of axis {found!r}"
            only[found] = tuple(_match(what, name, self.file.axes[found]) for name in names)
        changed = replace(self, overrides=Overrides(only, overrides.settings))
        assert changed.cells  # settings that do not go together are an error here, not later
        return changed

    @cached_property
    def rows(self) -> list[Coordinates]:
        """The rows from top to bottom, derived ones last."""
        return self._lines(self.file.rows)

    @cached_property
    def columns(self) -> list[Coordinates]:
        """The columns from left to right, derived ones last."""
        return self._lines(self.file.columns)

    @cached_property
    def cells(self) -> dict[tuple[Coordinates, Coordinates], Cell]:
        """All cells of the table, by row and column."""
        figures = _published(self)
        return {
            (row, column): self._cell(row, column, figures.get((row, column)))
            for row in self.rows
            for column in self.columns
        }

    @property
    def specs(self) -> list[RunSpec]:
        """The runs to do, each once; those of one seed together, so that whatever is finished early can be compared."""
        chosen = [spec for cell in self.cells.values() if self.chosen(cell) for spec in cell.needed]
        return sorted(dict.fromkeys(chosen), key=lambda spec: spec.seed)

    def chosen(self, cell: Cell) -> bool:
        """Whether the cell is among those that are run."""
        place = self._place(cell.row, cell.column)
        return all(place[axis] in points for axis, points in self.overrides.only.items())

    def _place(self, row: Coordinates, column: Coordinates) -> dict[str, str]:
        return dict(zip((*self.file.rows, *self.file.columns), (*row, *column), strict=True))

    def _lines(self, axes: Sequence[str]) -> list[Coordinates]:
        lines = list(itertools.product(*(self.file.axes[axis] for axis in axes)))
        if (derived := self.file.derived) and derived.axis in axes:
            names = [list(derived.points) if axis == derived.axis else list(self.file.axes[axis]) for axis in axes]
            lines += itertools.product(*names)
        return lines

    def _cell(self, row: Coordinates, column: Coordinates, published: Decimal | None) -> Cell:
        place = self._place(row, column)
        derived = self.file.derived
        if derived and (kind := derived.points.get(place[derived.axis])):
            sources = [self._at({**place, derived.axis: point}) for point in self.file.axes[derived.axis]]
            quantity = self._cell(*sources[0], None).quantity
            return Cell(row, column, quantity, (), published, (kind, tuple(sources)))
        settings, shown = self.file.base, self.file.measure
        for axis, points in self.file.axes.items():
            point = points[place[axis]]
            settings, shown = point.over(settings), point.measure.over(shown)
        changed = self.overrides.settings.over(settings)
        if not isinstance(settings.lga, dict):  # arguments of LGA do not bring LGA to where there is none
            changed = changed.model_copy(update={"lga": settings.lga})
        what = f"{self.what}: {', '.join(place.values())}"
        return Cell(row, column, _quantity(what, shown), _specs(what, changed), published)

    def _at(self, place: Mapping[str, str]) -> tuple[Coordinates, Coordinates]:
        return tuple(place[axis] for axis in self.file.rows), tuple(place[axis] for axis in self.file.columns)


# --- reading --------------------------------------------------------------------------------------------------------


def studies() -> dict[str, Path]:
    """The package's own studies: name and file."""
    found = [*sorted((BUILT_IN / "paper").glob("*.toml")), *sorted(BUILT_IN.glob("*.toml"))]
    return {path.stem: path for path in found}


def load_study(name: str) -> Study:
    """The package's study of that name, or the one in the file of that path.

    Raises:
        UsageError: There is none, or its file has a mistake.
    """
    known = studies()
    path = known.get(name)
    if path is None:
        path = Path(name)
        if not (name.endswith(".toml") or "/" in name or "\\" in name):
            meant = re.sub(r"(?<!\d)\d$", r"0\g<0>", name)  # table2 is nearest to table02
            raise UsageError(f"unknown study {name!r}{did_you_mean(meant, known)} (or FILE.toml of your own)")
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"study file {path}: {getattr(error, 'strerror', None) or error}") from None
    return parse_study(text, path.stem, source=str(name) if name in known else str(path))


def parse_study(text: str, name: str, *, source: str = "") -> Study:
    """The study in a file's text.

    Args:
        text: TOML.
        name: What the study is called.
        source: What messages call the file; by default the name.

    Raises:
        UsageError: The text has a mistake.
    """
    what = f"study {source or name}"
    try:
        content = tomllib.loads(text)
        # Published figures keep the digits they were printed with: 0.9 is not 0.90.
        content["published"] = tomllib.loads(text, parse_float=Decimal).get("published", {})
    except tomllib.TOMLDecodeError as error:
        raise UsageError(f"{what}: not valid TOML: {error}") from None
    except RecursionError:
        raise UsageError(f"{what}: nested too deeply") from None
    try:
        file = StudyFile.model_validate(content)
    except ValidationError as error:
        raise UsageError(f"{what}: {_explain(error)}") from None
    _check_axes(what, file)
    # What the file says, and not what it might: a setting that is new to this package changes no digest.
    said = {"rows", "columns", "base", "measure", "axes", "derived"}
    decisive = file.model_dump_json(include=said, exclude_unset=True)
    study = Study(name, file, hashlib.sha256(decisive.encode()).hexdigest()[:16], what)
    assert study.cells
    return study


def parse_settings(given: Mapping[str, Any]) -> Settings:
    """Settings as a command line gives them: ``{"epochs": 3, "batch_size": "32", "lga.gamma2": "1e-7", "pad": "0"}``.

    What is no setting is an option of the task, as for ``compare --set``.

    Raises:
        UsageError: A key is unknown, or a value is not what it must be.
    """
    nested: dict[str, Any] = {}
    for key, value in given.items():
        name, dot, inner = key.partition(".")
        if isinstance(value, str):
            with contextlib.suppress(tomllib.TOMLDecodeError, RecursionError):  # a bare word stays a text
                value = tomllib.loads(f"value = {value}")["value"]
        if name not in Settings.model_fields:
            name, dot, inner = "task_options", ".", key
        if not dot:
            nested[name] = value
        elif isinstance(nested.setdefault(name, {}), dict):
            nested[name][inner] = value
        else:
            raise UsageError(f"--set {key}: {name} has no parts")
    try:
        return Settings.model_validate(nested)
    except ValidationError as error:
        raise UsageError(f"--set {_explain(error)}") from None


def _check_axes(what: str, file: StudyFile) -> None:
    placed = [*file.rows, *file.columns]
    for axis in placed:
        if axis not in file.axes:
            raise UsageError(f"{what}: there is no axis {axis!r}{did_you_mean(axis, file.axes)}")
    if missing := [axis for axis in file.axes if placed.count(axis) != 1]:
        raise UsageError(f"{what}: axis {missing[0]!r} must be once among rows and columns")
    if empty := [axis for axis, points in file.axes.items() if not points]:
        raise UsageError(f"{what}: axis {empty[0]!r} has no points")
    if file.base.lga is False:
        for axis, points in file.axes.items():
            if vain := [name for name, point in points.items() if isinstance(point.lga, dict)]:
                place = f"axes.{axis}.{vain[0]}.lga"
                raise UsageError(f"{what}: {place} is without effect under base.lga = false, which goes before all")
    if file.derived:
        if file.derived.axis not in file.axes:
            raise UsageError(f"{what}: there is no axis {file.derived.axis!r}{did_you_mean(file.derived.axis, placed)}")
        if both := set(file.derived.points) & set(file.axes[file.derived.axis]):
            raise UsageError(f"{what}: {min(both)!r} is a point and derived as well")


def _explain(error: ValidationError) -> str:
    """The first mistake in a file, and how many more there are."""
    problems = {_place(problem["loc"]): problem for problem in reversed(error.errors(include_url=False))}
    # A union complains at its own place and further inside, where the mistake is.
    places = [place for place in problems if not any(other[: len(place)] == place != other for other in problems)]
    place = places[-1]
    problem = problems[place]
    name = ".".join(place)
    if problem["type"] == "extra_forbidden":
        said = f"unknown key {name!r}{did_you_mean(place[-1], _fields(place))}"
    elif problem["type"] == "missing":
        said = f"{name!r} is missing"
    else:
        text = _EXPECTED.get(problem["loc"][-1], problem["msg"].removeprefix("Value error, "))
        said = f"{name}: {text[0].lower()}{text[1:]}, got {problem['input']!r}" if name else text
    more = len(places) - 1
    return said + (f" (and {more} more mistake{'s' * (more != 1)})" if more else "")


_MEMBERS = ("bool", "int", "float", "str")
_EXPECTED = dict.fromkeys(_MEMBERS, "must be a number, a text, true or false")


def _place(location: Iterable[int | str]) -> tuple[str, ...]:
    """Where in the file: without the marks pydantic adds for the members of a union."""
    return tuple(str(part) for part in location if not re.search(r"[\[\]]", str(part)) and part not in _MEMBERS)


def _fields(place: Sequence[str]) -> Iterable[str]:
    """The keys that are allowed beside the last one of a place."""
    if place[-2:-1] == ("measure",):
        return Shown.model_fields
    match place[0], len(place):
        case _, 1:
            return StudyFile.model_fields
        case "axes", _:
            return Point.model_fields
        case "derived", _:
            return Derived.model_fields
        case _:
            return Settings.model_fields


def _match(what: str, name: str, known: Iterable[str]) -> str:
    """The known name that is meant: case and punctuation do not matter, but for signs and dots in numbers."""
    names = list(known)
    if name in names:
        return name
    found = [point for point in names if _plain(point) == _plain(name)]
    if len(found) != 1:
        raise UsageError(f"{what} {name!r} does not exist{did_you_mean(name, names)}")
    return found[0]


def _plain(name: str) -> str:
    # A dash or dot stays where it stands after a digit or the e of a number, and before a digit: 1e-3 is not 1e3.
    return re.sub(r"(?<![\de])[-.]|[-.](?!\d)|[^\w.-]|_", "", name.casefold())


def _quantity(what: str, shown: Shown) -> Quantity:
    if shown.set is None or shown.name is None:
        raise UsageError(f"{what}: measure must say its set (train or test) and its name")
    is_loss = "loss" in shown.name
    return Quantity(
        set=shown.set,
        name=shown.name,
        at=shown.at or "final",
        percent=("accuracy" in shown.name if shown.percent is None else shown.percent) and shown.at != "ratio",
        higher_is_better=not is_loss if shown.higher_is_better is None else shown.higher_is_better,
    )


def _specs(what: str, settings: Settings) -> tuple[RunSpec, ...]:
    for name in ("task", "optimizer", "lr", "epochs", "batch_size", "seeds"):
        if getattr(settings, name) is None:
            raise UsageError(f"{what}: {name} is said neither in [base] nor at a point")
    given: dict[str, Any] = {
        "task": settings.task,
        "task_options": options(**settings.task_options),
        "optimizer": settings.optimizer,
        "optimizer_options": options(**settings.optimizer_options),
        "lr": settings.lr,
        "scheduler": settings.scheduler,
        "scheduler_options": options(**settings.scheduler_options),
        "lga": lga_options(settings.lga) if isinstance(settings.lga, dict) else None,
        "epochs": settings.epochs,
        "batch_size": settings.batch_size,
        "precision": settings.precision or "fp32",
        "device": settings.device or "cpu",
        "distributed": settings.distributed,
    }
    return tuple(RunSpec(seed=seed, **given) for seed in settings.all_seeds)


def without_lga(spec: RunSpec) -> RunSpec:
    """The run that one with LGA is held against."""
    return replace(spec, lga=None)


def _published(study: Study) -> dict[tuple[Coordinates, Coordinates], Decimal]:
    """The published figures by row and column; ``nan`` is none."""
    figures: dict[tuple[Coordinates, Coordinates], Decimal] = {}

    def read(part: Any, row: Coordinates) -> None:
        place = ".".join(("published", *row))
        if len(row) < len(study.file.rows):
            if not isinstance(part, dict):
                raise UsageError(f"{study.what}: {place} must be a table with a key a row")
            known = list(dict.fromkeys(line[len(row)] for line in study.rows if line[: len(row)] == row))
            for name, inner in part.items():
                if name not in known:
                    raise UsageError(f"{study.what}: {place} has no row {name!r}{did_you_mean(name, known)}")
                read(inner, (*row, name))
            return
        if not isinstance(part, list) or len(part) != len(study.columns):
            count = len(part) if isinstance(part, list) else "none"
            raise UsageError(f"{study.what}: {place} must list {len(study.columns)} figures, got {count}")
        for column, value in zip(study.columns, part, strict=True):
            if isinstance(value, bool) or not isinstance(value, int | Decimal):
                raise UsageError(f"{study.what}: {place} must list numbers, got {value!r}")
            figure = Decimal(value)
            if figure.is_infinite():
                raise UsageError(f"{study.what}: {place} must list finite numbers, or nan for none, got {value}")
            if not figure.is_nan():
                figures[row, column] = figure

    read(study.file.published, ())
    return figures
