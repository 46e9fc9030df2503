"""Plot of the theory's runs: distances with their bounds, and runs that break them."""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas
from matplotlib.ticker import MaxNLocator

from lossaware.studies.paper.theory import Counterexample, Run
from lossaware.studies.paper.theory_adam import AdamRun
from lossaware.studies.report.plot import INK, MUTED, SERIES, Plot, label

SHOWN_STEP = 0.5
"""gamma1 in units of 1/L."""


def plot_theory(runs: Sequence[Run], broken: Sequence[tuple[Counterexample, Run]], adam: AdamRun) -> Plot:
    """Top: R(t) with its bound on each problem. Bottom: two runs that break it, and one that breaks A.2's.

    Args:
        runs: The runs of `theory.study`.
        broken: Counterexamples, of which the first two are drawn.
        adam: The counterexample to A.2.
    """
    selected = [run for run in runs if abs(run.gamma1 * run.problem.smoothness - SHOWN_STEP) < 1e-9]
    names = list(dict.fromkeys(run.problem.name for run in selected))

    def draw(canvas: Canvas) -> None:
        above, below = canvas.subplots(2, 3)
        for axes, name in zip(above, names, strict=True):
            group = [run for run in selected if run.problem.name == name]
            label(axes, name)
            _plot_distances(axes, group[0], group[-1])
        above[0].set_ylabel("R(t)")
        for axes, (example, run) in zip(below[:2], broken[:2], strict=True):
            label(axes, f"broken: {example.name}")
            _plot_distances(axes, None, run)
        below[0].set_ylabel("R(t)")
        label(below[2], "broken: A.2, flat and far")
        _plot_differences(below[2], adam)
        canvas.legend(*above[0].get_legend_handles_labels(), loc="outside lower center", ncols=3)

    return Plot(
        draw,
        (8.4, 5.2),
        "Squared distance to the optimum by step under the bound of Theorem 3.1 on two quadratics and a logistic "
        "regression, two runs that break it, and one that breaks the bound of A.2",
    )


def _plot_distances(axes: Axes, base: Run | None, run: Run) -> None:
    steps = np.arange(len(run.distances))
    if base is not None:
        axes.plot(steps, base.distances, color=SERIES[0], linewidth=3.2, label="R(t), gradient descent")
    axes.plot(steps, run.distances, color=SERIES[1], linewidth=1.3, label="R(t) with LGA")
    axes.plot(steps, run.base_bound, color=INK, linewidth=1, linestyle="--", label="bound by gamma1, the weakest")
    size = f"gamma1 {run.gamma1 * run.problem.smoothness:g}/L, gamma2 {run.gamma2:g}"
    axes.text(0.98, 0.96, size, transform=axes.transAxes, ha="right", va="top", color=MUTED, fontsize=7)
    low, high = axes.get_ylim()
    if run.distances.max() > 10 * run.distances.min():
        axes.set_yscale("log")
        low, high = axes.get_ylim()
        axes.set_ylim(low, high * (high / low) ** 0.1)  # room for the text
    else:
        axes.set_ylim(low, high + 0.1 * (high - low))
    axes.set_xlabel("step")
    axes.set_xlim(0, len(steps) - 1)
    axes.xaxis.set_major_locator(MaxNLocator(4, integer=True))


def _plot_differences(axes: Axes, run: AdamRun) -> None:
    steps = np.arange(1, len(run.differences) + 1)
    axes.plot(steps, run.differences.cumsum(), color=SERIES[1], linewidth=1.3)
    axes.plot(steps, len(run.problem.start) * run.bounds.cumsum(), color=INK, linewidth=1, linestyle="--")
    axes.annotate(
        "Delta S", (steps[-1], run.differences.sum()), (0, -4), textcoords="offset points", ha="right", va="top"
    )
    axes.annotate("bound", (steps[-1], run.bound), (0, 4), textcoords="offset points", ha="right", va="bottom")
    axes.set_ylim(0, 1.1 * run.differences.sum())
    axes.set_xlim(0, len(steps) + 1)
    axes.set_xlabel("step")
    axes.xaxis.set_major_locator(MaxNLocator(4, integer=True))
