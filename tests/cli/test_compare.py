"""The comparison: its runs, and that its table and report contain their results."""

import dataclasses
import io
import json
import math
import sqlite3
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from lossaware.errors import UsageError
from lossaware.studies.analysis.statistics import paired
from lossaware.studies.comparing.execute import execute_comparison
from lossaware.studies.execution import progress
from lossaware.studies.execution.events import Engine, EpochDone, Progress, RunDone, RunFailed, RunNote, RunStarted
from lossaware.studies.execution.local import LocalEngine
from lossaware.studies.execution.supervise import Stopped
from lossaware.studies.report.comparison import Outcome
from lossaware.studies.specs.arms import arms_of_gamma2
from lossaware.studies.specs.comparison import comparison
from lossaware.studies.specs.run_spec import EpochRecord, RunSpec
from lossaware.studies.specs.study import Study
from lossaware.studies.specs.task import Task
from lossaware.studies.specs.tasks import load_task
from lossaware.studies.store.database import Store
from lossaware.studies.training.rehearse import check
from lossaware.studies.training.run import run

LGA = {"eps": 0.1, "xi": 0.01, "lower_bound": "progressive", "backoff": 0.1, "zero_gradient": "push"}


def small(task_name: str = "digits", lga: Mapping[str, Any] = LGA, **changes: Any) -> Study:
    """A small comparison; axes and settings may be changed."""
    axes: dict[str, Any] = {"optimizers": ["sgd", "adam"], "lrs": [1e-3, 1e-2], "gamma2s": [1e-6]}
    axes |= {name: changes.pop(name) for name in axes if name in changes}
    axes["arms"] = arms_of_gamma2(axes.pop("gamma2s"))
    settings = {"task": task_name, "task_options": {"hidden": 8}, "seeds": 2, "epochs": 2, "batch_size": 200} | changes
    return comparison(load_task("digits"), settings, lga=lga, **axes)


def spec_of(optimizer: str, lr: float, seed: int, *, with_lga: bool) -> RunSpec:
    settings = (optimizer, lr, seed, with_lga)
    return next(s for s in SMALL.specs if (s.optimizer, s.lr, s.seed, s.lga is not None) == settings)


SMALL = small()
QUIET = Console(file=open("/dev/null", "w"))  # noqa: SIM115


def run_comparison(study: Study, out: Path, console: Console = QUIET, engine: Engine | None = None) -> Outcome:
    task = load_task("digits", study.file.base.task_options)
    return execute_comparison(study, task, data=None, engine=engine or LocalEngine(2), out=out, console=console)


@pytest.fixture(scope="module")
def finished_comparison(tmp_path_factory) -> tuple[Outcome, Path]:
    out = tmp_path_factory.mktemp("done")
    return run_comparison(SMALL, out), out


class InProcess:
    """An engine without processes, which can fail or be interrupted on request."""

    jobs = 2

    def __init__(self) -> None:
        self.executed: list = []
        self.stop_after = math.inf
        self.broken_seed: int | None = None

    def execute(self, specs, data_folder, checkpoints):
        for count, spec in enumerate(specs):
            if count >= self.stop_after:
                raise KeyboardInterrupt
            yield RunStarted(spec)
            self.executed.append(spec)
            if spec.seed == self.broken_seed and spec.lga is not None:
                yield RunFailed(spec, "ValueError: broken on purpose (task.py, line 3)")
                continue
            for epoch in range(1, spec.epochs + 1):
                lift = 0.1 * epoch + (0.05 if spec.lga else 0.0) + 0.001 * spec.seed
                scores = {"loss": 1 - lift, "accuracy": lift}
                status = {"gamma2": 1e-6, "open_share": 0.5, "steps": 8.0 * epoch, "upper_bound": 2.3}
                yield EpochDone(spec, EpochRecord(epoch, scores, scores, status if spec.lga else None, 0.01))
            yield RunDone(spec)


@pytest.fixture
def engine():
    return InProcess()


# --- which runs -----------------------------------------------------------------------------------------------------


