"""Runs that are commands: scripts that call `lossaware.trial`, alone, compared, and under torchrun."""

import subprocess
import sys
import time
from pathlib import Path

import pytest

import lossaware
from lossaware import UsageError
from lossaware.studies.execution import patience
from lossaware.studies.execution.command import CommandEngine
from lossaware.studies.execution.events import EpochDone, Length, RunDone, RunFailed
from lossaware.studies.specs.run_spec import RunSpec, function_options
from lossaware.studies.specs.trial_command import TrialCommand, end_of
from support.quadratic import SOURCE, final_norm

SCRIPT = f"import lossaware\n{SOURCE}\n\ntrial = lossaware.trial(lr=0.1, seed=7)\ntrain(trial)\n"
RANKS = SCRIPT.replace("trial = ", "torch.distributed.init_process_group('gloo')\ntrial = ")


def spec_of(command: str, **changes) -> RunSpec:
    fields = {"task": command, "optimizer": "", "lr": 0.1, "seed": 7, "epochs": 0, "batch_size": 0, "kind": "command"}
    return RunSpec(**{**fields, **changes})


@pytest.fixture
def script(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "train.py"
    path.write_text(SCRIPT)
    return path


def events(command: str, *lgas, jobs: int = 2) -> list:
    return list(CommandEngine(TrialCommand(command), jobs).execute([spec_of(command, lga=lga) for lga in lgas], None))


HANGS = """
import json, os, time
with open(json.loads(os.environ["LOSSAWARE_TRIAL"])["reports"], "a") as file:
    record = {"epoch": 1, "train": {}, "test": {"loss": 1.0}, "lga": None, "seconds": 0.0}
    print(json.dumps({"epoch": record}), file=file, flush=True)
time.sleep(1000)
"""


def test_a_script_that_hangs_is_ended_and_reported(script, monkeypatch):
    monkeypatch.setattr(patience, "SILENCE", 0.5)
    monkeypatch.setattr(patience, "MANY", 0.0)
    script.write_text(HANGS)
    began = time.monotonic()
    [*_, epoch, failed] = events("python train.py", ())
    assert isinstance(epoch, EpochDone)
    assert failed.message == "the script is killed for hanging: no event for 1 s"
    assert time.monotonic() - began < 100


def test_a_foreign_assignment_is_one_line(monkeypatch):
    for text in ('{"x":', '{"x": 1}', "[]", "9"):
        monkeypatch.setenv("LOSSAWARE_TRIAL", text)
        with pytest.raises(UsageError, match="LOSSAWARE_TRIAL is not from `lossaware compare --command`: unset it"):
            lossaware.trial()


def test_the_files_of_a_script_that_runs_alone_are_not_removed(script, monkeypatch):
    monkeypatch.delenv("LOSSAWARE_TRIAL", raising=False)
    folder = script.parent / "lossaware-trial"
    folder.mkdir()
    (folder / "model.pt").write_text("hours of training")
    (folder / ".reported.json").write_text("{")
    with pytest.raises(
        UsageError, match=r"reported.json: damaged .*; remove lossaware-trial to start from the beginning"
    ):
        _ = lossaware.trial().checkpoint
    assert (folder / "model.pt").exists()


def test_both_arms_report_and_the_one_without_is_the_plain_loop(script):
    reports = events("python train.py", None, ())
    epochs = {each.spec.lga: each.epochs for each in reports if isinstance(each, RunDone)}
    assert epochs == {None: 3, (): 3}
    assert {each.epochs for each in reports if isinstance(each, Length)} == {3}
    last = {each.spec.lga: each.record for each in reports if isinstance(each, EpochDone) and each.record.epoch == 3}
    assert last[None].test["norm"] == final_norm(lr=0.1, seed=7)
    assert last[()].test["norm"] < final_norm(lr=0.1, seed=7)
    assert last[None].lga is None
    assert last[()].lga["steps"] == 6


def test_the_same_script_by_itself_has_lga_on(script):
    result = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, check=True)
    lines = result.stdout.splitlines()
    assert [line.split(":")[0] for line in lines] == ["epoch 1", "epoch 2", "epoch 3"]
    assert float(lines[-1].split()[-1]) < final_norm(lr=0.1, seed=7)


def test_under_torchrun_the_first_rank_alone_reports(script):
    script.write_text(RANKS)
    reports = events("torchrun --standalone --nproc_per_node 2 train.py", ())
    assert isinstance(reports[-1], RunDone), reports[-1]
    assert [each.record.epoch for each in reports if isinstance(each, EpochDone)] == [1, 2, 3]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("print('hello')", "the script did not call lossaware.trial(); its output ends with: hello"),
        ("import sys; sys.exit('no data in x')", "ended with exit code 1; its output ends with: no data in x"),
        (
            "raise ValueError('shapes differ')",
            "ended with exit code 1; its output ends with: ValueError: shapes differ",
        ),
        ("import os; os.kill(os.getpid(), 9)", "the script was ended by SIGKILL, without output"),
    ],
)
def test_a_script_that_fails_is_one_line(script, text, message):
    script.write_text(text)
    [failed] = [each for each in events("python train.py", None) if isinstance(each, RunFailed)]
    assert message in failed.message
    with pytest.raises(UsageError) as error:
        CommandEngine(TrialCommand("python train.py")).rehearse([spec_of("python train.py")], None)
    assert f"train, arm 'without', fails in a rehearsal of one step: {failed.message}" == str(error.value)


