"""Notes on LGA's activity in the runs of a comparison."""

import math

import pytest

from lossaware.studies.analysis.activity import largest_push, notes
from lossaware.studies.analysis.comparisons import comparisons
from lossaware.studies.analysis.study_table import tabulate
from support.made_up import MadeUp
from support.synthetic import compared, record, run_of, status


def notes_of(*statuses, gamma2=1e-6) -> list[str]:
    """Notes on one seed whose run with LGA has these statuses, an epoch each."""
    base = [run_of([0.5] * len(statuses))]
    runs = [[record(i, 0.5, lga=status) for i, status in enumerate(statuses, 1)]]
    return notes_on(*compared((base, runs), epochs=len(statuses), gamma2s=(gamma2,)))


def notes_on(study, results: MadeUp) -> list[str]:
    [it] = comparisons(tabulate(study, results))
    return notes(it, results)


@pytest.mark.parametrize(("gamma2", "advice"), [(1e-6, "; try --arms without,auto"), ("auto", "")])
def test_note_where_the_gate_never_opened(gamma2, advice):
    assert notes_of(status(1, open_share=0.0), status(2, open_share=0.0), gamma2=gamma2) == [
        f"The gate never opened: LGA had no effect here{advice}."
    ]


def test_note_where_gamma2_is_zero():
    assert notes_of(status(1, gamma2=0.0), gamma2=0.0) == ["gamma2 is 0: LGA had no effect here."]


def test_note_where_gamma2_was_divided_to_nothing():
    notes = notes_of(status(1), status(2, gamma2=1e-15))
    assert notes == ["Rising losses divided gamma2 down from 1e-6 to 1e-15 (median at the end)."]
    assert notes_of(status(1), status(2, gamma2=1e-7)) == []


def test_note_where_lga_could_hardly_move_anything():
    [note] = notes_of(status(1, gamma2=1e-8), gamma2=1e-8)
    assert "could not change any weight by 0.005 or more" in note
    assert note.endswith(": try --arms without,auto.")
    assert notes_of(status(1)) == []


def test_largest_push_by_hand():
    """500 open steps at 1e-6, then 100 more after gamma2 fell to 1e-7 within the first epoch; U / xi = 230."""
    first, second = status(1, gamma2=1e-7), status(2, open_share=0.3, gamma2=1e-7)
    run = [record(1, 0.5, lga=first), record(2, 0.5, lga=second)]
    assert largest_push(run, 1e-6, 0.01) == pytest.approx(500 * 1e-6 * 230 + 100 * 1e-7 * 230)


def test_note_where_runs_diverged():
    def lost(seed):
        return [record(1, 0.9), record(2, 0.1, loss=math.nan if seed < 2 else 0.5, lga=status(2))]

    study, results = compared(([run_of([0.9, 0.9])] * 3, [lost(seed) for seed in range(3)]), epochs=2)
    assert notes_on(study, results) == ["2 of 3 runs with LGA diverged: their loss is not finite."]
