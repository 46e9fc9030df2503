"""Plot of the epoch at which each published column fits best."""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas

from lossaware.studies.paper.lengths import Column, interval
from lossaware.studies.report.plot import SERIES, Plot, label

COLORS = {False: SERIES[0], True: SERIES[1]}
NAMES = {False: "without LGA", True: "with LGA"}


def plot_lengths(pairs: Sequence[tuple[Column, Column]]) -> Plot:
    """The best epoch of each pair of columns, without and with LGA, with its interval; one line per setting."""

    def draw(canvas: Canvas) -> None:
        axes = canvas.subplots()
        _plot_epochs(axes, pairs)

    return Plot(
        draw,
        (6.4, 0.9 + 0.34 * len(pairs)),
        "The epoch at which our curves fit each published column best, without and with LGA, with 95 % bootstrap "
        "intervals over the cells of the column",
    )


def _plot_epochs(axes: Axes, pairs: Sequence[tuple[Column, Column]]) -> None:
    label(axes, "Epoch of our curves that fits the published column best")
    names = [f"{without.study}: {', '.join(without.setting)}" for without, _ in pairs]
    for line, pair in enumerate(pairs):
        for column in pair:
            at = line + (0.14 if column.with_lga else -0.14)
            low, high = interval(column)
            axes.plot([low, high], [at, at], color=COLORS[column.with_lga], linewidth=1.6)
            axes.plot(
                [column.best_epoch],
                [at],
                "o",
                color=COLORS[column.with_lga],
                markersize=5,
                label=NAMES[column.with_lga] if line == 0 else None,
            )
    axes.set_yticks(np.arange(len(pairs)), names)
    axes.invert_yaxis()
    axes.set_xlim(0, max(without.curves.shape[1] for without, _ in pairs) + 1)
    axes.set_xlabel("epoch")
    axes.legend(loc="lower left")
