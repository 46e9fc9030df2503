"""The paper's two figures, drawn from measured results."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from textwrap import wrap

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas
from matplotlib.lines import Line2D
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter, NullLocator, StrMethodFormatter

from lossaware.studies.analysis.study_table import StudyTable, describe_overrides
from lossaware.studies.paper import landscape
from lossaware.studies.paper.landscape import BASES, NAMES, READINGS, Descent, Figure1
from lossaware.studies.report.plot import INK, LINE, MUTED, SERIES, Plot, label
from lossaware.studies.store.results import Results

# --- Figure 1 -------------------------------------------------------------------------------------------------------

PATH_GAMMA2 = 3e-2
PATH_STARTS = 13


def plot_figure1(figure: Figure1) -> Plot:
    """The landscape, trajectories without and with LGA, and the share of starting points that reach E, by gamma2."""

    def draw(canvas: Canvas) -> None:
        grid = canvas.subplots(3, len(BASES), sharex="row", sharey="row", height_ratios=(1, 1.5, 1.2))
        for column, (base, momentum) in enumerate(BASES.items()):
            top, middle, bottom = grid[:, column]
            _plot_landscape(top)
            label(top, base)
            _plot_paths(middle, Descent(momentum, READINGS[-1]))
            _plot_shares(bottom, figure, base)
        grid[0, 0].set_ylabel("loss")
        grid[1, 0].set_ylabel("step")
        grid[2, 0].set_ylabel("starting points that reach E")
        handles = [
            Line2D([], [], color=SERIES[0], linewidth=3, label="without LGA"),
            *(
                Line2D([], [], color=color, marker="o", markersize=3, label=f"with LGA, a status is {_steps(reading)}")
                for reading, color in zip(READINGS, _READING_COLORS, strict=True)
            ),
        ]
        canvas.legend(handles=handles, loc="outside lower center", ncols=3)

    return Plot(
        draw,
        (7.2, 7.0),
        "Figure 1: descent among local optima A to E without and with LGA, for gradient descent and momentum; "
        "trajectories, and the share of starting points that reach the global optimum E by gamma2",
    )


_READING_COLORS = (SERIES[2], SERIES[1])


def _steps(count: int) -> str:
    return f"{count} step{'s' * (count != 1)}"


def _plot_landscape(axes: Axes) -> None:
    x = torch.linspace(-0.3, 10.3, 600, dtype=torch.float64)
    axes.plot(x.numpy(), landscape.loss(x).numpy(), color=INK, linewidth=1.4)
    optima, barriers = landscape.turning_points()
    for name, at in zip(NAMES, optima, strict=True):
        height = float(landscape.loss(torch.tensor(at)))
        axes.plot([at], [height], "o", color=INK, markersize=3)
        axes.annotate(name, (at, height), (0, -5), textcoords="offset points", ha="center", va="top", fontweight="bold")
    axes.axvspan(barriers[-1], 10.3, color=LINE, alpha=0.45, linewidth=0)
    axes.set_xlim(-0.3, 10.3)
    axes.set_ylim(-0.9, 4.0)
    axes.xaxis.set_major_locator(MaxNLocator(6))


def _plot_paths(axes: Axes, descent: Descent) -> None:
    starts = landscape.starting_points(PATH_STARTS)
    paths = descent.paths(starts, [0.0, PATH_GAMMA2]).numpy()
    steps = np.arange(len(paths))
    axes.axvspan(landscape.turning_points()[1][-1], 10.3, color=LINE, alpha=0.45, linewidth=0)
    for point in range(PATH_STARTS):
        axes.plot(paths[:, 0, point], steps, color=SERIES[0], linewidth=2.4)
    for point in range(PATH_STARTS):
        axes.plot(paths[:, 1, point], steps, color=_READING_COLORS[-1], linewidth=0.7)
    axes.set_xlabel(f"x (trajectories with gamma2 {PATH_GAMMA2:g})")
    axes.set_xlim(-0.3, 10.3)
    axes.set_ylim(descent.steps, 0)
    axes.xaxis.set_major_locator(MaxNLocator(6))
    axes.yaxis.set_major_locator(MaxNLocator(4))


def _plot_shares(axes: Axes, figure: Figure1, base: str) -> None:
    shares = [share for share in figure.shares if share.base == base]
    axes.axhline(
        100 * next(share.share for share in shares if share.gamma2 == 0), color=SERIES[0], linewidth=3.2, zorder=1
    )
    for reading, color in zip(READINGS, _READING_COLORS, strict=True):
        rows = [share for share in shares if share.steps_per_status == reading and share.gamma2 > 0]
        axes.plot(
            [row.gamma2 for row in rows],
            [100 * row.share for row in rows],
            color=color,
            linewidth=1.4,
            marker="o",
            markersize=3,
        )
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(numticks=6))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set_ylim(0, 100)
    axes.yaxis.set_major_formatter(StrMethodFormatter("{x:g} %"))
    axes.set_xlabel("gamma2")


# --- Figure 2 -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Curve:
    """The training loss of one optimizer.

    Attributes:
        task: The study's name of the task.
        strategy: The study's name of training without or with LGA.
        algorithm: The study's name of the optimizer.
        losses: One row per seed, one column per epoch; no rows without runs.
        overridden: Settings of these runs that differ from the study's file; empty if none does.
    """

    task: str
    strategy: str
    algorithm: str
    losses: np.ndarray
    overridden: str


def loss_curves(table: StudyTable, results: Results) -> list[Curve]:
    """The curves of Figure 2, from the runs of a study with the layout of Table 1.

    Args:
        table: The study's table, with the row axis ``algorithm`` and the column axes ``task`` and ``strategy``.
        results: The store of its runs.
    """
    curves = []
    for (row, column), measured in table.cells.items():
        losses = [
            [record.train.get("loss", np.nan) for record in results.records(spec)]
            for spec in measured.cell.specs
            if spec.seed in measured.values
        ]
        curves.append(
            Curve(column[0], column[1], row[0], np.array(losses, ndmin=2), describe_overrides(measured.overrides))
        )
    return curves


def curve_rows(curves: Sequence[Curve]) -> list[dict[str, object]]:
    """The curves as a table: one row per curve and epoch, with mean, lowest and highest loss over the seeds."""
    return [
        {
            "task": curve.task,
            "strategy": curve.strategy,
            "algorithm": curve.algorithm,
            "epoch": epoch,
            "loss": float(values.mean()),
            "low": float(values.min()),
            "high": float(values.max()),
            "seeds": len(values),
            "overridden": curve.overridden,
        }
        for curve in curves
        for epoch, values in enumerate(curve.losses.T, start=1)
    ]


def figure2(table: StudyTable, results: Results) -> Plot | None:
    """Figure 2 from the runs of a study with the layout of Table 1, see `loss_curves`; None without runs."""
    curves = loss_curves(table, results)
    return plot_figure2(curves) if curve_rows(curves) else None


def plot_figure2(curves: Sequence[Curve]) -> Plot:
    """Two rows of panels, without and with LGA, and one column per task. Panels name missing runs."""
    tasks, strategies, algorithms = (
        list(dict.fromkeys(getattr(curve, axis) for curve in curves)) for axis in ("task", "strategy", "algorithm")
    )
    colors = dict(zip(algorithms, _SEVEN, strict=False))

    def draw(canvas: Canvas) -> None:
        grid = canvas.subplots(len(strategies), len(tasks), sharex="col", sharey="col", squeeze=False)
        for strategy, line in zip(strategies, grid, strict=True):
            panels = [[curve for curve in curves if (curve.task, curve.strategy) == (task, strategy)] for task in tasks]
            notes = [_notes(panel) for panel in panels]
            room = 8 + 9 * max(map(len, notes))  # so that all titles have the same height
            for task, panel, panel_notes, axes in zip(tasks, panels, notes, line, strict=True):
                label(axes, f"{task}, {strategy}", pad=room)
                axes.annotate(
                    "\n".join(panel_notes),
                    (0, 1),
                    (0, 5),
                    "axes fraction",
                    "offset points",
                    va="bottom",
                    color=MUTED,
                    fontsize=7,
                )
                _plot_losses(axes, panel, colors)
                if not any(curve.losses.size for curve in panel):
                    axes.text(0.5, 0.5, "not run", transform=axes.transAxes, ha="center", va="center", color=MUTED)
            line[0].set_ylabel("training loss")
        for task, column in zip(tasks, grid.T, strict=True):
            if any(curve.losses.size for curve in curves if curve.task == task):
                column[-1].set_xlabel("epoch")
                column[0].xaxis.set_major_locator(MaxNLocator(5, integer=True))
                column[0].yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
                column[0].yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
            else:
                column[0].set_xticks([])
                column[0].set_yticks([])
            column[0].yaxis.set_minor_locator(NullLocator())
        handles = [Line2D([], [], color=color, linewidth=1.6, label=name) for name, color in colors.items()]
        canvas.legend(handles=handles, loc="outside lower center", ncols=len(handles))

    names = ", ".join(tasks)
    return Plot(draw, (8.4, 5.4), f"Figure 2: training loss by epoch without and with LGA on {names}")


_SEVEN = (*SERIES[1:], INK)


def _notes(panel: Sequence[Curve]) -> list[str]:
    """Notes above a panel, one per line."""
    missing = [curve.algorithm for curve in panel if not curve.losses.size]
    if len(missing) == len(panel):
        return []
    changed = dict.fromkeys(curve.overridden for curve in panel if curve.losses.size and curve.overridden)
    notes = [f"overridden: {text}" for text in changed]
    if missing:
        notes.append(f"not run: {', '.join(missing)}")
    return [line for note in notes for line in wrap(note, 44)]


def _plot_losses(axes: Axes, panel: Sequence[Curve], colors: Mapping[str, str]) -> None:
    axes.set_yscale("log")
    for curve in panel:
        if curve.losses.size:
            epochs = np.arange(1, curve.losses.shape[1] + 1)
            color = colors[curve.algorithm]
            low, high = curve.losses.min(axis=0), curve.losses.max(axis=0)
            axes.fill_between(epochs, low, high, color=color, alpha=0.16, linewidth=0)
            axes.plot(
                epochs, curve.losses.mean(axis=0), color=color, linewidth=1.2, marker="o" if len(epochs) < 3 else None
            )
