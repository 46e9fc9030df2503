"""A test of whether the paper's runs without LGA were shorter, by the epoch of our curves that fits each column best.

In one reading of the paper's tables, its runs with and without LGA had unequal lengths. If so, our curves without LGA
fit the published column best at an earlier epoch than our curves with LGA. This module finds that epoch for every
column of the paper's tables that was measured, with an interval by bootstrap over the cells of the column.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lossaware.studies.analysis.study_table import Key, Measured, StudyTable
from lossaware.studies.specs.study import Study
from lossaware.studies.store.results import Results

RESAMPLES = 10_000
"""Bootstrap samples per interval."""
MIN_CELLS = 5
"""Smallest number of cells per column; with fewer, bootstrap intervals are not reliable."""
ALGORITHM = "algorithm"
"""The axis whose points are the cells of a column, in all tables of the paper."""

Group = tuple[str, ...]


@dataclass(frozen=True)
class Column:
    """Published figures under one setting, with the curves of the same runs.

    Attributes:
        study: Name of the study.
        setting: Points of all axes, except those of the algorithm and of LGA.
        with_lga: Whether its runs have LGA.
        algorithms: The names of the cells.
        curves: The table's metric after each epoch, as a mean over seeds: (cells, epochs).
        published: The published figures: (cells,).
    """

    study: str
    setting: Group
    with_lga: bool
    algorithms: tuple[str, ...]
    curves: NDArray[np.float64]
    published: NDArray[np.float64]

    @property
    def squares(self) -> NDArray[np.float64]:
        """Squared distance of each cell from the published figure after each epoch: (cells, epochs)."""
        squares: NDArray[np.float64] = np.square(self.curves - self.published[:, None])
        return squares

    @property
    def distances(self) -> NDArray[np.float64]:
        """Root mean square distance over the cells after each epoch: (epochs,)."""
        distances: NDArray[np.float64] = np.sqrt(self.squares.mean(axis=0))
        return distances

    @property
    def best_epoch(self) -> int:
        """The epoch with the smallest distance, from 1."""
        return int(self.distances.argmin()) + 1


def columns(tables: Iterable[StudyTable], results: Results) -> list[Column]:
    """Every column of final values with at least `MIN_CELLS` measured cells, at the study's own settings.

    Cells with runs that did not train are left out: their curves do not change, or their mean is not meaningful.
    """
    result: list[Column] = []
    for table in tables:
        cells: dict[tuple[bool, Group], list[tuple[str, NDArray[np.float64], float]]] = {}
        for key, measured in table.cells.items():
            if not _is_usable(table.study, measured):
                continue
            place = _place(table.study, key)
            setting = tuple(point for axis, point in place.items() if axis not in (ALGORITHM, _lga_axis(table.study)))
            with_lga = measured.cell.specs[0].lga is not None
            assert measured.cell.published is not None
            cell = place[ALGORITHM], _curve(measured, results), float(measured.cell.published)
            cells.setdefault((with_lga, setting), []).append(cell)
        result += [
            Column(
                table.study.name,
                setting,
                with_lga,
                tuple(name for name, _, _ in group),
                np.stack([curve for _, curve, _ in group]),
                np.array([published for _, _, published in group]),
            )
            for (with_lga, setting), group in cells.items()
            if len(group) >= MIN_CELLS
        ]
    return result


def pairs(columns: Iterable[Column]) -> list[tuple[Column, Column]]:
    """The columns without and with LGA under the same setting."""
    known = list(columns)
    return [
        (without, with_)
        for without in known
        for with_ in known
        if not without.with_lga
        and with_.with_lga
        and (without.study, without.setting) == (with_.study, with_.setting)
        and without.curves.shape[1] == with_.curves.shape[1]
    ]


def interval(column: Column, seed: int = 0) -> tuple[int, int]:
    """95 % bootstrap interval of the best epoch: cells of the column are resampled with replacement."""
    low, high = np.percentile(_best_epochs(column, seed), [2.5, 97.5], method="nearest")
    return int(low), int(high)


def difference(without: Column, with_: Column, seed: int = 0) -> tuple[int, int, int]:
    """Best epoch with LGA minus that without, and its 95 % bootstrap interval, in epochs.

    The two columns are resampled separately, since one may have cells that the other does not.
    """
    differences = _best_epochs(with_, seed + 1) - _best_epochs(without, seed)
    low, high = np.percentile(differences, [2.5, 97.5], method="nearest")
    return with_.best_epoch - without.best_epoch, int(low), int(high)


def rows(columns: Iterable[Column]) -> list[dict[str, object]]:
    """The columns as a table."""
    table: list[dict[str, object]] = []
    for column in columns:
        low, high = interval(column)
        table.append(
            {
                "study": column.study,
                "setting": ", ".join(column.setting),
                "lga": "with" if column.with_lga else "without",
                "cells": len(column.algorithms),
                "epochs": column.curves.shape[1],
                "best_epoch": column.best_epoch,
                "low": low,
                "high": high,
                "distance_at_best": float(column.distances.min()),
                "distance_at_last": float(column.distances[-1]),
            }
        )
    return table


def pair_rows(pairs: Iterable[tuple[Column, Column]]) -> list[dict[str, object]]:
    """The pairs of columns as a table, with the number of epochs by which the best one with LGA is later."""
    table: list[dict[str, object]] = []
    for without, with_ in pairs:
        later, low, high = difference(without, with_)
        table.append(
            {
                "study": without.study,
                "setting": ", ".join(without.setting),
                "without": without.best_epoch,
                "with": with_.best_epoch,
                "epochs": without.curves.shape[1],
                "later": later,
                "low": low,
                "high": high,
                "supports": low > 0,
            }
        )
    return table


def _best_epochs(column: Column, seed: int) -> NDArray[np.int64]:
    """The best epoch of each bootstrap sample."""
    count = len(column.algorithms)
    drawn = np.random.default_rng(seed).integers(0, count, (RESAMPLES, count))
    epochs: NDArray[np.int64] = column.squares[drawn].mean(axis=1).argmin(axis=1) + 1
    return epochs


def _is_usable(study: Study, measured: Measured) -> bool:
    return (
        ALGORITHM in study.file.axes
        and measured.cell.metric.at == "final"
        and not measured.untrained
        and not measured.summary.lost
        and np.isfinite(measured.difference)
        and bool(measured.values)
    )


def _curve(measured: Measured, results: Results) -> NDArray[np.float64]:
    metric = measured.cell.metric
    curves = [
        [getattr(record, metric.set)[metric.name] for record in results.records(spec)]
        for spec in measured.cell.specs
        if spec.seed in measured.values
    ]
    mean: NDArray[np.float64] = np.mean(curves, axis=0) * (100 if metric.percent else 1)
    return mean


def _place(study: Study, key: Key) -> dict[str, str]:
    row, column = key
    return dict(zip((*study.file.rows, *study.file.columns), (*row, *column), strict=True))


def _lga_axis(study: Study) -> str | None:
    """The axis with a point that turns LGA off."""
    return next(
        (axis for axis, points in study.file.axes.items() if any(p.lga is False for p in points.values())), None
    )
