"""A trial: its interface for training functions, and its records."""

import json
from typing import Any

import pytest
import torch

from lossaware.baseline import Baseline
from lossaware.errors import UsageError
from lossaware.studies.specs.run_spec import AS_CODED, EpochRecord, RunSpec, function_options, options
from lossaware.studies.specs.trial_function import check_score, make_trial_function, takes_a_trial
from lossaware.studies.training.function import rehearse_functions, run_function
from lossaware.studies.training.trial import Listener, Trial
from support.quadratic import final_norm, train


def spec_of(**changes) -> RunSpec:
    fields = {"task": "x.py:train", "optimizer": "", "lr": 0.1, "seed": 3, "epochs": 0, "batch_size": 0}
    return RunSpec(**{**fields, "kind": "function", **changes})


WITH = function_options(1e-3, {})


def run(tmp_path, function=train, **changes) -> tuple[list[EpochRecord], int]:
    records: list[EpochRecord] = []
    listener = Listener(epoch=records.append)
    trial_function = make_trial_function("train", function)
    return records, run_function(spec_of(**changes), None, listener, tmp_path / "own", function=trial_function)


# --- a run ----------------------------------------------------------------------------------------------------------


def test_reports_become_records_and_the_return_value_the_score(tmp_path):
    records, epochs = run(tmp_path, lga=WITH)
    assert epochs == 3
    assert [record.epoch for record in records] == [1, 2, 3, 3]  # the last once more, with its score
    last = records[-1]
    assert last.test["score"] == last.test["norm"]
    assert last.train == {"loss": last.test["loss"]}
    assert last.lga is not None
    assert last.lga["steps"] == 6
    assert not (tmp_path / "own").exists()


def test_without_lga_is_bitwise_the_plain_loop(tmp_path):
    plain = final_norm(lr=0.1, seed=3)
    state = torch.get_rng_state()
    records, _ = run(tmp_path)
    assert records[-1].test["norm"] == plain
    assert records[-1].lga is None
    assert run(tmp_path, lga=WITH)[0][-1].test["norm"] != plain
    assert torch.equal(torch.get_rng_state(), state)  # of the caller


def test_a_seed_is_the_same_in_all_arms_whether_or_not_the_function_sets_it(tmp_path):
    def draw(trial):
        import random

        import numpy

        return random.random() + numpy.random.rand() + torch.rand(()).item()

    first, second = (run(tmp_path, draw, lga=lga)[0][-1].test["score"] for lga in (None, WITH))
    assert first == second != run(tmp_path, draw, seed=4)[0][-1].test["score"]


@pytest.mark.parametrize(
    ("lga", "arguments", "expected"),
    [
        (function_options(AS_CODED, {}), {"gamma2": 1e-2, "xi": 0.5}, {"gamma2": 1e-2, "xi": 0.5}),
        (function_options(1e-3, {"eps": 0.2}), {"gamma2": 1e-2, "xi": 0.5}, {"gamma2": 1e-3, "xi": 0.5, "eps": 0.2}),
        (function_options("auto", {}), {"gamma2": 1e-2, "xi": 0.5}, {"xi": 1.0, "eps": 0.0}),
        (function_options("auto", {"xi": 0.7}), {"gamma2": 1e-2, "xi": 0.5}, {"xi": 0.7}),
        (function_options(AS_CODED, {}), {"gamma2": "auto", "xi": 0.5}, {"xi": 0.5, "eps": 0.0}),
    ],
)
def test_which_settings_count(tmp_path, lga, arguments, expected):
    trial = Trial(spec_of(lga=lga), folder=tmp_path)
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.ones(2))], lr=0.1)
    settings = trial.attach(optimizer, steps_per_epoch=5, **arguments).settings
    assert {name: getattr(settings, name) for name in expected} == expected
    assert settings.steps_per_epoch == 5
    assert trial.arm == {"auto": "auto", 1e-3: "1e-3"}.get(dict(lga).get("gamma2"), "lga")


def test_the_base_of_an_arm(tmp_path):
    params = [torch.nn.Parameter(torch.ones(2))]
    trial = Trial(spec_of(), folder=tmp_path)
    optimizer = trial.make_optimizer(params, "sgd", momentum=0.5)
    assert (type(optimizer), optimizer.defaults["momentum"], optimizer.defaults["lr"]) == (torch.optim.SGD, 0.5, 0.1)
    trial = Trial(spec_of(optimizer="adam"), folder=tmp_path)
    assert type(trial.make_optimizer(params, "sgd", momentum=0.5)) is torch.optim.Adam
    assert trial.arm == "adam"
    assert isinstance(trial.attach(trial.make_optimizer(params), steps_per_epoch=1), Baseline)


