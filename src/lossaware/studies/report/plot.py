"""Plots by Matplotlib for light and dark mode, embedded in pages as images.

A plot uses the colours of this module. These are positions in Matplotlib's colour cycle, so that the same function
draws both versions.
"""

from collections.abc import Callable
from dataclasses import dataclass
from io import BytesIO, StringIO
from typing import Any, Literal

import matplotlib
from cycler import cycler
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas
from matplotlib.layout_engine import ConstrainedLayoutEngine

from lossaware.studies.specs.escape import matplotlib as plain

PALETTE = {
    "card": ("#ffffff", "#1c1f25"),
    "ink": ("#22252b", "#e3e5e9"),
    "muted": ("#676d78", "#9aa1ad"),
    "line": ("#e4e2dd", "#30343c"),
    "series-0": ("#a3abb8", "#6d7582"),
    "series-1": ("#c8541a", "#ff9a5c"),
    "series-2": ("#1f6fb2", "#6fb6f0"),
    "series-3": ("#7a4fb0", "#b795ec"),
    "series-4": ("#1a8a7a", "#5ccfbd"),
    "series-5": ("#b0305f", "#f087b0"),
    "series-6": ("#8f7a12", "#d9c257"),
}
"""Colour names, with the colours in light and in dark mode."""


Ground = Literal["light", "dark"]

SERIES = [f"C{index}" for index, name in enumerate(PALETTE) if name.startswith("series")]
"""Colours of series; the first is for the base that others are compared with."""
INK, MUTED, LINE, CARD = (f"C{list(PALETTE).index(name)}" for name in ("ink", "muted", "line", "card"))


@dataclass(frozen=True)
class Plot:
    """A plot, drawn on demand; the same plot gives the same bytes.

    Attributes:
        draw: Draws on an empty canvas, in colours of this module.
        size: Width and height in inches.
        description: Alternative text.
    """

    draw: Callable[[Canvas], None]
    size: tuple[float, float]
    description: str

    def svg(self, ground: Ground = "light") -> str:
        """The plot as an SVG element; its text remains text."""
        buffer = StringIO()
        self._save(buffer, ground, format="svg", metadata=dict.fromkeys(("Date", "Creator", "Format", "Type")))
        svg = buffer.getvalue()
        return svg[svg.index("<svg") :]

    def png(self) -> bytes:
        """The plot in light mode as a PNG."""
        buffer = BytesIO()
        self._save(buffer, "light", format="png", dpi=160, metadata={"Software": None})
        return buffer.getvalue()

    def _save(self, file: Any, ground: Ground, **how: Any) -> None:
        with matplotlib.rc_context():
            # Not the settings of a matplotlibrc, which Matplotlib reads from the current folder; it may run LaTeX.
            matplotlib.rcdefaults()
            matplotlib.rcParams.update({**_style(ground), "svg.hashsalt": self.description})
            canvas = Canvas(figsize=self.size, layout=ConstrainedLayoutEngine(w_pad=0.12, h_pad=0.08))
            self.draw(canvas)
            _round_positions(canvas)
            canvas.savefig(file, **how)


def _round_positions(canvas: Canvas) -> None:
    """Lay out the panels, and round their positions, because their last bits depend on memory addresses."""
    layout = canvas.get_layout_engine()
    assert layout is not None
    layout.execute(canvas)
    canvas.set_layout_engine("none")
    for axes in canvas.axes:
        left, bottom, width, height = (round(float(value), 6) for value in axes.get_position().bounds)
        axes.set_position((left, bottom, width, height))


def label(axes: Axes, text: str, *, pad: float = 5) -> None:
    """Set the title of a panel, above it on the left, at a distance of ``pad`` points."""
    axes.set_title(plain(text), loc="left", fontweight="bold", pad=pad)


def _style(ground: Ground) -> dict[Any, Any]:
    """Matplotlib's settings in this mode."""
    palette = {name: dark if ground == "dark" else light for name, (light, dark) in PALETTE.items()}
    return {
        "axes.prop_cycle": cycler(color=list(palette.values())),
        "svg.fonttype": "none",
        "font.size": 8,
        "text.color": palette["ink"],
        "figure.facecolor": palette["card"],
        "axes.facecolor": "none",
        "axes.edgecolor": palette["line"],
        "axes.labelcolor": palette["muted"],
        "axes.titlesize": 9,
        "axes.titlecolor": palette["ink"],
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.grid": True,
        "axes.axisbelow": True,
        "grid.color": palette["line"],
        "grid.linewidth": 0.6,
        "legend.frameon": False,
        "legend.labelcolor": palette["ink"],
        "lines.solid_capstyle": "round",
        "xtick.color": palette["line"],
        "ytick.color": palette["line"],
        "xtick.labelcolor": palette["muted"],
        "ytick.labelcolor": palette["muted"],
        "xtick.major.size": 0,
        "ytick.major.size": 0,
        "xtick.minor.size": 0,
        "ytick.minor.size": 0,
    }
