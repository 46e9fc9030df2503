"""Tables: what is computed from records, what is said about them, and how it is written."""

import dataclasses
import json
import math
from itertools import pairwise

import pytest
from rich.console import Console

from lossaware.studies.analysis.paired import Arm, Measure, Pair, largest_push, make_table, notes
from lossaware.studies.analysis.statistics import paired, summary
from lossaware.studies.report.paired_table import gathered_notes, how_to_read, lead, render, to_json
from lossaware.studies.specs.formatting import number
from support.synthetic import ACCURACY, BASE, LOSS, arm, four_pairs, pair, record, status


def text_of(table) -> str:
    console = Console(width=140, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(render(table))
    return console.export_text()


def with_lga(*statuses, gamma2=1e-6) -> Pair:
    """One seed whose run with LGA has these statuses, an epoch each."""
    base = Arm("without", {0: [record(i, 0.5) for i, _ in enumerate(statuses, 1)]})
    runs = {0: [record(i, 0.5, lga=status) for i, status in enumerate(statuses, 1)]}
    variant = Arm("with LGA", runs, lga={"gamma2": gamma2, "xi": 0.01})
    return Pair({"optimizer": "sgd"}, base, variant, epochs=len(statuses))


# --- numbers --------------------------------------------------------------------------------------------------------


def test_rows_hold_the_statistics_of_the_last_epoch():
    with_ = [b + 0.02 + 0.001 * i for i, b in enumerate(BASE)]
    [row] = make_table(ACCURACY, [pair(BASE, with_)]).rows
    assert dataclasses.astuple(row.base) == pytest.approx(dataclasses.astuple(summary(BASE)))
    assert dataclasses.astuple(row.variant) == pytest.approx(dataclasses.astuple(summary(with_)))
    assert row.difference.t_p == pytest.approx(paired(BASE, with_).t_p)
    assert row.verdict.word == "helps"


def test_epochs_ratio_is_the_mean_over_seeds():
    """Two seeds: LGA reaches the base's last score (0.5) after 1 and after 3 of 4 epochs; the base after 4 and 2."""
    base = {0: [0.1, 0.2, 0.3, 0.5], 1: [0.1, 0.6, 0.4, 0.5]}
    lga = {0: [0.5, 0.1, 0.1, 0.1], 1: [0.1, 0.1, 0.9, 0.9]}
    arms = [
        Arm(n, {s: [record(e, v) for e, v in enumerate(r, 1)] for s, r in a.items()})
        for n, a in zip("ab", [base, lga], strict=True)
    ]
    [row] = make_table(ACCURACY, [Pair({"optimizer": "x"}, *arms, epochs=4)]).rows
    assert row.epochs_ratio == pytest.approx((1 / 4 + 3 / 4) / 2)
    assert row.own_epochs_ratio == pytest.approx((4 / 4 + 2 / 4) / 2)


def test_training_score_is_read_from_training():
    run = [dataclasses.replace(record(1, 0.5), train={"loss": 1.0, "accuracy": 0.25})]
    assert Measure("accuracy", "train", True, True).final(run) == 0.25
    assert Measure("accuracy", "test", True, True).final(run) == 0.5


def test_lower_is_better():
    table = make_table(LOSS, [pair(BASE, [b + 0.02 for b in BASE])])
    assert table.rows[0].difference.difference.mean < 0
    assert table.rows[0].verdict.word == "helps"


def test_seeds_are_paired_whatever_their_order():
    base, variant = arm(BASE), arm([b + 0.01 for b in BASE], lga=True)
    shuffled = dataclasses.replace(variant, runs=dict(reversed(variant.runs.items())))
    one = make_table(ACCURACY, [Pair({"o": "x"}, base, variant, 10)]).rows[0]
    other = make_table(ACCURACY, [Pair({"o": "x"}, base, shuffled, 10)]).rows[0]
    assert repr(one.difference) == repr(other.difference)  # in which NaN equals NaN, on every Python


def test_incomplete_seeds_are_left_out_and_named():
    full = pair(BASE, BASE)
    runs = {**full.variant.runs, 2: full.variant.runs[2][:4], 4: []}
    cut = dataclasses.replace(full, variant=dataclasses.replace(full.variant, runs=runs))
    [row] = make_table(ACCURACY, [cut]).rows
    assert cut.seeds == [0, 1, 3, 5]
    assert row.base.n == row.variant.n == 4
    assert notes(cut)[0].startswith("2 of 6 seeds left out")


def test_nothing_finished_still_makes_a_table():
    empty = Pair({"optimizer": "sgd"}, Arm("without", {0: []}), Arm("with LGA", {0: []}, {"gamma2": 1e-8}), 5)
    table = make_table(ACCURACY, [empty])
    assert table.rows[0].verdict.word == "too few seeds to tell"
    assert "—" in text_of(table)
    json.dumps(to_json(table), allow_nan=False)


# --- what LGA did ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("gamma2", [1e-6, "auto"])
def test_note_where_the_gate_never_opened(gamma2):
    assert notes(with_lga(status(1, open_share=0.0), status(2, open_share=0.0), gamma2=gamma2)) == [
        "The gate never opened: LGA did nothing here."
    ]


def test_note_where_gamma2_is_zero():
    assert notes(with_lga(status(1, gamma2=0.0), gamma2=0)) == ["gamma2 is 0: LGA did nothing here."]


def test_note_where_gamma2_was_divided_to_nothing():
    found = notes(with_lga(status(1), status(2, gamma2=1e-15)))
    assert found == ["Rising losses divided gamma2 down from 1e-6 to 1e-15 (median at the end)."]
    assert notes(with_lga(status(1), status(2, gamma2=1e-7))) == []


def test_note_where_lga_could_hardly_move_anything():
    [note] = notes(with_lga(status(1, gamma2=1e-8), gamma2=1e-8))
    assert "could move no weight by as much as 0.005" in note
    assert notes(with_lga(status(1))) == []


def test_largest_push_by_hand():
    """500 open steps at 1e-6, then 100 more after gamma2 fell to 1e-7 within the first epoch; U / xi = 230."""
    first, second = status(1, gamma2=1e-7), status(2, open_share=0.3, gamma2=1e-7)
    run = [record(1, 0.5, lga=first), record(2, 0.5, lga=second)]
    assert largest_push(run, 1e-6, 0.01) == pytest.approx(500 * 1e-6 * 230 + 100 * 1e-7 * 230)


def test_note_where_runs_diverged():
    def lost(seed):
        return [record(1, 0.9), record(2, 0.1, loss=math.nan if seed < 2 else 0.5, lga=status(2))]

    base = Arm("without", {s: [record(1, 0.9), record(2, 0.9)] for s in range(3)})
    variant = Arm("with LGA", {s: lost(s) for s in range(3)}, {"gamma2": 1e-6, "xi": 0.01})
    found = notes(Pair({"o": "x"}, base, variant, 2))
    assert found == ["2 of 3 runs with LGA diverged: their loss is not finite."]


def test_notes_are_gathered():
    idle = with_lga(status(1, open_share=0.0))
    other = dataclasses.replace(idle, setting={"optimizer": "adam"})
    busy = dataclasses.replace(with_lga(status(1)), setting={"optimizer": "asgd"})
    said = "The gate never opened: LGA did nothing here."
    assert gathered_notes(make_table(ACCURACY, [idle, other])) == [f"All rows: {said}"]
    assert gathered_notes(make_table(ACCURACY, [idle, other, busy])) == [f"sgd, adam: {said}"]
    assert gathered_notes(make_table(ACCURACY, [busy])) == []


# --- words ----------------------------------------------------------------------------------------------------------


def test_table_on_a_terminal():
    lines = text_of(make_table(ACCURACY, four_pairs())).splitlines()
    assert "Test accuracy after the last epoch, %" in lines[1]
    [helps] = [line for line in lines if line.rstrip().endswith("helps")]
    assert helps.split()[:2] == ["sgd", "1e-4"]
    assert "90.17 ± 0.27" in helps
    assert "+2.25 ± 0.20" in helps
    assert sum("no difference shown" in line for line in lines) == 2


def test_one_seed_shows_no_interval():
    table = make_table(ACCURACY, [pair([0.9], [0.95])])
    assert "±" not in text_of(table)
    assert "one seed has no interval" in how_to_read(table)


@pytest.mark.parametrize(("seeds", "few"), [(2, True), (5, True), (6, False)])
def test_few_seeds_are_called_few(seeds, few):
    table = make_table(ACCURACY, [pair(BASE[:seeds], BASE[:seeds])])
    assert (f"{seeds} is few: with fewer than 6 seeds no sign test can be significant" in how_to_read(table)) is few


def test_differences_that_round_to_zero_have_no_sign():
    assert ACCURACY.show_summary(summary([-1e-9, -2e-9]), signed=True) == "0.00 ± 0.00"
    assert ACCURACY.show_summary(summary([0.01]), signed=True) == "+1.00"
    assert ACCURACY.show_summary(summary([-0.01]), signed=True) == "-1.00"
    assert ACCURACY.show_summary(summary([]), signed=True) == "—"


def test_outside_percent_the_width_decides_the_decimals():
    assert LOSS.show_summary(summary([0.29, 0.306])) == "0.30 ± 0.10"
    assert LOSS.show_summary(summary([-0.0052, -0.0054]), signed=True) == "-0.0053 ± 0.0013"
    assert LOSS.show_summary(summary([4321.0, 4000.0])) == "4160 ± 2039"
    assert LOSS.show_summary(summary([0.25, 0.25])) == "0.25 ± 0"
    assert LOSS.show_summary(summary([1e20, 2e20])) == "1.5e+20 ± 6.4e+20"


def test_the_gamma2_of_all_rows_is_said_where_no_column_has_it():
    same, other = with_lga(status(1), gamma2=1e-6), with_lga(status(1), gamma2=1e-7)
    assert "LGA has gamma2 1e-6." in how_to_read(make_table(ACCURACY, [same, same]))
    assert "gamma2" not in how_to_read(make_table(ACCURACY, [same, other]))
    with_column = dataclasses.replace(same, setting={**same.setting, "gamma2": "1e-6"})
    assert "LGA has" not in how_to_read(make_table(ACCURACY, [with_column]))


def test_lead_counts_the_verdicts():
    said = lead(make_table(ACCURACY, four_pairs()))
    assert said == (
        "On the test accuracy, LGA helps in 1 of 4 comparisons (sgd 1e-4), hurts in 1 (sgd 1e-3), 2 show no difference."
    )
    assert lead(make_table(ACCURACY, four_pairs()[:1])) == "On the test accuracy: LGA helps."
    assert lead(make_table(ACCURACY, four_pairs()[3:])) == "On the test accuracy: no difference shown."


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


# --- machines -------------------------------------------------------------------------------------------------------


def test_json_is_complete_and_strict():
    table = make_table(ACCURACY, four_pairs())
    read = json.loads(json.dumps(to_json(table), allow_nan=False))
    first = read["rows"][0]
    assert first["setting"] == {"optimizer": "sgd", "lr": "1e-4"}
    assert first["seeds"] == list(range(6))
    assert first["without"]["mean"] == pytest.approx(sum(BASE) / 6)
    assert first["verdict"] == "helps"
    assert [score["without"] for score in first["scores"]] == pytest.approx(BASE)
    assert read["rows"][3]["t_p"] is None  # all differences are 0, so t has no meaning
