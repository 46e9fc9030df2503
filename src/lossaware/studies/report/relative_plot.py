"""Losses of the methods of a study against the tuned base, as a table and as a plot."""

import math
from collections.abc import Sequence

from matplotlib.colors import to_rgba
from matplotlib.figure import Figure as Canvas
from matplotlib.patches import Rectangle

from lossaware.studies.analysis.relative import MEASURES, Relative, by_place
from lossaware.studies.report.plot import INK, MUTED, SERIES, Plot, label
from lossaware.studies.report.table import Table, plain_table

TITLES = {
    "worst": "at the worst rate",
    "mean": "in the mean of the rates",
    "best": "at the best rate",
    "own": "at its own rate",
}
_STEPS = (
    (0.0, 0.0, "not worse"),
    (3.0, 1.0, "within 3 % or 1 point"),
    (10.0, 3.0, "within 10 % or 3 points"),
    (math.inf, math.inf, "worse"),
)
"""Upper limits of losses, in percent and in points, and their labels."""
_SHADES = (0.45, 0.2, 0.25, 0.7)


def overview(relatives: Sequence[Relative], measure: str) -> Table:
    """One row per task, one column per method; missing values are empty."""
    tasks, methods, lost = _axes(relatives, measure)
    rows = [[task, *(_text(lost.get((task, name))) for name in methods)] for task in tasks]
    return plain_table(f"Lost against the tuned base {TITLES[measure]}", ["task", *methods], rows)


def plot_relative(relatives: Sequence[Relative]) -> Plot:
    """Blocks of tasks by methods: for the worst rate, the mean, the best rate and the methods' own rate."""
    measures = [measure for measure in MEASURES if by_place(relatives, measure)]
    tasks, methods, _ = _axes(relatives, measures[0])
    points = {one.panel: one.points for one in relatives}

    def draw(canvas: Canvas) -> None:
        blocks = canvas.subplots(len(measures), squeeze=False)[:, 0]
        for measure, axes in zip(measures, blocks, strict=True):
            lost = by_place(relatives, measure)
            label(axes, f"Lost {TITLES[measure]}")
            axes.set(xlim=(0, len(methods)), ylim=(len(tasks), 0))
            axes.set_yticks(
                [row + 0.5 for row in range(len(tasks))], [_task_label(task, points[task]) for task in tasks]
            )
            axes.set_xticks([column + 0.5 for column in range(len(methods))])
            if axes is blocks[0]:
                axes.xaxis.tick_top()
                axes.set_xticklabels(methods, rotation=45, ha="left", rotation_mode="anchor")
            else:
                axes.set_xticklabels([])
            axes.grid(visible=False)
            axes.spines[:].set_visible(False)
            for (task, name), value in lost.items():
                corner = methods.index(name), tasks.index(task)
                axes.add_patch(Rectangle(corner, 1, 1, facecolor=_shade(value, points[task]), edgecolor="none"))
                axes.text(
                    corner[0] + 0.5, corner[1] + 0.52, _text(value), ha="center", va="center", fontsize=6.5, color=INK
                )
        handles = [Rectangle((0, 0), 1, 1, facecolor=_color(step)) for step in range(len(_STEPS))]
        canvas.legend(handles, [text for *_, text in _STEPS], loc="outside lower center", ncols=2)
        blocks[-1].set_xlabel("against the tuned base: %, or points (pt)", color=MUTED)

    size = 1.9 + 0.48 * len(methods), 1.5 + len(measures) * (0.35 + 0.19 * len(tasks))
    places = ", ".join(tasks)
    return Plot(draw, size, f"What each method loses against the tuned base, by task ({places}) and method")


def _axes(relatives: Sequence[Relative], measure: str) -> tuple[list[str], list[str], dict[tuple[str, str], float]]:
    return (
        list(dict.fromkeys(one.panel for one in relatives)),
        list(dict.fromkeys(one.name for one in relatives)),
        dict(by_place(relatives, measure)),
    )


def _task_label(task: str, points: bool) -> str:
    return f"{task} (pt)" if points else task


def _text(lost: float | None) -> str:
    if lost is None:
        return ""
    if not math.isfinite(lost):
        return "not finite"
    return f"{lost + 0.0:+.0f}" if abs(lost) >= 99.95 else f"{lost + 0.0:+.1f}"


def _shade(lost: float, points: bool) -> tuple[float, ...]:
    return _color(next(step for step, (percent, pt, _) in enumerate(_STEPS) if lost <= (pt if points else percent)))


def _color(step: int) -> tuple[float, ...]:
    color = SERIES[4] if step < 2 else SERIES[1]
    return to_rgba(color, _SHADES[step])
