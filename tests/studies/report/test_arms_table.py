"""The table of a comparison whose arms are not just without LGA and with it."""

import pytest

from lossaware.studies.analysis.comparisons import comparisons
from lossaware.studies.analysis.study_table import tabulate
from lossaware.studies.report.comparison_table import comparison_table, labels_of, lead
from support.synthetic import BASE, compared, ending_at, run_of

BETTER, WORSE = ([base + sign * (0.02 + 0.001 * i) for i, base in enumerate(BASE)] for sign in (1, -1))


def test_every_arm_is_compared_with_the_first():
    study, results = compared(
        (ending_at(BASE), ending_at(BETTER), ending_at(WORSE, lga=True)), arms="adamw,prodigy(lr=1),auto"
    )
    table = comparison_table(study, results)
    assert table.axes == ("optimizer", "lr", "arm")
    assert [head for (head,) in table.heads] == ["verdict", "adamw", "this arm", "difference", "same score after"]
    assert [row.names for row in table.rows] == [("sgd", "1e-3", "prodigy(lr=1)"), ("sgd", "1e-3", "auto")]
    assert [record["verdict"] for record in table.records] == ["helps", "hurts"]
    assert "Difference: this arm minus adamw" in table.caption
    judged = comparisons(tabulate(study, results))
    assert [labels_of(study, it) for it in judged] == [("adamw", "prodigy(lr=1)"), ("adamw", "auto")]
    assert lead(study, judged) == (
        "On the test accuracy, against adamw, another arm helps in 1 of 2 comparisons (sgd 1e-3 prodigy(lr=1)), "
        "hurts in 1 (sgd 1e-3 auto)."
    )


def test_two_named_arms_are_the_columns():
    study, results = compared(
        (ending_at(BASE), ending_at(BETTER)), optimizers=[""], lrs=[0.0], arms="sgd(lr=1),adam(lr=1)"
    )
    table = comparison_table(study, results)
    assert table.axes == ("task",)
    assert [head for (head,) in table.heads][1:3] == ["sgd(lr=1)", "adam(lr=1)"]
    sentence = lead(study, comparisons(tabulate(study, results)))
    assert sentence == "On the test accuracy, against sgd(lr=1): adam(lr=1) helps."


def test_lga_on_the_base_of_the_first_arm_is_about_lga_only_where_that_base_is_the_rows():
    study, results = compared((ending_at(BASE), ending_at(BETTER, lga=True)), arms="without,auto")
    assert lead(study, comparisons(tabulate(study, results))) == "On the test accuracy: LGA helps."
    study, results = compared((ending_at(BASE), ending_at(BETTER, lga=True)), arms="adamw,auto")
    assert lead(study, comparisons(tabulate(study, results))) == "On the test accuracy, against adamw: auto helps."


def test_the_share_of_epochs_is_that_of_the_first_arm():
    """The arm has the first arm's last score (0.5) after 2 of 4 epochs, and its own after 4; the first arm after 3."""
    study, results = compared(
        ([run_of([0.1, 0.4, 0.6, 0.5])], [run_of([0.1, 0.5, 0.1, 0.9])]), arms="sgd,adam", epochs=4
    )
    [row] = comparison_table(study, results).records
    assert (row["epochs_ratio"], row["base_epochs_ratio"]) == (pytest.approx(2 / 4), pytest.approx(3 / 4))
