"""Sensitivity of a study's optimizers to the learning rate: scores over it, and times to the bases' best score.

Two numbers summarise how much the learning rate matters: the worst and the mean score over the study's learning rates,
which are the same for all optimizers. The score at the optimizer's own default learning rate is shown too.

A base is an optimizer that the study has without and with LGA. The speed of the other optimizers is measured by the
time to the best score that a base reaches in any epoch at its best learning rate.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from statistics import fmean, median_high
from typing import Any

from lossaware.errors import UsageError
from lossaware.studies.analysis.study_table import Measured, StudyTable
from lossaware.studies.specs.run_spec import RunSpec
from lossaware.studies.specs.study import Metric, Study, without_lga
from lossaware.studies.specs.study_file import StudyFile
from lossaware.studies.store.results import Results


@dataclass(frozen=True)
class Series:
    """One optimizer on one task, at all its learning rates.

    Attributes:
        panel: The study's name of the task.
        name: The study's name of the optimizer.
        metric: The metric of its scores.
        at: Its cells by learning rate, in ascending order, with or without finished runs.
        rates: The learning rates that the study has for all optimizers.
        own: The optimizer's default learning rate, if the study has it; it may be one of the others.
    """

    panel: str
    name: str
    metric: Metric
    at: Mapping[float, Measured] = field(default_factory=dict)
    rates: frozenset[float] = frozenset()
    own: float | None = None

    @property
    def specs(self) -> Iterable[RunSpec]:
        """All its runs, finished or not."""
        return (spec for measured in self.at.values() for spec in measured.cell.specs)

    @property
    def with_lga(self) -> bool:
        """Whether its runs are with LGA."""
        return any(spec.lga is not None for spec in self.specs)

    @property
    def means(self) -> dict[float, float]:
        """The mean of its finite scores by learning rate, in the units of the table."""
        return {
            lr: fmean(finite) for lr, measured in self.at.items() if (finite := finite_values(measured.values.values()))
        }


@dataclass(frozen=True)
class Overall:
    """Summary of a series; see `overall`. Scores are in the units of the table.

    Attributes:
        worst: The worst of its mean scores over the study's rates.
        worst_lr: The learning rate of this score.
        mean: The mean of these scores.
    """

    worst: float
    worst_lr: float
    mean: float


def overall(series: Series) -> Overall | None:
    """Summary of an optimizer over all learning rates.

    If a score of any seed is not finite, worst and mean are infinite, with the sign of a bad score.

    Returns:
        None if there are no results at some of the rates, as others would not be comparable.
    """
    measured = {lr: series.at[lr] for lr in sorted(series.rates)}
    if not measured or not all(one.has_results for one in measured.values()):
        return None
    bad = -math.inf if series.metric.higher_is_better else math.inf
    scores = {lr: bad if one.summary.lost else series.means[lr] for lr, one in measured.items()}
    worst = (min if series.metric.higher_is_better else max)(scores, key=scores.__getitem__)
    return Overall(scores[worst], worst, fmean(scores.values()))


@dataclass(frozen=True)
class Time:
    """Time of an optimizer, at one learning rate, to the best score of a base.

    Attributes:
        series: The optimizer.
        lr: Its learning rate.
        base: The base.
        base_lr: The base's best learning rate.
        target: The base's best score there, in the units of the table: the mean over the seeds. The target of each run
            is the base's best score with the same seed.
        seeds: Number of seeds that both have finished.
        reached: Number of these runs that reach the target.
        epochs: Epochs to the target: the median over the seeds, infinite if that run does not reach it.
        seconds: The same in seconds of training.
    """

    series: Series
    lr: float
    base: Series
    base_lr: float
    target: float
    seeds: int
    reached: int
    epochs: float
    seconds: float


def all_series(table: StudyTable) -> list[Series]:
    """The series of a study, in its order.

    Raises:
        UsageError: The study does not have an axis of learning rates.
    """
    study = table.study
    panels, rates, names = _roles(study.file)
    if not rates:
        raise UsageError(f"{study.label}: it does not have an axis with only learning rates")
    result: dict[tuple[str, str, Metric], Series] = {}
    for (row, column), measured in table.cells.items():
        cell = measured.cell
        if not cell.specs or cell.compares:
            continue
        place = dict(zip((*study.file.rows, *study.file.columns), (*row, *column), strict=True))
        panel, name = (", ".join(place[axis] for axis in axes) for axes in (panels, names))
        panel = ", ".join(filter(None, [panel or cell.specs[0].task, measured.caution]))
        lr = cell.specs[0].lr
        before = result.get(key := (panel, name, cell.metric), Series(*key))
        shared = any(study.file.axes[axis][place[axis]].lr for axis in rates)
        result[key] = replace(
            before,
            at=dict(sorted({lr: measured, **before.at}.items())),
            rates=before.rates | {lr} if shared else before.rates,
            own=before.own if shared else lr,
        )
    return list(result.values())


def has_rates(study: Study) -> bool:
    """Whether the study has an axis with only learning rates, so that it can be plotted over them."""
    return bool(_roles(study.file)[1])


def _roles(file: StudyFile) -> tuple[list[str], list[str], list[str]]:
    """The axes of tasks, those of learning rates, and the others, which name the lines."""
    panels = [axis for axis, points in file.axes.items() if any(point.task for point in points.values())]
    rates = [
        axis
        for axis, points in file.axes.items()
        if any(point.lr for point in points.values())
        and not any(point.optimizer or point.task for point in points.values())
    ]
    return panels, rates, [axis for axis in (*file.rows, *file.columns) if axis not in (*panels, *rates)]


def bases(series: Sequence[Series]) -> list[Series]:
    """The series without LGA that the study also has with LGA."""
    without = {without_lga(spec) for one in series if one.with_lga for spec in one.specs}
    return [one for one in series if not one.with_lga and any(spec in without for spec in one.specs)]


def times(series: Sequence[Series], results: Results) -> list[Time]:
    """The times of all series, at each learning rate, to the best score of each base of their task."""
    curves = {spec: _curve(one.metric, spec, results) for one in series for spec in one.specs}
    result = []
    for base in bases(series):
        better = max if base.metric.higher_is_better else min
        best = {
            lr: {
                spec.seed: better(finite)
                for spec in measured.cell.specs
                if (finite := finite_values(score for score, _ in curves[spec]))
            }
            for lr, measured in base.at.items()
        }
        scores = {lr: fmean(by_seed.values()) for lr, by_seed in best.items() if by_seed}
        if not scores:
            continue
        base_lr = better(scores, key=scores.__getitem__)
        for one in series:
            if (one.panel, one.metric) == (base.panel, base.metric):
                for lr, measured in one.at.items():
                    runs = [
                        _reaches(one.metric, curves[spec], best[base_lr][spec.seed])
                        for spec in measured.cell.specs
                        if curves[spec] and spec.seed in best[base_lr]
                    ]
                    if runs:
                        target = scores[base_lr] * (100 if base.metric.percent else 1)
                        reached = sum(math.isfinite(epochs) for epochs, _ in runs)
                        epochs, seconds = (median_high(values) for values in zip(*runs, strict=True))
                        result.append(Time(one, lr, base, base_lr, target, len(runs), reached, epochs, seconds))
    return result


def _curve(metric: Metric, spec: RunSpec, results: Results) -> list[tuple[float, float]]:
    """Score and total seconds after each epoch; empty unless the run is finished."""
    records = results.records(spec)
    if not spec.is_finished(len(records)):
        return []
    seconds = 0.0
    curve = []
    for record in records:
        seconds += record.seconds
        curve.append((getattr(record, metric.set).get(metric.name, math.nan), seconds))
    return curve


def _reaches(metric: Metric, curve: Sequence[tuple[float, float]], target: float) -> tuple[float, float]:
    """Epochs and seconds to the target; infinite if it is not reached."""
    for epoch, (score, seconds) in enumerate(curve, start=1):
        if score >= target if metric.higher_is_better else score <= target:
            return epoch, seconds
    return math.inf, math.inf


def finite_values(values: Iterable[float]) -> list[float]:
    """The finite ones of these values."""
    return [value for value in values if math.isfinite(value)]


# --- Tables ---------------------------------------------------------------------------------------------------------


def score_rows(series: Sequence[Series]) -> list[dict[str, Any]]:
    """One row per series and learning rate: mean, lowest and highest score of the seeds, in the units of the table."""
    return [
        {
            "task": one.panel,
            "optimizer": one.name,
            "lr": lr,
            "mean": one.means[lr],
            "low": min(finite_values(measured.values.values())),
            "high": max(finite_values(measured.values.values())),
            "seeds": len(measured.values),
            "overridden": measured.caveats,
        }
        for one in series
        for lr, measured in one.at.items()
        if lr in one.means
    ]


def overall_rows(series: Sequence[Series]) -> list[dict[str, Any]]:
    """One row per series: the number of the study's rates with results, and `overall`, empty if None or not finite.

    ``not_finite`` is the number of rates with a score that is not finite.
    """
    rows = []
    for one in series:
        measured = [one.at[lr] for lr in one.rates if one.at[lr].has_results]
        summed = overall(one)
        own = one.means.get(one.own) if one.own is not None else None
        rows.append(
            {
                "task": one.panel,
                "optimizer": one.name,
                "rates": len(one.rates),
                "measured": len(measured),
                "not_finite": sum(cell.summary.lost > 0 for cell in measured),
                "worst": "" if summed is None or math.isinf(summed.worst) else summed.worst,
                "worst_lr": "" if summed is None else summed.worst_lr,
                "mean": "" if summed is None or math.isinf(summed.mean) else summed.mean,
                "own": "" if own is None else own,
                "own_lr": "" if one.own is None else one.own,
            }
        )
    return rows


def time_rows(times: Sequence[Time]) -> list[dict[str, Any]]:
    """One row per `Time`; epochs and seconds are empty if the median run does not reach the target."""
    return [
        {
            "task": time.series.panel,
            "optimizer": time.series.name,
            "lr": time.lr,
            "base": time.base.name,
            "base_lr": time.base_lr,
            "target": time.target,
            "seeds": time.seeds,
            "reached": time.reached,
            "epochs": time.epochs if math.isfinite(time.epochs) else "",
            "seconds": time.seconds if math.isfinite(time.seconds) else "",
        }
        for time in times
    ]
