"""Plots in a page: images whose data the page holds itself, one for light ground and one for dark."""

from dataclasses import dataclass

from lossaware.studies.report.plot import Plot
from lossaware.studies.specs.escape import svg_address


@dataclass(frozen=True)
class Image:
    """An image for a page. A browser runs no script in it and loads nothing for it, whatever the SVG holds.

    Attributes:
        light: SVG for light ground.
        dark: SVG for dark ground.
        description: What it shows, for those who do not see it.
        width: In points.
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
        """The data of the image, as the address of an ``<img>``."""
        return svg_address(self.light)

    @property
    def dark_uri(self) -> str:
        """The same on dark ground."""
        return svg_address(self.dark)
