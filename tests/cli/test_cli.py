"""The command line: output, exit codes, and a clear one-line message for each error."""

import json
import os
import re
import signal
import struct
import subprocess
import sys
import time
from pathlib import Path

import pytest

from lossaware import __version__
from lossaware.cli.values import assignments, numbers, parse_named, words
from lossaware.errors import UsageError
from lossaware.studies.specs.optimizers import optimizers
from lossaware.studies.specs.tasks import tasks
from lossaware.studies.store.database import Store
from support.command_line import lossaware

SMALL = ["digits", "--set", "hidden=8", "--epochs", "2", "--batch-size", "200", "--seeds", "2", "--jobs", "2"]


def started(*arguments: str, **more) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "lossaware", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **more,
    )


# --- the ordinary course --------------------------------------------------------------------------------------------


def test_compare_from_start_to_report(tmp_path, capsys):
    command = ["compare", *SMALL, "--optimizers", "sgd", "--lrs", "1e-2", "--gamma2", "1e-6", "--out", tmp_path / "out"]
    assert lossaware(*command) == 0
    output = capsys.readouterr()
    assert "Test accuracy after the last epoch, %" in output.out
    assert "Running training accuracy of the last epoch, %" in output.out
    assert re.search(r"sgd +1e-2 +too few seeds to tell +[\d.]+ +[\d.]+ ", output.out)
    assert "n = 2: no interval" in output.out
    assert output.out.rstrip().endswith(f"Report: {tmp_path / 'out' / 'report.html'}")
    assert "4 runs to do" in output.err
    assert "Traceback" not in output.err
    assert sorted(p.name for p in (tmp_path / "out").iterdir() if "sqlite-" not in p.name) == [
        "report.html",
        "results.sqlite",
        "results.sqlite.lock",
    ]

    assert lossaware(*command, "--json") == 0
    output = capsys.readouterr()
    assert "to do" not in output.err
    assert "Test accuracy" in output.err
    read = json.loads(output.out)
    assert read["tables"][0]["rows"][0]["setting"] == {"optimizer": "sgd", "lr": "1e-2"}
    assert len(read["tables"][0]["rows"][0]["scores"]) == 2


def test_several_gamma2_and_all_settings_reach_the_runs(tmp_path):
    command = """
        compare digits --set hidden=8 --epochs 2 --batch-size 200 --seeds 1 --optimizers asgd --lrs 1e-2
        --gamma2 1e-7,1e-6 --steps-per-epoch 1 --eps 0.2 --xi 0.02 --backoff 0.5 --zero-gradient rest
        --lower-bound progressive,log_base=2.5 --scheduler StepLR,step_size=1,gamma=0.5 --precision bf16 --out
    """
    assert lossaware(*command.split(), tmp_path) == 0
    with Store(tmp_path / "results.sqlite", read_only=True) as store:
        specs = store.specs()
    assert len(specs) == 3
    assert {spec.optimizer for spec in specs} == {"asgd"}
    assert {(spec.epochs, spec.batch_size, spec.task_options) for spec in specs} == {(2, 200, (("hidden", 8),))}
    assert {(spec.precision, spec.device) for spec in specs} == {("bf16", "cpu")}
    assert {(spec.scheduler, spec.scheduler_options) for spec in specs} == {
        ("StepLR", (("gamma", 0.5), ("step_size", 1)))
    }
    common = {
        "steps_per_epoch": 1,
        "eps": 0.2,
        "xi": 0.02,
        "backoff": 0.5,
        "zero_gradient": "rest",
        "lower_bound": "progressive",
        "lower_bound.log_base": 2.5,
    }
    with_lga = sorted((dict(spec.lga) for spec in specs if spec.lga), key=lambda settings: settings["gamma2"])
    assert with_lga == [{**common, "gamma2": 1e-7}, {**common, "gamma2": 1e-6}]


def test_a_failing_run_ends_in_exit_code_1(tmp_path, capsys, monkeypatch):
    """A user's task that breaks for one learning rate's runs: reported, and the rest is in the table."""
    (tmp_path / "fragile.py").write_text(
        """
import torch
from lossaware.studies.models.classification import classification
from lossaware.studies.task import Data, InMemory, Task

def build():
    inputs = torch.arange(40.0).reshape(20, 2) / 40
    examples = InMemory((inputs, (inputs.sum(1) > 1).long()))

    def measure(model, batch):
        if model.training and model.weight.abs().max() > 50:
            raise RuntimeError("the weights exploded")
        return classification(model, batch)

    data = Data(examples, examples)
    return Task("fragile", "", lambda: torch.nn.Linear(2, 2), lambda folder: data, measure, epochs=2, batch_size=5)
"""
    )
    monkeypatch.chdir(tmp_path)
    assert lossaware("compare", "fragile.py:build", "--optimizers", "sgd", "--lrs", "1e-2,1e4", "--seeds", "1") == 1
    output = capsys.readouterr()
    assert output.err.count("failed: sgd, lr 10000") == 2
    assert "RuntimeError: the weights exploded" in output.err
    assert output.err.rstrip().endswith("lossaware: 2 runs failed, see above; the same command tries again")
    assert "Traceback" not in output.err
    assert re.search(r"sgd +1e-2 +too few seeds to tell +[\d.]+", output.out)
    assert (tmp_path / "lossaware-out" / "report.html").exists()


