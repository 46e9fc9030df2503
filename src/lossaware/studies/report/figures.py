"""Figures as inline SVG that take their colours, font and size from the page, so that they follow its dark mode."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from html import escape
from io import StringIO
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas
from matplotlib.ticker import FuncFormatter, MaxNLocator, NullLocator

from lossaware.studies.analysis.paired import Arm, Measure, Pair
from lossaware.studies.report.pictures import with_needed_names
from lossaware.studies.specs.formatting import number

COLORS = 6
"""Series that can be told apart in one figure; the page defines ``--series-0`` (the base) to ``--series-5``."""

# matplotlib knows no CSS variables, so it draws in marker colours that are replaced afterwards.
_SERIES = [f"#0101{i:02x}" for i in range(COLORS)]
_TEXT, _GRID = "#020201", "#020202"
_VARIABLES = {color: f"var(--series-{i})" for i, color in enumerate(_SERIES)}
_VARIABLES |= {_TEXT: "var(--muted)", _GRID: "var(--line)"}

_STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "font.size": 8,
    "axes.edgecolor": _GRID,
    "axes.labelcolor": _TEXT,
    "xtick.color": _GRID,
    "ytick.color": _GRID,
    "xtick.labelcolor": _TEXT,
    "ytick.labelcolor": _TEXT,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": _GRID,
    "grid.linewidth": 0.6,
    "lines.solid_capstyle": "round",
}


@dataclass(frozen=True)
class Figure:
    """A drawing and its heading."""

    heading: str
    svg: str


def learning_curves(pairs: Sequence[Pair], measure: Measure) -> list[Figure]:
    """One figure for each base arm, with all that is compared with it: mean over seeds, and their range as a band."""
    groups: dict[int, list[Pair]] = {}
    for pair in pairs:
        groups.setdefault(id(pair.base), []).append(pair)
    figures = []
    for group in groups.values():
        arms = [group[0].base, *(pair.variant for pair in group)]
        common = {key: value for key, value in group[0].setting.items() if all(p.setting[key] == value for p in group)}
        heading = _heading(common) or measure.title
        plot = partial(_curves, arms=arms, measure=measure)
        figures.append(Figure(heading, _draw(plot, f"{measure.title} by epoch, {heading}")))
    return figures


def sensitivity(pairs: Sequence[Pair], measure: Measure, *, over: str = "lr") -> list[Figure]:
    """The final score against the learning rate: one figure for each setting of the other columns.

    Args:
        pairs: Their settings have the column ``over``, which holds numbers.
        measure: What is drawn.
        over: The column along the horizontal axis.
    """
    varying = _varying_columns(pairs)
    groups: dict[str, list[Pair]] = {}
    for pair in pairs:
        fixed = {key: value for key, value in pair.setting.items() if key != over and key not in varying}
        groups.setdefault(_heading(fixed), []).append(pair)
    figures = []
    for fixed_heading, group in groups.items():
        series: dict[str, dict[float, list[float]]] = {}
        for pair in group:
            at = float(pair.setting[over])
            for arm in (pair.base, pair.variant):
                scores = [measure.final(arm.runs[seed]) for seed in pair.seeds]
                series.setdefault(arm.label, {})[at] = scores
        heading = fixed_heading or measure.title
        plot = partial(_sensitivity, series=series, measure=measure, over=over)
        figures.append(Figure(heading, _draw(plot, f"{measure.title} against {over}, {heading}")))
    return figures


def series_labels(pairs: Sequence[Pair]) -> list[str]:
    """The legend: the label of each series, in the order of their colours."""
    return list(dict.fromkeys(label for pair in pairs for label in (pair.base.label, pair.variant.label)))


def _heading(setting: Mapping[str, str]) -> str:
    """``sgd · lr 1e-4``: names speak for themselves, figures need theirs."""
    return " · ".join(value if value[:1].isalpha() else f"{key} {value}" for key, value in setting.items())


def _varying_columns(pairs: Sequence[Pair]) -> set[str]:
    """Columns that tell apart the variants of one base; in a figure these are series."""
    first: dict[int, Mapping[str, str]] = {}
    varying = set()
    for pair in pairs:
        known = first.setdefault(id(pair.base), pair.setting)
        varying |= {key for key, value in pair.setting.items() if known[key] != value}
    return varying


def _curves(axes: Axes, arms: Sequence[Arm], measure: Measure) -> None:
    longest = 1
    for index, arm in enumerate(arms):
        curves = [measure.curve(run) for run in arm.runs.values() if run]
        if not curves:
            continue
        length = min(map(len, curves))
        values = np.array([curve[:length] for curve in curves])
        values[~np.isfinite(values)] = np.nan
        epochs = np.arange(1, length + 1)
        color = _SERIES[index % COLORS]
        some = np.isfinite(values).any(axis=0)
        low, high = np.nanmin(values[:, some], axis=0), np.nanmax(values[:, some], axis=0)
        axes.fill_between(epochs[some], low, high, color=color, alpha=0.16, linewidth=0)
        # The base is broad and below, so that it shows where the curves are the same.
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
    _score_axis(axes, measure)


def _sensitivity(
    axes: Axes, series: Mapping[str, Mapping[float, Sequence[float]]], measure: Measure, over: str
) -> None:
    ticks = sorted({at for points in series.values() for at in points})
    for index, points in enumerate(series.values()):
        at = sorted(points)
        # Side by side, or equal scores would hide each other.
        shift = 1 + 0.04 * (index - (len(series) - 1) / 2)
        color = _SERIES[index % COLORS]
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
    axes.set_xlabel("learning rate" if over == "lr" else over)
    _score_axis(axes, measure)


def _score_axis(axes: Axes, measure: Measure) -> None:
    axes.yaxis.set_major_locator(MaxNLocator(5))
    axes.margins(y=0.08)
    if measure.percent:
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:g} %"))
        low, high = axes.get_ylim()
        axes.set_ylim(max(low, -0.01), min(high, 1.01))
    axes.tick_params(length=0)
    axes.set_axisbelow(True)


def _draw(plot: Callable[[Axes], None], description: str) -> str:
    """Runs ``plot`` on fresh axes and returns SVG for inlining."""
    with matplotlib.rc_context({**_STYLE, "svg.hashsalt": description}):
        canvas = Canvas(figsize=(4.2, 2.6), layout="constrained")
        plot(canvas.add_subplot())
        drawn = StringIO()
        canvas.savefig(drawn, format="svg", transparent=True, metadata={"Date": None})
    return _inline(drawn.getvalue(), description)


def _inline(svg: str, description: str) -> str:
    """A whole SVG document as an element of a page."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r"<!--.*?-->", "", svg, flags=re.DOTALL)
    svg = re.sub(r"font: (\S+px) [^;\"]*", r"font-size: \1", svg)
    svg = re.sub(r"font-family: [^;\"]*;?", "", svg)
    for color, variable in _VARIABLES.items():
        svg = svg.replace(color, variable)
    svg = with_needed_names(svg)
    label = escape(description, quote=True)
    view = re.search(r'viewBox="[^"]*"', svg)
    assert view is not None, "matplotlib writes a viewBox"
    body = re.sub(r"\s*\n\s*", " ", svg[svg.index(">") + 1 :].strip())
    return f'<svg {view.group(0)} role="img" aria-label="{label}">{body}'
