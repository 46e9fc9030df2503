"""Plots of a comparison: learning curves, and scores over the learning rate."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, MaxNLocator, NullLocator

from lossaware.studies.report.image import Image
from lossaware.studies.report.plot import SERIES, Plot
from lossaware.studies.specs.formatting import number
from lossaware.studies.specs.study import Metric


@dataclass(frozen=True)
class Figure:
    """A plot and its heading."""

    heading: str
    plot: Plot

    @property
    def image(self) -> Image:
        """The plot for a page."""
        return Image.of(self.plot)


@dataclass(frozen=True)
class Curves:
    """Learning curves of one figure.

    Attributes:
        heading: Common settings.
        metric: The metric; its epoch is ignored.
        lines: By label, one curve per seed; the first label is the base.
    """

    heading: str
    metric: Metric
    lines: Mapping[str, Sequence[Sequence[float]]]


@dataclass(frozen=True)
class Scores:
    """Scores over the learning rate of one figure.

    Attributes:
        heading: Common settings.
        metric: The metric.
        lines: By label and learning rate, one score per seed; the first label is the base.
    """

    heading: str
    metric: Metric
    lines: Mapping[str, Mapping[float, Sequence[float]]]


def plot_curves(groups: Sequence[Curves]) -> list[Figure]:
    """One figure per group: mean over seeds, and their range as a band."""
    return [
        Figure(
            group.heading or group.metric.measure,
            _plot(partial(_curves, group=group), f"{group.metric.measure} by epoch, {group.heading}"),
        )
        for group in groups
    ]


def plot_scores(groups: Sequence[Scores]) -> list[Figure]:
    """One figure per group: the scores over the learning rate, and a line through their means."""
    return [
        Figure(
            group.heading or group.metric.measure,
            _plot(partial(_scores, group=group), f"{group.metric.measure} against lr, {group.heading}"),
        )
        for group in groups
    ]


def heading_of(setting: Mapping[str, str]) -> str:
    """``sgd · lr 1e-4``: names alone, numbers with their column."""
    return " · ".join(value if value[:1].isalpha() else f"{key} {value}" for key, value in setting.items())


def _plot(draw: Callable[[Axes], None], description: str) -> Plot:
    """A small plot with one panel."""
    return Plot(lambda canvas: draw(canvas.add_subplot()), (4.2, 2.6), description)


def _curves(axes: Axes, group: Curves) -> None:
    longest = 1
    for index, runs in enumerate(group.lines.values()):
        curves = [run for run in runs if run]
        if not curves:
            continue
        length = min(map(len, curves))
        values = np.array([curve[:length] for curve in curves])
        values[~np.isfinite(values)] = np.nan
        epochs = np.arange(1, length + 1)
        color = SERIES[index % len(SERIES)]
        some = np.isfinite(values).any(axis=0)
        low, high = np.nanmin(values[:, some], axis=0), np.nanmax(values[:, some], axis=0)
        axes.fill_between(epochs[some], low, high, color=color, alpha=0.16, linewidth=0)
        # The base is wide and in the background, so that it is visible where curves coincide.
        axes.plot(
            epochs,
            values.mean(axis=0),
            color=color,
            linewidth=3.2 if index == 0 else 1.4,
            marker="o" if length < 3 else None,
            markersize=5 if index == 0 else 3,
        )
        longest = max(longest, length)
    axes.set_xlabel("epoch")
    axes.set_xlim(0.5 if longest < 3 else 1, longest + (0.5 if longest < 3 else 0))
    axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    _score_axis(axes, group.metric)


def _scores(axes: Axes, group: Scores) -> None:
    series = group.lines
    ticks = sorted({at for points in series.values() for at in points})
    for index, points in enumerate(series.values()):
        at = sorted(points)
        # Shifted, so that equal scores do not hide each other.
        shift = 1 + 0.04 * (index - (len(series) - 1) / 2)
        color = SERIES[index % len(SERIES)]
        for x in at:
            axes.plot([x * shift] * len(points[x]), points[x], ".", color=color, alpha=0.45, markersize=4)
        means = [float(np.mean(points[x])) if len(points[x]) else np.nan for x in at]
        axes.plot(
            [x * shift for x in at],
            means,
            color=color,
            linewidth=3.2 if index == 0 else 1.4,
            marker="o",
            markersize=6 if index == 0 else 4,
        )
    axes.set_xscale("log")
    axes.set_xlim(ticks[0] / 2, ticks[-1] * 2)
    axes.set_xticks(ticks, [number(at) for at in ticks])
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xlabel("learning rate")
    _score_axis(axes, group.metric)


def _score_axis(axes: Axes, metric: Metric) -> None:
    axes.yaxis.set_major_locator(MaxNLocator(5))
    axes.margins(y=0.08)
    if metric.percent:
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:g} %"))
        low, high = axes.get_ylim()
        axes.set_ylim(max(low, -0.01), min(high, 1.01))
    axes.tick_params(length=0)
    axes.set_axisbelow(True)
