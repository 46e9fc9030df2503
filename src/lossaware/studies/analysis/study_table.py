"""The measured cells of a study: values, intervals, and differences from the study's file."""

import json
import math
import statistics as plain_statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

from lossaware.errors import UsageError
from lossaware.studies.analysis.statistics import FEWEST, Summary, difference_half_width, epoch_ratio, summary
from lossaware.studies.analysis.untrained import is_untrained
from lossaware.studies.specs.options import did_you_mean
from lossaware.studies.specs.run_spec import RunSpec
from lossaware.studies.specs.study import Cell, Coordinates, Metric, Overrides, Study
from lossaware.studies.specs.study_file import MAX_RUNS
from lossaware.studies.store.results import Results

Key = tuple[Coordinates, Coordinates]
WIDE = "the lowest and the highest seed, where the interval would be wider than all possible scores"
MIXED = "of cells under different settings"


@dataclass(frozen=True)
class Measured:
    """A measured cell of a study.

    Attributes:
        cell: The cell.
        scores: The score of each finished seed, as measured.
        summary: Mean and interval of the `values`.
        overrides: Differences of the shown runs from the study's file.
        sources: The cells from which a derived one is computed.
        untrained: Number of runs whose model is not better than chance at the end.
    """

    cell: Cell
    scores: Mapping[int, float]
    summary: Summary
    overrides: Overrides = field(default_factory=Overrides)
    sources: Sequence["Measured"] = ()
    untrained: int = 0

    @cached_property
    def values(self) -> dict[int, float]:
        """The score of each finished seed in the units of the table."""
        return {seed: self.cell.metric.factor * score for seed, score in self.scores.items()}

    @property
    def has_results(self) -> bool:
        """Whether there are results."""
        return self.summary.n > 0 or self.summary.lost > 0

    @property
    def difference(self) -> float:
        """Measured minus published, in the units of the table.

        NaN if either is missing, and for runs under other settings than the study's, see `agrees`.
        """
        if self.cell.published is None or self.changed:
            return math.nan
        return self.summary.mean - float(self.cell.published)

    @property
    def agrees(self) -> bool | None:
        """Whether the interval of the difference of the two means, measured and published, contains 0.

        See `difference_half_width`. None without an interval or a published figure, and for runs under other settings
        than the study's, which are not comparable with the published figures.
        """
        if math.isnan(self.difference) or math.isnan(self.summary.low):
            return None
        return abs(self.difference) <= difference_half_width(self.summary, self.cell.published_seeds)

    @property
    def contains_published(self) -> bool:
        """Whether the interval of the measured mean alone contains the published figure: the former criterion."""
        return abs(self.difference) <= self.summary.half_width

    @property
    def caution(self) -> str:
        """See `RunSpec.caution`."""
        cautions = [*(spec.caution for spec in self.cell.specs), *(source.caution for source in self.sources)]
        return next(filter(None, cautions), "")

    @property
    def differs(self) -> str:
        """Differences from the study's file, in one line."""
        return self._of_sources(lambda source: source.differs) if self.sources else describe_overrides(self.overrides)

    @property
    def caveats(self) -> str:
        """The caution and the differences from the study's file, in one line."""
        return ", ".join(filter(None, [self.caution, self.differs]))

    @property
    def changed(self) -> str:
        """The caution and the differences, except the number of seeds."""
        if self.sources:
            return self._of_sources(lambda source: source.changed)
        plain = {name: value for name, value in self.overrides.to_plain().items() if name not in ("seeds", "only")}
        return ", ".join(filter(None, [self.caution, describe_overrides(Overrides.from_plain(plain))]))

    def _of_sources(self, text_of: Callable[["Measured"], str]) -> str:
        """The common text of all its sources, or `MIXED`."""
        texts = {text_of(source) for source in self.sources}
        return texts.pop() if len(texts) == 1 else MIXED

    @property
    def partial(self) -> bool:
        """Whether some, but not all, seeds of the cell or of one of its sources are finished."""
        return self.has_results and (
            len(self.values) < len(self.cell.specs) or any(source.partial for source in self.sources)
        )


