"""The plot of the README: test accuracy on MNIST over the learning rate, without LGA, with LGA, and a peer."""

from collections.abc import Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas
from matplotlib.ticker import LogLocator, MaxNLocator, NullLocator, StrMethodFormatter

from lossaware.studies.analysis.lr_sensitivity import Series
from lossaware.studies.report.plot import INK, SERIES, Plot, label

PANEL = "MNIST"
RATES = (1e-5, 1e-4, 1e-3, 1e-2, 1e-1)
LINES = {"SGD, without": "SGD", "SGD, 1e-8": "SGD with LGA, gamma2 1e-8", "SGD, auto": 'SGD with LGA, gamma2 "auto"'}
"""The plotted series of the study ``auto``, and their names in the plot."""


def strongest_peer(peers: Sequence[Series]) -> Series:
    """The optimizer of another package with the highest mean score over `RATES`, of those with results at all rates.

    Raises:
        ValueError: No peer has results at all rates.
    """
    known = [one for one in peers if one.panel == PANEL and _is_peer(one, peers) and set(RATES) <= set(one.means)]
    return max(known, key=lambda one: sum(one.means[lr] for lr in RATES))


def overview_rows(auto: Sequence[Series], peers: Sequence[Series]) -> list[dict[str, object]]:
    """The plotted numbers: one row per line and learning rate, scores in percent."""
    by_name = {one.name: one for one in auto if one.panel == PANEL}
    peer = strongest_peer(peers)
    lines = [(title, by_name[name]) for name, title in LINES.items()] + [(peer.name, peer)]
    return [
        {"line": title, "lr": lr, "accuracy": one.means[lr], "seeds": len(one.at[lr].values)}
        for title, one in lines
        for lr in RATES
    ]


def plot_overview(rows: Sequence[dict[str, object]]) -> Plot:
    """The rows of `overview_rows` as lines."""

    def draw(canvas: Canvas) -> None:
        _plot(canvas.subplots(), rows)

    return Plot(
        draw,
        (6.8, 3.0),
        "Test accuracy of LeNet-5 on MNIST after 10 epochs over learning rates from 1e-5 to 1e-1: SGD, SGD with the "
        "paper's LGA, SGD with gamma2 auto, and the strongest peer",
    )


def _is_peer(one: Series, peers: Sequence[Series]) -> bool:
    """Whether it is an optimizer of another package: without LGA, and not a base of a series with LGA."""
    variants = {other.name.partition(",")[0] for other in peers if other.with_lga}
    return not one.with_lga and one.name not in variants


def _plot(axes: Axes, rows: Sequence[dict[str, object]]) -> None:
    styles: tuple[dict[str, Any], ...] = (
        {"color": SERIES[0], "linestyle": "--", "marker": "o"},
        {"color": SERIES[2], "marker": "s"},
        {"color": SERIES[1], "marker": "D", "linewidth": 2.4, "zorder": 3},
        {"color": INK, "marker": "o", "linewidth": 0.9, "markerfacecolor": "none"},
    )
    label(axes, "LeNet-5 on MNIST, 10 epochs: test accuracy by learning rate")
    names = list(dict.fromkeys(str(row["line"]) for row in rows))
    for name, style in zip(names, styles, strict=True):
        points = [(row["lr"], row["accuracy"]) for row in rows if row["line"] == name]
        lrs, scores = zip(*points, strict=True)
        axes.plot(lrs, scores, label=name, **{"linewidth": 1.6, "markersize": 4, **style})
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(numticks=12))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_locator(MaxNLocator(5))
    axes.yaxis.set_major_formatter(StrMethodFormatter("{x:g} %"))
    axes.set_ylim(0, 104)
    axes.set_xlabel("learning rate")
    axes.figure.legend(loc="outside right center", handlelength=3)
