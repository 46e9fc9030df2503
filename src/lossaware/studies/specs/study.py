"""Studies: a grid of runs from a TOML file, with published figures.

A study has base settings and axes. A point of an axis has a name and settings that override the base. The cross product
of the points gives the cells of a table, and the settings of a cell with each seed give its runs. `README.md` in the
folder ``paper`` describes the file.
"""

import hashlib
import itertools
import math
import re
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from decimal import Decimal
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from pydantic import ValidationError

from lossaware.errors import UsageError
from lossaware.studies.specs import early_stopping
from lossaware.studies.specs.formatting import format_value
from lossaware.studies.specs.options import did_you_mean
from lossaware.studies.specs.regular_file import MAX_SETTINGS, read_text
from lossaware.studies.specs.run_spec import EpochRecord, Options, RunSpec, function_options, lga_options, options
from lossaware.studies.specs.study_file import MAX_RUNS, MetricSettings, Settings, StudyFile, check_axes, explain

BUILT_IN = Path(__file__).parents[1]
"""The folder of the built-in studies: ``paper/*.toml`` and ``further/*.toml``."""
Coordinates = tuple[str, ...]
"""The names of a cell's points along the row axes, or along the column axes."""


@dataclass(frozen=True)
class Metric:
    """The metric of a cell, with all settings resolved; see `MetricSettings`."""

    set: Literal["train", "test", "reported"]
    name: str
    at: Literal["final", "best", "reached", "ratio"]
    percent: bool
    higher_is_better: bool
    stops_early: bool = False

    @property
    def measure(self) -> str:
        """The name of the measure, without the epoch: ``test accuracy``."""
        return {"train": "running training ", "test": "test ", "reported": ""}[self.set] + self.name

    @property
    def title(self) -> str:
        """The name of the measure and the epoch."""
        best = f"{self.measure} of the epoch with the best validation {self.name}"
        return {
            "final": best if self.stops_early else f"{self.measure} after the last epoch",
            "best": f"best {self.measure} of all epochs",
            "reached": f"{self.measure} when the base's final value is reached, or after the last epoch",
            "ratio": f"share of the epochs needed to reach the base's final {self.measure}",
        }[self.at]

    def curve(self, records: Sequence[EpochRecord]) -> list[float]:
        """The measure after each epoch, as measured; NaN if a record does not have it."""
        return [self.of(record).get(self.name, math.nan) for record in records]

    def counted(self, spec: RunSpec, records: Sequence[EpochRecord]) -> Sequence[EpochRecord]:
        """The epochs up to the one whose value counts; see `early_stopping.counted`."""
        return early_stopping.counted(spec, records, self.name, higher_is_better=self.higher_is_better)

    def of(self, record: EpochRecord) -> Mapping[str, float]:
        """All measures of its set; the reports of a function are in the test set."""
        return record.train if self.set == "train" else record.test

    @property
    def factor(self) -> int:
        """Factor from a measured score to the units of the table."""
        return 100 if self.percent else 1

    @property
    def scale(self) -> float:
        """The largest possible difference of two scores, in the units of the table."""
        return float(self.factor) if self.percent or self.at == "ratio" else math.inf


@dataclass(frozen=True)
class Cell:
    """A cell of the table.

    Attributes:
        row: Its points along the row axes.
        column: Its points along the column axes.
        metric: The metric of its value.
        specs: Its runs, one per seed; empty for a derived cell.
        published: The published figure with its printed digits, or None.
        published_seeds: Number of experiments of the published figure, which is their mean.
        derived: The statistic and the cells from which it is computed.
        bases: The reference run of each of its runs; the run itself if it is a reference.
    """

    row: Coordinates
    column: Coordinates
    metric: Metric
    specs: tuple[RunSpec, ...]
    published: Decimal | None = None
    derived: tuple[Literal["mean", "deviation"], tuple[tuple[Coordinates, Coordinates], ...]] | None = None
    published_seeds: int = 5
    bases: tuple[RunSpec, ...] = ()

    @property
    def compares(self) -> bool:
        """Whether its metric also depends on its reference runs."""
        return self.metric.at in ("reached", "ratio")

    @property
    def needed(self) -> tuple[RunSpec, ...]:
        """All runs that it needs."""
        return (*self.specs, *self.bases) if self.compares else self.specs


