"""The sentence on the best learning rate of each arm, which is chosen on the validation set if there is one."""

from dataclasses import replace

from lossaware.studies.analysis.comparisons import comparisons
from lossaware.studies.analysis.study_table import tabulate
from lossaware.studies.report.comparison import ONE_RATE, _remarks
from support.synthetic import compared, pair, run_of


def validated(accuracy: float, validation: float):
    """A run with this accuracy on the test set and that on the validation set."""
    return [
        [replace(record, test={**record.test, "validation_accuracy": validation}) for record in run_of([accuracy] * 2)]
    ]


def remarks(*rows, **axes) -> list[str]:
    study, results = compared(*rows, lrs=(1e-3, 1e-2), epochs=2, **axes)
    return _remarks(study, comparisons(tabulate(study, results)), results)


def test_the_best_is_chosen_on_the_validation_set_and_shown_on_the_test_set():
    sentences = remarks((validated(0.8, 0.6), validated(0.9, 0.5)), (validated(0.7, 0.65), validated(0.85, 0.4)))
    assert sentences == [
        "At the learning rate that is the best on the validation set, sgd reaches 70.00 % without (lr 1e-2), "
        "90.00 % with LGA (lr 1e-3).",
        "The best learning rate of sgd is the largest one tried (without). "
        "Try larger ones too: the verdict may change.",
    ]


def test_without_a_validation_set_the_best_is_that_of_the_table():
    sentences = remarks(([run_of([0.8] * 2)], [run_of([0.9] * 2)]), ([run_of([0.7] * 2)], [run_of([0.95] * 2)]))
    assert sentences == [
        "At the learning rate that is the best tried, sgd reaches 80.00 % without (lr 1e-3), "
        "95.00 % with LGA (lr 1e-2).",
        "The best learning rate of sgd is the largest one tried (with LGA). "
        "Try larger ones too: the verdict may change.",
    ]


def test_the_best_learning_rate_inside_of_the_tried_ones_needs_no_remark():
    better, worse = ([run_of([0.8] * 2)], [run_of([0.9] * 2)]), ([run_of([0.7] * 2)], [run_of([0.7] * 2)])
    assert len(remarks(better, worse)) == 1


def test_help_at_the_only_learning_rate_is_no_reason_to_keep_it():
    for gain, expected in ((0.1, [ONE_RATE]), (-0.1, [])):
        study, results = compared(pair([0.5] * 6, [0.5 + gain + seed / 1000 for seed in range(6)]))
        assert _remarks(study, comparisons(tabulate(study, results)), results) == expected


def test_an_arm_with_its_own_learning_rate_shows_it():
    row = ([run_of([0.8] * 2)], [run_of([0.9] * 2)])
    assert "90.00 % prodigy(lr=1) (lr 1)." in remarks(row, row, arms="without,prodigy(lr=1)")[0]


def test_rows_that_are_exactly_the_same_are_said_to_be():
    row = ([run_of([0.8] * 2)], [run_of([0.9] * 2)])
    assert remarks(row, row, scheduler="OneCycleLR") == [
        "All learning rates give exactly the same scores: probably the code or its scheduler, such as OneCycleLR with "
        "its own max_lr, sets another rate than that of the row."
    ]
    # Without a scheduler nothing else sets the rate of a task: the scores may be those of chance.
    assert remarks(row, row)[0].startswith("At the learning rate that is the best tried")
