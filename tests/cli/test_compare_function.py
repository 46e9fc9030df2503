"""`lossaware compare train.py:train`: a function of a user's own that trains, from the command line."""

import json
import os
import re
from pathlib import Path

import pytest

from lossaware.studies.store.database import Store
from support.command_line import lossaware
from support.quadratic import SOURCE


@pytest.fixture
def file(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "train.py"
    path.write_text(SOURCE)
    return path


COMMAND = ["compare", "train.py:train", "--direction", "minimize", "--seeds", "2", "--jobs", "2"]


def test_from_start_to_report(file, capsys):
    command = [*COMMAND, "--lrs", "1e-3,1e-2", "--gamma2", "1e-2"]
    assert lossaware(*command) == 0
    output = capsys.readouterr()
    assert "Norm after the last epoch" in output.out  # the returned number, by the name under which it was reported
    assert re.search(r"^1e-2 +too few seeds to tell +\d", output.out, re.MULTILINE)
    assert "8 runs to do" in output.err
    assert "At the learning rate that is the best tried, it reaches" in output.out
    page = (file.parent / "lossaware-out" / "report.html").read_text()
    assert "Does LGA help on train?" in page
    assert page.count("<table") == 1
    assert "Learning curves: norm" in page
    assert "batch size" not in page

    assert lossaware(*command, "--json", "--csv", "runs.csv") == 0
    output = capsys.readouterr()
    lines = (file.parent / "runs.csv").read_text().splitlines()
    assert lines[0] == "lr,arm,seed,norm"
    assert len(lines) == 1 + 2 * 2 * 2
    assert "to do" not in output.err
    rows = json.loads(output.out)["tables"][0]["rows"]
    assert [row["setting"] for row in rows] == [{"lr": "1e-3"}, {"lr": "1e-2"}]
    assert all(score["without"] != score["with"] for row in rows for score in row["scores"])


@pytest.mark.parametrize("kind", ["database", "notes", "folder", "pipe"])
def test_a_table_replaces_nothing_of_another_kind(file, capsys, kind):
    path = file.parent / "runs.csv"
    if kind == "database":
        with Store(path):
            pass
    elif kind == "notes":
        path.write_text("my notes\n")
    elif kind == "folder":
        path.mkdir()
    else:
        os.mkfifo(path)
    assert lossaware("compare", "train.py:train", "--csv", "runs.csv") == 2
    assert capsys.readouterr().err == (
        "lossaware: --csv runs.csv exists, but is not a table, and is not overwritten: choose another\n"
    )
    assert path.exists()


def test_runs_are_kept_until_the_file_changes(file, capsys):
    command = [*COMMAND, "--lrs", "1e-2"]
    assert lossaware(*command) == 0
    assert "4 runs to do" in capsys.readouterr().err
    assert lossaware(*[word if word != "2" else "3" for word in command]) == 0
    assert "2 runs to do, 4 already finished" in capsys.readouterr().err
    file.write_text(SOURCE.replace("trial.epochs(3)", "trial.epochs(2)"))
    assert lossaware(*command) == 0
    assert "4 runs to do" in capsys.readouterr().err
    with Store(file.parent / "lossaware-out" / "results.sqlite", read_only=True) as store:
        assert {len(store.records(spec)) for spec in store.specs() if spec.seed < 2} == {2}
        assert all(store.complete(spec) for spec in store.specs())


def test_options_epochs_arms_and_other_scores(file, capsys):
    more = ["--lrs", "1e-2", "--gamma2", "1e-3,auto", "--epochs", "2", "--set", "start=2.0", "--score", "loss"]
    assert lossaware(*COMMAND, *more) == 0
    output = capsys.readouterr()
    assert "Loss after the last epoch" in output.out
    assert re.search(r"^1e-2 +auto ", output.out, re.MULTILINE)
    with Store(file.parent / "lossaware-out" / "results.sqlite", read_only=True) as store:
        assert {len(store.records(spec)) for spec in store.specs()} == {2}
        assert len(store.specs()) == 6
        assert all(record.test["norm"] > 3 for spec in store.specs() for record in store.records(spec))
    assert lossaware(*COMMAND, *more[:-1], "accuracy") == 2
    assert "no run reported 'accuracy'; known: loss, norm, score" in capsys.readouterr().err


def test_without_learning_rates_the_function_has_its_own(file, capsys):
    file.write_text(SOURCE.replace("trial.lr", "0.01"))
    assert lossaware(*COMMAND) == 0
    assert re.search(r"^train +too few seeds to tell +\d", capsys.readouterr().out, re.MULTILINE)


def test_the_loss_has_curves_where_the_score_is_known_at_the_end_alone(file):
    file.write_text(SOURCE.replace("return p.norm()", "return p.norm() + 1"))
    assert lossaware(*COMMAND, "--lrs", "1e-2") == 0
    page = (file.parent / "lossaware-out" / "report.html").read_text()
    assert "Score after the last epoch" in page
    assert "Learning curves: loss" in page


@pytest.mark.parametrize(
    ("change", "options", "message"),
    [
        (("", ""), [], "function reads trial.lr, but the comparison does not have learning rates: set --lrs"),
        (("p.square().sum()", "(p @ torch.ones(6)).sum()"), ["--lrs", "1e-2"], "arm 'without', fails in a rehearsal"),
        (("return p.norm()", "return"), ["--lrs", "1e-2"], "returns nothing: end it with the score"),
        (("loss=loss)\n        t", ")\n        t"), ["--lrs", "1e-2"], "LGA does not get the loss: pass it by"),
        (
            ("", ""),
            ["--optimizers", "adam"],
            "--optimizers cannot be used with train.py:train: the function or command sets it; compare optimizers by",
        ),
        (
            ("", ""),
            ["--batch-size", "3"],
            "--batch-size cannot be used with train.py:train: the function or command sets it",
        ),
        (("", ""), ["--set", "strat=1"], "no option 'strat'; did you mean start"),
        (("", ""), ["--set", "weight_decay=1"], "has no option 'weight_decay'"),
        (
            ("trial.epochs(3)", "range(3)"),
            ["--lrs", "1e-2", "--epochs", "2"],
            "--epochs 2 would do nothing: the function does not call trial.epochs(n)",
        ),
        (("", ""), ["--lrs", "1e-2", "--xi", "0"], "xi must be a finite number above 0"),
    ],
)
def test_a_mistake_is_one_line_before_anything_is_written(file, capsys, change, options, message):
    file.write_text(SOURCE.replace(*change))
    assert lossaware(*COMMAND, *options) == 2
    output = capsys.readouterr()
    assert message in output.err
    assert len(output.err.splitlines()) == 1
    assert output.out == ""
    assert not (file.parent / "lossaware-out").exists()


def test_a_direction_is_needed_by_a_function_and_refused_by_a_task(file, capsys):
    assert lossaware("compare", "train.py:train", "--lrs", "1e-2") == 2
    assert "--direction must be maximize or minimize" in capsys.readouterr().err
    assert lossaware("compare", "digits", "--direction", "maximize") == 2
    assert "--direction cannot be used with digits: a task defines it" in capsys.readouterr().err


def test_a_run_that_fails_after_its_first_step_is_reported(file, capsys):
    file.write_text(SOURCE.replace("    return p", "    assert trial.seed != 1\n    return p"))
    assert lossaware(*COMMAND, "--lrs", "1e-2") == 1
    output = capsys.readouterr()
    assert "failed: lr 1e-2, without, seed 1: AssertionError" in output.err
    assert "1 of 2 seeds left out: a run failed" in " ".join(output.out.split())


def test_a_margin_is_in_the_report_and_a_wrong_one_is_refused(file, capsys):
    three = [word if word != "2" else "3" for word in COMMAND]
    assert lossaware(*three, "--lrs", "1e-2", "--margin", "100", "--json") == 0
    output = capsys.readouterr()
    [row] = json.loads(output.out)["tables"][0]["rows"]
    assert row["is_within_margin"] is True
    assert "lies within the margin of ±100" in " ".join(output.err.split())
    for wrong, message in (("0", "--margin must be a number above 0, got 0"), ("nan", "above 0, got nan")):
        assert lossaware(*COMMAND, "--margin", wrong) == 2
        assert message in capsys.readouterr().err
    assert lossaware("compare", "digits", "--margin", "5") == 2
    assert "--margin must be below 1, as the score is a share: 0.005 is half a point; got 5" in capsys.readouterr().err
