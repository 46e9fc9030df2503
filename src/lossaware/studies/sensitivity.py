"""What the learning rate is to each optimizer of a study: the score over it, and the time to the bases' best score.

A base is what the study has without and with LGA. How fast another optimizer is, is asked against the best score that a
base reaches in any epoch at its best learning rate.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean, median_high
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas
from matplotlib.ticker import LogLocator, MaxNLocator, NullLocator, StrMethodFormatter

from lossaware.errors import UsageError
from lossaware.studies.pictures import INK, SERIES, Picture, draw, label
from lossaware.studies.spec import RunSpec
from lossaware.studies.study import Quantity, Study, StudyFile, without_lga
from lossaware.studies.study_table import Measured, Results, StudyTable
from lossaware.studies.tables import number


@dataclass(frozen=True)
class Series:
    """One optimizer on one task, at all its learning rates.

    Attributes:
        panel: The task, as the study names it.
        name: The optimizer, as the study names it.
        quantity: What its scores are.
        at: Its cell of the study by learning rate, in ascending order; finished runs or none.
    """

    panel: str
    name: str
    quantity: Quantity
    at: Mapping[float, Measured] = field(default_factory=dict)

    @property
    def specs(self) -> Iterable[RunSpec]:
        """All its runs, finished or not."""
        return (spec for measured in self.at.values() for spec in measured.cell.specs)

    @property
    def with_lga(self) -> bool:
        """Whether its runs are with LGA."""
        return any(spec.lga is not None for spec in self.specs)

    @property
    def means(self) -> dict[float, float]:
        """The mean of its finite scores by learning rate, in the units of the table."""
        return {lr: fmean(finite) for lr, measured in self.at.items() if (finite := _finite(measured.values.values()))}


@dataclass(frozen=True)
class Time:
    """How long an optimizer takes, at one learning rate, to the best score of a base.

    Attributes:
        series: The optimizer.
        lr: Its learning rate.
        base: The base.
        base_lr: The base's best learning rate.
        target: The base's best score there, in the units of the table: the mean over the seeds. What each run has to
            reach is the base's best score from the same seed.
        seeds: How many seeds both have finished.
        reached: How many of these runs reach it.
        epochs: Epochs until then: the median over the seeds, infinite where the run of that seed does not reach it.
        seconds: The same in seconds of training.
    """

    series: Series
    lr: float
    base: Series
    base_lr: float
    target: float
    seeds: int
    reached: int
    epochs: float
    seconds: float


def all_series(table: StudyTable) -> list[Series]:
    """The series of a study, in its order.

    Raises:
        UsageError: No axis of the study has learning rates.
    """
    study = table.study
    panels, rates, names = _roles(study.file)
    if not rates:
        raise UsageError(f"{study.what}: none of its axes has learning rates alone to draw over")
    found: dict[tuple[str, str, Quantity], dict[float, Measured]] = {}
    for (row, column), measured in table.cells.items():
        cell = measured.cell
        if not cell.specs or cell.compares:
            continue
        place = dict(zip((*study.file.rows, *study.file.columns), (*row, *column), strict=True))
        panel, name = (", ".join(place[axis] for axis in axes) for axes in (panels, names))
        panel = ", ".join(filter(None, [panel or cell.specs[0].task, measured.caution]))
        at = found.setdefault((panel, name, cell.quantity), {})
        at.setdefault(cell.specs[0].lr, measured)
    return [Series(*key, dict(sorted(at.items()))) for key, at in found.items()]


def has_rates(study: Study) -> bool:
    """Whether an axis of the study has learning rates alone, so that it can be drawn over them."""
    return bool(_roles(study.file)[1])


def _roles(file: StudyFile) -> tuple[list[str], list[str], list[str]]:
    """The axes of tasks, those of learning rates, and the others, which say what a line is."""
    panels = [axis for axis, points in file.axes.items() if any(point.task for point in points.values())]
    rates = [
        axis
        for axis, points in file.axes.items()
        if any(point.lr for point in points.values()) and not any(point.optimizer for point in points.values())
    ]
    return panels, rates, [axis for axis in (*file.rows, *file.columns) if axis not in (*panels, *rates)]


def bases(series: Sequence[Series]) -> list[Series]:
    """Those without LGA that the study has with LGA too."""
    wanted = {without_lga(spec) for one in series if one.with_lga for spec in one.specs}
    return [one for one in series if not one.with_lga and any(spec in wanted for spec in one.specs)]


def times(series: Sequence[Series], results: Results) -> list[Time]:
    """The time of every series, at each learning rate, to the best of every base of its task."""
    curves = {spec: _curve(one.quantity, spec, results) for one in series for spec in one.specs}
    found = []
    for base in bases(series):
        better = max if base.quantity.higher_is_better else min
        best = {
            lr: {
                spec.seed: better(finite)
                for spec in measured.cell.specs
                if (finite := _finite(score for score, _ in curves[spec]))
            }
            for lr, measured in base.at.items()
        }
        scores = {lr: fmean(by_seed.values()) for lr, by_seed in best.items() if by_seed}
        if not scores:
            continue
        base_lr = better(scores, key=scores.__getitem__)
        for one in series:
            if (one.panel, one.quantity) == (base.panel, base.quantity):
                for lr, measured in one.at.items():
                    runs = [
                        _reaches(one.quantity, curves[spec], best[base_lr][spec.seed])
                        for spec in measured.cell.specs
                        if curves[spec] and spec.seed in best[base_lr]
                    ]
                    if runs:
                        target = scores[base_lr] * (100 if base.quantity.percent else 1)
                        reached = sum(math.isfinite(epochs) for epochs, _ in runs)
                        epochs, seconds = (median_high(values) for values in zip(*runs, strict=True))
                        found.append(Time(one, lr, base, base_lr, target, len(runs), reached, epochs, seconds))
    return found


def _curve(quantity: Quantity, spec: RunSpec, results: Results) -> list[tuple[float, float]]:
    """Score and seconds so far after each epoch; empty unless the run is finished."""
    records = results.records(spec)
    if len(records) < spec.epochs:
        return []
    seconds = 0.0
    curve = []
    for record in records:
        seconds += record.seconds
        curve.append((getattr(record, quantity.set).get(quantity.name, math.nan), seconds))
    return curve


def _reaches(quantity: Quantity, curve: Sequence[tuple[float, float]], target: float) -> tuple[float, float]:
    """Epochs and seconds until the target is reached; infinite where it is not."""
    for epoch, (score, seconds) in enumerate(curve, start=1):
        if score >= target if quantity.higher_is_better else score <= target:
            return epoch, seconds
    return math.inf, math.inf


def _finite(values: Iterable[float]) -> list[float]:
    return [value for value in values if math.isfinite(value)]


# --- as tables ------------------------------------------------------------------------------------------------------


def score_rows(series: Sequence[Series]) -> list[dict[str, Any]]:
    """A row a series and learning rate: mean, lowest and highest score of its seeds, in the units of the table."""
    return [
        {
            "task": one.panel,
            "optimizer": one.name,
            "lr": lr,
            "mean": one.means[lr],
            "low": min(_finite(measured.values.values())),
            "high": max(_finite(measured.values.values())),
            "seeds": len(measured.values),
            "overridden": measured.said,
        }
        for one in series
        for lr, measured in one.at.items()
        if lr in one.means
    ]


def time_rows(found: Sequence[Time]) -> list[dict[str, Any]]:
    """A row a `Time`; epochs and seconds are empty where the median run does not get there."""
    return [
        {
            "task": time.series.panel,
            "optimizer": time.series.name,
            "lr": time.lr,
            "base": time.base.name,
            "base_lr": time.base_lr,
            "target": time.target,
            "seeds": time.seeds,
            "reached": time.reached,
            "epochs": time.epochs if math.isfinite(time.epochs) else "",
            "seconds": time.seconds if math.isfinite(time.seconds) else "",
        }
        for time in found
    ]


def overview(series: Sequence[Series], found: Sequence[Time], panel: str) -> tuple[list[str], list[list[str]]]:
    """Heads and rows of a table of one task: each series with its best score and its shortest times to the bases'."""
    own = [one for one in series if one.panel == panel]
    targets = {time.base.name: time for time in found if time.series.panel == panel}
    unit = "%" if own[0].quantity.percent else ""
    heads = ["optimizer", "best (lr)"]
    heads += [f"to {name}'s {time.target:.2f}{unit} (lr)" for name, time in targets.items()]
    rows = []
    for one in own:
        means = one.means
        cells = ["not run"]
        if means:
            best = (max if one.quantity.higher_is_better else min)(means, key=means.__getitem__)
            cells = [f"{means[best]:.2f}{unit} ({number(best)})"]
        for name in targets:
            its = [time for time in found if time.series is one and time.base.name == name]
            shortest = min(its, key=lambda time: (time.epochs, -time.reached, time.seconds), default=None)
            cells.append(_show_time(shortest))
        rows.append([one.name, *cells])
    return heads, rows