@dataclass(frozen=True)
class Overrides:
    """Changes of a study's file for one launch.

    Attributes:
        only: The selected points by axis. All points of other axes are selected.
        settings: Settings that override all others.
    """

    only: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    settings: Settings = field(default_factory=Settings)

    def to_plain(self) -> dict[str, Any]:
        """The overrides as plain values; empty without overrides."""
        plain: dict[str, Any] = self.settings.model_dump(exclude_unset=True)
        if self.only:
            plain["only"] = {axis: list(points) for axis, points in self.only.items()}
        return plain

    @classmethod
    def from_plain(cls, plain: Mapping[str, Any]) -> "Overrides":
        """The overrides from a result of `to_plain`."""
        settings = {name: value for name, value in plain.items() if name != "only"}
        only = {axis: tuple(points) for axis, points in plain.get("only", {}).items()}
        return cls(only, Settings.model_validate(settings))


@dataclass(frozen=True)
class Study:
    """A study that can be run and shown.

    Attributes:
        name: The file's name without its ending.
        file: The content of the file.
        digest: 16 hexadecimal digits, a digest of all that determines its runs and cells.
        label: Its name in messages.
        overrides: Changes of the file.
        kind: See `RunSpec`.
        reference: The column with which the others of its row are compared; if empty, the same runs without LGA.
    """

    name: str
    file: StudyFile
    digest: str
    label: str
    overrides: Overrides = field(default_factory=Overrides)
    kind: Literal["task", "function", "command"] = "task"
    reference: str = ""

    @property
    def title(self) -> str:
        """Its title."""
        return self.file.title

    @property
    def source(self) -> str:
        """Its name on the command line: its name, or the path of its file."""
        return self.label.removeprefix("study ")

    def overridden(self, overrides: Overrides) -> "Study":
        """The same study with overrides.

        Raises:
            UsageError: An axis, or a point of one, does not exist.
        """
        only = {}
        for axis, names in overrides.only.items():
            match = _match(f"{self.label}: axis", axis, self.file.axes)
            label = f"{self.label}: point of axis {match!r}"
            only[match] = tuple(_match(label, name, self.file.axes[match]) for name in names)
        changed = replace(self, overrides=Overrides(only, overrides.settings))
        assert changed.cells  # detects settings that exclude each other
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
        cells: dict[tuple[Coordinates, Coordinates], Cell] = {}
        runs = 0
        for key in itertools.product(self.rows, self.columns):
            cells[key] = self._cell(*key, figures.get(key))
            runs += len(cells[key].specs)
            if runs > MAX_RUNS:
                raise UsageError(f"{self.label}: it has more than {MAX_RUNS} runs")
        return cells

    @property
    def specs(self) -> list[RunSpec]:
        """The selected runs, each once, sorted by seed, so that early results can be compared."""
        chosen = [spec for cell in self.cells.values() if self.chosen(cell) for spec in cell.needed]
        return sorted(dict.fromkeys(chosen), key=lambda spec: spec.seed)

    def measuring(self, **changes: Any) -> "Study":
        """The study with the same runs and another metric; the arguments are fields of `MetricSettings`."""
        return replace(
            self, file=self.file.model_copy(update={"measure": self.file.measure.model_copy(update=changes)})
        )

    def chosen(self, cell: Cell) -> bool:
        """Whether the cell is selected."""
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
            metric = self._cell(*sources[0], None).metric
            return Cell(row, column, metric, (), published, (kind, tuple(sources)))
        settings, measure = self.file.base, self.file.measure
        for axis, points in self.file.axes.items():
            point = points[place[axis]]
            settings, measure = point.over(settings), point.measure.over(measure)
        changed = self.overrides.settings.over(settings)
        if not isinstance(settings.lga, dict):  # arguments of LGA do not switch LGA on
            changed = changed.model_copy(update={"lga": settings.lga})
        label = f"{self.label}: {', '.join(place.values())}"
        specs = _specs(label, changed, self.kind)
        if self.reference and column != (self.reference,):
            bases = self._cell(row, (self.reference,), None).specs
        else:
            bases = specs if self.reference else tuple(map(without_lga, specs))
        metric = _metric(label, measure, stops_early=any(spec.patience for spec in specs))
        return Cell(row, column, metric, specs, published, published_seeds=self.file.published_seeds, bases=bases)

    def _at(self, place: Mapping[str, str]) -> tuple[Coordinates, Coordinates]:
        return tuple(place[axis] for axis in self.file.rows), tuple(place[axis] for axis in self.file.columns)


