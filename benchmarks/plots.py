"""The figures of what was measured."""

from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("svg")
import matplotlib.pyplot as plt


def scaling(rows: list[dict[str, Any]], path: Path) -> None:
    """The correction against the number of parameters and of tensors, with the floor: one addition."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 4), layout="constrained")
    for axes, horizontal, some in (
        (left, "parameters", [row for row in rows if row["tensors"] == 1]),
        (right, "tensors", [row for row in rows if row["tensors"] > 1]),
    ):
        x = [row[horizontal] for row in some]
        axes.loglog(x, [row["correction_ms"] for row in some], "o-", label="LGA's correction")
        axes.loglog(x, [row["addition_ms"] for row in some], "s--", color="gray", label="floor: one addition")
        axes.set(xlabel=horizontal, ylabel="milliseconds")
        axes.grid(alpha=0.3)
        axes.legend()
    left.set_title("one tensor")
    right.set_title("10 million parameters")
    _save(figure, path)


def peers(rows: list[dict[str, Any]], path: Path) -> None:
    """Milliseconds a step of every peer, a panel a size."""
    totals = sorted({row["parameters"] for row in rows})
    figure, panels = plt.subplots(1, len(totals), figsize=(4.5 * len(totals), 5), layout="constrained", sharey=True)
    for axes, total in zip(panels if len(totals) > 1 else [panels], totals, strict=True):
        some = [row for row in rows if row["parameters"] == total][::-1]
        colors = ["tab:blue" if row["optimizer"].startswith("LGA") else "lightgray" for row in some]
        bars = axes.barh([row["optimizer"] for row in some], [row["ms"] for row in some], color=colors)
        axes.bar_label(bars, fmt=lambda ms: f"{ms:.3g}" if ms < 1000 else f"{ms:,.0f}", padding=2)
        axes.set(title=f"{total // 10**6} million parameters", xlabel="milliseconds a step")
        axes.margins(x=0.2)
    _save(figure, path)


def _save(figure: Any, path: Path) -> None:
    mpl.rcParams["svg.hashsalt"] = "lossaware"
    figure.savefig(path, metadata={"Date": None})
    plt.close(figure)
