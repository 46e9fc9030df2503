"""How far every method of a study is from the tuned base: at its best, worst and own learning rate, and in the mean."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lossaware.studies.analysis.lr_sensitivity import Series, bases, overall
from lossaware.studies.specs.study import Quantity, without_lga

MEASURES = ("worst", "mean", "best", "own")
"""What of a method is held against the tuned base; the fields of `Relative` of these names."""


@dataclass(frozen=True)
class Relative:
    """A method on a task, as what it loses against the tuned base; below 0 where it gains.

    Points where the measure is in percent, else a share of the base's score, in percent. None where a run is missing,
    infinite where a score is not finite.

    Attributes:
        panel: The task.
        name: The method.
        base: The base at its best of the study's learning rates: that of the method itself, where it is a base or a
            base with LGA; for all others the best of all bases.
        score: What the base has there, in the units of the table.
        points: Whether losses are in points.
        worst: At the worst of the study's learning rates.
        mean: In the mean over these rates.
        best: At the best of them.
        own: At the rate that comes with the method.
    """

    panel: str
    name: str
    base: str
    score: float
    points: bool
    worst: float | None
    mean: float | None
    best: float | None
    own: float | None


def relatives(series: Sequence[Series]) -> list[Relative]:
    """One for each series of a task that has a base, all of whose learning rates are measured."""
    tuned = {(one.panel, one.name): best for one in bases(series) if (best := _best(one)) is not None}
    found = []
    for one in series:
        there = {base: score for (panel, base), score in tuned.items() if panel == one.panel}
        own_base = _base_of(one, series)
        if not there or (own_base is not None and own_base not in there):
            continue
        base = own_base or (max if one.quantity.higher_is_better else min)(there, key=there.__getitem__)
        over = overall(one)
        scores = {
            "worst": None if over is None else over.worst,
            "mean": None if over is None else over.mean,
            "best": _best(one),
            "own": _own(one),
        }
        if all(score is None for score in scores.values()):
            continue
        lost = {name: _lost(score, there[base], one.quantity) for name, score in scores.items()}
        found.append(Relative(one.panel, one.name, base, there[base], one.quantity.percent, **lost))
    return found


def _best(series: Series) -> float | None:
    """Over the study's rates; None as long as one of them is not measured, or where no score is finite."""
    scores = [series.means[lr] for lr in series.rates if lr in series.means and not series.at[lr].summary.lost]
    if overall(series) is None or not scores:
        return None
    return (max if series.quantity.higher_is_better else min)(scores)


def _own(series: Series) -> float | None:
    if series.own is None or not series.at[series.own].there:
        return None
    if series.at[series.own].summary.lost:
        return -math.inf if series.quantity.higher_is_better else math.inf
    return series.means[series.own]


def _base_of(one: Series, series: Sequence[Series]) -> str | None:
    """The base that a series is, or that it has LGA on; None where it is neither."""
    here = [base for base in bases(series) if base.panel == one.panel]
    wanted = {without_lga(spec) for spec in one.specs}
    return next((base.name for base in here if not wanted.isdisjoint(base.specs)), None)


def _lost(score: float | None, base: float, quantity: Quantity) -> float | None:
    if score is None:
        return None
    lost = base - score if quantity.higher_is_better else score - base
    return lost if quantity.percent or not math.isfinite(lost) else 100 * lost / abs(base)


def relative_rows(found: Sequence[Relative]) -> list[dict[str, Any]]:
    """A row a `Relative`; what is missing is empty."""
    return [
        {
            "task": one.panel,
            "optimizer": one.name,
            "tuned_base": one.base,
            "its_score": one.score,
            "unit": "points" if one.points else "percent of the score",
            **{name: "" if (lost := getattr(one, name)) is None else lost for name in MEASURES},
        }
        for one in found
    ]


def by_place(found: Sequence[Relative], measure: str) -> Mapping[tuple[str, str], float]:
    """What is lost by task and method, where it is measured."""
    return {(one.panel, one.name): lost for one in found if (lost := getattr(one, measure)) is not None}