def test_lists(capsys):
    assert lossaware("tasks") == 0
    output = capsys.readouterr().out
    assert all(f"{name} " in output and summary in output for name, summary in tasks().items())
    assert lossaware("optimizers") == 0
    output = capsys.readouterr().out
    assert all(f"{name} " in output and summary in output for name, summary in optimizers().items())


def test_version_and_help(capsys):
    assert lossaware("--version") == 0
    assert capsys.readouterr().out.strip() == __version__
    assert lossaware("--help") == 0
    assert "compare" in capsys.readouterr().out
    assert lossaware("compare", "--help") == 0
    output = capsys.readouterr().out
    for option in ("--optimizers", "--lrs", "--gamma2", "--seeds", "--epochs", "--data", "--jobs", "--out", "--json"):
        assert option in output
    assert "--no-" not in output.replace("--no-verify", "")


def test_help_imports_only_what_the_package_does():
    """Help must come at once; reading the package's own version and errors is all it may cost."""
    result = subprocess.run(
        [
            sys.executable,
            "-c",
            "import lossaware, sys; before = set(sys.modules)\n"
            "from lossaware.cli import main\n"
            "try: main(['compare', '--help'])\n"
            "except SystemExit: pass\n"
            "print(*sorted({m.partition('.')[0] for m in set(sys.modules) - before}), file=sys.stderr)\n"
            "print(*sorted(m for m in sys.modules if m.startswith('lossaware.studies')), file=sys.stderr)",
        ],
        capture_output=True,
        text=True,
        check=True,
    )
    loaded = set(result.stderr.split())
    assert "cyclopts" in loaded
    assert not loaded & {"torch", "numpy", "scipy", "matplotlib", "sklearn", "jinja2", "pydantic", "sqlite3"}
    assert not any(name.startswith("lossaware.studies.") for name in loaded)


def test_a_reader_that_stops_early_is_not_an_error():
    process = started("optimizers")
    assert process.stdout is not None
    process.stdout.close()
    assert process.stderr is not None
    error = process.stderr.read()
    assert process.wait() in (0, 1)
    assert error == ""


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs the device that is always full")
@pytest.mark.parametrize("command", [["optimizers"], ["study", "show", "table01", "--results", "none"]])
def test_an_output_on_a_full_disk_is_one_line(command):
    with open("/dev/full", "w") as full:
        result = subprocess.run(
            [sys.executable, "-m", "lossaware", *command], stdout=full, stderr=subprocess.PIPE, text=True, check=False
        )
    assert result.stderr.endswith("lossaware: the output: No space left on device\n")
    assert len(result.stderr.splitlines()) == (2 if "none" in command else 1)  # where results were looked for
    assert result.returncode == 2


@pytest.mark.parametrize("encoding", ["ascii", "latin-1"])
def test_an_output_that_lacks_a_character_gets_the_table_all_the_same(tmp_path, encoding):
    result = subprocess.run(
        [sys.executable, "-m", "lossaware", "study", "show", "table05"],
        env={**os.environ, "PYTHONIOENCODING": encoding},
        cwd=tmp_path,
        capture_output=True,
        check=False,
    )
    assert result.returncode == 0
    assert result.stderr.startswith(b"lossaware: there are no results of it: ")
    assert len(result.stderr.splitlines()) == 1
    assert b"StepLR" in result.stdout


def test_a_folder_that_may_not_be_read_is_one_line(monkeypatch, capsys):
    def denied(path: Path) -> bool:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "is_dir", denied)
    assert lossaware("data", "stand-in", "tacos", "--data", "secret") == 2
    assert capsys.readouterr().err == "lossaware: secret/tacos: Permission denied\n"


# --- Ctrl-C ---------------------------------------------------------------------------------------------------------


