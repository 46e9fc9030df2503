"""Explanations of verdicts, and that the sentences of a table do not contradict each other."""

import math
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lossaware.studies.analysis.comparisons import comparisons
from lossaware.studies.analysis.study_table import tabulate
from lossaware.studies.report.comparison_table import comparison_table, lead
from lossaware.studies.report.table import Table
from lossaware.studies.report.writers import text
from support.synthetic import BASE, compared, four_pairs, pair

NEAR = [b + 0.003 * (-1) ** i for i, b in enumerate(BASE)]


def table_of(*rows, margin=None, **settings) -> Table:
    return comparison_table(*compared(*rows, **settings), margin=margin)


def explanation_of(*rows, **settings) -> str:
    [line] = table_of(*rows, **settings).explanations
    return line


def test_how_far_the_interval_reaches_and_how_many_more_seeds_would_tell():
    better = [b + d for b, d in zip(BASE, [0.01, 0.03, -0.02, 0.02, 0.04, -0.01], strict=True)]
    assert explanation_of(pair(BASE, better)) == (
        "sgd 1e-3: no difference shown: the interval reaches from −1.26 to +3.60; about 27 more seeds would tell."
    )
    table = table_of(pair(BASE, better))
    assert table.rows[0].cells[0].verdict.reason.startswith("The interval reaches from −1.26 to +3.60; about 27 more")
    assert table.records[0]["more_seeds"] == 27
    assert "gets a verdict with a probability of 80 %" in table.caption


def test_more_than_a_thousand_is_not_a_number():
    assert explanation_of(pair(BASE, NEAR)).endswith("; more than 1000 more seeds would tell.")
    assert table_of(pair(BASE, NEAR)).records[0]["more_seeds"] == "more than 1000"


def test_a_margin():
    assert explanation_of(pair(BASE, NEAR), margin=0.01).endswith(
        "; the whole interval lies within the margin of ±1.00."
    )
    assert "margin" not in explanation_of(pair(BASE, NEAR), margin=0.001)
    up = [b + 0.02 + 0.001 * i for i, b in enumerate(BASE)]
    assert explanation_of(pair(BASE, up), margin=0.05) == (
        "sgd 1e-3: helps: the whole interval lies within the margin of ±5.00."
    )
    assert table_of(pair(BASE, up)).explanations == []
    assert [row["is_within_margin"] for row in table_of(pair(BASE, up), margin=0.05).records] == [True]


def test_the_correction_is_named_where_the_interval_lacks_zero():
    better = [b + d for b, d in zip(BASE, [0.01, 0.03, 0.001, 0.02, 0.04, 0.002], strict=True)]
    nothing = pair(BASE, NEAR)
    lines = table_of(pair(BASE, better), nothing, nothing, lrs=(1e-4, 1e-3, 1e-2)).explanations
    assert re.search(r"from \+\S+ to \+\S+, but p = 0\.\d+ after Holm's correction for 3 comparisons;", lines[0])


def test_lost_runs_and_equal_runs_and_two_seeds():
    assert "only the order of the two scores counts" in explanation_of(pair(BASE, [*NEAR[:4], math.nan, math.nan]))
    assert explanation_of(pair(BASE, BASE)).endswith(
        "no difference shown: both runs have exactly the same score for each seed."
    )
    assert explanation_of(pair(BASE[:2], NEAR[:2])).endswith("too few seeds to tell: run 6 seeds or more.")


@pytest.mark.parametrize(
    ("seeds", "has", "lacks"),
    [
        (2, "Fewer than 3 seeds cannot show a difference", "sign"),
        (
            4,
            "all seeds must have the same direction, because no sign test with fewer than 6 can be significant",
            "checked by",
        ),
        (6, "checked by an exact sign-flip test", "fewer than 6"),
    ],
)
def test_the_tests_depend_on_the_number_of_seeds(seeds, has, lacks):
    caption = table_of(pair(BASE[:seeds], NEAR[:seeds])).caption
    assert has in caption
    assert lacks not in caption


# --- no contradiction -----------------------------------------------------------------------------------------------


