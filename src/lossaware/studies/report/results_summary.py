"""Results in counts and sentences, and lists of files, for the pages of all results."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from lossaware.studies.analysis.collect import Measurements
from lossaware.studies.analysis.counts import Counts, Ways, counts, total
from lossaware.studies.analysis.lr_sensitivity import has_rates
from lossaware.studies.analysis.statistics import LEVEL
from lossaware.studies.analysis.study_table import StudyTable
from lossaware.studies.report.artifacts import Saved
from lossaware.studies.report.table import Table, plain_table
from lossaware.studies.specs.study import BUILT_IN, Study, load_study, studies


def all_tables(measured: Measurements) -> list[StudyTable]:
    """The tables of all built-in studies, those of the paper first."""
    return [measured.table(load_study(name)) for name in studies()]


def of_the_paper(study: Study) -> bool:
    """Whether it is a table of the paper, and not another study."""
    return studies().get(study.name, Path()).parent == BUILT_IN / "paper"


def is_measured(table: StudyTable) -> bool:
    """Whether any of its cells has results."""
    return any(measured.has_results for measured in table.cells.values())


def how_much(table: StudyTable) -> str:
    """The share of a study with results: ``42 of 126 cells, seeds: 1 to 3``."""
    cells = [measured for measured in table.cells.values() if measured.has_results]
    seeds = _range([len(measured.values) for measured in cells if measured.values])
    return f"{len(cells)} of {len(table.cells)} cells" + (f", seeds: {seeds}" if seeds else "")


def _range(numbers: Sequence[int]) -> str:
    return " to ".join(str(n) for n in dict.fromkeys((min(numbers), max(numbers)))) if numbers else ""


# --- counts ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class StudyCounts:
    """The counts of a study under some settings.

    Attributes:
        name: The study and its overrides.
        seeds: Number of seeds of its measured cells: ``3``, or ``1 to 3``.
        counts: The counts.
    """

    name: str
    seeds: str
    counts: Counts


TOTAL = "Tables 1 to 13, at their own settings"


def counted(tables: Iterable[StudyTable]) -> list[StudyCounts]:
    """One row per study and settings; the last is the sum over the paper's tables at their own settings."""
    rows = []
    own = []
    for table in tables:
        for changed, totals in counts(table).items():
            name = table.study.title.partition(":")[0]
            seeds = [len(it.values) for it in table.cells.values() if it.values and it.changed == changed]
            rows.append(StudyCounts(f"{name}, overridden: {changed}" if changed else name, _range(seeds), totals))
            if of_the_paper(table.study) and not changed:
                own.append(totals)
    return [*rows, StudyCounts(TOTAL, "", total(own))]


AGREEMENT_HEADS = (
    "study",
    "published",
    "measured",
    "seeds",
    "agree",
    "differ",
    "differ by chance",
    "no interval",
    "contained (old count)",
    "some runs failed",
)
AGREEMENT_READ = (
    "A published figure is a mean of five experiments; in Table 4 it is a single experiment. A cell agrees if the "
    "difference between measured and published figure is within the 95 % t-interval of a difference of two means, "
    "t * s * sqrt(1/n + 1/5). The paper does not print standard deviations, so this assumes that its runs vary as much "
    "as ours. With few seeds the interval is wide. If all published figures came from the same distribution as ours, "
    "5 % of the compared cells would still differ by chance. The old count, shown for one more version, is the number "
    "of cells in which the interval of our mean contains the published figure. Cells with one or two seeds do not have "
    "an interval. Neither do figures that are computed from others (mean and deviation in Table 5). These cells are "
    "counted separately and not compared. The last column counts cells in which some or all runs ended with the "
    "accuracy of guessing; a mean over such seeds says little. Cells that were measured with other settings than those "
    "of the study are not compared with its published figures. Published figures are used as printed, including "
    "misprints."
)


def agreement_table(rows: Iterable[StudyCounts]) -> Table:
    """The counts of studies with published figures; the last row is the sum."""
    counted_rows = [
        [
            row.name,
            str(it.figures),
            str(it.measured),
            row.seeds,
            *map(str, (it.agree, it.differ)),
            f"{by_chance(it):.1f}",
            *map(str, (it.single, it.contained, it.failed)),
        ]
        for row in rows
        if (it := row.counts).figures
    ]
    return plain_table("Measured and published figures", AGREEMENT_HEADS, counted_rows, total=True)


def by_chance(totals: Counts) -> float:
    """Compared cells that would differ if published and measured figures came from the same distribution."""
    return LEVEL * (totals.agree + totals.differ)


def agreement_text(totals: Counts) -> str:
    """The agreement of measured and published figures, in sentences."""
    sentences = [
        f"Of the {totals.figures} figures in the paper's tables, {totals.measured} are measured here at the paper's "
        "settings."
    ]
    if judged := totals.agree + totals.differ:
        sentences.append(
            f"{judged} of them have an interval: {totals.agree} agree with the published figure and {totals.differ} "
            f"differ; {by_chance(totals):.1f} would differ by chance. By the old count, {totals.contained} agree."
        )
    if totals.single:
        sentences.append(f"{totals.single} do not have an interval: one or two seeds, or computed from others.")
    return " ".join(sentences)


