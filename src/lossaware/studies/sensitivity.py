"""What the learning rate is to each optimizer of a study: the score over it, and the time to the bases' best score.

One number each says how much the learning rate matters: the worst and the mean score over those that the study names,
for every optimizer the same ones. The score at the learning rate that comes with the optimizer stands beside them.

A base is what the study has without and with LGA. How fast another optimizer is, is asked against the best score that a
base reaches in any epoch at its best learning rate.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import cycle
from statistics import fmean, median_high
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas
from matplotlib.lines import Line2D
from matplotlib.ticker import LogLocator, MaxNLocator, NullLocator, StrMethodFormatter

from lossaware.errors import UsageError
from lossaware.studies.pictures import INK, PALETTE, SERIES, Picture, draw, label
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
        rates: Those of these learning rates that the study names for every optimizer.
        own: The one that comes with the optimizer, where the study asks for it; it may be one of the others.
    """

    panel: str
    name: str
    quantity: Quantity
    at: Mapping[float, Measured] = field(default_factory=dict)
    rates: frozenset[float] = frozenset()
    own: float | None = None

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
class Overall:
    """A series in one number, or two; see `overall`. All are in the units of the table.

    Attributes:
        worst: The smallest of its mean scores over the rates that the study names, or the largest where lower is
            better.
        worst_lr: Where that is.
        mean: The mean of these scores.
    """

    worst: float
    worst_lr: float
    mean: float


def overall(series: Series) -> Overall | None:
    """How good an optimizer is whatever the learning rate.

    A score that is not finite, of any seed, is the worst there is: worst and mean are then infinitely bad.

    Returns:
        None as long as nothing is measured at some of the rates, for over others it would be held against nothing.
    """
    measured = {lr: series.at[lr] for lr in sorted(series.rates)}
    if not measured or not all(one.there for one in measured.values()):
        return None
    bad = -math.inf if series.quantity.higher_is_better else math.inf
    scores = {lr: bad if one.summary.lost else series.means[lr] for lr, one in measured.items()}
    worst = (min if series.quantity.higher_is_better else max)(scores, key=scores.__getitem__)
    return Overall(scores[worst], worst, fmean(scores.values()))


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
    found: dict[tuple[str, str, Quantity], Series] = {}
    for (row, column), measured in table.cells.items():
        cell = measured.cell
        if not cell.specs or cell.compares:
            continue
        place = dict(zip((*study.file.rows, *study.file.columns), (*row, *column), strict=True))
        panel, name = (", ".join(place[axis] for axis in axes) for axes in (panels, names))
        panel = ", ".join(filter(None, [panel or cell.specs[0].task, measured.caution]))
        lr = cell.specs[0].lr
        before = found.get(key := (panel, name, cell.quantity), Series(*key))
        named = any(study.file.axes[axis][place[axis]].lr for axis in rates)
        found[key] = replace(
            before,
            at=dict(sorted({lr: measured, **before.at}.items())),
            rates=before.rates | {lr} if named else before.rates,
            own=before.own if named else lr,
        )
    return list(found.values())


def has_rates(study: Study) -> bool:
    """Whether an axis of the study has learning rates alone, so that it can be drawn over them."""
    return bool(_roles(study.file)[1])


