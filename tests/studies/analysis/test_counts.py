"""Counts of a study: agreement with published figures, and pairs without and with LGA."""

import pytest

from lossaware.studies.analysis.comparisons import comparisons, pairs
from lossaware.studies.analysis.counts import Counts, Ways, counts, total
from lossaware.studies.analysis.study_table import StudyTable, tabulate
from lossaware.studies.specs.run_spec import EpochRecord, RunSpec
from lossaware.studies.specs.study import Overrides, Study, load_study, parse_study, studies
from lossaware.studies.specs.study_file import Settings
from support.made_up import MadeUp

TEXT = """
title = "A small grid"
rows = ["algorithm"]
columns = ["strategy"]

[base]
task = "digits"
epochs = 1
batch_size = 200
lr = 1e-3
seeds = 3
lga = { gamma2 = 1e-5 }

[measure]
set = "test"
name = "NAME"

[axes.algorithm]
SGD = { optimizer = "sgd" }
Adam = { optimizer = "adam" }
Adamax = { optimizer = "adamax" }

[axes.strategy]
"w/o LGA" = { lga = false }
"w/ LGA" = {}
Ratio = { measure = { at = "ratio" } }

[published]
SGD = [50, 60, 1]
Adam = [70, 70, 1]
Adamax = [90, 80, nan]
"""


class Scores(MadeUp):
    """One epoch per run, with synthetic scores by optimizer, strategy and seed."""

    def __init__(self, scores: dict[tuple[str, bool], list[float]], name: str = "accuracy", epochs: int = 1) -> None:
        super().__init__()
        self.scores, self.name, self.epochs = scores, name, epochs

    def records(self, spec: RunSpec) -> list[EpochRecord]:
        seeds = self.scores.get((spec.optimizer, spec.lga is not None), [])
        if spec.seed >= len(seeds) or spec.epochs != self.epochs:
            return []
        values = {self.name: seeds[spec.seed]}
        return [EpochRecord(epoch, values, values, None, 1.0) for epoch in range(1, spec.epochs + 1)]


def grid(name: str = "accuracy", old: str = "", new: str = "") -> Study:
    return parse_study(TEXT.replace("NAME", name).replace(old, new), "grid")


def table(
    scores: dict[tuple[str, bool], list[float]], name: str = "accuracy", study: Study | None = None
) -> StudyTable:
    return tabulate(study or grid(name), Scores(scores, name))


def test_a_pair_has_the_same_metric_of_the_same_runs():
    partners = pairs(grid())
    assert partners == {
        ((name,), ("w/ LGA",)): ((name,), ("w/o LGA",)) for name in ("SGD", "Adam", "Adamax")
    }  # and not the ratio, which does not describe the base


def test_agreement_needs_an_interval():
    scores = {
        ("sgd", False): [0.49, 0.50, 0.51],  # published: 50
        ("sgd", True): [0.49, 0.50, 0.51],  # published: 60
        ("adam", False): [0.70],  # one seed
    }
    result = counts(table(scores))[""]
    # The ratio of SGD with LGA is 1 in all seeds, as published.
    assert (result.agree, result.differ, result.single) == (2, 1, 1)
    assert result.measured == 4
    assert result.figures == 8


def test_agreement_is_judged_by_the_difference_of_two_means():
    # t(0.975, 2) = 4.30, sd 1, n = 3: the interval of the mean is 2.48, that of the difference from a mean of five
    # is 3.14, and from a single experiment 4.97.
    scores = {("sgd", False): [0.52, 0.53, 0.54], ("sgd", True): [0.55, 0.56, 0.57]}  # published: 50 and 60
    result = counts(table(scores))[""]
    assert (result.agree, result.differ, result.contained) == (2, 1, 1)  # the ratio is 1, as published
    single = grid(old='columns = ["strategy"]', new='columns = ["strategy"]\npublished_seeds = 1')
    result = counts(table(scores, study=single))[""]
    assert (result.agree, result.differ, result.contained) == (3, 0, 1)
    assert [load_study(name).file.published_seeds for name in ("table04", "table02")] == [1, 5]


def test_cells_with_runs_that_did_not_train_are_counted_and_marked():
    scores = {("sgd", False): [0.10, 0.95, 0.15], ("sgd", True): [0.96, 0.95, 0.97]}
    measured = table(scores)
    assert measured.cells[("SGD",), ("w/o LGA",)].untrained == 2
    assert counts(measured)[""].failed == 1
    assert "2 of 3 runs did not train: accuracy at chance" in measured.legend[0]
    assert counts(table(scores, "loss"))[""].failed == 0, "without an accuracy nothing is judged"


