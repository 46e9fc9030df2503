"""Runs whose results follow from others: with a scheduler that never acts, or shorter."""

from dataclasses import replace

import pytest

from lossaware.studies.execution.reuse import copy_equal_runs
from lossaware.studies.specs.run_spec import RunSpec, lga_options, options
from lossaware.studies.store.database import Store
from lossaware.studies.training.run import run
from support.command_line import lossaware
from support.records import exact

PLAIN = RunSpec("digits", "adam", 0.003, 0, 6, 100, options(hidden=8), lga=options(gamma2=1e-6))
# After two epochs without a gain of the first's loss, or without one that is out of reach.
LAZY = options(patience=2)
EAGER = options(patience=2, threshold=0.99)


@pytest.fixture
def store(tmp_path):
    with Store(tmp_path / "results.sqlite") as store:
        yield store


def stored(store, spec, epochs=None):
    """Carry out a run, or its first epochs."""
    store.begin(spec)
    for record in run(spec, None):
        if epochs is None or record.epoch <= epochs:
            store.record(spec, record)


def test_a_scheduler_that_never_acts_does_not_change_the_run(store):
    stored(store, PLAIN)
    spec = replace(PLAIN, scheduler="ReduceLROnPlateau", scheduler_options=LAZY)
    assert copy_equal_runs([spec], store, store) == 1
    assert store.complete(spec)
    assert exact(store.records(spec)) == exact(run(spec, None))
    assert store.environment(spec) == store.environment(PLAIN)
    assert copy_equal_runs([spec], store, store) == 0


def test_one_that_acts_has_to_run(store):
    stored(store, PLAIN)
    spec = replace(PLAIN, scheduler="ReduceLROnPlateau", scheduler_options=EAGER)
    assert copy_equal_runs([spec], store, store) == 0
    assert exact(store.records(PLAIN)) != exact(run(spec, None))
    # Its action after the last epoch has no effect.
    last = replace(spec, scheduler_options=options(patience=4, threshold=0.99))
    assert copy_equal_runs([last], store, store) == 1
    assert exact(store.records(last)) == exact(run(last, None))


@pytest.mark.parametrize(
    "other",
    [
        {"scheduler": "StepLR", "scheduler_options": options(step_size=100)},
        {"scheduler": "ReduceLROnPlateau", "seed": 1},
        {"scheduler": "ReduceLROnPlateau", "lga": None},
        {"scheduler": None, "seed": 1},
    ],
)
def test_other_runs_tell_nothing(store, other):
    stored(store, PLAIN)
    assert copy_equal_runs([replace(PLAIN, **other)], store, store) == 0


def test_runs_of_user_code_are_not_reused(store):
    own = replace(PLAIN, optimizer="torch.optim:Adam")
    stored(store, own)
    assert copy_equal_runs([replace(own, epochs=3)], store, store) == 0
    stored(store, PLAIN)
    assert copy_equal_runs([replace(PLAIN, epochs=3)], store, store) == 1


def test_an_unfinished_run_is_not_reused(store):
    stored(store, PLAIN, epochs=5)
    assert copy_equal_runs([replace(PLAIN, scheduler="ReduceLROnPlateau")], store, store) == 0


LONG = RunSpec("digits", "sgd", 0.01, 0, 5, 100, options(hidden=8))


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"optimizer": "adam", "lga": options(gamma2=1e-6)},
        {"optimizer": "adam", "lga": lga_options({"gamma2": "auto"})},
        # A length in the scheduler's arguments is the same in both.
        {"scheduler": "CosineAnnealingLR", "scheduler_options": options(T_max=5)},
    ],
    ids=["SGD", "Adam with LGA", "Adam with gamma2 that sets itself", "scheduler"],
)
def test_a_run_is_the_beginning_of_a_longer_one(store, changes):
    long = replace(LONG, **changes)
    stored(store, long)
    spec = replace(long, epochs=3)
    assert copy_equal_runs([spec], store, store) == 1
    assert store.complete(spec)
    assert exact(store.records(spec)) == exact(run(spec, None))
    assert store.environment(spec) == store.environment(long)
    assert exact(store.records(long)) == exact(run(long, None))  # which has not changed


def test_a_scheduler_that_knows_the_length_makes_another_run(store):
    cosine = replace(LONG, scheduler="CosineAnnealingLR", scheduler_options=options(T_max=5))
    stored(store, cosine)
    spec = replace(cosine, epochs=3, scheduler_options=options(T_max=3))
    assert copy_equal_runs([spec, replace(LONG, epochs=3)], store, store) == 0
    assert exact(store.records(cosine))[:3] != exact(run(spec, None))


def test_a_longer_run_must_be_longer_and_complete(store):
    stored(store, LONG, epochs=4)
    stored(store, replace(LONG, seed=1, epochs=2))
    assert copy_equal_runs([replace(LONG, epochs=3), replace(LONG, seed=1, epochs=3)], store, store) == 0


def test_both_at_once(store):
    """A short run under a scheduler that acts later than it ends, from a long one without."""
    stored(store, PLAIN)
    acts = replace(PLAIN, scheduler="ReduceLROnPlateau", scheduler_options=EAGER)
    early = replace(acts, epochs=3)
    assert copy_equal_runs([acts, early, replace(acts, epochs=5)], store, store) == 1
    assert exact(store.records(early)) == exact(run(early, None))


def test_a_user_task_is_not_reused(store):
    """There is no evidence that its code is unchanged."""
    own = replace(LONG, task="lossaware.studies.tasks.digits:build")
    stored(store, own)
    assert copy_equal_runs([replace(own, epochs=3)], store, store) == 0


def test_a_study_computes_it_once(tmp_path, capsys):
    (tmp_path / "grid.toml").write_text("""
title = "With and without a scheduler"
rows = ["scheduler"]
columns = ["seed"]
[base]
task = "digits"
optimizer = "sgd"
lr = 0.1
epochs = 2
batch_size = 200
seeds = 1
lga = false
[measure]
set = "train"
name = "loss"
[axes.scheduler]
none = {}
ReduceLROnPlateau = { scheduler = "ReduceLROnPlateau" }
[axes.seed]
all = {}
""")
    begin = ["study", "run", str(tmp_path / "grid.toml"), "--out", str(tmp_path / "out"), "--jobs", "1"]
    outputs = []
    for only in ("none", "none,ReduceLROnPlateau"):
        assert lossaware(*begin, "--only", f"scheduler={only}") == 0
        outputs.append(capsys.readouterr().err)
    assert "1 run to do" in outputs[0]
    assert "1 of 2 runs are already parts of others: of longer ones, or" in outputs[1]
    assert "All 2 runs are already finished." in outputs[1]