def _roles(file: StudyFile) -> tuple[list[str], list[str], list[str]]:
    """The axes of tasks, those of learning rates, and the others, which say what a line is."""
    panels = [axis for axis, points in file.axes.items() if any(point.task for point in points.values())]
    rates = [
        axis
        for axis, points in file.axes.items()
        if any(point.lr for point in points.values())
        and not any(point.optimizer or point.task for point in points.values())
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


def overall_rows(series: Sequence[Series]) -> list[dict[str, Any]]:
    """A row a series: how many of the study's rates are measured, and `overall`, empty where it is none or not finite.

    Those at which a score is not finite are counted as ``not_finite``.
    """
    rows = []
    for one in series:
        measured = [one.at[lr] for lr in one.rates if one.at[lr].there]
        summed = overall(one)
        own = one.means.get(one.own) if one.own is not None else None
        rows.append(
            {
                "task": one.panel,
                "optimizer": one.name,
                "rates": len(one.rates),
                "measured": len(measured),
                "not_finite": sum(cell.summary.lost > 0 for cell in measured),
                "worst": "" if summed is None or math.isinf(summed.worst) else summed.worst,
                "worst_lr": "" if summed is None else summed.worst_lr,
                "mean": "" if summed is None or math.isinf(summed.mean) else summed.mean,
                "own": "" if own is None else own,
                "own_lr": "" if one.own is None else one.own,
            }
        )
    return rows


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


def score_overview(series: Sequence[Series], panel: str) -> tuple[list[str], list[list[str]]]:
    """Heads and rows of a table of one task.

    Each series has its best score, its worst and its mean one over the rates that the study names, and the one at its
    own rate, where the study has that.
    """
    its = [one for one in series if one.panel == panel]
    quantity, count = its[0].quantity, len(its[0].rates)
    heads = ["optimizer", "best (lr)", f"worst of {count} (lr)", f"mean of {count}"]
    if with_own := any(one.own is not None for one in its):
        heads.append("own (lr)")
    rows = []
    for one in its:
        means = one.means
        best = max(means, key=lambda lr: means[lr] if quantity.higher_is_better else -means[lr], default=None)
        cells = ["not run" if best is None else _show(means[best], quantity, best), "", ""]
        if summed := overall(one):
            cells[1:] = _show(summed.worst, quantity, summed.worst_lr), _show(summed.mean, quantity)
        if with_own:
            cells.append(_show(means[one.own], quantity, one.own) if one.own in means else "")
        rows.append([one.name, *cells])
    return heads, rows


def time_overview(series: Sequence[Series], found: Sequence[Time], panel: str) -> tuple[list[str], list[list[str]]]:
    """Heads and rows of a table of one task: each series with its shortest times to the bases' best scores."""
    its = [one for one in series if one.panel == panel]
    targets = {time.base.name: time for time in found if time.series.panel == panel}
    heads = [
        "optimizer",
        *(f"to {name}'s {_show(time.target, its[0].quantity)} (lr)" for name, time in targets.items()),
    ]
    rows = []
    for one in its:
        cells = []
        for name in targets:
            there = [time for time in found if time.series is one and time.base.name == name]
            shortest = min(there, key=lambda time: (time.epochs, -time.reached, time.seconds), default=None)
            cells.append(_show_time(shortest))
        rows.append([one.name, *cells])
    return heads, rows


def _show(score: float, quantity: Quantity, lr: float | None = None) -> str:
    """A score, and its learning rate in brackets: two decimals in percent, otherwise four, as in the study's table."""
    text = "not finite" if math.isinf(score) else f"{score:.2f}%" if quantity.percent else f"{score:.4f}"
    return text if lr is None else f"{text} ({number(lr)})"


def _show_time(time: Time | None) -> str:
    if time is None:
        return ""
    if not math.isfinite(time.epochs):
        return "not reached" if time.reached == 0 else f"by {time.reached} of {time.seeds} seeds"
    seconds = f"{time.seconds:.0f}" if time.seconds >= 100 else f"{time.seconds:.2g}"
    return f"{time.epochs:g} epoch{'s' * (time.epochs != 1)}, {seconds} s ({number(time.lr)})"


# --- as a picture ---------------------------------------------------------------------------------------------------

_COLORS = (*SERIES[1:], INK)
_MARKERS = ("o", "s", "^", "D", "v", "P")
_CROSS: Mapping[str, Any] = {"marker": "x", "markersize": 6, "markeredgewidth": 1.6, "linestyle": ""}


def draw_scores(series: Sequence[Series]) -> Picture:
    """A panel a task with all optimizers over the learning rate.

    A base and what is it with LGA have a colour in common: the base is dashed. All others are thin, with open marks.
    """
    panels = list(dict.fromkeys(one.panel for one in series))
    styles = _styles(series)

    def plot(canvas: Canvas) -> None:
        grid = canvas.subplots(len(panels), sharex=True, squeeze=False)[:, 0]
        for panel, axes in zip(panels, grid, strict=True):
            its = [one for one in series if one.panel == panel]
            quantity = its[0].quantity
            label(axes, panel)
            axes.set_xscale("log")
            axes.xaxis.set_major_locator(LogLocator(numticks=12))
            axes.xaxis.set_minor_locator(NullLocator())
            axes.set_ylabel(f"{quantity.set} {quantity.name}")
            if _spread(its) > 10 and not quantity.percent:
                axes.set_yscale("log")
            else:
                axes.yaxis.set_major_locator(MaxNLocator(5))
            if quantity.percent:
                axes.yaxis.set_major_formatter(StrMethodFormatter("{x:g} %"))
            for one in its:
                _line(axes, one, styles[one.name])
            # Where a line breaks off, for a score is not finite, there is a cross at the bad end.
            end = 0 if quantity.higher_is_better else 1
            for one in its:
                for lr in (lr for lr, measured in one.at.items() if measured.summary.lost):
                    style = {**_CROSS, "color": styles[one.name]["color"]}
                    axes.plot([lr], [end], transform=axes.get_xaxis_transform(), clip_on=False, **style)
        axes.set_xlabel("learning rate")
        handles = [Line2D([], [], label=name, **style) for name, style in styles.items()]
        if any(measured.summary.lost for one in series for measured in one.at.values()):
            handles.append(Line2D([], [], label="not finite", color=INK, **_CROSS))
        canvas.legend(handles=handles, loc="outside right upper", handlelength=3)

    height = max(2.4 * len(panels) + 0.4, 0.19 * len(styles) + 0.6)
    places = " and ".join(filter(None, [", ".join(panels[:-1]), panels[-1]]))
    said = f"Score of each optimizer over the learning rate, on {places}: mean, and range of the seeds as a thin line"
    return draw(plot, (7.2, height), said)


def _spread(series: Sequence[Series]) -> float:
    """The highest of the scores by the lowest, where all are above 0."""
    scores = [mean for one in series for mean in one.means.values()]
    return max(scores) / min(scores) if min(scores, default=0) > 0 else 1.0


def _styles(series: Sequence[Series]) -> dict[str, dict[str, Any]]:
    """How each optimizer is drawn: bases and theirs first."""
    families = {base: _with_lga_of(base, series) for base in dict.fromkeys(one.name for one in bases(series))}
    styles: dict[str, dict[str, Any]] = {}
    for index, (base, variants) in enumerate(families.items()):
        color = _COLORS[index % len(_COLORS)]
        # Above the others: what is the same shows between the dashes.
        styles[base] = {"color": color, "linewidth": 1.6, "linestyle": (0, (2.5, 1.5)), "zorder": 3}
        for marker, variant in zip(cycle(_MARKERS), variants, strict=False):
            styles.setdefault(variant, {"color": color, "linewidth": 1.6, "marker": marker, "markersize": 3.5})
    others = [name for name in dict.fromkeys(one.name for one in series) if name not in styles]
    for index, name in enumerate(others, start=len(families)):
        color, marker = _COLORS[index % len(_COLORS)], _MARKERS[index // len(_COLORS) % len(_MARKERS)]
        face = PALETTE["card"][0]
        styles[name] = {"color": color, "linewidth": 0.9, "marker": marker, "markersize": 4, "markerfacecolor": face}
    return styles


def _with_lga_of(name: str, series: Sequence[Series]) -> list[str]:
    """The series that are this base with LGA."""
    specs = {spec for one in series if one.name == name for spec in one.specs}
    return list(dict.fromkeys(o.name for o in series if o.with_lga and any(without_lga(s) in specs for s in o.specs)))


def _line(axes: Axes, one: Series, style: Mapping[str, Any]) -> None:
    """The means as a line, the range of the seeds as bars."""
    means = one.means
    for lr in means:
        values = _finite(one.at[lr].values.values())
        axes.plot([lr, lr], [min(values), max(values)], color=style["color"], linewidth=0.8, alpha=0.5)
    axes.plot(list(means), list(means.values()), **style)
