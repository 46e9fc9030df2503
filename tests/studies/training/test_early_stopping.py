"""Early stopping on the validation set: when a run ends, which epoch counts, and what is stored and shown."""

import dataclasses
import json
import math
import statistics

import pytest
import torch
from torch import nn

from lossaware.errors import UsageError
from lossaware.studies.analysis import lr_sensitivity
from lossaware.studies.specs.early_stopping import best_epoch, counted, is_at_end
from lossaware.studies.specs.run_spec import VALIDATION, EpochRecord, RunSpec, options
from lossaware.studies.specs.study import Metric, load_study
from lossaware.studies.store.database import Store
from lossaware.studies.task import Data, InMemory, Task
from lossaware.studies.training import run as run_module
from lossaware.studies.training.checkpoint import Checkpoint, Checkpoints
from lossaware.studies.training.loop_options import loop_options
from lossaware.studies.training.run import run
from support.command_line import lossaware
from support.made_up import MadeUp

SPEC = RunSpec(task="own", optimizer="sgd", lr=0.1, seed=3, epochs=6, batch_size=5, training=options(patience=2))
OWN = """
import torch
from torch import nn
from lossaware.studies.task import Data, InMemory, Task

x = torch.linspace(-1, 1, 60)[:, None]
first, second, third = (InMemory((x[i::3], x[i::3])) for i in range(3))


def measure(model, batch):
    loss = nn.functional.mse_loss(model(batch[0]), batch[1])
    return {"loss": loss, "mae": (model(batch[0]) - batch[1]).abs().mean().detach()}


def build(validated=True):
    data = Data(train=first, validation=second if validated else None, test=third)
    return Task("own", "Mine", lambda: nn.Linear(1, 1), lambda folder: data, measure, score="mae",
                higher_is_better=False, percent=False, epochs=5, batch_size=10)
"""


def records_of(*scores: float) -> list[EpochRecord]:
    return [
        EpochRecord(number, {"loss": 1.0}, {"accuracy": 0.5, VALIDATION + "accuracy": score}, None, 0.1)
        for number, score in enumerate(scores, 1)
    ]


@pytest.mark.parametrize(
    ("scores", "higher", "lower"),
    [
        ([0.1, 0.3, 0.2], 2, 1),
        ([0.3, 0.3, 0.1, 0.1], 1, 3),
        ([math.nan, 0.2, math.inf], 2, 2),
        ([math.nan, math.nan], 1, 1),
    ],
)
def test_the_best_epoch_is_the_first_with_the_best_finite_score(scores, higher, lower):
    records = records_of(*scores)
    assert best_epoch(records, "accuracy", higher_is_better=True) == higher
    assert best_epoch(records, "accuracy", higher_is_better=False) == lower
    assert [it.epoch for it in counted(SPEC, records, "accuracy", higher_is_better=True)] == list(range(1, higher + 1))
    assert counted(dataclasses.replace(SPEC, training=()), records, "accuracy", higher_is_better=True) == records


@pytest.mark.parametrize(
    ("scores", "length"),
    [
        ([0.1, 0.2, 0.2, 0.1, 0.9, 0.9], 4),
        ([0.1, 0.2, 0.1, 0.3, 0.4, 0.5], 6),
        ([math.nan, math.nan, math.nan, 0.1, 0.2, 0.3], 3),
    ],
)
def test_a_run_ends_after_so_many_epochs_without_a_better_score(scores, length):
    ends = [is_at_end(SPEC, records_of(*scores[:n]), "accuracy", higher_is_better=True) for n in range(1, 7)]
    assert ends.index(True) == length - 1
    without = dataclasses.replace(SPEC, training=())
    ends = [is_at_end(without, records_of(*scores[:n]), "accuracy", higher_is_better=True) for n in range(1, 7)]
    assert ends == [False] * 5 + [True]


class Counting(nn.Linear):
    """A linear layer that counts its calls in training, also across checkpoints."""

    calls: torch.Tensor

    def __init__(self):
        super().__init__(1, 1)
        self.register_buffer("calls", torch.zeros((), dtype=torch.int64))

    def forward(self, x):
        self.calls += int(self.training)
        return super().forward(x)


