"""Goals of measurements, and the table of all of them."""

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class Goal:
    """One measured value and its limit.

    Attributes:
        item: The subject, which is a row of the table of goals.
        what: The quantity that was measured.
        value: The value.
        limit: The goal.
        at_most: Whether the value should be at most the limit; otherwise at least.
        unit: "x" for ratios.
        floor: The value that the bytes allow, which no implementation can pass; None where it is not known.
    """

    item: str
    what: str
    value: float
    limit: float
    at_most: bool = True
    unit: str = "x"
    floor: float | None = None

    @property
    def met(self) -> bool:
        """Whether it is where it should be."""
        return self.value <= self.limit if self.at_most else self.value >= self.limit


def as_markdown(goals: Iterable[Goal]) -> str:
    """The table, with one line per goal."""
    lines = ["| item | what | measured | goal | floor | |", "|---|---|---|---|---|---|"]
    for goal in goals:
        sign = "≤" if goal.at_most else "≥"
        met = "met" if goal.met else "**missed**"
        unit = "" if goal.unit == "x" else f" {goal.unit}"
        floor = "" if goal.floor is None else f"{goal.floor:.3g}{unit}"
        lines.append(
            f"| {goal.item} | {goal.what} | {goal.value:.3g}{unit} | {sign} {goal.limit:g}{unit} | {floor} | {met} |"
        )
    return "\n".join(lines)
