"""Mistakes on the command line: a one-line message with the correction, and exit code 2."""

import pytest

from support.command_line import lossaware

OWN = """
import torch
from torch import nn
from lossaware.studies.task import Data, InMemory, Task

train = InMemory((torch.randn(20, 2), torch.randn(20, 1)))
data = Data(train=train, test=InMemory((torch.ones(4, 2), torch.ones(4, 1))))


def measure(model, batch):
    loss = nn.functional.mse_loss(model(batch[0]), batch[1])
    return {"loss": loss, "accuracy": loss.detach()}


def build():
    return Task("own", "Mine", lambda: nn.Linear(2, 1), lambda folder: data, measure, epochs=1, batch_size=10)
"""


def error_line(capsys, *words: str) -> str:
    assert lossaware(*words) == 2
    output = capsys.readouterr()
    assert output.out == ""
    assert len(output.err.splitlines()) == 1
    return output.err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("compare digits --lrs 1e-4 1e-3", "'1e-3': separate several values by commas, as in --lrs 1e-4,1e-3"),
        ("compare digits --gamma2 1e-8 auto", "separate several values by commas"),
        ("compare digits --arms without,Auto", "unknown arm 'Auto'; did you mean auto? (an arm is without, lga, auto,"),
        ("compare digits --arms sgd,adm", "unknown arm 'adm'; did you mean adam or radam or nadam? (an arm is"),
        ("compare digits --arms adamw", "at least two arms are needed, separated by commas, got 'adamw'; the first is"),
        ("compare digits --arms sgd,auto,sgd", "arms name sgd twice"),
        ("compare digits --arms sgd,adam(wd=0.1)", "optimizer 'adam' has no option 'wd'"),
        ("compare digits --arms sgd,adam(lr=0)", "arm 'adam(lr=0)': lr must be a number above 0, got 0"),
        ("compare digits --arms sgd,adam(0.1)", "options are written as in adamw(lr=1e-3,weight_decay=0.1), got '0.1'"),
        ("compare digits --arms sgd,torch.optim:Admm", "torch.optim has no 'Admm'"),
        ("compare digits --arms without,auto --gamma2 1e-7", "--arms without,auto,1e-7"),
        ("compare digits --arms sgd,adam --optimizers sgd", "--optimizers sgd would do nothing: every arm has its own"),
        ("compare digits --arms sgd(lr=1),adam(lr=1) --lrs 1", "--lrs 1 would do nothing: every arm has its own"),
        ("compare digits --csv nowhere/runs.csv", "--csv nowhere/runs.csv: there is no folder nowhere"),
        ("compare digits else", "unexpected argument 'else'"),
        ("compare digits --gamma2 Auto", "got 'Auto'; did you mean auto?"),
        (
            "compare digits --weight-decay 0.1",
            "the optimizer or the function is set with --set weight_decay=VALUE",
        ),
        ("compare digits --directon maximize", "Did you mean --direction?"),
        ("study run", "study run needs NAME: see lossaware study run --help"),
        ("study show", "study show needs NAME"),
        ("compare digits --set weight_deca=0.1", "task 'digits' has no option 'weight_deca'"),
        ("compare digits --set momentum=0.9", "optimizer 'adam' has no option 'momentum'"),
        ("compare digits --accumulate 0", "--accumulate must be at least 1, got 0"),
        ("compare digits --clip 0", "clip must be a number above 0, the maximum norm of the gradients, got 0"),
        (
            "compare digits --scheduler-interval step",
            "interval step needs a scheduler without a loss",
        ),
        ("compare digits --scheduler CyclicLR", "for example CyclicLR,base_lr=0.001,max_lr=0.1"),
        ("compare digits --scheduler StepLR --epochs 3", "'step_size'; for example StepLR,step_size=5"),
        ("compare digits --scheduler MultiStepLR", "for example MultiStepLR,milestones=5,10"),
    ],
)
def test_a_command_line(capsys, tmp_path, words, message):
    out = ["--out", str(tmp_path / "out")] if "compare" in words else []
    assert message in error_line(capsys, *words.split(), *out)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("lambda: nn.Linear(2, 1)", "nn.Linear(2, 1)"), "model must be a function that makes one, so that each seed"),
        (("batch[0])", "batch['x'])"), "sgd, without, fails in a rehearsal of one step: TypeError: tuple indices"),
        (("batch[0])", "batch[0].double())"), "sgd, without, fails in a rehearsal of one step: RuntimeError"),
        (
            ("nn.Linear(2, 1), lambda", "nn.Linear(3, 1), lambda"),
            "fails in a rehearsal of one step: RuntimeError: mat1",
        ),
        (('"loss": loss,', '"loss": loss.item(),'), "for 'loss', got float; leave out .item()"),
        (("batch[1])", "batch[1], reduction='none')"), "of shape (10, 1); reduce it, for example by .mean()"),
        (('"accuracy"', '"mse"'), "must return 'accuracy', got loss, mse; set Task(score=...) to the name"),
        (("torch.ones(4, 2)", "torch.ones(4, 3)"), "fails in a rehearsal of one step: RuntimeError"),
    ],
)
def test_a_task(capsys, tmp_path, change, message):
    (tmp_path / "own.py").write_text(OWN.replace(*change))
    words = ["compare", f"{tmp_path / 'own.py'}:build", "--optimizers", "sgd", "--lrs", "1e-2", "--seeds", "1"]
    assert message in error_line(capsys, *words, "--out", str(tmp_path / "out"))
    assert not (tmp_path / "out").exists()


def test_a_study_that_is_not_measured_says_where_it_looked(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert lossaware("study", "show", "table01") == 0
    error = capsys.readouterr().err
    assert "runs are read from lossaware-out (--out), exported ones from results (--results)" in error
