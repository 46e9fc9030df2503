"""A study over its learning rates, as tables and as a plot."""

import math
from collections.abc import Mapping, Sequence
from itertools import cycle
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas
from matplotlib.lines import Line2D
from matplotlib.ticker import LogLocator, MaxNLocator, NullLocator, StrMethodFormatter

from lossaware.studies.analysis.lr_sensitivity import Series, Time, bases, finite_values, overall
from lossaware.studies.report.plot import CARD, INK, SERIES, Plot, label
from lossaware.studies.report.table import Table, plain_table
from lossaware.studies.specs.escape import matplotlib
from lossaware.studies.specs.formatting import number
from lossaware.studies.specs.study import Metric, without_lga


def score_overview(series: Sequence[Series], panel: str) -> Table:
    """The scores on one task.

    Each series has its best score, its worst and mean score over the study's rates, and the score at its default rate,
    if the study has it.
    """
    its = [one for one in series if one.panel == panel]
    metric, count = its[0].metric, len(its[0].rates)
    heads = ["optimizer", "best (lr)", f"worst of {count} (lr)", f"mean of {count}"]
    if with_own := any(one.own is not None for one in its):
        heads.append("own (lr)")
    rows = []
    for one in its:
        means = one.means
        best = max(means, key=lambda lr: means[lr] if metric.higher_is_better else -means[lr], default=None)
        cells = ["not run" if best is None else _show(means[best], metric, best), "", ""]
        if summed := overall(one):
            cells[1:] = _show(summed.worst, metric, summed.worst_lr), _show(summed.mean, metric)
        if with_own:
            cells.append(_show(means[one.own], metric, one.own) if one.own in means else "")
        rows.append([one.name, *cells])
    return plain_table(panel, heads, rows)


def time_overview(series: Sequence[Series], times: Sequence[Time], panel: str) -> Table:
    """The shortest times of each series to the bases' best scores on one task."""
    its = [one for one in series if one.panel == panel]
    targets = {time.base.name: time for time in times if time.series.panel == panel}
    heads = [
        "optimizer",
        *(f"to {name}'s {_show(time.target, its[0].metric)} (lr)" for name, time in targets.items()),
    ]
    rows = []
    for one in its:
        cells = []
        for name in targets:
            own_times = [time for time in times if time.series is one and time.base.name == name]
            shortest = min(own_times, key=lambda time: (time.epochs, -time.reached, time.seconds), default=None)
            cells.append(_show_time(shortest))
        rows.append([one.name, *cells])
    return plain_table(panel, heads, rows)


def _show(score: float, metric: Metric, lr: float | None = None) -> str:
    """A score, with two decimals in percent, otherwise four, as in the study's table; its learning rate in brackets."""
    text = "not finite" if math.isinf(score) else f"{score:.2f}%" if metric.percent else f"{score:.4f}"
    return text if lr is None else f"{text} ({number(lr)})"


def _show_time(time: Time | None) -> str:
    if time is None:
        return ""
    if not math.isfinite(time.epochs):
        return "not reached" if time.reached == 0 else f"by {time.reached} of {time.seeds} seeds"
    seconds = f"{time.seconds:.0f}" if time.seconds >= 100 else f"{time.seconds:.2g}"
    return f"{time.epochs:g} epoch{'s' * (time.epochs != 1)}, {seconds} s ({number(time.lr)})"


# --- Plot -----------------------------------------------------------------------------------------------------------

_COLORS = (*SERIES[1:], INK)
_MARKERS = ("o", "s", "^", "D", "v", "P")
_CROSS: Mapping[str, Any] = {"marker": "x", "markersize": 6, "markeredgewidth": 1.6, "linestyle": ""}