def _show_time(time: Time | None) -> str:
    if time is None:
        return ""
    if not math.isfinite(time.epochs):
        return "not reached" if time.reached == 0 else f"by {time.reached} of {time.seeds} seeds"
    seconds = f"{time.seconds:.0f}" if time.seconds >= 100 else f"{time.seconds:.2g}"
    return f"{time.epochs:g} epoch{'s' * (time.epochs != 1)}, {seconds} s ({number(time.lr)})"


# --- as a picture ---------------------------------------------------------------------------------------------------

_COLORS = (*SERIES[1:], INK)
_DASHES = ("-", "--", ":")


def draw_scores(series: Sequence[Series]) -> Picture:
    """A row of panels a task: the bases without and with LGA on the left, the others, over the bases in grey, right."""
    panels = list(dict.fromkeys(one.panel for one in series))
    base_names = list(dict.fromkeys(one.name for one in bases(series)))
    held = {name: _with_lga_of(name, series) for name in base_names}
    paired = {*base_names, *filter(None, held.values())}
    others = list(dict.fromkeys(one.name for one in series if one.name not in paired))
    columns = [names for names in (list(paired), others) if names]

    def plot(canvas: Canvas) -> None:
        grid = canvas.subplots(len(panels), len(columns), sharex=True, sharey="row", squeeze=False)
        for panel, line in zip(panels, grid, strict=True):
            its = {one.name: one for one in series if one.panel == panel}
            quantity = next(iter(its.values())).quantity
            for axes, names in zip(line, columns, strict=True):
                if names is others:
                    _plot_others(axes, [its[name] for name in base_names if name in its], its, others)
                    label(axes, f"{panel}: others" if base_names else panel)
                else:
                    _plot_bases(axes, its, held)
                    label(axes, f"{panel}: without and with LGA")
                axes.set_xscale("log")
                axes.xaxis.set_major_locator(LogLocator(numticks=12))
                axes.xaxis.set_minor_locator(NullLocator())
                axes.yaxis.set_major_locator(MaxNLocator(5))
                if quantity.percent:
                    axes.yaxis.set_major_formatter(StrMethodFormatter("{x:g} %"))
            line[0].set_ylabel(f"{quantity.set} {quantity.name}")
        for axes in grid[-1]:
            axes.set_xlabel("learning rate")
            axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.2), ncols=2)

    legend = 0.18 * math.ceil(max(map(len, [paired, [*base_names, *others]])) / 2)
    size = (4.2 * len(columns), 2.4 * len(panels) + 0.4 + legend)
    return draw(plot, size, f"Score of each optimizer over the learning rate, on {' and '.join(panels)}")