EFFECTS_HEADS = (
    "study",
    "pairs",
    "helps",
    "hurts",
    "no difference",
    "too few seeds (better / same / worse)",
    "one seed (better / same / worse)",
    "published (better / same / worse)",
)
EFFECTS_READ = (
    "A pair is two cells with the same metric and settings, without and with LGA, from the same seeds. The epochs of "
    "Tables 3, 4, 9 and 10 are not pairs. Table 13 does not have pairs, because it has only runs with LGA. The "
    "verdicts are those of lossaware compare: the paired t-test over seeds, with Holm's correction over the pairs of a "
    "study, checked by an exact sign-flip test. With three to five seeds, the sign-flip test can never be significant, "
    "and all seeds must have the same direction instead. Fewer than three seeds are always too few. For pairs with too "
    "few seeds, pairs with one seed, and the pairs printed in the paper, the table also counts which figure is better; "
    "this may be chance. A run that two tables show counts in both."
)


def effects_table(rows: Iterable[StudyCounts]) -> Table:
    """The counts of studies with pairs, measured or published; the last row is the sum."""
    counted_rows = [
        [
            row.name,
            *map(str, (it.pairs, it.helps, it.hurts, it.no_difference)),
            *map(_ways, (it.unsure, it.one_seed, it.published)),
        ]
        for row in rows
        if (it := row.counts).pairs or it.published.total
    ]
    return plain_table("Does LGA help?", EFFECTS_HEADS, counted_rows, total=True)


def _ways(ways: Ways) -> str:
    return f"{ways.total} ({ways.better} / {ways.equal} / {ways.worse})" if ways.total else "0"


def effects_text(totals: Counts) -> str:
    """The effects of LGA, measured and published, in sentences."""
    sentences = []
    if totals.judged:
        sentences.append(
            f"In the {totals.judged} pairs of cells of the paper's tables with two seeds or more, LGA helps in "
            f"{totals.helps}, hurts in {totals.hurts} and shows no difference in {totals.no_difference}. "
            f"{totals.unsure.total} have too few seeds to tell"
            + (f"; in these, {_counted(totals.unsure)}." if totals.unsure.total else ".")
        )
    if totals.one_seed.total:
        sentences.append(f"In the {totals.one_seed.total} pairs with one seed, {_counted(totals.one_seed)}.")
    sentences.append(f"In the {totals.published.total} pairs of the paper, {_counted(totals.published)}.")
    return " ".join(sentences)


def _counted(ways: Ways) -> str:
    return f"the figure with LGA is better in {ways.better}, equal in {ways.equal} and worse in {ways.worse}"


def outcome(totals: Counts) -> str:
    """The outcome for the top of a page."""
    sentences = [
        f"{totals.measured} of the {totals.figures} figures in the paper's tables are measured at the paper's settings."
    ]
    if judged := totals.agree + totals.differ:
        sentences.append(
            f"Of the {judged} with an interval, {totals.agree} agree with the published figure "
            f"({by_chance(totals):.1f} would differ by chance)."
        )
    if totals.judged:
        sentences.append(
            f"Of {totals.judged} pairs with two seeds or more, LGA helps in {totals.helps}, hurts in {totals.hurts} "
            f"and shows no difference in {totals.no_difference}; {totals.unsure.total} have too few seeds to tell."
        )
    return " ".join(sentences)


# --- files ----------------------------------------------------------------------------------------------------------

PICTURES: Mapping[str, tuple[str, str]] = {
    "figure01": (
        "Figure 1: starting points that reach the global optimum of a one-dimensional landscape",
        "lossaware plot figure01",
    ),
    "figure02": ("Figure 2: training loss of all optimizers, from the runs of Table 1", "lossaware plot figure02"),
    "lengths": (
        "The epoch at which our curves fit each published column best, without and with LGA",
        "lossaware lengths",
    ),
    "overview": (
        'Accuracy on MNIST by learning rate: without, with LGA, with "auto", and the strongest peer',
        "lossaware plot overview",
    ),
    "theory": ("The theorems compared with runs, and runs that violate them", "lossaware theory"),
}
"""Titles of plots, and the commands that make them; those of studies have the study's name."""


def picture_of(saved: Saved) -> tuple[str, str]:
    """Title and command of a plot."""
    return PICTURES.get(saved.name, (saved.name, saved.made_with.get("command", "")))


def drawn_over_rates(tables: Iterable[StudyTable]) -> set[str]:
    """The names of plots that ``lossaware plot`` makes from studies with results."""
    return {f"{table.study.name}-lr" for table in tables if is_measured(table) and has_rates(table.study)}


@dataclass(frozen=True)
class Files:
    """A group of files.

    Attributes:
        pattern: Their names; empty if a study is shown from the files of others.
        content: Their content.
        commands: Commands that show or make them.
    """

    pattern: str
    content: str
    commands: Sequence[str]


def files(folder: Path, tables: Sequence[StudyTable], pictures: Sequence[Saved]) -> list[Files]:
    """The files of studies with results, plots, and benchmarks."""
    result = []
    for table in filter(is_measured, tables):
        name = table.study.name
        commands = [f"lossaware study show {name}"]
        if has_rates(table.study):
            commands.append(f"lossaware plot {name}")
        pattern = f"{name}*" if (folder / f"{name}.study.json").exists() else ""
        result.append(Files(pattern, f"{table.study.title}; {how_much(table)}", commands))
    for saved in pictures:
        if saved.name not in drawn_over_rates(tables):
            content, command = picture_of(saved)
            result.append(Files(f"{saved.name}*", content, [command]))
    if (folder / "speed").is_dir():
        result.append(Files("speed/", "The cost of LGA", ["python -m benchmarks.speed"]))
    return result


def files_table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> Table:
    """A table of files, with columns of text."""
    return plain_table("Files", heads, rows, text_columns=range(len(heads) - 1))
