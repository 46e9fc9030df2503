"""Paired comparisons: from the records of two arms to rows with a verdict."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from statistics import median
from typing import Literal

from lossaware.studies.analysis.statistics import Paired, Summary, Verdict, epoch_ratio, paired, summary, verdicts
from lossaware.studies.specs.formatting import number
from lossaware.studies.specs.run_spec import EpochRecord, Value

Records = Sequence[EpochRecord]

SMALL_REACH = 0.005
"""A push over a whole run (`largest_push`) that is small beside the weights of any usual network."""


@dataclass(frozen=True)
class Measure:
    """A number that every epoch has, and how to read it.

    Attributes:
        name: Its key in `EpochRecord.train` and `EpochRecord.test`.
        split: Which of the two; ``"reported"`` is what a function reported, which is kept in ``test``.
        higher_is_better: Whether a larger value is better.
        percent: Whether it is a share, shown as a percentage.
    """

    name: str
    split: Literal["train", "test", "reported"]
    higher_is_better: bool
    percent: bool

    @property
    def title(self) -> str:
        """What it is, in words."""
        return {"train": "running training ", "test": "test ", "reported": ""}[self.split] + self.name

    @property
    def unit(self) -> str:
        """``" %"`` or nothing."""
        return " %" if self.percent else ""

    def curve(self, records: Records) -> list[float]:
        """The value after each epoch; NaN where a record lacks it."""
        split = "train" if self.split == "train" else "test"
        return [getattr(record, split).get(self.name, math.nan) for record in records]

    def final(self, records: Records) -> float:
        """The value after the last epoch; NaN without any epoch."""
        return self.curve(records[-1:])[0] if records else math.nan

    def show(self, value: float) -> str:
        """The value as it is printed, without unit; a dash for NaN."""
        if not math.isfinite(value):
            return "—"
        return f"{100 * value:.2f}" if self.percent else f"{value:.4g}"

    def show_summary(self, values: Summary, *, signed: bool = False) -> str:
        """``mean ± half width`` with the same decimals: two in percent, otherwise what gives the width two digits."""
        half = values.half_width
        if self.percent or not 1e-6 <= half < 1e6:  # a width that is NaN, 0 or far off fixes no decimals
            shown, width = self.show(values.mean), self.show(half) if self.percent else f"{half:.2g}"
        else:
            decimals = max(0, 1 - math.floor(math.log10(half)))
            shown, width = f"{values.mean:.{decimals}f}", f"{half:.{decimals}f}"
        if signed and values.n and not float(shown):
            shown = shown.removeprefix("-")
        elif signed and values.mean > 0:
            shown = f"+{shown}"
        return shown if values.n < 2 else f"{shown} ± {width}"


@dataclass(frozen=True)
class Arm:
    """One side of a comparison: the same training from several seeds.

    Attributes:
        label: Its name in tables and legends.
        runs: The records of each seed's run, as far as it came.
        lga: LGA's arguments, None without LGA.
    """

    label: str
    runs: Mapping[int, Records]
    lga: Mapping[str, Value] | None = None

    @property
    def diverged(self) -> int:
        """Runs whose last training loss is not finite."""
        return sum(bool(run) and not math.isfinite(run[-1].train.get("loss", 0.0)) for run in self.runs.values())


@dataclass(frozen=True)
class Pair:
    """Two arms that share their seeds.

    Attributes:
        setting: What the row stands for, by column: ``{"optimizer": "sgd", "lr": "1e-3"}``.
        base: Without LGA, or whatever the other one is held against.
        variant: With LGA.
        epochs: How many epochs each run should have; a shorter one failed. 0 where each run decides.
    """

    setting: Mapping[str, str]
    base: Arm
    variant: Arm
    epochs: int

    @cached_property
    def seeds(self) -> list[int]:
        """Seeds whose two runs are complete."""
        return [
            seed
            for seed, run in self.base.runs.items()
            if self._is_whole(run) and self._is_whole(self.variant.runs.get(seed, ()))
        ]

    def _is_whole(self, run: Records) -> bool:
        return len(run) == self.epochs if self.epochs else len(run) > 0


@dataclass(frozen=True)
class Row:
    """A pair, measured.

    Attributes:
        pair: What was compared.
        base: Final scores without LGA.
        variant: Final scores with it.
        difference: With minus without, seed by seed.
        epochs_ratio: Mean of `statistics.epoch_ratio` over the seeds.
        own_epochs_ratio: The same for the base itself: below 1 where it had passed its final score earlier.
        verdict: In words, corrected for the rows of its table.
    """

    pair: Pair
    base: Summary
    variant: Summary
    difference: Paired
    epochs_ratio: float
    own_epochs_ratio: float
    verdict: Verdict


@dataclass(frozen=True)
class Table:
    """Rows of one measure that were judged together.

    Attributes:
        title: What is shown.
        measure: Of what.
        rows: One a pair.
        remark: What is particular about it; may be empty.
    """

    title: str
    measure: Measure
    rows: Sequence[Row]
    remark: str = ""

    @property
    def columns(self) -> list[str]:
        """Names of the columns that say what a row is."""
        return list(self.rows[0].pair.setting) if self.rows else []


def make_table(measure: Measure, pairs: Sequence[Pair], *, title: str = "", remark: str = "") -> Table:
    """Measure all pairs and judge them together.

    Args:
        measure: What to compare at the last epoch.
        pairs: One a row, all with the same columns.
        title: Heading; by default what is measured.
        remark: What is particular about it.
    """
    finals = [
        (
            [measure.final(pair.base.runs[s]) for s in pair.seeds],
            [measure.final(pair.variant.runs[s]) for s in pair.seeds],
        )
        for pair in pairs
    ]
    compared = [paired(without, with_) for without, with_ in finals]
    words = verdicts(compared, higher_is_better=measure.higher_is_better)
    rows = [
        Row(
            pair=pair,
            base=summary(without),
            variant=summary(with_),
            difference=difference,
            epochs_ratio=_mean_ratio(measure, pair, pair.variant),
            own_epochs_ratio=_mean_ratio(measure, pair, pair.base),
            verdict=word,
        )
        for pair, (without, with_), difference, word in zip(pairs, finals, compared, words, strict=True)
    ]
    heading = title or f"{measure.title} after the last epoch".capitalize()
    return Table(heading + (", %" if measure.percent else ""), measure, rows, remark)


def _mean_ratio(measure: Measure, pair: Pair, arm: Arm) -> float:
    return summary(
        [
            epoch_ratio(
                measure.curve(pair.base.runs[seed]),
                measure.curve(arm.runs[seed]),
                higher_is_better=measure.higher_is_better,
            )
            for seed in pair.seeds
        ]
    ).mean


# --- what LGA did ---------------------------------------------------------------------------------------------------


def notes(pair: Pair) -> list[str]:
    """Everything about a pair that its scores do not tell: lost runs, and whether LGA did anything at all."""
    said = []
    total = len(pair.base.runs)
    if failed := total - len(pair.seeds):
        said.append(f"{failed} of {total} seeds left out: a run failed or is not finished.")
    for arm in (pair.base, pair.variant):
        if arm.diverged:
            said.append(f"{arm.diverged} of {total} runs {arm.label} diverged: their loss is not finite.")
    return said + _activity(pair.variant)


def _activity(arm: Arm) -> list[str]:
    """Says where LGA was attached, but could do little or nothing."""
    runs = [run for run in arm.runs.values() if run and run[-1].lga is not None]
    gamma2 = (arm.lga or {}).get("gamma2")
    if not runs:
        return []
    if gamma2 == 0:
        return ["gamma2 is 0: LGA did nothing here."]
    last = [run[-1].lga or {} for run in runs]
    if all(status.get("open_share") == 0 for status in last):
        return ["The gate never opened: LGA did nothing here."]
    if not isinstance(gamma2, (int, float)):
        return []
    said = []
    left = median(status.get("gamma2", gamma2) for status in last)
    if left <= gamma2 * 1e-2:
        said.append(f"Rising losses divided gamma2 down from {number(gamma2)} to {_about(left)} (median at the end).")
    xi = (arm.lga or {}).get("xi")
    reach = max(largest_push(run, gamma2, xi) for run in runs) if isinstance(xi, (int, float)) else math.nan
    if reach < SMALL_REACH:
        said.append(
            f"LGA alone could move no weight by as much as {SMALL_REACH:g} in the whole run; its effect grows "
            "with gamma2 and with the number of steps."
        )
    return said


def largest_push(records: Records, gamma2: float, xi: float) -> float:
    """Bound on how far LGA alone can have moved a parameter: the sum of gamma2 * U / xi over steps with an open gate.

    Args:
        records: A run with LGA.
        gamma2: Its gamma2 at the start.
        xi: Its stability constant (Eq. 5).
    """
    reach, opened_before, strength = 0.0, 0.0, gamma2
    for record in records:
        status = record.lga or {}
        opened = status.get("open_share", 0.0) * status.get("steps", 0.0)
        reach += (opened - opened_before) * strength * status.get("upper_bound", math.nan) / xi
        opened_before, strength = opened, status.get("gamma2", strength)
    return reach


def _about(value: float) -> str:
    """The figure to one digit."""
    return number(float(f"{value:.0e}"))