def contradictions(table: Table) -> list[str]:
    """Pairs of statements in the text of a table that cannot both be true."""
    terminal = " ".join(text.write(table).split())
    reasons = " ".join(row["reason"] for row in table.records)
    everything = f"{terminal} {reasons}"
    wrong = []

    def never(one: str, other: str, where: str = everything) -> None:
        if re.search(one, where) and re.search(other, where):
            wrong.append(f"{one} / {other}")

    never(r"no sign test( with fewer than \d+)? can be significant", "checked by an exact sign-flip")
    never("cannot show a difference", r"\b(helps|hurts)\b")
    never("cannot show a difference", "more seeds would tell")
    never(
        "n = [12]: no interval", "± is the half width", terminal if " ± " not in terminal.split("Means over")[0] else ""
    )
    if "± is the half width" in terminal and " ± " not in terminal.split("Means over")[0]:
        wrong.append("± is explained, but not shown")
    if "in brackets the lowest" in terminal and "(" not in terminal.split("Means over")[0]:
        wrong.append("brackets are explained, but not shown")
    for row, line_of in zip(table.records, explanations_by_row(table), strict=True):
        word, low, high = row["verdict"], row["difference"]["low"], row["difference"]["high"]
        sentence = f"{line_of} {row['reason']}"
        if word in ("helps", "hurts"):
            never("helps|hurts", "no difference shown|would tell|too few", sentence)
        never("exactly the same", "interval reaches|would tell", sentence)
        never(r"sign test( with fewer than \d+)? can be significant", "; sign(-flip)? test p", sentence)
        if word == "too few seeds to tell" and len(row["seeds"]) >= 6 and row["difference"]["n"] >= 6:
            wrong.append("too few of six")
        if reach := re.search(r"reaches from (\S+) to (\S+?)[;,.]?(?= |$)", line_of):
            one, other = (float(end.replace("−", "-")) / 100 for end in reach.groups())
            if low is None or abs(one - low) > 1e-4 or abs(other - high) > 1e-4:
                wrong.append(f"{reach[0]} / {low} {high}")
            if (one > 0.0001 or other < -0.0001) and word == "no difference shown" and "but" not in line_of:
                wrong.append("no difference, although 0 lies outside, without a reason")
        if within := re.search(r"within the margin of ±(\S+)\.(?=$)", line_of):
            if max(abs(low), abs(high)) > float(within[1]) / 100 + 1e-4:
                wrong.append(f"{within[0]} / {low} {high}")
            if "would tell" in line_of:
                wrong.append("within the margin / more seeds")
    return wrong


def explanations_by_row(table: Table) -> list[str]:
    names = [" ".join(row.names) + ":" for row in table.rows]
    return [next((line for line in table.explanations if line.startswith(name)), "") for name in names]


accuracies = st.one_of(st.sampled_from([0.1, 0.5, 0.9, math.nan]), st.integers(0, 200).map(lambda k: k / 200))


@st.composite
def several_rows(draw):
    seeds = draw(st.integers(1, 8))
    kinds = draw(st.lists(st.sampled_from(["free", "near", "same", "shift"]), min_size=1, max_size=3))
    rows = []
    for kind in kinds:
        base = draw(st.lists(accuracies, min_size=seeds, max_size=seeds))
        moved = {
            "free": lambda: draw(st.lists(accuracies, min_size=seeds, max_size=seeds)),
            "near": lambda: [b + 0.002 * (i % 3 - 1) for i, b in enumerate(base)],  # noqa: B023
            "same": lambda: base,  # noqa: B023
            "shift": lambda: [b + 0.05 + 0.001 * i for i, b in enumerate(base)],  # noqa: B023
        }[kind]()
        rows.append(pair(base, moved, epochs=2))
    return rows


@settings(max_examples=60, deadline=None)
@given(several_rows(), st.sampled_from([None, 0.004, 0.1]))
def test_no_two_sentences_contradict_each_other(rows, margin):
    lrs = tuple(10.0**-i for i in range(len(rows)))
    study, results = compared(*rows, lrs=lrs, epochs=2)
    table = comparison_table(study, results, margin=margin)
    assert contradictions(table) == []
    outcome = lead(study, comparisons(tabulate(study, results)))
    words = [row["verdict"] for row in table.records]
    if len(words) > 1:
        for word in ("helps", "hurts"):
            assert re.search(rf"{word} in {words.count(word) or 'none'}\b", outcome)


def test_contradictions_are_found():
    """The search itself: sentences of one table put into another."""
    from dataclasses import replace

    few, many = table_of(pair(BASE[:4], NEAR[:4])), comparison_table(*four_pairs())
    assert contradictions(replace(few, caption=few.caption + " " + many.caption)) != []
    wrong = ["sgd 1e-3: no difference shown: the interval reaches from +1.00 to +2.00; about 3 more seeds would tell."]
    assert len(contradictions(replace(few, explanations=wrong))) == 2