def test_pairs_have_the_words_of_compare_and_one_seed_is_counted_apart():
    scores = {
        ("sgd", False): [0.50, 0.51, 0.52],
        ("sgd", True): [0.701, 0.71, 0.719],
        ("adam", False): [0.90, 0.91, 0.92],
        ("adam", True): [0.801, 0.81, 0.819],
        ("adamax", False): [0.9],
        ("adamax", True): [0.8],
    }
    result = counts(table(scores))[""]
    assert (result.helps, result.hurts, result.no_difference, result.unsure.total) == (1, 1, 0, 0)
    assert result.one_seed == Ways(worse=1)
    assert (result.judged, result.pairs) == (2, 3)
    reasons = {it.variant[0][0]: it.verdict.reason for it in comparisons(table(scores)) if it.count > 1}
    assert "Holm's correction for 2 comparisons" in reasons["SGD"], "one seed is no comparison"
    assert "Adamax" not in reasons


def test_two_seeds_are_too_few_and_only_seeds_that_both_have_count():
    scores = {("sgd", False): [0.50, 0.51, 0.52], ("sgd", True): [0.7, 0.71]}
    [it] = [it for it in comparisons(table(scores)) if it.count]
    assert it.result.n == 2
    assert counts(table(scores))[""].unsure == Ways(better=1)


@pytest.mark.parametrize(
    ("name", "without", "with_", "way"),
    [
        ("accuracy", 0.5, 0.6, "better"),
        ("loss", 0.5, 0.6, "worse"),
        ("loss", 0.5, 0.5, "equal"),
        ("loss", float("nan"), 0.6, "better"),
        ("accuracy", 0.5, float("nan"), "worse"),
    ],
)
def test_a_lower_loss_is_better_and_a_lost_run_the_worst(name, without, with_, way):
    [it] = [it for it in comparisons(table({("sgd", False): [without], ("sgd", True): [with_]}, name)) if it.count]
    assert it.verdict.word == "too few seeds to tell"
    assert it.way == way


def test_a_pair_with_two_failed_runs_is_not_counted():
    lost = table({("sgd", False): [float("nan")], ("sgd", True): [float("nan")]})
    assert {it.count for it in comparisons(lost)} == {0}
    assert counts(lost)[""].pairs == 0


def test_differences_that_cancel_are_equal_although_they_leave_a_rest():
    scores = {("sgd", False): [0.5, 0.52], ("sgd", True): [0.5 + 0.07, 0.52 - 0.07]}
    it = comparisons(table(scores))[0]
    assert it.result.difference.mean != 0
    assert it.way == "equal"


def test_published_pairs_by_their_figures():
    assert counts(table({}))[""].published == Ways(better=1, equal=1, worse=1)
    assert counts(table({}, "loss"))[""].published == Ways(better=1, equal=1, worse=1)
    lower = grid("loss", "SGD = [50, 60, 1]", "SGD = [60, 50, 1]")
    assert counts(table({}, study=lower))[""].published == Ways(better=2, equal=1)


def test_other_settings_are_counted_separately_and_not_compared():
    longer = Overrides(settings=Settings(epochs=2, seeds=2))
    scores = {("sgd", False): [0.49, 0.51], ("sgd", True): [0.6, 0.7]}
    result = counts(tabulate(grid(), Scores(scores, epochs=2), [longer]))
    assert result[""].measured == result[""].pairs == 0
    assert result["epochs = 2"] == Counts(unsure=Ways(better=1))
    fewer_seeds = Overrides(settings=Settings(seeds=2))
    assert list(counts(tabulate(grid(), Scores(scores), [fewer_seeds]))) == [""]


def test_runs_that_a_study_shows_twice_count_once():
    twice = grid(old='Adam = { optimizer = "adam" }', new='Adam = { optimizer = "sgd" }')
    assert len(pairs(twice)) == 3
    scores = {("sgd", False): [0.5, 0.6], ("sgd", True): [0.6, 0.7]}
    assert counts(table(scores, study=twice))[""].pairs == 1


def test_the_paper_in_counts():
    """By hand: tables 1, 6, 7 have 21 pairs, 2 and 8 have 28, 5 has 28, 9 to 12 have 7, 6, 14 and 14."""
    paper = [counts(tabulate(load_study(name), Scores({})))[""] for name in studies() if name.startswith("table")]
    whole = total(paper)
    assert whole.figures == 519
    assert whole.published.total == 3 * 21 + 3 * 28 + 7 + 6 + 14 + 14
    assert whole.measured == whole.pairs == 0
    # Table 1: LGA is worse for Momentum on CIFAR-10 and for Adamax on CIFAR-10, and better elsewhere.
    assert paper[0].published == Ways(better=19, worse=2)