def plot_series(series: Sequence[Series]) -> Plot:
    """One panel per task, with all optimizers over the learning rate.

    A base and its variants with LGA have the same colour: the base is dashed. Others are thin, with open markers.
    """
    panels = list(dict.fromkeys(one.panel for one in series))
    styles = _styles(series)

    def draw(canvas: Canvas) -> None:
        grid = canvas.subplots(len(panels), sharex=True, squeeze=False)[:, 0]
        for panel, axes in zip(panels, grid, strict=True):
            its = [one for one in series if one.panel == panel]
            metric = its[0].metric
            label(axes, panel)
            axes.set_xscale("log")
            axes.xaxis.set_major_locator(LogLocator(numticks=12))
            axes.xaxis.set_minor_locator(NullLocator())
            axes.set_ylabel(matplotlib(f"{metric.set} {metric.name}"))
            if _spread(its) > 10 and not metric.percent:
                axes.set_yscale("log")
            else:
                axes.yaxis.set_major_locator(MaxNLocator(5))
            if metric.percent:
                axes.yaxis.set_major_formatter(StrMethodFormatter("{x:g} %"))
            for one in its:
                _line(axes, one, styles[one.name])
            # A cross at the bad end of the axis marks scores that are not finite, where a line ends.
            end = 0 if metric.higher_is_better else 1
            for one in its:
                for lr in (lr for lr, measured in one.at.items() if measured.summary.lost):
                    style = {**_CROSS, "color": styles[one.name]["color"]}
                    axes.plot([lr], [end], transform=axes.get_xaxis_transform(), clip_on=False, **style)
        axes.set_xlabel("learning rate")
        handles = [Line2D([], [], label=matplotlib(name), **style) for name, style in styles.items()]
        if any(measured.summary.lost for one in series for measured in one.at.values()):
            handles.append(Line2D([], [], label="not finite", color=INK, **_CROSS))
        canvas.legend(handles=handles, loc="outside right upper", handlelength=3)

    height = max(2.4 * len(panels) + 0.4, 0.19 * len(styles) + 0.6)
    places = " and ".join(filter(None, [", ".join(panels[:-1]), panels[-1]]))
    description = (
        f"Score of each optimizer over the learning rate, on {places}: mean, and range of the seeds as a thin line"
    )
    return Plot(draw, (7.2, height), description)


def _spread(series: Sequence[Series]) -> float:
    """The ratio of the highest and the lowest score, if all are above 0."""
    scores = [mean for one in series for mean in one.means.values()]
    return max(scores) / min(scores) if min(scores, default=0) > 0 else 1.0


def _styles(series: Sequence[Series]) -> dict[str, dict[str, Any]]:
    """Line styles of the optimizers: first bases with their variants."""
    families = {base: _with_lga_of(base, series) for base in dict.fromkeys(one.name for one in bases(series))}
    styles: dict[str, dict[str, Any]] = {}
    for index, (base, variants) in enumerate(families.items()):
        color = _COLORS[index % len(_COLORS)]
        # In the foreground: equal lines are visible between the dashes.
        styles[base] = {"color": color, "linewidth": 1.6, "linestyle": (0, (2.5, 1.5)), "zorder": 3}
        for marker, variant in zip(cycle(_MARKERS), variants, strict=False):
            styles.setdefault(variant, {"color": color, "linewidth": 1.6, "marker": marker, "markersize": 3.5})
    others = [name for name in dict.fromkeys(one.name for one in series) if name not in styles]
    for index, name in enumerate(others, start=len(families)):
        color, marker = _COLORS[index % len(_COLORS)], _MARKERS[index // len(_COLORS) % len(_MARKERS)]
        styles[name] = {"color": color, "linewidth": 0.9, "marker": marker, "markersize": 4, "markerfacecolor": CARD}
    return styles


def _with_lga_of(name: str, series: Sequence[Series]) -> list[str]:
    """The series that are this base with LGA."""
    specs = {spec for one in series if one.name == name for spec in one.specs}
    return list(dict.fromkeys(o.name for o in series if o.with_lga and any(without_lga(s) in specs for s in o.specs)))


def _line(axes: Axes, one: Series, style: Mapping[str, Any]) -> None:
    """Draw the means as a line, and the ranges of the seeds as bars."""
    means = one.means
    for lr in means:
        values = finite_values(one.at[lr].values.values())
        axes.plot([lr, lr], [min(values), max(values)], color=style["color"], linewidth=0.8, alpha=0.5)
    axes.plot(list(means), list(means.values()), **style)
