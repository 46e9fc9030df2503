"""Goals of measurements, the table of all of them, and what explains the missed ones."""

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


@dataclass(frozen=True)
class Counter:
    """A quantity that explains missed goals: counted, or timed where nothing can be counted.

    Attributes:
        item: The item of these goals.
        of: How `Goal.what` begins for these goals; empty for all goals of the item.
        what: The quantity.
        value: Its value.
        unit: "x" for ratios.
    """

    item: str
    of: str
    what: str
    value: float
    unit: str = "x"

    def explains(self, goal: Goal) -> bool:
        """Whether the quantity belongs to the goal."""
        return self.item == goal.item and goal.what.startswith(self.of)

    def __str__(self) -> str:
        return f"{self.what}: {self.value:.3g}{'' if self.unit in ('x', '') else f' {self.unit}'}"


Finding = Goal | Counter


class SkippedError(Exception):
    """A part cannot be measured on this machine; the message says why."""


ATTEMPTS = {
    '"auto", eager': "running-means",
    '"auto", compiled': "running-means",
    "fixed, eager": "compiled-step",
    "fixed, compiled": "compiled-step",
    "JAX, fixed": "jax",
    'JAX, "auto"': "jax",
    "1,000 parameters a tensor": "many-small-tensors",
    "10,000 parameters a tensor": "many-small-tensors",
    "one tensor": "running-means",
    "closed gate": "closed-gate",
    "whole step": "whole-step",
    "studies": "studies",
    "ranks": "ranks",
    "memory": "running-means",
    "first use": "first-use",
    "peers": "peers",
}
"""By item, the section of ``docs/speed.md`` that describes what was tried."""


def explained(goals: Iterable[Goal], counters: Iterable[Counter]) -> list[str]:
    """One line for each missed goal: its value, its counters, and where the attempts are described."""
    counters = list(counters)
    lines = []
    for goal in goals:
        if goal.met:
            continue
        explanation = "; ".join(str(counter) for counter in counters if counter.explains(goal)) or "without a counter"
        lines.append(
            f"- missed: {goal.item}, {goal.what}, {goal.value:.3g} instead of {goal.limit:g}. {explanation}. "
            f"Attempts: docs/speed.md#{ATTEMPTS[goal.item]}"
        )
    return lines


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