@dataclass(frozen=True)
class StudyTable:
    """A study with its results.

    Attributes:
        study: The study of the file.
        cells: The measured cells, with or without results.
        remarks: Remarks above the table: overrides, a changed file.
        provenance: Date, machine and command of the results.
    """

    study: Study
    cells: Mapping[Key, Measured]
    remarks: Sequence[str] = ()
    provenance: Sequence[str] = ()

    @property
    def marks(self) -> Mapping[Key, str]:
        """A letter for each cell with an entry in the legend."""
        letters: dict[str, str] = {}
        return {
            key: letters.setdefault(text, chr(ord("a") + len(letters)))
            for key, measured in self.cells.items()
            if (text := self._legend_entry(measured))
        }

    @property
    def legend(self) -> list[str]:
        """The explanations of the letters."""
        texts = {letter: self._legend_entry(self.cells[key]) for key, letter in self.marks.items()}
        return [f"{letter}: {text}" for letter, text in texts.items()]

    def _legend_entry(self, measured: Measured) -> str:
        """The text about a cell in the legend; empty for usual cells."""
        parts = []
        if measured.has_results and measured.caution and not self._common_caution:
            parts.append(measured.caution)
        if measured.has_results and measured.differs and not self._common_overrides:
            parts.append(measured.differs)
        if measured.partial:
            some = f"{len(measured.values)} of {len(measured.cell.specs)} seeds"
            parts.append("of cells that lack some of their seeds" if measured.sources else some)
        if measured.untrained:
            parts.append(f"{measured.untrained} of {len(measured.values)} runs did not train: accuracy at chance")
        if measured.summary.lost:
            parts.append(f"{measured.summary.lost} of {len(measured.values)} values are not finite")
        return "; ".join(parts)

    @property
    def _common_overrides(self) -> str:
        """Overrides that all measured cells share."""
        return self._common(lambda measured: describe_overrides(measured.overrides))

    @property
    def _common_caution(self) -> str:
        return self._common(lambda measured: measured.caution)

    def _common(self, text_of: Callable[[Measured], str]) -> str:
        """The common text of all cells with results, or an empty text."""
        texts = {text_of(measured) for measured in self.cells.values() if measured.values}
        return texts.pop() if len(texts) == 1 else ""

    @property
    def head(self) -> list[str]:
        """The lines above the table."""
        common = self._common_overrides
        caution = [f"Measured with {self._common_caution}, not with real ones."] if self._common_caution else []
        return [*caution, *([f"Overridden: {common}."] if common else []), *self.remarks]

    @property
    def caption(self) -> str:
        """The explanation of the table."""
        titles = {measured.cell.metric.title: None for measured in self.cells.values()}
        parts = ["; ".join(titles).capitalize() + "."]
        seeds = {len(measured.values) for measured in self.cells.values() if measured.values}
        if seeds == {1}:
            parts.append("One seed, so no interval.")
        elif seeds:
            count = f"{max(seeds)} seeds" if len(seeds) == 1 else f"{min(seeds)} to {max(seeds)} seeds"
            spread = ["± is the half width of the 95 % t-interval"] * (max(seeds) >= FEWEST)
            spread += ["n = 2: no interval"] * (2 in seeds)
            spread += [f"in brackets {WIDE}"] * any(
                it.summary.is_wider_than(it.cell.metric.scale) for it in self.cells.values()
            )
            parts.append("; ".join([f"Mean over {count}", *spread]) + ".")
        if any(measured.cell.derived for measured in self.cells.values()):
            parts.append("Means and deviations are computed from the figures shown, as in the paper.")
        judged = [measured.agrees for measured in self.cells.values() if measured.agrees is not None]
        if any(math.isfinite(measured.difference) for measured in self.cells.values()):
            parts.append("Difference: measured minus published.")
        if any(m.has_results and m.changed and m.cell.published is not None for m in self.cells.values()):
            parts.append("Figures with overridden settings are not compared with the published ones.")
        if judged:
            parts.append(
                f"It is within the 95 % interval of a difference of two means in {sum(judged)} of {len(judged)} cells."
            )
        if missing := sum(not measured.has_results for measured in self.cells.values()):
            parts.append(f"Not run: {missing} of {len(self.cells)} cells.")
        return " ".join(parts)