def test_ctrl_c_stops_with_one_line_and_the_same_command_continues(tmp_path):
    (tmp_path / "slow.py").write_text(
        """
import time, torch
from lossaware.studies.models.classification import classification
from lossaware.studies.task import Data, InMemory, Task

def build():
    examples = InMemory((torch.randn(20, 2), torch.zeros(20, dtype=torch.long)))
    def measure(model, batch):
        time.sleep(0.01)
        return classification(model, batch)
    data = Data(examples, examples)
    return Task("slow", "", lambda: torch.nn.Linear(2, 2), lambda folder: data, measure, epochs=5, batch_size=5)
"""
    )
    command = [
        "compare",
        "slow.py:build",
        "--optimizers",
        "sgd",
        "--lrs",
        "1e-3",
        "--seeds",
        "6",
        "--jobs",
        "1",
        "--json",
    ]
    process = started(*command, cwd=tmp_path, start_new_session=True)
    database = tmp_path / "lossaware-out" / "results.sqlite"
    deadline = time.monotonic() + 120
    while finished(database) < 2:
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does: to all processes of the command
    out, error = process.communicate(timeout=60)
    assert process.returncode == 130
    assert out == ""
    last = error.splitlines()[-1]
    stopped = re.fullmatch(
        r"lossaware: stopped; (\d+) of 12 runs are finished and kept in .*results\.sqlite\. "
        r"Run the same command again to continue\.",
        last,
    )
    assert stopped is not None, error
    assert "Traceback" not in error
    assert 2 <= int(stopped.group(1)) < 12

    second = started(*command, cwd=tmp_path)
    out, error = second.communicate(timeout=120)
    assert second.returncode == 0, error
    assert f"{12 - int(stopped.group(1))} runs to do, {stopped.group(1)} already finished" in error
    assert json.loads(out)["tables"][0]["rows"][0]["without"]["n"] == 6


def finished(database: Path) -> int:
    try:
        with Store(database, read_only=True) as store:
            return sum(store.complete(spec) for spec in store.specs())
    except UsageError:
        return 0


# --- wrong input ----------------------------------------------------------------------------------------------------

WRONG = {
    "compar digits": 'Did you mean "compare"?',
    "compare": "name what to train: either a task, or train.py:train, or --command",
    "compare digits adam": "unexpected argument 'adam'",
    "compare digitz": "unknown task 'digitz'; did you mean digits?",
    "compare no.such.module:build": "no.such.module:build",
    "compare nothing.py:build": "there is no file nothing.py",
    "compare broken.py:build": "broken.py, line 2",
    "compare raising.py:build": "ZeroDivisionError",
    "compare raising.py:nothing": "has no 'nothing'",
    "compare raising.py:no_data": "its data cannot be loaded: ZeroDivisionError",
    "compare raising.py:no_sets": "its data cannot be loaded: AttributeError",
    "compare raising.py:no_model": "its model cannot be made: ZeroDivisionError",
    "compare raising.py:odd_model": "its model must be a torch.nn.Module, got int",
    "compare not-\udce9.py:build": "argument 'not-\\udce9.py:build' is not valid UTF-8",
    "compare raising.py:number": "must return a lossaware.studies.task.Task, got int",
    "compare digits --lr 1e-3": "Did you mean --lrs?",
    "compare digits --optimizers sdg": "unknown optimizer 'sdg'; did you mean sgd or dog?",
    "compare digits --optimizers sgd,,adam": "--optimizers must be names separated by commas",
    "compare digits --optimizers sgd,sgd": "--optimizers names sgd twice",
    "compare digits --optimizers torch.optim:LBFGS": "closure",
    "compare digits --optimizers torch.optim:Optimizer": "optimizer 'torch.optim:Optimizer' cannot be made",
    "compare digits --lrs 0": "--lrs must be finite and above 0, got 0",
    "compare digits --lrs=-1e-3": "--lrs must be finite and above 0, got -1e-3",
    "compare digits --lrs nan": "--lrs must be finite and above 0, got nan",
    "compare digits --lrs fast": "--lrs must be numbers separated by commas, got 'fast'",
    "compare digits --lrs 1e-3,0.001": "--lrs names 0.001 twice",
    "compare digits --gamma2 nan": "--gamma2 must be finite and at least 0, got nan",
    "compare digits --gamma2=-1": "--gamma2 must be finite and at least 0, got -1",
    "compare digits --gamma2 auto,auto": "--gamma2 names auto twice",
    "compare digits --seeds 1.5": "--seeds: '1.5' is not an integer",
    "compare digits --seeds 0": "--seeds must be at least 1, got 0",
    "compare digits --seeds many": "--seeds",
    "compare digits --epochs 0": "--epochs must be at least 1, got 0",
    "compare digits --batch-size 0": "--batch-size must be at least 1, got 0",
    "compare digits --jobs 0": "--jobs must be at least 1, got 0",
    "compare digits --device cudda": "--device",
    "compare digits --precision fp8": "--precision",
    "compare digits --steps-per-epoch 0": "--steps-per-epoch must be at least 1, got 0",
    "compare digits --eps nan": "eps must be a finite number of at least 0: got nan",
    "compare digits --xi 0": "xi must be a finite number above 0",
    "compare digits --backoff 2": "backoff",
    "compare digits --zero-gradient pull": "zero_gradient must be",
    "compare digits --lower-bound progresive": "did you mean progressive?",
    "compare digits --lower-bound progressive,log_base=99": "log_base must be above 1",
    "compare digits --lower-bound average,beta=1": "has no option 'beta'",
    "compare digits --scheduler StepLRR": "StepLR",
    "compare digits --scheduler StepLR": "step_size",
    "compare digits --scheduler MultiStepLR,milestones='3'": "milestones must be integers separated by commas",
    "compare digits --scheduler StepLR,step_size=0": "scheduler 'StepLR' cannot step with step_size=0",
    "compare digits --set hiden=3": "did you mean hidden?",
    "compare digits --set hidden": "--set needs key=value, got 'hidden'",
    "compare digits --set hidden=3 --set hidden=4": "--set has hidden twice",
    "compare digits --set hidden=0": "hidden must be an integer of at least 1",
    "compare mnist": "needs --data DIR",
    "compare mnist --data nowhere": "nowhere",
    "compare mnist --data truncated": "truncated",
    "compare digits --out notes.txt": "notes.txt: it is a file, not a folder",
    "compare digits --out notes.txt/deeper": "cannot write to notes.txt/deeper",
    "tasks all": "unexpected argument 'all'",
}