# --- Reading --------------------------------------------------------------------------------------------------------


def studies() -> dict[str, Path]:
    """The built-in studies: name and file."""
    paths = [*sorted((BUILT_IN / "paper").glob("*.toml")), *sorted((BUILT_IN / "further").glob("*.toml"))]
    return {path.stem: path for path in paths}


def load_study(name: str) -> Study:
    """The built-in study of that name, or the study in the file of that path.

    Raises:
        UsageError: It does not exist, or its file has a mistake.
    """
    known = studies()
    path = known.get(name)
    if path is None:
        path = Path(name)
        if not (name.endswith(".toml") or "/" in name or "\\" in name):
            meant = re.sub(r"(?<!\d)\d$", r"0\g<0>", name)  # table2 means table02
            raise UsageError(f"unknown study {name!r}{did_you_mean(meant, known)} (or FILE.toml of your own)")
    try:
        text = read_text(path, at_most=MAX_SETTINGS)
    except UsageError as error:
        raise UsageError(f"study file {error}") from None
    return parse_study(text, path.stem, source=str(name) if name in known else str(path))


def parse_study(text: str, name: str, *, source: str = "") -> Study:
    """The study in a file's text.

    Args:
        text: TOML.
        name: Name of the study.
        source: Name of the file in messages; by default the study's name.

    Raises:
        UsageError: The text has a mistake.
    """
    label = f"study {source or name}"
    try:
        content = tomllib.loads(text)
        # Published figures keep their printed digits: 0.9 is not 0.90.
        content["published"] = tomllib.loads(text, parse_float=Decimal).get("published", {})
    except ValueError as error:  # also an integer of thousands of digits
        raise UsageError(f"{label}: not valid TOML: {error}") from None
    except RecursionError:
        raise UsageError(f"{label}: nested too deeply") from None
    try:
        file = StudyFile.model_validate(content)
    except ValidationError as error:
        raise UsageError(f"{label}: {explain(error)}") from None
    return make_study(file, name, label)


def make_study(file: StudyFile, name: str, label: str, kind: Literal["task", "function", "command"] = "task") -> Study:
    """The study of a file; ``label`` is its name in messages, and ``kind`` that of its runs.

    Raises:
        UsageError: Its axes or settings are not consistent.
    """
    check_axes(label, file)
    # Only keys of the file, so that new settings of this package do not change digests.
    decisive_keys = {"rows", "columns", "base", "measure", "axes", "derived"}
    decisive = file.model_dump_json(include=decisive_keys, exclude_unset=True, warnings=False)
    study = Study(name, file, hashlib.sha256(decisive.encode()).hexdigest()[:16], label, kind=kind)
    assert study.cells
    return study


def _match(label: str, name: str, known: Iterable[str]) -> str:
    """The matching known name, ignoring case and punctuation, except signs and dots in numbers."""
    names = list(known)
    if name in names:
        return name
    matches = [point for point in names if _plain(point) == _plain(name)]
    if len(matches) != 1:
        raise UsageError(f"{label} {name!r} does not exist{did_you_mean(name, names)}")
    return matches[0]


def _plain(name: str) -> str:
    # Keep a dash or dot after a digit or the e of a number and before a digit: 1e-3 is not 1e3.
    return re.sub(r"(?<![\de])[-.]|[-.](?!\d)|[^\w.-]|_", "", name.casefold())


