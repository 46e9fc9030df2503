"""The plots of the benchmarks."""

import logging
from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("svg")
import matplotlib.pyplot as plt

logging.getLogger("matplotlib.font_manager").setLevel(logging.ERROR)  # it misses fonts that no figure needs


def scaling(rows: list[dict[str, Any]], of_ranks: list[dict[str, Any]], path: Path) -> None:
    """Correction and running means against parameters and tensors, and training steps against ranks; with floors."""
    figure, panels = plt.subplots(1, 3, figsize=(14, 4), layout="constrained")
    lines = (
        ("auto_ms", "o-", "tab:orange", 'correction with running means ("auto")'),
        ("correction_ms", "o-", "tab:blue", "correction (fixed gamma2)"),
        ("addition_ms", "s--", "gray", "floor of the correction: torch._foreach_add_"),
        ("auto_floor_ms", "^:", "tab:orange", "floor with means: 5/3 of an addition, by bytes"),
    )
    for axes, horizontal, some, title in (
        (panels[0], "parameters", [row for row in rows if row["tensors"] == 1], "one tensor"),
        (panels[1], "tensors", [row for row in rows if row["tensors"] > 1], "10 million parameters"),
    ):
        for name, style, color, label in lines:
            axes.loglog([row[horizontal] for row in some], [row[name] for row in some], style, color=color, label=label)
        axes.set(xlabel=horizontal, ylabel="milliseconds", title=title)
    panels[0].legend(fontsize="small")
    for wrapper, marker in (("DDP", "o"), ("FSDP2", "^")):
        some = [row for row in of_ranks if row["wrapper"] == wrapper]
        x = [row["ranks"] for row in some]
        panels[2].plot(x, [row["with_ms"] for row in some], f"{marker}-", color="tab:blue", label=f"{wrapper}, LGA")
        without = [row["without_ms"] for row in some]
        panels[2].plot(x, without, f"{marker}--", color="gray", label=f"{wrapper}, floor: without LGA")
    panels[2].set(xlabel="ranks", title="a training step, gloo, a million parameters")
    panels[2].set_xticks(sorted({row["ranks"] for row in of_ranks}))
    if of_ranks:
        panels[2].legend(fontsize="small")
    for axes in panels:
        axes.grid(alpha=0.3)
    _save(figure, path)


def peers(rows: list[dict[str, Any]], path: Path) -> None:
    """Milliseconds per step of each method, with one panel per size."""
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