@pytest.fixture
def scores(monkeypatch):
    """The scores of a task's epochs on its validation set; all other measures depend on the model."""
    scores = [0.5, 0.75, 0.625, 0.75, 0.875, 0.875]
    x = torch.randn(20, 1, generator=torch.Generator().manual_seed(0))
    data = Data(InMemory((x,)), InMemory((x[:4],)), validation=InMemory((x[:3],)))

    def measure(model, batch):
        loss = (model(batch[0]) - batch[0]).square().mean()
        is_validation = not model.training and len(batch[0]) == 3
        score = torch.tensor(scores[int(model.calls) // 4 - 1]) if is_validation else loss.detach()
        return {"loss": loss, "accuracy": score}

    monkeypatch.setattr(
        run_module, "load_task", lambda name, chosen: Task("own", "", Counting, lambda folder: data, measure)
    )
    return scores


def test_training_ends_early_also_after_an_interruption(tmp_path, scores, monkeypatch):
    monkeypatch.setattr(Checkpoint, "due", True)
    whole = [dataclasses.replace(record, seconds=0.0) for record in run(SPEC, None)]
    # The 0.75 of epoch 2 is only reached again, not exceeded.
    assert [record.test["validation_accuracy"] for record in whole] == scores[:4]
    notes = []
    for epochs in (3, 4):  # interrupted before the last epoch, and before the complete run is stored
        checkpoint = Checkpoints(tmp_path).of(SPEC, lambda *note: notes.append(note))
        interrupted = run(SPEC, None, checkpoint=checkpoint)
        for _ in range(epochs):
            next(interrupted)
        interrupted.close()
    resumed = run(SPEC, None, checkpoint=checkpoint)
    assert [dataclasses.replace(record, seconds=0.0) for record in resumed] == whole
    assert [epochs for _, epochs in notes] == [3, 3]


def test_a_run_that_ended_early_has_a_curve_over_its_epochs():
    results = MadeUp({SPEC: records_of(0.1, 0.2, 0.1, 0.1)})
    metric = Metric("test", VALIDATION + "accuracy", "final", percent=True, higher_is_better=True)
    assert [score for score, _ in lr_sensitivity._curve(metric, SPEC, results)] == [0.1, 0.2, 0.1, 0.1]
    whole = dataclasses.replace(SPEC, training=())
    assert not lr_sensitivity._curve(metric, whole, MadeUp({whole: results.records(SPEC)}))


@pytest.mark.parametrize("patience", [0, 1.5, True, "2"])
def test_a_patience_must_be_a_number_of_epochs(patience):
    with pytest.raises(UsageError, match="patience must be an integer of at least 1, the number of epochs, got"):
        next(run(dataclasses.replace(SPEC, training=options(patience=patience)), None))


def test_runs_on_several_ranks_are_refused():
    with pytest.raises(UsageError, match="accumulate, clip and patience cannot be used with runs on several ranks"):
        loop_options(dataclasses.replace(SPEC, distributed="ddp-2"))


def test_a_comparison_keeps_shows_and_repeats_runs_that_ended_early(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own.py").write_text(OWN)
    command = (
        "compare own.py:build --optimizers sgd --lrs 1e-30,0.3,1.1 --seeds 3 --patience 2 --jobs 1 --out out --json"
    )
    assert lossaware(*command.split()) == 0
    output = json.loads(capsys.readouterr().out)
    assert "Trained epochs until early stopping, in the mean:" in output["remarks"][-1]
    assert "A run ends after 2 epochs without a better score on the validation set." in output["tables"][0]["remark"]
    with Store(tmp_path / "out" / "results.sqlite") as store:
        runs = {spec: store.records(spec) for spec in store.specs()}
        assert all(map(store.complete, runs))
    # A learning rate of 1e-30 changes nothing: the first epoch remains the best.
    assert output["tables"][0]["title"] == "Test mae of the epoch with the best validation mae"
    lengths = {spec: len(records) for spec, records in runs.items() if spec.lr < 1e-3 and spec.lga is None}
    assert set(lengths.values()) == {3}
    assert all(len(records) <= 5 for records in runs.values())
    for row in output["tables"][0]["rows"]:
        of_row = {spec: it for spec, it in runs.items() if spec.lr == float(row["setting"]["lr"])}
        for arm, has_lga in (("without", False), ("with", True)):
            best = [
                min(records, key=lambda record: record.test["validation_mae"])
                for spec, records in of_row.items()
                if (spec.lga is not None) == has_lga
            ]
            assert row[arm]["mean"] == pytest.approx(statistics.fmean(record.test["mae"] for record in best))
    assert "at most 5 epochs" in (tmp_path / "out" / "report.html").read_text()
    assert lossaware(*command.split()) == 0
    repeated = capsys.readouterr()
    assert "to do" not in repeated.err
    assert json.loads(repeated.out)["tables"] == output["tables"]


def test_a_task_without_a_validation_set_is_refused(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own.py").write_text(OWN)
    assert lossaware(*"compare own.py:build --set validated=false --patience 2 --jobs 1 --out out".split()) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "patience needs a validation set: return Data(validation=...)" in line


def test_the_metric_of_a_study_names_the_epoch_that_counts(tmp_path):
    (tmp_path / "own.py").write_text(OWN)
    text = """
title = "Own"
rows = ["lr"]
columns = ["arm"]
base = { task = "TASK", optimizer = "sgd", epochs = 5, batch_size = 10, seeds = 3, training = { patience = 2 } }
measure = { set = "test", name = "mae", percent = false, higher_is_better = false }
[axes.lr]
"0.1" = { lr = 0.1 }
[axes.arm]
without = { lga = false }
with = { lga = {} }
"""
    path = tmp_path / "own.toml"
    path.write_text(text.replace("TASK", f"{tmp_path}/own.py:build"))
    stops_early = {cell.metric.title for cell in load_study(str(path)).cells.values()}
    assert stops_early == {"test mae of the epoch with the best validation mae"}
    path.write_text(path.read_text().replace(", training = { patience = 2 }", ""))
    assert {cell.metric.title for cell in load_study(str(path)).cells.values()} == {"test mae after the last epoch"}
