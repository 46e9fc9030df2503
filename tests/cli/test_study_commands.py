"""`lossaware study`, from a file to runs, a table, plain files and back."""

import re
from pathlib import Path

import pytest
import torch

from lossaware.studies.store.database import Store
from support.command_line import lossaware
from support.small_grid import TEXT


def test_an_unknown_measure_is_an_error_before_and_after_the_runs(file, tmp_path, capsys):
    assert lossaware("study", "run", "grid.toml", "--seeds", "1", "--epochs", "1") == 0
    mistaken = TEXT.replace('name = "accuracy"', 'name = "acuracy"')
    for command, text in (
        (["show", "grid.toml"], mistaken.replace("epochs = 4", "epochs = 1").replace("seeds = 2", "seeds = 1")),
        (["run", "grid.toml", "--out", "new"], mistaken),
    ):
        file.write_text(text)
        capsys.readouterr()
        assert lossaware("study", *command) == 2
        err = capsys.readouterr().err
        assert "task 'digits' does not measure 'acuracy'; did you mean accuracy?" in err
        assert len(err.splitlines()) == 1
    assert not (tmp_path / "new").exists()


@pytest.fixture
def file(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "grid.toml"
    path.write_text(TEXT)
    return path


def test_from_run_to_export_to_the_next_person(file, tmp_path, capsys):
    small = ["--only", "algorithm=sgd", "--only", "lr=1e-2", "--seeds", "1", "--epochs", "2"]
    assert lossaware("study", "run", "grid.toml", *small, "--jobs", "2") == 0
    output = capsys.readouterr()
    assert "2 runs to do" in output.err
    assert "Overridden: epochs = 2, seeds = 1." in output.out
    assert re.search(r"SGD +measured +not run +\d+\.\d\d +not run +\d+\.\d\d +not run +[01]\.\d\d", output.out)
    table = output.out

    assert lossaware("study", "run", "grid.toml", *small) == 0
    output = capsys.readouterr()
    assert "All 2 runs are already finished." in output.err
    assert output.out == table

    assert lossaware("study", "export", "grid.toml", "--to", "results") == 0
    assert capsys.readouterr().out.split() == [f"results/grid{end}" for end in (".csv", "-epochs.csv", ".study.json")]
    assert str(tmp_path) not in (tmp_path / "results" / "grid.study.json").read_text()

    # A reader of the repository does not have a store; another user has an empty one.
    assert lossaware("study", "show", "grid.toml", "--out", "nothing") == 0
    assert capsys.readouterr().out == table
    assert not (tmp_path / "nothing").exists()
    assert lossaware("study", "run", "grid.toml", *small, "--out", "fresh") == 0
    assert "2 of 2 runs are taken from results." in capsys.readouterr().err
    with Store(tmp_path / "fresh" / "results.sqlite", read_only=True) as store:
        assert len(store.specs()) == 2
    assert lossaware("study", "import", "--out", "third") == 0
    assert capsys.readouterr().out == "2 of 2 runs were missing and are copied from results.\n"

    assert lossaware("study", "show", "grid.toml", "--format", "csv") == 0
    assert len(capsys.readouterr().out.splitlines()) == 25


def test_precision_and_device_are_overrides_like_any_other(file, capsys, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    small = ["--only", "algorithm=sgd", "--only", "lr=1e-2", "--seeds", "1", "--epochs", "1"]
    assert lossaware("study", "run", "grid.toml", *small, "--precision", "bf16") == 0
    assert "Overridden: epochs = 1, precision = bf16, seeds = 1." in capsys.readouterr().out
    assert lossaware("study", "run", "grid.toml", *small, "--device", "cuda") == 2
    assert "device 'cuda': torch" in capsys.readouterr().err
    assert lossaware("study", "run", "grid.toml", *small, "--device", "cpu", "--set", "device=cpu") == 2
    assert "--set has device twice" in capsys.readouterr().err


def test_list_and_show_need_no_data(capsys):
    assert lossaware("study", "list") == 0
    out = capsys.readouterr().out
    assert "table13" in out
    assert "readings" in out
    assert lossaware("study", "show", "table02", "--out", "none", "--results", "none") == 0
    assert "86.44" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["run", "tabel02"], "unknown study 'tabel02'; did you mean table02"),
        (["run", "grid.toml", "--only", "sgd"], "--only needs axis=point, got 'sgd'; axes: algorithm, strategy, lr"),
        (["run", "grid.toml", "--only", "algorithm=sdg"], "did you mean SGD"),
        (["run", "readings", "--only", "reading=a status an epoch, natural lag"], "point of axis 'reading'"),
        (["run", "grid.toml", "--epochs", "0"], "--epochs must be at least 1, got 0"),
        (["run", "grid.toml", "--seeds", "0"], "--seeds must be at least 1, got 0"),
        (["run", "grid.toml", "--jobs", "0"], "jobs must be at least 1"),
        (["run", "grid.toml", "--set", "hiden=3"], "task 'digits' has no option 'hiden'; did you mean hidden?"),
        (["run", "grid.toml", "--set", "optimizer=sdg"], "unknown optimizer 'sdg'; did you mean"),
        (["run", "grid.toml", "--set", "lga.gama2=1"], "LGA has no option 'gama2'; did you mean gamma2"),
        (["run", "grid.toml", "--set", "task=minst"], "unknown task 'minst'; did you mean mnist?"),
        (["run", "grid.toml", "--set", "scheduler=StepLr"], "did you mean StepLR"),
        (["run", "readings"], "task 'mnist' needs --data DIR"),
        (["run", "table01", "--data", "."], "there is no folder"),
        (["show", "grid.toml", "--format", "htm"], "html"),
        (["export", "grid.toml"], "has no results yet; run it first: lossaware study run grid.toml"),
        (["import"], "there are no exported studies in results"),
    ],
)
def test_wrong_input_is_one_line_and_nothing_is_written(file, tmp_path, capsys, arguments, message):
    before = sorted(tmp_path.rglob("*"))
    assert lossaware("study", *arguments) == 2
    output = capsys.readouterr()
    assert output.out == ""
    assert message in output.err
    assert len(output.err.splitlines()) == 1
    assert sorted(tmp_path.rglob("*")) == before


