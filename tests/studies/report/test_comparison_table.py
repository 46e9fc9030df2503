"""The table of a comparison: the figures, the words about them, and the ways in which it is written."""

import dataclasses
import json
import math
import re
from itertools import pairwise
from typing import Any

import pytest

from lossaware.studies.analysis.comparisons import comparisons
from lossaware.studies.analysis.failed import with_failures
from lossaware.studies.analysis.statistics import summary
from lossaware.studies.analysis.study_table import tabulate
from lossaware.studies.report.comparison_table import badges, comparison_table, lead, show_summary
from lossaware.studies.report.writers import formats, text, write
from lossaware.studies.report.writers.json import to_plain
from lossaware.studies.specs.formatting import number
from support.synthetic import ACCURACY, BASE, LOSS, Runs, compared, four_pairs, pair, record, run_of, status


def table_of(*rows, **settings):
    return comparison_table(*compared(*rows, **settings))


def text_of(table) -> str:
    return text.write(table)


# --- figures --------------------------------------------------------------------------------------------------------


def test_epochs_ratio_is_the_mean_over_seeds():
    """Two seeds: LGA reaches the base's last score (0.5) after 1 and after 3 of 4 epochs; the base after 4 and 2."""
    base = [run_of([0.1, 0.2, 0.3, 0.5]), run_of([0.1, 0.6, 0.4, 0.5])]
    lga = [run_of([0.5, 0.1, 0.1, 0.1]), run_of([0.1, 0.1, 0.9, 0.9])]
    [row] = table_of((base, lga), epochs=4).records
    assert row["epochs_ratio"] == pytest.approx((1 / 4 + 3 / 4) / 2)
    assert row["base_epochs_ratio"] == pytest.approx((4 / 4 + 2 / 4) / 2)


def test_a_score_that_is_known_only_at_the_end_has_no_column_of_epochs():
    """As of a function that returns its score and reports nothing: 100 % of the epochs would say that LGA is slow."""
    ends = [run_of([math.nan, math.nan, 0.3])] * 6, [run_of([math.nan, math.nan, 0.9])] * 6
    curves = [run_of([0.1, 0.2, 0.3])] * 6, [run_of([0.1, 0.3, 0.9])] * 6
    table = table_of(ends, epochs=3)
    assert [head for (head,) in table.heads] == ["verdict", "without", "with LGA", "difference"]
    assert table.records[0]["epochs_ratio"] is None
    assert "of the epochs" not in text_of(table)
    both = text_of(table_of(ends, curves, lrs=(1e-3, 1e-2), epochs=3))
    assert re.search(r"1e-3 .* —$", both, re.M)
    assert re.search(r"1e-2 .* 67 % of the epochs$", both, re.M)


def test_training_score_is_read_from_training():
    run = [[dataclasses.replace(record(1, 0.5), train={"loss": 1.0, "accuracy": 0.25})]]
    for set_, score in (("train", 0.25), ("test", 0.5)):
        [row] = table_of((run, run), epochs=1, set_=set_).records
        assert row["without"]["mean"] == score


def test_lower_is_better():
    [row] = table_of(pair(BASE, [b + 0.02 for b in BASE]), score="loss").records
    assert row["difference"]["mean"] < 0
    assert row["verdict"] == "helps"


def test_incomplete_seeds_are_left_out_and_named():
    without, with_lga = pair(BASE, BASE)
    cut = [run[:4] if seed == 2 else [] if seed == 4 else run for seed, run in enumerate(with_lga)]
    [row] = table_of((without, cut)).records
    assert row["seeds"] == [0, 1, 3, 5]
    assert row["without"]["n"] == row["with"]["n"] == 4
    assert row["notes"][0].startswith("2 of 6 seeds left out")


def test_nothing_finished_still_makes_a_table():
    table = table_of(([[]], [[]]))
    assert table.records[0]["verdict"] == "too few seeds to tell"
    assert "—" in text_of(table)
    json.dumps(to_plain(table), allow_nan=False)


