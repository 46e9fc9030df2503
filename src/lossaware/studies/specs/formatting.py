"""Formatting of numbers, and of values in messages."""

from typing import Any


def number(value: float) -> str:
    """A number in its usual notation, to six digits: 1e-4, 1e-1, 0.05, 3."""
    mantissa, exponent = f"{value:.5e}".split("e")
    mantissa = mantissa.rstrip("0").rstrip(".")
    if value and (abs(value) < 1e-2 or abs(value) >= 1e6 or (mantissa == "1" and value < 1)):
        return f"{mantissa}e{int(exponent)}"
    return f"{value:.6g}"


def format_value(value: Any) -> str:
    """The shortened ``repr`` of a value from a file, for a message."""
    try:
        text = repr(value)
    except ValueError:  # a number of thousands of digits
        return "a number that is too long"
    except RecursionError:
        return "a value that is nested too deeply"
    return text if len(text) <= 200 else f"{text[:200]}..."


def size(gamma2: float | str) -> str:
    """A gamma2 in its usual notation."""
    return gamma2 if isinstance(gamma2, str) else number(gamma2)
