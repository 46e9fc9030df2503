"""What a measurement is held to, and the table of all of them."""

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class Goal:
    """One measured value and its limit.

    Attributes:
        item: Of the list in the documentation: what it is about.
        what: What was measured.
        value: The value.
        limit: Where it should be.
        at_most: Whether the value should be at most the limit; else at least.
        unit: "x" for ratios.
    """

    item: str
    what: str
    value: float
    limit: float
    at_most: bool = True
    unit: str = "x"

    @property
    def met(self) -> bool:
        """Whether it is where it should be."""
        return self.value <= self.limit if self.at_most else self.value >= self.limit


def as_markdown(goals: Iterable[Goal]) -> str:
    """The table, a line a goal."""
    lines = ["| item | what | goal | measured | |", "|---|---|---|---|---|"]
    for goal in goals:
        sign = "≤" if goal.at_most else "≥"
        met = "met" if goal.met else "**missed**"
        unit = "" if goal.unit == "x" else f" {goal.unit}"
        lines.append(f"| {goal.item} | {goal.what} | {sign} {goal.limit:g}{unit} | {goal.value:.3g}{unit} | {met} |")
    return "\n".join(lines)
