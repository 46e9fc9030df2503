"""Figures as people read them: a minus sign, and a mean with its spread."""

import math
from collections.abc import Callable

from lossaware.studies.analysis.statistics import FEWEST, Summary

MINUS = "\u2212"
"""The minus sign, as wide as a plus; a hyphen is shorter and may end a line."""


def true_minus(text: str) -> str:
    """The text of a number with a minus sign in place of a hyphen before it."""
    return MINUS + text[1:] if text.startswith("-") else text


def hyphens(text: str) -> str:
    """The text with hyphens for minus signs, as programs read numbers."""
    return text.replace(MINUS, "-")


def signed(text: str) -> str:
    """The text of a number with its sign; one that is rounded to zero has none."""
    if float(text) == 0:
        return text.lstrip("+-")
    return true_minus(text if text[0] in "+-" else f"+{text}")


def with_spread(values: Summary, show: Callable[[float], str], half: str, *, scale: float = math.inf) -> str:
    """A mean and how well it is fixed: ``29.65 ± 1.20``, or ``29.65 (9.80 to 86.15)``.

    Args:
        values: The mean.
        show: How a value is written.
        half: The half width of the interval, written.
        scale: How far apart two scores can be. An interval that is wider says nothing, so the lowest and the highest
            seed stand in its place.

    Returns:
        The mean alone where it has no interval.
    """
    mean = show(values.mean)
    if math.isnan(values.half_width):
        return mean
    if values.is_wider_than(scale):
        return f"{mean} ({show(values.least)} to {show(values.most)})"
    return f"{mean} ± {half}"


def without_interval(n: int) -> str:
    """What is said of a mean of so few values: ``n = 2: no interval``; empty for more."""
    return "" if n >= FEWEST else f"n = {n}: no interval"