def test_every_run_with_lga_has_its_twin_without():
    specs = SMALL.specs
    assert len(specs) == len(set(specs)) == 2 * 2 * 2 * 2
    for spec in specs:
        assert dataclasses.replace(spec, lga=None) in specs
        if spec.lga is not None:
            assert dict(spec.lga) == {**LGA, "gamma2": 1e-6}


def test_several_gamma2_share_their_base():
    several = small(gamma2s=[1e-8, 1e-7, 1e-6])
    assert len(several.specs) == 2 * 2 * 2 * (1 + 3)
    assert set(SMALL.specs) < set(several.specs)


def test_more_seeds_keep_the_first_ones():
    assert set(SMALL.specs) < set(small(seeds=5).specs)
    assert {spec.seed for spec in SMALL.specs} == {0, 1}


# --- what comes of them ---------------------------------------------------------------------------------------------


def test_table_contains_the_results_of_the_runs(finished_comparison):
    """Each run again, in this process: the same numbers, bit for bit, in the rows they belong to."""
    outcome, out = finished_comparison
    test, train = outcome.tables
    places = [("sgd", 1e-3), ("sgd", 1e-2), ("adam", 1e-3), ("adam", 1e-2)]
    with Store(out / "results.sqlite") as store:
        for record, (optimizer, lr) in zip(test.records, places, strict=True):
            assert record["setting"] == {"optimizer": optimizer, "lr": f"{lr:.0e}".replace("e-0", "e-")}
            for seed in (0, 1):
                for side, with_lga in (("without", False), ("with", True)):
                    spec = spec_of(optimizer, lr, seed, with_lga=with_lga)
                    stored = store.records(spec)
                    assert record["scores"][seed][side] == stored[-1].test["accuracy"]
                    if optimizer == "adam" and not with_lga:
                        continue  # half of them are enough
                    repeated = list(run(spec, None))
                    assert [r.test for r in repeated] == [r.test for r in stored]
                    assert [r.train for r in repeated] == [r.train for r in stored]
        first = [store.records(spec_of("sgd", 1e-3, seed, with_lga=False))[-1].train["accuracy"] for seed in (0, 1)]
    scores = test.records[0]["scores"]
    compared = paired([it["without"] for it in scores], [it["with"] for it in scores])
    assert test.records[0]["difference"]["mean"] == compared.difference.mean
    assert train.records[0]["without"]["mean"] == pytest.approx(sum(first) / 2)


def test_report_shows_the_runs(finished_comparison):
    outcome, out = finished_comparison
    page = (out / "report.html").read_text()
    assert "Does LGA help on digits?" in page
    assert page.count("<table") == 2
    assert page.count("<figure>") == 4 + 2 + 4
    for fact in ("hidden", "1e-3, 1e-2", "0 to 1", "torch", "commit", "processor", " s per epoch (half of them "):
        assert fact in page
    assert outcome.facts["Settings"]["batch size"] == "200"


def test_the_data_is_loaded_once_before_the_first_run(engine, tmp_path, monkeypatch):
    loads = []
    load = Task.load
    monkeypatch.setattr(Task, "load", lambda task, folder: loads.append(folder) or load(task, folder))
    run_comparison(SMALL, tmp_path, engine=engine)
    assert len(loads) == 1
    run_comparison(SMALL, tmp_path, engine=engine)
    assert len(loads) == 1, "nothing is missing"
    run_comparison(small(seeds=3), tmp_path, engine=engine)
    assert len(loads) == 2


def test_same_command_again_runs_nothing(finished_comparison, monkeypatch):
    outcome, out = finished_comparison

    def refuse(self, specs, data_folder):
        raise AssertionError(f"{len(specs)} runs were not kept")

    monkeypatch.setattr(LocalEngine, "execute", refuse)
    repeated = run_comparison(SMALL, out)
    assert repeated.to_json() == outcome.to_json()