def test_a_row_of_failed_runs_shows_the_reason():
    study, results = compared(pair(BASE, BASE), pair(BASE, BASE), lrs=(1e-3, 1e-2))
    lost = [spec for spec in study.specs if spec.lr == 1e-2 and spec.lga is not None]
    for spec in lost:
        results.runs.pop(spec)
    failures = dict.fromkeys(lost, "ValueError: no (train.py, line 3)") | {lost[0]: "KeyError: 'x'"}
    table = comparison_table(study, results, failures=failures)
    reason = "6 of 12 runs failed: ValueError: no (train.py, line 3) (1 other reason)"
    assert [row["verdict"] for row in table.records] == ["no difference shown", "failed"]
    assert table.records[1]["reason"] == reason
    for name in ("text", "markdown", "html", "latex"):
        output = " ".join(write(table, name).replace("&#39;", "'").split())
        assert reason in output or name == "latex"
        assert "failed" in output
    judged = with_failures(comparisons(tabulate(study, results)), failures)
    assert lead(study, judged).endswith("1 shows no difference, 1 failed.")
    assert badges(judged) == [("no difference shown", "1 of 2: no difference shown"), ("failed", "1 of 2: failed")]
    assert lead(study, judged[1:]) == "On the test accuracy: the runs failed."
    some = {spec: message for spec, message in failures.items() if spec.seed < 2}
    for spec in study.specs:
        if spec in lost and spec not in some:
            results.runs[spec] = run_of([0.5] * 10, True)
    assert comparison_table(study, results, failures=some).records[1]["verdict"] != "failed", "four seeds are there"


# --- notes ----------------------------------------------------------------------------------------------------------


def with_lga(**changes: Any) -> tuple[Runs, Runs]:
    return [run_of([0.5])], [[record(1, 0.5, lga=status(1, **changes))]]


def test_notes_are_gathered():
    idle, busy = with_lga(open_share=0.0), with_lga()
    note = "The gate never opened: LGA had no effect here; try --arms without,auto."
    three = {"optimizers": ("sgd", "adam", "asgd"), "epochs": 1}
    assert table_of(idle, idle, idle, **three).legend == [f"All rows: {note}"]
    assert table_of(idle, idle, busy, **three).legend == [f"sgd 1e-3, adam 1e-3: {note}"]
    assert table_of(busy, epochs=1).legend == []


# --- words ----------------------------------------------------------------------------------------------------------


def test_table_on_a_terminal():
    lines = text_of(comparison_table(*four_pairs())).splitlines()
    assert "Test accuracy after the last epoch, %" in lines[1]
    [helps] = [line for line in lines if "helps " in line]
    assert helps.split()[:3] == ["sgd", "1e-4", "helps"]
    assert "90.17 ± 0.27" in helps
    assert "+2.25 ± 0.20" in helps
    assert sum("no difference shown" in line and ":" not in line for line in lines) == 2


def test_one_seed_shows_no_interval():
    table = table_of(pair([0.9], [0.95]))
    assert "±" not in text_of(dataclasses.replace(table, caption=""))
    assert "Means over 1 seed; n = 1: no interval." in table.caption


def test_differences_that_round_to_zero_have_no_sign():
    assert show_summary(ACCURACY, summary([-1e-9, -2e-9, 0.0]), is_difference=True) == "0.00 ± 0.00"
    assert show_summary(ACCURACY, summary([0.01]), is_difference=True) == "+1.00"
    assert show_summary(ACCURACY, summary([-0.01]), is_difference=True) == "−1.00"
    assert show_summary(ACCURACY, summary([]), is_difference=True) == "—"


def test_outside_percent_the_width_decides_the_decimals():
    assert show_summary(LOSS, summary([0.29, 0.298, 0.306])) == "0.298 ± 0.020"
    assert show_summary(LOSS, summary([-0.0052, -0.0053, -0.0054]), is_difference=True) == "−0.00530 ± 0.00025"
    assert show_summary(LOSS, summary([4321.0, 4000.0, 4100.0])) == "4140 ± 408"
    assert show_summary(LOSS, summary([0.25] * 3)) == "0.25 ± 0"
    assert show_summary(LOSS, summary([1e20, 2e20, 1.5e20])) == "1.5e+20 ± 1.2e+20"