def test_time_before_the_first_epoch_is_not_training_time(tmp_path, monkeypatch):
    now = 0.0
    monkeypatch.setattr("lossaware.studies.training.trial.time.perf_counter", lambda: now)

    def slow_to_begin(trial):
        nonlocal now
        now += 100.0
        for epoch in trial.epochs(2):
            now += 3.0
            trial.report(epoch, loss=1.0)
        return 0

    assert [record.seconds for record in run(tmp_path, slow_to_begin)[0]] == [3.0, 3.0, 3.0]


# --- reports --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("first", [0, 1])
def test_epochs_count_from_0_or_1_and_one_may_be_reported_in_parts(tmp_path, first):
    def reports(trial):
        trial.report(first, loss=1.0)
        trial.report(first, accuracy=torch.tensor([0.5]))
        trial.report(float(first + 1), loss=2)
        trial.report(loss=3)
        return 1

    records, epochs = run(tmp_path, reports)
    assert epochs == 3
    assert records[1].test == {"loss": 1.0, "accuracy": 0.5}
    assert [record.epoch for record in records] == [1, 1, 2, 3, 3]


def test_a_function_that_only_returns_its_score_has_one_epoch(tmp_path):
    records, epochs = run(tmp_path, lambda trial: 0.25)
    assert (epochs, records[0].test) == (1, {"score": 0.25})


@pytest.mark.parametrize(
    ("report", "message"),
    [
        (lambda trial: trial.report(2, loss=1.0), "must be 0 or 1 at first, got 2"),
        (lambda trial: (trial.report(0, loss=1.0), trial.report(2, loss=1.0)), "must be 1 next, got 2"),
        (lambda trial: trial.report(0.5, loss=1.0), "an integer, got 0.5"),
        (lambda trial: trial.report(0), "needs a value by its name"),
        (lambda trial: trial.report(0, loss=torch.ones(2)), "loss must be one number, got Tensor"),
        (lambda trial: trial.report(0, note="good"), "note must be one number, got str"),
        (lambda trial: trial.epochs(0), "count must be an integer of at least 1, got 0"),
        (lambda trial: trial.epochs(3, start=4), "start must be an integer from 0 to 3, got 4"),
        (lambda trial: trial.attach(None, steps_per_epoch=1), "torch.optim.Optimizer"),
    ],
)
def test_mistakes_of_a_function(tmp_path, report, message):
    with pytest.raises(UsageError, match=message):
        report(Trial(spec_of(), folder=tmp_path))


def test_no_learning_rate_and_no_such_setting(tmp_path):
    with pytest.raises(UsageError, match="set --lrs"):
        _ = Trial(spec_of(lr=0.0), folder=tmp_path).lr
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.ones(2))], lr=0.1)
    for lga in (None, WITH):
        with pytest.raises(UsageError, match=r"trial\.attach has no option 'gama2'; did you mean gamma2"):
            Trial(spec_of(lga=lga), folder=tmp_path).attach(optimizer, steps_per_epoch=1, gama2=1.0)


@pytest.mark.parametrize("value", [None, "0.5", True, torch.ones(2), object()])
def test_a_score_is_a_number(value):
    with pytest.raises(UsageError, match="must return its score, one number"):
        check_score("train", value)
    assert check_score("train", torch.tensor([0.5])) == 0.5


# --- going on -------------------------------------------------------------------------------------------------------


def interrupted(at: int, *, before_report: bool = False):
    """A function that stores its sum in its folder, and fails in an epoch the first time."""

    def function(trial):
        file = trial.checkpoint / "sum.json"
        start, total = json.loads(file.read_text()) if file.exists() else (0, 0.0)
        for epoch in trial.epochs(4, start=start):
            total += epoch
            if before_report and epoch == at and start == 0:
                file.write_text(json.dumps([epoch + 1, total]))
                raise KeyError("broken on purpose")
            trial.report(epoch, total=total)
            file.write_text(json.dumps([epoch + 1, total]))
            if epoch == at and start == 0:
                raise KeyError("broken on purpose")
        return total

    return function


@pytest.mark.parametrize("at", [0, 1, 3])
def test_a_run_resumes_from_its_own_folder(tmp_path, at):
    function = interrupted(at)
    with pytest.raises(KeyError):
        run(tmp_path, function)
    records, epochs = run(tmp_path, function)
    assert epochs == 4
    assert records[-1].test == {"total": 6.0, "score": 6.0}
    assert records[-1].epoch == 4
    assert records[0].epoch == (4 if at == 3 else at + 2)