def test_json_is_strict_and_complete(finished_comparison):
    read = json.loads(finished_comparison[0].to_json())
    assert [table["measure"]["split"] for table in read["tables"]] == ["test", "train"]
    assert len(read["tables"][0]["rows"]) == 4
    assert read["failures"] == []
    assert read["facts"]["Settings"]["optimizers"] == "sgd, adam"


def test_more_seeds_execute_only_missing_runs(engine, tmp_path):
    run_comparison(SMALL, tmp_path, engine=engine)
    assert len(engine.executed) == 16
    run_comparison(small(seeds=3), tmp_path, engine=engine)
    assert {spec.seed for spec in engine.executed[16:]} == {2}
    assert len(engine.executed) == 24


def test_a_failed_run_is_reported_and_the_others_continue(engine, tmp_path):
    engine.broken_seed = 1
    outcome = run_comparison(SMALL, tmp_path, engine=engine)
    assert {spec.seed for spec, _ in outcome.failures} == {1}
    assert len(outcome.failures) == 4
    assert outcome.tables[0].records[0]["without"]["n"] == 1
    assert "1 of 2 seeds left out" in (tmp_path / "report.html").read_text()
    assert json.loads(outcome.to_json())["failures"][0]["message"].startswith("ValueError: broken on purpose")

    engine.broken_seed = None
    engine.executed.clear()
    assert run_comparison(SMALL, tmp_path, engine=engine).failures == []
    assert len(engine.executed) == 4


def test_ctrl_c_keeps_finished_epochs_and_says_how_to_continue(engine, tmp_path):
    engine.stop_after = 5
    with pytest.raises(Stopped, match=r"5 of 16 runs are finished.* Run the same command again"):
        run_comparison(SMALL, tmp_path, engine=engine)
    assert not (tmp_path / "report.html").exists()
    engine.stop_after = math.inf
    engine.executed.clear()
    run_comparison(SMALL, tmp_path, engine=engine)
    assert len(engine.executed) == 11


def test_best_learning_rates_are_compared(engine, tmp_path):
    remarks = run_comparison(SMALL, tmp_path, engine=engine).remarks
    assert len(remarks) == 2
    assert remarks[0].startswith(
        "At the learning rate that is the best tried, sgd reaches 20.05 % without (lr 1e-3), 25.05 % with LGA"
    )
    assert run_comparison(small(lrs=[1e-3]), tmp_path, engine=engine).remarks == []


def test_progress_in_plain_lines(engine, tmp_path):
    with (tmp_path / "lines").open("w") as file:
        run_comparison(SMALL, tmp_path / "out", Console(file=file, width=100), engine=engine)
        run_comparison(small(seeds=3), tmp_path / "out", Console(file=file, width=100), engine=engine)
    lines = (tmp_path / "lines").read_text().splitlines()
    assert lines[0].startswith("16 runs to do")
    assert lines[1].startswith("16 runs done in")
    assert lines[2].startswith("8 runs to do, 16 already finished")


def test_a_resumed_run_is_reported_and_does_not_affect_the_estimate(tmp_path, monkeypatch):
    now = 0.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    spec = spec_of("sgd", 0.01, 0, with_lga=False)
    spec = dataclasses.replace(spec, epochs=100)
    with (tmp_path / "lines").open("w") as file:
        console = Console(file=file, width=100)
        with progress.RunProgress([spec], finished=0, jobs=1, console=console) as run_progress:
            run_progress.handle(RunStarted(spec))
            run_progress.handle(RunNote(spec, "resumes after epoch 50 of 100", 50))
            for epoch in range(1, 61):
                now += 10.0 * (epoch > 50)
                run_progress.handle(EpochDone(spec, EpochRecord(epoch, {"loss": 1.0}, {}, None, 0.0)))
    lines = (tmp_path / "lines").read_text().splitlines()
    assert lines[1] == "sgd, lr 1e-2, without, seed 0: resumes after epoch 50 of 100"
    assert lines[2] == "0 of 1 run done, about 8 min 0 s left."  # 48 epochs at 10 s each, not at the pace of the others