def tabulate(
    study: Study,
    results: Results,
    launches: Sequence[Overrides] = (),
    remarks: Sequence[str] = (),
    *,
    prefer: Overrides | None = None,
) -> StudyTable:
    """The table of a study.

    Args:
        study: The study of the file.
        results: The store of the runs.
        launches: Overrides of the study's launches, latest last. A cell without runs at the study's own settings
            shows those of the most similar launch.
        remarks: Remarks above the table.
        prefer: Overrides whose runs are preferred to the study's own.
    """
    variants, left_out = _variants(study, launches)
    if left_out:
        remarks = [*remarks, f"Earlier launches under {left_out} other settings are left out, as there are too many."]

    def nearness(measured: Measured) -> tuple[bool, bool, bool, int, int, bool]:
        specs = measured.cell.specs
        return (
            measured.has_results,
            prefer is not None and measured.overrides.settings == prefer.settings,
            not measured.changed,
            specs[0].epochs if specs else 0,
            len(measured.values),
            not measured.partial,
        )

    cells: dict[Key, Measured] = {}
    for key in study.cells:
        candidates = [_measure(variant.cells[key], results, overrides) for overrides, variant in variants]
        # Derived cells come after their sources.
        first = candidates[0].cell
        cells[key] = _derive(first, cells) if first.derived else max(candidates, key=nearness)
    return StudyTable(study, cells, remarks)


def _variants(study: Study, launches: Sequence[Overrides]) -> tuple[list[tuple[Overrides, Study]], int]:
    """The study, and the study under the settings of each launch. The launches may come from a foreign file.

    Returns:
        The latest `MAX_SETTINGS` with at most `MAX_RUNS` runs, and the number of settings that are left out.
    """
    settings = {
        json.dumps(plain, sort_keys=True): Overrides(settings=overrides.settings)
        for overrides in launches
        if (plain := overrides.settings.model_dump(exclude_unset=True))
    }
    variants: list[tuple[Overrides, Study]] = []
    runs = 0
    for overrides in reversed(list(settings.values())[-MAX_SETTINGS:]):
        variant = study.overridden(overrides)
        runs += sum(len(cell.specs) for cell in variant.cells.values())
        if runs > MAX_RUNS:
            break
        variants.append((overrides, variant))
    return [(Overrides(), study), *reversed(variants)], len(settings) - len(variants)


MAX_SETTINGS = 200
"""Maximum number of settings of launches that a table considers."""


def _measure(cell: Cell, results: Results, overrides: Overrides) -> Measured:
    scores = {
        spec.seed: value
        for spec, base in zip(cell.specs, cell.bases, strict=True)
        if (value := score(cell.metric, spec, base, results)) is not None
    }
    summed = summary([cell.metric.factor * value for value in scores.values()])
    untrained = sum(is_untrained(spec, results.records(spec)) for spec in cell.specs if spec.seed in scores)
    return Measured(cell, scores, summed, overrides, untrained=untrained)


def score(metric: Metric, spec: RunSpec, reference: RunSpec, results: Results) -> float | None:
    """The score of a run, as measured; None if the run, or its reference, is not finished."""
    curve = _curve(metric, spec, results)
    if not curve:
        return None
    match metric.at:
        case "final":
            return curve[-1]
        case "best":
            finite = [value for value in curve if math.isfinite(value)]
            return (max if metric.higher_is_better else min)(finite, default=math.nan)
    base = _curve(metric, reference, results)
    if not base:
        return None
    ratio = epoch_ratio(base, curve, higher_is_better=metric.higher_is_better)
    if metric.at == "ratio" or math.isnan(ratio):
        return ratio
    return curve[round(ratio * len(base)) - 1]


def _curve(metric: Metric, spec: RunSpec, results: Results) -> list[float]:
    """The measure after each epoch up to the one that counts; empty unless the run is finished."""
    records = results.records(spec)
    if not spec.is_finished(len(records)):
        return []
    known = metric.of(records[-1])
    if metric.name not in known and metric.set != "reported":
        raise UsageError(f"task {spec.task!r} does not measure {metric.name!r}{did_you_mean(metric.name, known)}")
    return metric.curve(metric.counted(spec, records))


def _derive(cell: Cell, cells: Mapping[Key, Measured]) -> Measured:
    assert cell.derived
    kind, sources = cell.derived
    measured = [cells[key] for key in sources]
    means = [source.summary.mean for source in measured]
    if not all(map(math.isfinite, means)):
        return Measured(cell, {}, summary([]))
    value = plain_statistics.fmean(means) if kind == "mean" else plain_statistics.pstdev(means)
    return Measured(cell, {}, Summary(1, value, math.nan, math.nan), sources=measured)


def describe_overrides(overrides: Overrides) -> str:
    """Overrides in one line: ``epochs = 2, seeds = 1``."""
    parts = []
    for name, value in overrides.to_plain().items():
        if name == "only":
            continue
        if isinstance(value, dict):
            parts += [f"{name}.{inner} = {inner_value}" for inner, inner_value in value.items()]
        else:
            parts.append(f"{name} = {value}")
    return ", ".join(parts)
