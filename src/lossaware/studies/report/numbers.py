"""Formatting of numbers for readers: minus signs, and means with their spread."""

import math
from collections.abc import Callable

from lossaware.studies.analysis.statistics import FEWEST, Summary

MINUS = "\u2212"
"""The minus sign, as wide as a plus; a hyphen is shorter and may end a line."""


def true_minus(text: str) -> str:
    """The text of a number with a minus sign instead of a leading hyphen."""
    return MINUS + text[1:] if text.startswith("-") else text


def hyphens(text: str) -> str:
    """The text with hyphens instead of minus signs, for programs."""
    return text.replace(MINUS, "-")


def signed(text: str) -> str:
    """The text of a number with its sign; zero after rounding has no sign."""
    if float(text) == 0:
        return text.lstrip("+-")
    return true_minus(text if text[0] in "+-" else f"+{text}")


def with_spread(values: Summary, show: Callable[[float], str], half: str, *, scale: float = math.inf) -> str:
    """A mean with its spread: ``29.65 ± 1.20``, or ``29.65 (9.80 to 86.15)``.

    Args:
        values: The mean.
        show: Formats a value.
        half: The formatted half width of the interval.
        scale: The largest possible difference of two scores. A wider interval is not meaningful; the lowest and the
            highest seed are shown instead.

    Returns:
        The text; only the mean if it has no interval.
    """
    mean = show(values.mean)
    if math.isnan(values.half_width):
        return mean
    if values.is_wider_than(scale):
        return f"{mean} ({show(values.least)} to {show(values.most)})"
    return f"{mean} ± {half}"


def without_interval(n: int) -> str:
    """Note on a mean of fewer than `FEWEST` values: ``n = 2: no interval``; empty for more."""
    return "" if n >= FEWEST else f"n = {n}: no interval"
