"""A study in counts: how many cells agree with the published figures, and in how many LGA helps or hurts."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import reduce
from operator import add

from lossaware.studies.analysis.comparisons import Way, comparisons, pairs
from lossaware.studies.analysis.study_table import StudyTable
from lossaware.studies.specs.study import Study


@dataclass(frozen=True)
class Ways:
    """Counts of pairs by the better figure: with LGA, neither, or without."""

    better: int = 0
    equal: int = 0
    worse: int = 0

    def __add__(self, other: "Ways") -> "Ways":
        return Ways(self.better + other.better, self.equal + other.equal, self.worse + other.worse)

    @property
    def total(self) -> int:
        """The number of all pairs."""
        return self.better + self.equal + self.worse

    @classmethod
    def of(cls, ways: Iterable[Way]) -> "Ways":
        """The counts of these pairs."""
        listed = list(ways)
        return cls(listed.count("better"), listed.count("equal"), listed.count("worse"))


@dataclass(frozen=True)
class Counts:
    """Counts of a study's cells and pairs.

    Attributes:
        figures: Published figures.
        agree: Cells whose difference from the published figure is within its 95 % interval (`Measured.agrees`).
        differ: Cells whose difference is not.
        contained: Judged cells whose own 95 % interval contains the published figure, the former criterion.
        failed: Measured cells with runs that did not train (see `is_untrained`).
        single: Measured cells with a published figure, but without an interval: of one seed or two, or computed
            from others.
        helps: Pairs of at least two seeds with this `Verdict`.
        hurts: Pairs of at least two seeds with this `Verdict`.
        no_difference: Pairs of at least two seeds with this `Verdict`.
        unsure: Pairs of at least two seeds with too few seeds to tell.
        one_seed: Pairs of one seed.
        published: Pairs of published figures.
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
        """Number of published figures that are measured."""
        return self.agree + self.differ + self.single

    @property
    def judged(self) -> int:
        """Number of pairs of at least two seeds."""
        return self.helps + self.hurts + self.no_difference + self.unsure.total

    @property
    def pairs(self) -> int:
        """Number of all measured pairs."""
        return self.judged + self.one_seed.total


def counts(table: StudyTable) -> dict[str, Counts]:
    """The counts of a study by its overrides, except the number of seeds; "" is for the study's own settings.

    Cells that were measured under other settings are not compared with their published figures.
    """
    result = {"": _published(table.study)}
    for measured in table.cells.values():
        if measured.has_results and measured.cell.published is not None and not (changed := measured.changed):
            agrees = measured.agrees
            one = Counts(
                agree=agrees is True,
                differ=agrees is False,
                single=agrees is None,
                contained=measured.contains_published,
                failed=measured.untrained > 0,
            )
            result[changed] = result.get(changed, Counts()) + one
    for comparison in comparisons(table):
        if not comparison.count:
            continue
        changed = comparison.with_lga.changed
        word = comparison.verdict.word if comparison.count > 1 else None
        way = Ways.of([comparison.way])
        one = Counts(
            helps=word == "helps",
            hurts=word == "hurts",
            no_difference=word == "no difference shown",
            unsure=way if word == "too few seeds to tell" else Ways(),
            one_seed=Ways() if word else way,
        )
        result[changed] = result.get(changed, Counts()) + one
    return result


def total(parts: Iterable[Counts]) -> Counts:
    """The sum of counts."""
    return reduce(add, parts, Counts())


def _published(study: Study) -> Counts:
    ways: list[Way] = []
    for variant, base in pairs(study).items():
        with_, without = study.cells[variant], study.cells[base]
        if with_.published is not None and without.published is not None:
            gain = (with_.published - without.published) * (1 if with_.metric.higher_is_better else -1)
            ways.append("better" if gain > 0 else "worse" if gain < 0 else "equal")
    return Counts(figures=sum(cell.published is not None for cell in study.cells.values()), published=Ways.of(ways))