def test_an_interval_wider_than_all_scores_gives_way_to_the_lowest_and_highest_seed():
    assert show_summary(ACCURACY, summary([0.1, 0.1, 0.9])) == "36.67 (10.00 to 90.00)"
    assert show_summary(ACCURACY, summary([-0.059, 0.644, 0.7]), is_difference=True) == "+42.83 (−5.90 to +70.00)"
    assert show_summary(ACCURACY, summary([0.4, 0.5, 0.6])) == "50.00 ± 24.84"
    table = table_of(pair([0.1, 0.1, 0.9], BASE[:3]))
    assert "in brackets the lowest and the highest seed" in table.caption
    assert "in brackets the lowest" not in table_of(pair(BASE, BASE)).caption


def test_two_seeds_have_no_interval():
    table = table_of(pair([0.1, 0.9], [0.2, 0.9]))
    assert "±" not in text_of(table)
    assert "Means over 2 seeds; n = 2: no interval." in table.caption


def test_the_common_gamma2_is_shown_without_a_column():
    without, with_lga = pair(BASE, BASE)
    assert "LGA has gamma2 1e-6." in table_of((without, with_lga)).caption
    several = table_of((without, with_lga, with_lga), gamma2s=(1e-6, 1e-7))
    assert "LGA has" not in several.caption
    assert several.axes == ("optimizer", "lr", "arm")
    assert [row.names for row in several.rows] == [("sgd", "1e-3", "1e-6"), ("sgd", "1e-3", "1e-7")]


def lead_of(study, results) -> str:
    return lead(study, comparisons(tabulate(study, results)))


def test_lead_counts_the_verdicts():
    assert lead_of(*four_pairs()) == (
        "On the test accuracy, LGA helps in 1 of 4 comparisons (sgd 1e-4), hurts in 1 (sgd 1e-3), 2 show no difference."
    )
    better = [b + 0.02 + 0.001 * i for i, b in enumerate(BASE)]
    assert lead_of(*compared(pair(BASE, better))) == "On the test accuracy: LGA helps."
    assert lead_of(*compared(pair(BASE, BASE))) == "On the test accuracy: no difference shown."


@pytest.mark.parametrize(
    ("value", "want"),
    [
        (1e-4, "1e-4"),
        (1e-1, "1e-1"),
        (0.05, "0.05"),
        (0.00123, "1.23e-3"),
        (3.0, "3"),
        (1e-10, "1e-10"),
        (0, "0"),
        (250, "250"),
        (2.5e7, "2.5e7"),
    ],
)
def test_numbers_as_people_write_them(value, want):
    assert number(value) == want
    assert float(want) == value


def test_nearby_learning_rates_stay_apart():
    assert len({number(lr) for lr in (1e-3, 1.1e-3, 1.01e-3, 1.001e-3)}) == 4
    assert all(a != b for a, b in pairwise([number(x) for x in (0.1, 0.11, 0.111)]))
    near = (0.1234567, 0.12345671)
    assert [row.names[1] for row in table_of(pair(BASE, BASE), pair(BASE, BASE), lrs=near).rows] == list(map(str, near))


# --- machines -------------------------------------------------------------------------------------------------------


def test_json_is_complete_and_strict():
    table = comparison_table(*four_pairs())
    read = json.loads(write(table, "json"))
    first = read["rows"][0]
    assert first["setting"] == {"optimizer": "sgd", "lr": "1e-4"}
    assert first["seeds"] == list(range(6))
    assert first["without"]["mean"] == pytest.approx(sum(BASE) / 6)
    assert first["verdict"] == "helps"
    assert [score["without"] for score in first["scores"]] == pytest.approx(BASE)
    assert read["rows"][3]["t_p"] is None  # all differences are 0, so t is undefined


@pytest.mark.parametrize("name", formats())
def test_every_format_has_every_row_and_verdict(name):
    table = comparison_table(*four_pairs())
    output = write(table, name)
    for row, record_ in zip(table.rows, table.records, strict=True):
        assert all(part in output for part in row.names)
        assert record_["verdict"] in output or record_["verdict"].partition(" shown")[0] in output


def test_a_loss_that_is_not_finite_is_null():
    lost = [[record(1, 0.9, loss=math.nan)]]
    [row] = table_of((lost, lost), epochs=1, score="loss").records
    assert row["without"]["mean"] is None
    assert row["scores"] == [{"seed": 0, "without": None, "with": None}]
