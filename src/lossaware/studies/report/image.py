"""Plots as images embedded in a page, one for light and one for dark mode."""

from dataclasses import dataclass

from lossaware.studies.report.plot import Plot
from lossaware.studies.specs.escape import svg_address


@dataclass(frozen=True)
class Image:
    """An image for a page. Browsers do not run scripts of such an SVG, and do not load anything for it.

    Attributes:
        light: SVG for light mode.
        dark: SVG for dark mode.
        description: Alternative text.
        width: Width in points.
    """

    light: str
    dark: str
    description: str
    width: float

    @classmethod
    def of(cls, plot: Plot) -> "Image":
        """The image of a plot."""
        return cls(plot.svg("light"), plot.svg("dark"), plot.description, 72 * plot.size[0])

    @property
    def light_uri(self) -> str:
        """The image as a data URI for an ``<img>``."""
        return svg_address(self.light)

    @property
    def dark_uri(self) -> str:
        """The same for dark mode."""
        return svg_address(self.dark)
