"""From the cells of a study to verdicts: each cell is compared with its reference.

The reference is the cell of the same runs without LGA or, in a comparison of arms, the cell of the first arm. The names
in this module are for the first case.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

from lossaware.studies.analysis.statistics import (
    Paired,
    Summary,
    Verdict,
    better_and_worse,
    deciding_p,
    holm,
    paired,
    summary,
    verdict,
)
from lossaware.studies.analysis.study_table import Key, Measured, StudyTable
from lossaware.studies.specs.run_spec import RunSpec
from lossaware.studies.specs.study import Metric, Study

Way = Literal["better", "equal", "worse"]


@dataclass(frozen=True)
class Comparison:
    """A cell with LGA, compared with the same runs without it.

    Attributes:
        variant: The key of the cell with LGA in the table.
        base: The key of the cell without LGA.
        with_lga: The cell with LGA, measured.
        without: The cell without LGA, measured.
        seeds: Seeds with both runs finished.
        result: Paired statistics of the scores, with LGA minus without.
        verdict: See `lossaware.studies.analysis.statistics`; corrected for all comparisons of the table with at
            least two seeds.
    """

    variant: Key
    base: Key
    with_lga: Measured
    without: Measured
    seeds: Sequence[int]
    result: Paired
    verdict: Verdict

    @property
    def metric(self) -> Metric:
        """The compared metric."""
        return self.with_lga.cell.metric

    @property
    def count(self) -> int:
        """The number of seeds in which at least one of the two scores is finite."""
        return _count(self.result)

    @cached_property
    def base_scores(self) -> Summary:
        """Mean and interval of the scores without LGA, as measured, over `seeds`."""
        return summary([self.without.scores[seed] for seed in self.seeds])

    @cached_property
    def lga_scores(self) -> Summary:
        """The same with LGA."""
        return summary([self.with_lga.scores[seed] for seed in self.seeds])

    @property
    def way(self) -> Way:
        """Whether the mean is better with LGA; if scores are not finite, whether more seeds are."""
        better, worse = better_and_worse(self.result, higher_is_better=self.metric.higher_is_better)
        balance: float = better - worse
        if not (self.result.lost_without or self.result.lost_with):
            mean = self.result.difference.mean
            rounding = 1e-9 * abs(self.base_scores.mean)  # rounding of differences that cancel
            balance = 0.0 if abs(mean) <= rounding else mean * (1 if self.metric.higher_is_better else -1)
        return "better" if balance > 0 else "worse" if balance < 0 else "equal"


def comparisons(table: StudyTable) -> list[Comparison]:
    """All pairs of cells, over their common seeds; pairs of the same runs count once."""
    chosen: dict[tuple[Metric, tuple[RunSpec, ...], tuple[RunSpec, ...]], tuple[Key, Key, list[int], Paired]] = {}
    for variant, base in pairs(table.study).items():
        with_lga, without = table.cells[variant], table.cells[base]
        bases = {spec: without.scores.get(spec.seed) for spec in without.cell.specs}
        scores = {
            spec.seed: (score, with_lga.scores[spec.seed])
            for spec, reference in zip(with_lga.cell.specs, with_lga.cell.bases, strict=True)
            if spec.seed in with_lga.scores and (score := bases.get(reference)) is not None
        }
        result = paired([left for left, _ in scores.values()], [right for _, right in scores.values()])
        key = with_lga.cell.metric, with_lga.cell.specs, with_lga.cell.bases
        if key not in chosen or (_count(result) and not _count(chosen[key][3])):
            chosen[key] = variant, base, list(scores), result
    ps = {
        variant: deciding_p(result, higher_is_better=metric.higher_is_better) if _count(result) > 1 else math.nan
        for (metric, _, _), (variant, _, _, result) in chosen.items()
    }
    corrected = dict(zip(ps, holm(list(ps.values())), strict=True))
    many = sum(not math.isnan(p) for p in ps.values())
    return [
        Comparison(
            variant,
            base,
            table.cells[variant],
            table.cells[base],
            seeds,
            result,
            verdict(
                result,
                higher_is_better=metric.higher_is_better,
                corrected_p=corrected[variant],
                comparisons=many,
            ),
        )
        for (metric, _, _), (variant, base, seeds, result) in chosen.items()
    ]


def pairs(study: Study) -> dict[Key, Key]:
    """Each cell that has a reference, and the reference cell with the same metric."""
    bases: dict[tuple[Metric, tuple[RunSpec, ...]], Key] = {}
    for key, cell in study.cells.items():
        if cell.specs and cell.specs == cell.bases:
            bases.setdefault((cell.metric, cell.specs), key)
    return {
        key: base
        for key, cell in study.cells.items()
        if cell.specs != cell.bases and (base := bases.get((cell.metric, cell.bases))) is not None
    }


def _count(result: Paired) -> int:
    return result.n + result.lost_without + result.lost_with
