"""The options of the training loop in the file of a study."""

from lossaware.studies.specs.study import parse_study

TEXT = """
title = "Clipped"
rows = ["a"]
columns = ["b"]
measure = { set = "test", name = "accuracy" }
[base]
task = "digits"
optimizer = "sgd"
scheduler = "CosineAnnealingLR"
lr = 0.1
epochs = 3
batch_size = 10
seeds = 1
[axes.a]
step = { training = { interval = "step" } }
epoch = {}
[axes.b]
clip = { training = { clip = 1.0 } }
plain = {}
"""


def test_they_are_merged_key_by_key_and_a_schedule_per_step_has_no_length_yet():
    study = parse_study(TEXT, "clipped")
    spec = {(row[0], column[0]): cell.specs[0] for (row, column), cell in study.cells.items()}
    assert spec["step", "clip"].training == (("clip", 1.0), ("interval", "step"))
    assert spec["epoch", "plain"].training == ()
    assert spec["step", "plain"].scheduler_options == ()
    assert spec["epoch", "clip"].scheduler_options == (("T_max", 3),)