RAISING = """
import torch
from lossaware.studies.task import Task

def build(*ignored):
    return 1 / 0

def number(*ignored):
    return 3

def linear():
    return torch.nn.Linear(2, 2)

no_data = Task("mine", "", linear, build, number)
no_sets = Task("mine", "", linear, number, number)
no_model = Task("mine", "", build, number, number)
odd_model = Task("mine", "", number, number, number)
"""


@pytest.fixture(scope="module")
def clutter(tmp_path_factory) -> Path:
    """A folder with everything that can be wrong in a folder."""
    folder = tmp_path_factory.mktemp("clutter")
    (folder / "notes.txt").write_text("mine")
    (folder / "broken.py").write_text("# a task\ndef build(:\n")
    (folder / "raising.py").write_text(RAISING)
    raw = folder / "truncated" / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for part, count in (("train", 60000), ("t10k", 10000)):
        (raw / f"{part}-images-idx3-ubyte").write_bytes(struct.pack(">IIII", 0x803, count, 28, 28) + bytes(1000))
        (raw / f"{part}-labels-idx1-ubyte").write_bytes(struct.pack(">II", 0x801, count) + bytes(1000))
    return folder


@pytest.mark.parametrize("command", WRONG)
def test_wrong_input_is_one_clear_line(command: str, clutter: Path, capsys, monkeypatch):
    monkeypatch.chdir(clutter)
    before = contents(clutter)
    assert lossaware(*command.split()) == 2
    output = capsys.readouterr()
    assert output.out == ""
    assert len(output.err.splitlines()) == 1, output.err
    assert output.err.startswith("lossaware: ")
    assert WRONG[command] in output.err
    assert contents(clutter) == before, "wrong input must write nothing"


def contents(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file() and path.suffix != ".pyc"}


# --- values ---------------------------------------------------------------------------------------------------------


def test_lists_of_values():
    assert numbers("--x", "1e-4, 1e-3,2", at_least=0) == [1e-4, 1e-3, 2.0]
    assert words("--x", "sgd, adam") == ["sgd", "adam"]


def test_assigned_values_have_types():
    texts = ["a=3", "b=0.5", "c=true", "d=null", "e=text", "f=1e-3", "g=[1]", "h=x=y"]
    assert dict(assignments("--set", texts)) == {
        "a": 3,
        "b": 0.5,
        "c": True,
        "d": None,
        "e": "text",
        "f": 1e-3,
        "g": "[1]",
        "h": "x=y",
    }
    deep = "[" * 100_000
    assert assignments("--set", [f"a={deep}"]) == (("a", deep),)


def test_names_with_options():
    assert parse_named("--scheduler", "StepLR,step_size=5") == ("StepLR", (("step_size", 5),))
    assert parse_named("--scheduler", None) == (None, ())
    assert parse_named("--scheduler", "MultiStepLR,milestones=3,6,gamma=0.5") == (
        "MultiStepLR",
        (("gamma", 0.5), ("milestones", "3,6")),
    )
    assert parse_named("--scheduler", "MultiStepLR,milestones=3,") == ("MultiStepLR", (("milestones", "3,"),))
    with pytest.raises(UsageError, match="needs a name"):
        parse_named("--scheduler", ",a=1")