def _with_lga_of(name: str, series: Sequence[Series]) -> str | None:
    """The series that is this base with LGA; of several the first."""
    specs = {spec for one in series if one.name == name for spec in one.specs}
    return next((o.name for o in series if o.with_lga and any(without_lga(spec) in specs for spec in o.specs)), None)


def _plot_bases(axes: Axes, its: Mapping[str, Series], held: Mapping[str, str | None]) -> None:
    for index, (base, variant) in enumerate(held.items()):
        color = _COLORS[index % len(_COLORS)]
        # The base is broad and below, so that it shows where the curves are the same.
        if base in its:
            _line(axes, its[base], color=color, linewidth=4, alpha=0.35)
        if variant is not None and variant in its:
            _line(axes, its[variant], color=color, linewidth=1.4, marker="o", markersize=3)


def _plot_others(axes: Axes, behind: Sequence[Series], its: Mapping[str, Series], others: Sequence[str]) -> None:
    for dash, base in zip(_DASHES * len(behind), behind, strict=False):
        _line(axes, base, color=SERIES[0], linewidth=3, linestyle=dash, alpha=0.6)
    for index, name in enumerate(others):
        if name in its:
            color, dash = _COLORS[index % len(_COLORS)], _DASHES[index // len(_COLORS) % len(_DASHES)]
            _line(axes, its[name], color=color, linewidth=1.4, linestyle=dash, marker="o", markersize=3)


def _line(axes: Axes, one: Series, **style: Any) -> None:
    """The means as a line, the range of the seeds as bars."""
    means = one.means
    for lr in means:
        values = _finite(one.at[lr].values.values())
        axes.plot([lr, lr], [min(values), max(values)], color=style["color"], linewidth=0.8, alpha=0.5)
    axes.plot(list(means), list(means.values()), label=one.name, **style)