def test_the_estimate_ignores_the_time_before_the_first_step(tmp_path, monkeypatch):
    now = 0.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    spec = dataclasses.replace(spec_of("sgd", 0.01, 0, with_lga=False), epochs=10)
    lines = io.StringIO()
    with progress.RunProgress([spec], finished=0, jobs=1, console=Console(file=lines, width=100)) as run_progress:
        run_progress.handle(RunStarted(spec))
        now = 14.0  # torch is imported
        run_progress.handle(Progress(spec, 1, 1, 1000, 1.0))
        now = 24.0
        run_progress.handle(EpochDone(spec, EpochRecord(1, {"loss": 1.0}, {}, None, 0.0)))
    assert lines.getvalue().splitlines()[1] == "0 of 1 run done, about 1 min 30 s left."


def test_a_diverging_run_is_reported(tmp_path):
    wild = small(optimizers=["sgd"], lrs=[1e30], seeds=1)
    outcome = run_comparison(wild, tmp_path)
    page = (tmp_path / "report.html").read_text()
    assert "1 of 1 runs without diverged" in page
    assert outcome.tables[0].records[0]["verdict"] == "too few seeds to tell"
    json.loads(outcome.to_json())


# --- wrong settings are found before the first run ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"optimizers": ["sgd", "sdg"]}, "unknown optimizer 'sdg'; did you mean sgd"),
        ({"scheduler": "StepLRR"}, "StepLR"),
        ({"scheduler": "StepLR", "scheduler_options": {"step_sze": 3}}, "step_size"),
        ({"scheduler_options": {"step_size": 3}}, "scheduler_options need a scheduler, got only step_size=3"),
        ({"lga": {**LGA, "xi": 0.0}}, "xi must be a finite number above 0"),
        ({"lga": {"lower_bound": "averge"}}, "did you mean average"),
    ],
)
def test_wrong_setting(engine, tmp_path, change, message):
    with pytest.raises(UsageError, match=message):
        run_comparison(small(**change), tmp_path / "out", engine=engine)
    assert not (tmp_path / "out").exists()
    assert engine.executed == []


def test_a_setting_that_a_study_could_not_have_is_one_line():
    with pytest.raises(UsageError, match=r"compare: epochs: .*, got 2000000"):
        small(epochs=2_000_000)


def test_check_accepts_valid_runs():
    check(SMALL.specs, load_task("digits"))
    one, *_ = SMALL.specs
    with pytest.raises(UsageError, match="sdg"):  # of another seed than the first
        check([one, dataclasses.replace(one, optimizer="sdg", seed=5)], load_task("digits"))


# --- nothing is written over ----------------------------------------------------------------------------------------


def foreign_text(path: Path) -> None:
    path.write_text("my notes\n" * 30)


def foreign_database(path: Path) -> None:
    with sqlite3.connect(path) as database:
        database.execute("CREATE TABLE mine (a)")


def other_version(path: Path) -> None:
    with Store(path):
        pass
    with sqlite3.connect(path) as database:
        database.execute("PRAGMA user_version = 999")
        database.execute("PRAGMA journal_mode = DELETE")


@pytest.mark.parametrize("make", [foreign_text, foreign_database, other_version])
def test_foreign_results_are_left_alone(engine, tmp_path, make):
    make(tmp_path / "results.sqlite")
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(UsageError, match="nothing was changed"):
        run_comparison(SMALL, tmp_path, engine=engine)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_foreign_report_is_left_alone(engine, tmp_path):
    (tmp_path / "report.html").write_text("mine")
    with pytest.raises(UsageError, match="not overwritten"):
        run_comparison(SMALL, tmp_path, engine=engine)
    assert [path.name for path in tmp_path.iterdir()] == ["report.html"]
    assert (tmp_path / "report.html").read_text() == "mine"


def test_a_push_without_effect_is_reported_also_at_the_defaults(tmp_path):
    weak = small(optimizers=["sgd"], lrs=[1e-3], gamma2s=[1e-9], seeds=1, epochs=1, lga={})
    [record] = run_comparison(weak, tmp_path).tables[0].records
    assert any("LGA alone could not change any weight" in note for note in record["notes"])
