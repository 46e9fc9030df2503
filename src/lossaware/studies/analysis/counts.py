"""A study in counts: how many cells agree with the published figures, and in how many LGA helps or hurts."""

import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import reduce
from operator import add
from typing import Literal

from lossaware.studies.analysis.statistics import Paired, Verdict, better_and_worse, deciding_p, holm, paired, verdict
from lossaware.studies.analysis.study_table import Key, Measured, StudyTable
from lossaware.studies.specs.run_spec import RunSpec
from lossaware.studies.specs.study import Cell, Quantity, Study, without_lga

Way = Literal["better", "equal", "worse"]


@dataclass(frozen=True)
class Comparison:
    """A cell with LGA, held against the same runs without it.

    Attributes:
        variant: The cell with LGA.
        measured: What it shows.
        result: The scores with minus those without, seed by seed.
        verdict: As `lossaware.studies.analysis.statistics` gives it, corrected for all comparisons of the study with
            two seeds or more; None with one seed.
    """

    variant: Key
    measured: Measured
    result: Paired
    verdict: Verdict | None

    @property
    def way(self) -> Way:
        """Whether the mean is better with LGA; where runs have no finite score, whether more seeds are."""
        result, quantity = self.result, self.measured.cell.quantity
        better, worse = better_and_worse(result, higher_is_better=quantity.higher_is_better)
        balance: float = better - worse
        if not (result.lost_without or result.lost_with):
            balance = result.difference.mean * (1 if quantity.higher_is_better else -1)
        return "better" if balance > 0 else "worse" if balance < 0 else "equal"


@dataclass(frozen=True)
class Ways:
    """Pairs by which figure is the better one: that with LGA, neither, or that without."""

    better: int = 0
    equal: int = 0
    worse: int = 0

    def __add__(self, other: "Ways") -> "Ways":
        return Ways(self.better + other.better, self.equal + other.equal, self.worse + other.worse)

    @property
    def total(self) -> int:
        """All of them."""
        return self.better + self.equal + self.worse

    @classmethod
    def of(cls, ways: Iterable[Way]) -> "Ways":
        """Count them."""
        found = list(ways)
        return cls(found.count("better"), found.count("equal"), found.count("worse"))


@dataclass(frozen=True)
class Counts:
    """What a study shows, counted.

    Attributes:
        figures: Published figures.
        agree: Cells whose difference from the published figure is within its 95 % interval (`Measured.agrees`).
        differ: Cells whose difference is not.
        contained: Judged cells whose own 95 % interval contains the published figure, as agreement was judged before.
        failed: Measured cells in which some runs, or all, did not train (see `is_untrained`).
        single: Measured cells with a published figure, but without an interval: of one seed, or computed from others.
        helps: Pairs of two seeds or more, by `Verdict`.
        hurts: The same.
        no_difference: The same.
        unsure: The same: too few seeds to tell.
        one_seed: Pairs of one seed.
        published: Pairs as published.
    """

    figures: int = 0
    agree: int = 0
    differ: int = 0
    contained: int = 0
    failed: int = 0
    single: int = 0
    helps: int = 0
    hurts: int = 0
    no_difference: int = 0
    unsure: Ways = field(default_factory=Ways)
    one_seed: Ways = field(default_factory=Ways)
    published: Ways = field(default_factory=Ways)

    def __add__(self, other: "Counts") -> "Counts":
        return Counts(**{name: getattr(self, name) + getattr(other, name) for name in Counts.__dataclass_fields__})

    @property
    def measured(self) -> int:
        """Published figures with a measured one beside them."""
        return self.agree + self.differ + self.single

    @property
    def judged(self) -> int:
        """Pairs of two seeds or more."""
        return self.helps + self.hurts + self.no_difference + self.unsure.total

    @property
    def pairs(self) -> int:
        """All measured pairs."""
        return self.judged + self.one_seed.total