def _metric(label: str, measure: MetricSettings, *, stops_early: bool) -> Metric:
    if measure.set is None or measure.name is None:
        raise UsageError(f"{label}: measure needs a set (train or test) and a name")
    is_loss = "loss" in measure.name
    return Metric(
        set=measure.set,
        name=measure.name,
        at=measure.at or "final",
        percent=("accuracy" in measure.name if measure.percent is None else measure.percent) and measure.at != "ratio",
        higher_is_better=not is_loss if measure.higher_is_better is None else measure.higher_is_better,
        stops_early=stops_early,
    )


def _specs(label: str, settings: Settings, kind: str) -> tuple[RunSpec, ...]:
    for name in ("task", "optimizer", "lr", "epochs", "batch_size", "seeds"):
        if getattr(settings, name) is None:
            raise UsageError(f"{label}: {name} is set neither in [base] nor at a point")
    schedule = dict(settings.scheduler_options)
    per_step = settings.training.get("interval") == "step"  # its length is known when the data is
    if settings.scheduler == "CosineAnnealingLR" and settings.epochs is not None and kind == "task" and not per_step:
        schedule.setdefault("T_max", settings.epochs)  # the schedule ends with the run
    arguments: dict[str, Any] = {
        "task": settings.task,
        "task_options": options(**settings.task_options),
        "optimizer": settings.optimizer,
        "optimizer_options": options(**settings.optimizer_options),
        "lr": settings.lr,
        "scheduler": settings.scheduler,
        "scheduler_options": options(**schedule),
        "lga": _lga(settings.lga, kind) if isinstance(settings.lga, dict) else None,
        "epochs": settings.epochs,
        "batch_size": settings.batch_size,
        "precision": settings.precision or "fp32",
        "device": settings.device or "cpu",
        "distributed": settings.distributed,
        "kind": kind,
        "training": options(**settings.training),
    }
    return tuple(RunSpec(seed=seed, **arguments) for seed in settings.all_seeds)


def _lga(arguments: Mapping[str, Any], kind: str) -> Options:
    if kind == "task":
        return lga_options(arguments)
    return function_options(arguments["gamma2"], {name: value for name, value in arguments.items() if name != "gamma2"})


def without_lga(spec: RunSpec) -> RunSpec:
    """The same run without LGA, the reference of a run with LGA."""
    return replace(spec, lga=None)


def _published(study: Study) -> dict[tuple[Coordinates, Coordinates], Decimal]:
    """The published figures by row and column, without ``nan``."""
    figures: dict[tuple[Coordinates, Coordinates], Decimal] = {}

    def read(part: Any, row: Coordinates) -> None:
        place = ".".join(("published", *row))
        if len(row) < len(study.file.rows):
            if not isinstance(part, dict):
                raise UsageError(f"{study.label}: {place} must be a table with one key per row")
            known = list(dict.fromkeys(line[len(row)] for line in study.rows if line[: len(row)] == row))
            for name, inner in part.items():
                if name not in known:
                    raise UsageError(f"{study.label}: {place} does not have a row {name!r}{did_you_mean(name, known)}")
                read(inner, (*row, name))
            return
        if not isinstance(part, list) or len(part) != len(study.columns):
            count = len(part) if isinstance(part, list) else "no list"
            raise UsageError(f"{study.label}: {place} must list {len(study.columns)} figures, got {count}")
        for column, value in zip(study.columns, part, strict=True):
            if isinstance(value, bool) or not isinstance(value, int | Decimal):
                raise UsageError(f"{study.label}: {place} must list numbers, got {format_value(value)}")
            figure = Decimal(value)
            if figure.is_infinite():
                raise UsageError(
                    f"{study.label}: {place} must list finite numbers, or nan for missing ones, got {value}"
                )
            if len(str(value)) > 40 or abs(figure.adjusted()) > 40:
                raise UsageError(f"{study.label}: {place} must list figures of a table, got {str(value)[:40]}...")
            if not figure.is_nan():
                figures[row, column] = figure

    read(study.file.published, ())
    return figures
