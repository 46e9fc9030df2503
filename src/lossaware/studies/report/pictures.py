"""Pictures as files: an SVG that follows the reader's light or dark mode, and a PNG for whatever shows no SVG.

Both stand on a ground of their own, so that they can be read on any page. The colours are those of the report.
"""

import hashlib
import re
from collections.abc import Callable
from dataclasses import dataclass
from html import escape
from io import BytesIO, StringIO
from typing import Any

import matplotlib
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
"""Name, colour on light and colour on dark ground."""

INK, MUTED, LINE = (PALETTE[name][0] for name in ("ink", "muted", "line"))
SERIES = [light for name, (light, _) in PALETTE.items() if name.startswith("series")]
"""Colours to draw in; the first is for what the others are held against."""

_FONTS = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, sans-serif"
_STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "font.size": 8,
    "text.color": INK,
    "figure.facecolor": PALETTE["card"][0],
    "axes.facecolor": "none",
    "axes.edgecolor": LINE,
    "axes.labelcolor": MUTED,
    "axes.titlesize": 9,
    "axes.titlecolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": LINE,
    "grid.linewidth": 0.6,
    "legend.frameon": False,
    "legend.labelcolor": INK,
    "lines.solid_capstyle": "round",
    "xtick.color": LINE,
    "ytick.color": LINE,
    "xtick.labelcolor": MUTED,
    "ytick.labelcolor": MUTED,
    "xtick.major.size": 0,
    "ytick.major.size": 0,
    "xtick.minor.size": 0,
    "ytick.minor.size": 0,
}


@dataclass(frozen=True)
class Picture:
    """A drawing, as the contents of two files."""

    svg: str
    png: bytes


def draw(plot: Callable[[Canvas], None], size: tuple[float, float], description: str) -> Picture:
    """The picture of what ``plot`` draws on an empty canvas of that size, in inches; the same drawing, the same bytes.

    Args:
        plot: Draws, in colours of this module.
        size: Width and height.
        description: What the picture shows, for those who do not see it.
    """
    with matplotlib.rc_context({**_STYLE, "svg.hashsalt": description}):
        canvas = Canvas(figsize=size, layout=ConstrainedLayoutEngine(w_pad=0.12, h_pad=0.08))
        plot(canvas)
        vector, pixels = StringIO(), BytesIO()
        canvas.savefig(vector, format="svg", metadata={"Date": None})
        canvas.savefig(pixels, format="png", dpi=160, metadata={"Software": None})
    return Picture(_themed(vector.getvalue(), description), pixels.getvalue())


def label(axes: Axes, text: str, *, pad: float = 5) -> None:
    """Name a panel, above it on the left, with so many points between."""
    axes.set_title(plain(text), loc="left", fontweight="bold", pad=pad)


def with_needed_names(svg: str, prefix: str = "") -> str:
    """The SVG, for a page of several: only what is referred to has a name.

    Args:
        svg: The drawing.
        prefix: Begins each name, so that no two drawings have the same.
    """
    svg = svg.replace("xlink:href", "href")
    used = set(re.findall(r'(?:url\(#|href="#)([^")]+)', svg))
    svg = re.sub(r' id="([^"]*)"', lambda found: f' id="{prefix}{found[1]}"' if found[1] in used else "", svg)
    return re.sub(r'(url\(#|href="#)', rf"\1{prefix}", svg)


def _themed(svg: str, description: str) -> str:
    """The SVG with its colours as CSS variables, in the fonts of the reader, and with a text for screen readers."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>|<!--.*?-->", "", svg, flags=re.DOTALL)
    svg = _numbered(svg, hashlib.sha256(description.encode()).hexdigest()[:6])
    svg = re.sub(r"font: ([^;\"]*?)([\d.]+px) [^;\"]*", _font, svg)
    svg = re.sub(r"font-family: [^;\"]*;?", "", svg)
    for name, (light, _) in PALETTE.items():
        svg = svg.replace(light, f"var(--picture-{name})")
    sides = ("".join(f"--picture-{name}:{colors[side]};" for name, colors in PALETTE.items()) for side in (0, 1))
    light, dark = (f".picture{{{side}}}" for side in sides)
    head = re.sub(r" (?:width|height)=\"[^\"]*\"", "", svg[: svg.index(">")])
    body = re.sub(r"\s*\n\s*", "\n", svg[svg.index(">") + 1 :].strip())
    said = escape(description, quote=True)
    return (
        f'{head} class="picture" role="img" style="font-family: {_FONTS}" aria-label="{said}">\n'
        f"<style>{light}@media (prefers-color-scheme:dark){{{dark}}}</style>\n{body}\n"
    )


def _numbered(svg: str, salt: str) -> str:
    """The SVG with its marks and clips numbered: Matplotlib names clips by addresses in memory, which change."""
    names = dict.fromkeys(re.findall(r"[#\"]([hmp][0-9a-f]{10})\b", svg))
    numbers = {name: f"{salt}-{number}" for number, name in enumerate(names)}
    return re.sub(r"(?<=[#\"])[hmp][0-9a-f]{10}\b", lambda found: numbers[found[0]], svg)


def _font(found: re.Match[str]) -> str:
    weight = "bold" if {"bold", "700"} & set(found[1].split()) else "normal"
    return f"font-size: {found[2]}; font-weight: {weight}"