def test_a_checkpoint_that_lacks_the_report_of_its_epoch_is_removed(tmp_path):
    function = interrupted(1, before_report=True)
    with pytest.raises(KeyError):
        run(tmp_path, function)
    with pytest.raises(UsageError, match="must be 1 next, got 2; the run's checkpoint is removed"):
        run(tmp_path, function)
    assert not (tmp_path / "own").exists()


@pytest.mark.parametrize("at", [1, 3])
def test_a_report_that_was_changed_is_not_reported_again(tmp_path, at):
    function = interrupted(at)
    with pytest.raises(KeyError):
        run(tmp_path, function)
    reported = tmp_path / "own" / ".reported.json"
    content = reported.read_text()
    for changed in (content.replace('"total": ', '"total": 1'), content[:-9], "[" * 100_000, "{}"):
        (tmp_path / "own").mkdir(exist_ok=True)
        reported.write_text(changed)
        with pytest.raises(
            UsageError, match=r"reported.json: damaged .*; the run's checkpoint is removed, so it starts"
        ):
            run(tmp_path, function)
        assert not reported.exists()


# --- rehearsal ------------------------------------------------------------------------------------------------------


def rehearse(function, *lgas) -> None:
    rehearse_functions([spec_of(lga=lga) for lga in lgas or (None, WITH)], None, make_trial_function("train", function))


def test_a_rehearsal_takes_one_step_for_each_arm():
    steps = []

    def counted(trial):
        p = torch.nn.Parameter(torch.ones(2))
        optimizer: Any = torch.optim.SGD([p], lr=0.1)
        trial.attach(optimizer, steps_per_epoch=2)
        while True:
            loss = p.square().sum()
            loss.backward()
            steps.append(trial.arm)
            optimizer.step(loss=loss)
        return 0

    rehearse(counted)
    assert steps == ["without", "1e-3"]


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("raise ValueError('shapes differ')", "arm 'without', fails in a rehearsal of one step: ValueError: shapes"),
        ("trial.report(0, loss=1.0)", r"does not call trial.attach\(optimizer, ...\).*: call it instead of LGA\("),
        ("trial.report(0, 1.0)", r"trial.report\(epoch, ...\): a value needs a name, such as loss=loss, got 1.0"),
        ("optimizer.step(loss=1.0)", r"does not call trial.attach\(optimizer, ...\)|TypeError"),
        ("trial.attach(optimizer, steps_per_epoch=1); optimizer.step()", "LGA does not get the loss: pass it by"),
        ("trial.attach(optimizer, steps_per_epoch=1); optimizer.step(loss=torch.ones(2))", "reduce it first"),
        ("trial.attach(optimizer)", "steps_per_epoch"),
        ("trial.attach(optimizer, steps_per_epoch=1); return 'good'", "must return its score"),
    ],
)
@pytest.mark.filterwarnings("ignore:LGA got no loss")
def test_mistakes_found_by_a_rehearsal(body, message):
    setup = "p = torch.nn.Parameter(torch.ones(2)); optimizer = torch.optim.SGD([p], lr=0.1); p.grad = torch.ones(2)"
    space: dict = {"torch": torch}
    exec(f"def broken(trial):\n    {setup}\n    {body}\n    return 0.0", space)
    with pytest.raises(UsageError, match=message):
        rehearse(space["broken"])


# --- functions ------------------------------------------------------------------------------------------------------


def test_which_functions_train():
    def annotated(run: Trial, width=3):
        return 0

    def builder(hidden=3):
        return 0

    def needs_an_option(hidden):
        return 0

    assert takes_a_trial(train)
    assert takes_a_trial(annotated)
    assert takes_a_trial(lambda anything: 0)
    assert not takes_a_trial(builder)
    assert not takes_a_trial(lambda: 0)
    assert not takes_a_trial(needs_an_option, options(hidden=3))
    assert not takes_a_trial(Trial)
    assert not takes_a_trial(3)


def test_a_function_and_its_options_are_looked_at_before_it_runs():
    def nothing(trial):
        trial.report(0, loss=1.0)
        return

    def wide(trial, width, depth=2):
        """Deep and wide.

        Very.
        """
        return width * depth

    with pytest.raises(UsageError, match="returns nothing: end it with the score"):
        make_trial_function("train", nothing)
    with pytest.raises(UsageError, match="no option 'widht'; did you mean width"):
        make_trial_function("train", wide, options(widht=3))
    with pytest.raises(UsageError, match="missing a required argument: 'width'; set it by --set"):
        make_trial_function("train", wide)
    trial_function = make_trial_function("train", wide, options(width=3))
    assert (trial_function(None), trial_function.summary, trial_function.name) == (6, "Deep and wide.", "wide")
