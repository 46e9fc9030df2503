"""Losses of the methods against the tuned base: at its best, worst and own learning rate, and in the mean."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lossaware.studies.analysis.lr_sensitivity import Series, bases, overall
from lossaware.studies.specs.study import Metric, without_lga

MEASURES = ("worst", "mean", "best", "own")
"""The compared scores of a method; fields of `Relative`."""


@dataclass(frozen=True)
class Relative:
    """The losses of a method on a task against the tuned base; below 0 the method is better.

    They are in points if the measure is in percent, otherwise in percent of the base's score. They are None if a run is
    missing, and infinite if a score is not finite.

    Attributes:
        panel: The task.
        name: The method.
        base: The base, at its best of the study's learning rates: the method's own one if it is a base or a base with
            LGA; otherwise the best of all bases.
        score: The base's score there, in the units of the table.
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
    """The losses of all series of tasks that have a base with results at all of its learning rates."""
    tuned = {(one.panel, one.name): best for one in bases(series) if (best := _best(one)) is not None}
    result = []
    for one in series:
        tuned_scores = {base: score for (panel, base), score in tuned.items() if panel == one.panel}
        own_base = _base_of(one, series)
        if not tuned_scores or (own_base is not None and own_base not in tuned_scores):
            continue
        base = own_base or (max if one.metric.higher_is_better else min)(tuned_scores, key=tuned_scores.__getitem__)
        over = overall(one)
        scores = {
            "worst": None if over is None else over.worst,
            "mean": None if over is None else over.mean,
            "best": _best(one),
            "own": _own(one),
        }
        if all(score is None for score in scores.values()):
            continue
        lost = {name: _lost(score, tuned_scores[base], one.metric) for name, score in scores.items()}
        result.append(Relative(one.panel, one.name, base, tuned_scores[base], one.metric.percent, **lost))
    return result


def _best(series: Series) -> float | None:
    """Best score over the study's rates; None if one of them is missing, or if no score is finite."""
    scores = [series.means[lr] for lr in series.rates if lr in series.means and not series.at[lr].summary.lost]
    if overall(series) is None or not scores:
        return None
    return (max if series.metric.higher_is_better else min)(scores)


def _own(series: Series) -> float | None:
    if series.own is None or not series.at[series.own].has_results:
        return None
    if series.at[series.own].summary.lost:
        return -math.inf if series.metric.higher_is_better else math.inf
    return series.means[series.own]


def _base_of(one: Series, series: Sequence[Series]) -> str | None:
    """The name of the base that a series is, or on which it has LGA; None for others."""
    candidates = [base for base in bases(series) if base.panel == one.panel]
    without = {without_lga(spec) for spec in one.specs}
    return next((base.name for base in candidates if not without.isdisjoint(base.specs)), None)


def _lost(score: float | None, base: float, metric: Metric) -> float | None:
    if score is None:
        return None
    loss = base - score if metric.higher_is_better else score - base
    return loss if metric.percent or not math.isfinite(loss) else 100 * loss / abs(base)


def relative_rows(relatives: Sequence[Relative]) -> list[dict[str, Any]]:
    """One row per `Relative`; missing values are empty."""
    return [
        {
            "task": one.panel,
            "optimizer": one.name,
            "tuned_base": one.base,
            "its_score": one.score,
            "unit": "points" if one.points else "percent of the score",
            **{name: "" if (lost := getattr(one, name)) is None else lost for name in MEASURES},
        }
        for one in relatives
    ]


def by_place(relatives: Sequence[Relative], measure: str) -> Mapping[tuple[str, str], float]:
    """The losses by task and method, without missing ones."""
    return {(one.panel, one.name): lost for one in relatives if (lost := getattr(one, measure)) is not None}