def counts(table: StudyTable) -> dict[str, Counts]:
    """What a study shows, by what was overridden (but for the number of seeds); "" are the study's own settings.

    A cell that was measured under other settings is not held against its published figure.
    """
    found = {"": _published(table.study)}
    for measured in table.cells.values():
        if measured.there and measured.cell.published is not None and not (said := measured.changed):
            agrees = measured.agrees
            one = Counts(
                agree=agrees is True,
                differ=agrees is False,
                single=agrees is None,
                contained=measured.contains_published,
                failed=measured.untrained > 0,
            )
            found[said] = found.get(said, Counts()) + one
    for comparison in comparisons(table):
        said = comparison.measured.changed
        word = comparison.verdict.word if comparison.verdict else None
        way = Ways.of([comparison.way])
        one = Counts(
            helps=word == "helps",
            hurts=word == "hurts",
            no_difference=word == "no difference shown",
            unsure=way if word == "too few seeds to tell" else Ways(),
            one_seed=Ways() if word else way,
        )
        found[said] = found.get(said, Counts()) + one
    return found


def total(found: Iterable[Counts]) -> Counts:
    """All together."""
    return reduce(add, found, Counts())


def comparisons(table: StudyTable) -> list[Comparison]:
    """Every pair of cells of which both are measured, from the seeds that both have; the same runs once."""
    found: dict[tuple[Quantity, tuple[RunSpec, ...]], tuple[Key, Paired]] = {}
    for variant, base in pairs(table.study).items():
        with_, without = table.cells[variant], table.cells[base]
        bases = {spec: without.values.get(spec.seed) for spec in without.cell.specs}
        scores = [
            (score, with_.values[spec.seed])
            for spec in with_.cell.specs
            if spec.seed in with_.values and (score := bases.get(without_lga(spec))) is not None
        ]
        result = paired([left for left, _ in scores], [right for _, right in scores])
        if _seeds(result):
            found.setdefault((with_.cell.quantity, with_.cell.specs), (variant, result))
    ps = {
        key: deciding_p(result, higher_is_better=quantity.higher_is_better)
        for (quantity, _), (key, result) in found.items()
        if _seeds(result) > 1
    }
    corrected = dict(zip(ps, holm(list(ps.values())), strict=True))
    many = sum(not math.isnan(p) for p in ps.values())
    return [
        Comparison(
            variant=key,
            measured=table.cells[key],
            result=result,
            verdict=verdict(
                result, higher_is_better=quantity.higher_is_better, corrected_p=corrected[key], comparisons=many
            )
            if key in corrected
            else None,
        )
        for (quantity, _), (key, result) in found.items()
    ]


def pairs(study: Study) -> dict[Key, Key]:
    """Each cell with LGA, and the cell that shows the same of the same runs without it."""
    bases: dict[tuple[Quantity, tuple[RunSpec, ...]], Key] = {}
    for key, cell in study.cells.items():
        if cell.specs and not _with_lga(cell):
            bases.setdefault((cell.quantity, cell.specs), key)
    found = {}
    for key, cell in study.cells.items():
        base = bases.get((cell.quantity, tuple(map(without_lga, cell.specs))))
        if _with_lga(cell) and base is not None:
            found[key] = base
    return found


def _published(study: Study) -> Counts:
    ways: list[Way] = []
    for variant, base in pairs(study).items():
        with_, without = study.cells[variant], study.cells[base]
        if with_.published is not None and without.published is not None:
            gain = (with_.published - without.published) * (1 if with_.quantity.higher_is_better else -1)
            ways.append("better" if gain > 0 else "worse" if gain < 0 else "equal")
    return Counts(figures=sum(cell.published is not None for cell in study.cells.values()), published=Ways.of(ways))


def _with_lga(cell: Cell) -> bool:
    return any(spec.lga is not None for spec in cell.specs)


def _seeds(result: Paired) -> int:
    return result.n + result.lost_without + result.lost_with