def test_a_script_that_reports_nothing_is_an_error(script):
    script.write_text("import lossaware\nlossaware.trial()")
    [failed] = [each for each in events("python train.py", None) if isinstance(each, RunFailed)]
    assert "the script reported nothing: call trial.report" in failed.message


def test_a_rehearsal_ends_after_one_step_and_leaves_nothing_behind(script, tmp_path):
    script.write_text(SCRIPT.replace("range(2)", "range(10**9)"))
    specs = [spec_of("python train.py", lga=lga) for lga in (None, function_options("auto", {}))]
    CommandEngine(TrialCommand("python train.py")).rehearse(specs, None)
    assert [path.name for path in tmp_path.iterdir()] == ["train.py"]


def test_stopping_the_engine_stops_the_scripts(script, tmp_path):
    script.write_text(
        "import time, pathlib\npathlib.Path('begun').touch()\ntime.sleep(60)\npathlib.Path('end').touch()"
    )
    running = CommandEngine(TrialCommand("python train.py")).execute([spec_of("python train.py")], None)
    next(running)
    running.close()
    assert not (tmp_path / "end").exists()


# --- the command ----------------------------------------------------------------------------------------------------


def test_places_are_filled_and_words_stay_words():
    command = TrialCommand("accelerate launch 'my train.py' --lr {lr} --seed={seed} --config {{x}} --arm {arm}")
    words = command.words(spec_of("", lr=1e-4, seed=3), "lga")
    expected = ["accelerate", "launch", "my train.py", "--lr", "0.0001", "--seed=3", "--config", "{x}", "--arm", "lga"]
    assert words == expected
    assert command.name == "my train"
    with pytest.raises(UsageError, match=r"the placeholder \{lr\}: set --lrs"):
        command.words(spec_of("", lr=0.0), "lga")
    with pytest.raises(UsageError, match="no-such-program cannot be started"):
        events("no-such-program train.py", None)
    with pytest.raises(UsageError, match=r"not-there\.py cannot be started .*: start it by python not-there\.py --x"):
        events("not-there.py --x", None)


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("", "needs a command"),
        ("python 'train.py", "cannot be split"),
        (
            "CUDA_VISIBLE_DEVICES=0 python train.py",
            "CUDA_VISIBLE_DEVICES=0 is not a program: start the command with env",
        ),
        ("python train.py | tee log", r"not run by a shell, so \| has no effect: use sh -c '\.\.\.', or quote it"),
        ("python train.py>log", "so > has no effect"),
        ("cd a && python train.py", "so && has no effect"),
        ("python train.py; true", "so ; has no effect"),
        (
            "python train.py --lr {lrs}",
            r"unknown placeholder \{lrs\}; did you mean lr\? \(for the text itself: \{\{lrs\}\}\)",
        ),
    ],
)
def test_a_command_that_cannot_work_names_the_remedy(command, message):
    with pytest.raises(UsageError, match=message):
        TrialCommand(command)


@pytest.mark.parametrize(
    "command",
    [
        "sh -c 'cd a && python train.py | tee log'",
        'python train.py --where "a;b" --tag "x > y"',
        "python train.py it\\'s",
        "env A=1 python train.py --name=a_b",
        "python train.py '{\"a\": 1}' {}",
    ],
)
def test_other_commands_are_accepted(command):
    assert TrialCommand(command).words(spec_of("", lr=1e-4), "lga")


def test_results_belong_to_the_scripts_of_the_command():
    assert spec_of("accelerate launch a/train.py --lr {lr}").own_code == ("a/train.py:main",)
    assert spec_of("python -m package.train").own_code == ("package.train:main",)
    assert spec_of("torchrun -m torch.x train.py", optimizer="mine.py:SGD").own_code == ("train.py:main", "mine.py:SGD")


@pytest.mark.parametrize(
    ("output", "line"),
    [
        ("", ""),
        ("loading\ndone\n\n", "done"),
        ("Traceback (most recent call last):\nlossaware.errors.UsageError: say --lrs\n", "UsageError: say --lrs"),
        (
            "[rank0]: ValueError: no such file: x\nE1127 failed (exitcode: 1)\n"
            "torch.distributed.elastic.multiprocessing.errors.ChildFailedError: \n=====\ntime: 3\n=====",
            "ValueError: no such file: x",
        ),
    ],
)
def test_the_end_of_an_output(output, line):
    assert end_of(output) == line