def test_where_only_some_data_is_there_the_message_says_how_to_run_that(file, tiny_mnist, capsys):
    assert lossaware("study", "run", "table01", "--data", tiny_mnist, "--seeds", "1") == 2
    err = capsys.readouterr().err
    assert "cifar" in err
    assert "data is available for --only task=MNIST" in err


def test_a_foreign_database_is_left_alone(file, tmp_path, capsys):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "results.sqlite").write_text("something else")
    assert lossaware("study", "run", "grid.toml", "--out", "out") == 2
    assert lossaware("study", "show", "grid.toml", "--out", "out") == 2
    assert (tmp_path / "out" / "results.sqlite").read_text() == "something else"


def test_runs_of_own_code_are_not_imported_and_the_import_says_so(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.py").write_text("from torch.optim import SGD as Own\n")
    (tmp_path / "own.toml").write_text(
        """
title = "Own"
rows = ["optimizer"]
columns = ["lr"]
base = { task = "digits", task_options = { hidden = 4 }, epochs = 1, batch_size = 500, seeds = 1, lga = false }
measure = { set = "test", name = "accuracy" }
[axes.optimizer]
Own = { optimizer = "mine.py:Own" }
[axes.lr]
"0.1" = { lr = 0.1 }
"""
    )
    assert lossaware("study", "run", "own.toml", "--jobs", "1") == 0
    assert lossaware("study", "export", "own.toml", "--to", "results") == 0
    capsys.readouterr()
    assert lossaware("study", "import", "--out", "other") == 0
    first, second = capsys.readouterr().out.splitlines()
    assert first == "0 of 1 runs were missing and are copied from results."
    assert second == "Not copied: 1 of 1 runs, whose own code may have changed. Run them again."
