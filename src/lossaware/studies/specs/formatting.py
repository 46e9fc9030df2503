"""Formatting of numbers."""


def number(value: float) -> str:
    """A number in its usual notation, to six digits: 1e-4, 1e-1, 0.05, 3."""
    mantissa, exponent = f"{value:.5e}".split("e")
    mantissa = mantissa.rstrip("0").rstrip(".")
    if value and (abs(value) < 1e-2 or abs(value) >= 1e6 or (mantissa == "1" and value < 1)):
        return f"{mantissa}e{int(exponent)}"
    return f"{value:.6g}"


def size(gamma2: float | str) -> str:
    """A gamma2 in its usual notation."""
    return gamma2 if isinstance(gamma2, str) else number(gamma2)
