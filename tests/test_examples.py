"""The examples run unchanged; only options make them smaller."""

import json
import re
import runpy
from pathlib import Path
from types import SimpleNamespace

import pytest

from support import needs
from support.command_line import lossaware

EXAMPLES = Path(__file__).parents[1] / "examples"


def compared(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """The output of `lossaware compare`."""
    assert lossaware("compare", *arguments) == 0
    return capsys.readouterr().out


def test_a_plain_loop(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    small = ["--seeds", "2", "--epochs", "2", "--lrs", "1e-4", "--jobs", "2", "--out", str(tmp_path)]
    output = compared(capsys, f"{EXAMPLES / 'compare_loop.py'}:train", "--direction", "maximize", *small)
    assert "Accuracy after the last epoch, %" in output
    assert re.search(r"^1e-4 +too few seeds to tell +[\d.]+ ", output, re.MULTILINE)


def test_a_table_of_numbers(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    small = ["--seeds", "2", "--epochs", "2", "--lrs", "1e-4", "--jobs", "2", "--out", str(tmp_path)]
    output = compared(capsys, f"{EXAMPLES / 'compare_tabular.py'}:train", "--direction", "minimize", *small)
    assert "Error after the last epoch" in output


def test_other_optimizers_as_arms(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    small = ["--seeds", "1", "--epochs", "1", "--lrs", "1e-3", "--arms", "sgd,adamw(lr=1)", "--out", str(tmp_path)]
    output = compared(capsys, f"{EXAMPLES / 'compare_tabular.py'}:train", "--direction", "minimize", *small)
    assert re.search(r"^lr +verdict +sgd +adamw\(lr=1\)", output, re.MULTILINE)


def test_lightning(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    needs("lightning")
    small = ["--seeds", "1", "--set", "epochs=2", "--lrs", "1e-4", "--jobs", "2", "--out", str(tmp_path)]
    output = compared(capsys, f"{EXAMPLES / 'compare_lightning.py'}:train", "--direction", "maximize", *small, "--json")
    [row] = json.loads(output)["tables"][0]["rows"]
    assert row["scores"][0]["with"] > row["scores"][0]["without"] > 0


def test_transformers(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    needs("transformers")
    small = ["--seeds", "1", "--set", "epochs=1", "--lrs", "1e-2", "--jobs", "2", "--out", str(tmp_path)]
    scored = ["--direction", "minimize", "--score", "eval_loss", "--json"]
    output = compared(capsys, f"{EXAMPLES / 'compare_transformers.py'}:train", *scored, *small)
    [row] = json.loads(output)["tables"][0]["rows"]
    assert 0 < row["scores"][0]["with"] != row["scores"][0]["without"] > 0


def test_another_evaluation_of_a_trainer_is_of_the_same_epoch() -> None:
    needs("transformers")
    space = runpy.run_path(str(EXAMPLES / "compare_transformers.py"))
    reports: list[tuple[int, float]] = []
    trial = SimpleNamespace(report=lambda epoch, accuracy, eval_loss: reports.append((epoch, accuracy)))
    report = space["Report"](trial)
    for epoch, accuracy in ((1.0, 0.5), (2.0, 0.6), (2.0, 0.7)):
        metrics = {"eval_accuracy": accuracy, "eval_loss": 1.0}
        report.on_evaluate(None, SimpleNamespace(epoch=epoch), None, metrics=metrics)
    assert reports == [(1, 0.5), (2, 0.6), (2, 0.7)]


def test_jax(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    needs("optax")
    small = ["--seeds", "1", "--epochs", "2", "--lrs", "1e-3", "--jobs", "2", "--out", str(tmp_path)]
    output = compared(capsys, f"{EXAMPLES / 'compare_jax.py'}:train", "--direction", "maximize", *small, "--json")
    [row] = json.loads(output)["tables"][0]["rows"]
    assert row["scores"][0]["with"] > row["scores"][0]["without"] > 0


def test_accelerate_by_its_launcher(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    needs("accelerate")
    command = "accelerate launch --num_processes 1 --num_machines 1 --mixed_precision no --dynamo_backend no --cpu "
    command += str(EXAMPLES / "compare_accelerate.py")
    small = ["--seeds", "1", "--epochs", "1", "--lrs", "1e-4", "--jobs", "2", "--out", str(tmp_path)]
    output = compared(capsys, "--command", command, "--direction", "maximize", *small, "--json")
    [row] = json.loads(output)["tables"][0]["rows"]
    assert row["scores"][0]["with"] > row["scores"][0]["without"] > 0
