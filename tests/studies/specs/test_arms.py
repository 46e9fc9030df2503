"""The arms of a comparison: how they are written, and which runs they are."""

from dataclasses import replace

import pytest
import torch

import lossaware
from lossaware.errors import UsageError
from lossaware.studies.analysis.comparisons import pairs
from lossaware.studies.specs.arms import Arm, arm_of, arms_of_gamma2, parse_arms
from lossaware.studies.specs.comparison import comparison
from lossaware.studies.specs.run_spec import AS_CODED
from lossaware.studies.specs.study import Study
from lossaware.studies.specs.tasks import load_task

SETTINGS = {"task": "digits", "seeds": 2, "epochs": 1, "batch_size": 200}


def study_of(arms: str, optimizers=("sgd",), lrs=(1e-3,), **more) -> Study:
    return comparison(
        load_task("digits"), SETTINGS, optimizers=optimizers, lrs=lrs, arms=parse_arms(arms), gamma2=1e-7, **more
    )


@pytest.mark.parametrize(
    ("text", "arm"),
    [
        ("without", Arm("without")),
        ("lga", Arm("lga", AS_CODED)),
        ("agreement", Arm("agreement", "agreement")),
        ("0.0000001", Arm("1e-7", 1e-7)),
        ("1e+0", Arm("1", 1.0)),
        ("prodigy", Arm("prodigy", None, "prodigy")),
        ("adam(lr=1, betas=0.8,0.9)", Arm("adam(lr=1, betas=0.8,0.9)", None, "adam", (("betas", "0.8,0.9"),), 1.0)),
        ("adamw + auto", Arm("adamw + auto", "auto", "adamw")),
        ("c++/own.py:Mine", Arm("c++/own.py:Mine", None, "c++/own.py:Mine")),
        ("torch.optim:Adam(amsgrad=true)+1e-8", None),
    ],
)
def test_how_an_arm_is_written(text, arm):
    [_, parsed] = parse_arms(f"momentum,{text}")
    assert parsed == (arm or Arm(text, 1e-8, "torch.optim:Adam", (("amsgrad", True),)))
    assert parse_arms(["momentum", text]) == [Arm("momentum", None, "momentum"), parsed]


def test_sizes_of_gamma2_are_arms():
    assert arms_of_gamma2([1e-7, "auto"]) == parse_arms("without,1e-7,auto")
    assert arms_of_gamma2([AS_CODED]) == parse_arms("without,lga")
    assert [arm.name for arm in arms_of_gamma2([1e-7, 1.0000001e-7])] == ["without", "1e-07", "1.0000001e-07"]


def test_each_arm_is_compared_with_the_first_from_the_same_seed():
    study = study_of("adamw(weight_decay=0.5),lga,prodigy(lr=1),adam+auto", optimizers=["sgd", "adam"], lrs=[0.1, 0.2])
    assert study.title == "Is another arm better than adamw(weight_decay=0.5) on digits?"
    partners = pairs(study)
    assert len(partners) == 4 * 3
    assert {column for _, column in partners.values()} == {("adamw(weight_decay=0.5)",)}
    row = study.rows[1]
    assert row == ("sgd", "0.2")
    first, lga, prodigy, adam = (study.cells[row, column].specs[1] for column in study.columns)
    assert {spec.seed for spec in (first, lga, prodigy, adam)} == {1}
    assert [spec.optimizer for spec in (first, lga, prodigy, adam)] == ["adamw", "sgd", "prodigy", "adam"]
    assert [spec.lr for spec in (first, lga, prodigy, adam)] == [0.2, 0.2, 1.0, 0.2]
    assert first.optimizer_options == (("weight_decay", 0.5),)
    assert lga.lga is not None
    assert dict(lga.lga)["gamma2"] == 1e-7
    assert [spec.lga is None for spec in (first, lga, prodigy, adam)] == [True, False, True, False]
    assert study.cells[row, ("prodigy(lr=1)",)].bases[1] == first


def test_equal_arms_are_refused_and_options_of_the_base_apply_to_arms():
    study = study_of("sgd,without,adam", optimizers=["sgd", "adam"], optimizer_options={"weight_decay": 0.0})
    assert len(pairs(study)) == 4  # without has other options than sgd
    assert len(pairs(study_of("sgd,without,adam", optimizers=["sgd", "adam"]))) == 3  # sgd, without: the same
    of_arm = {spec.optimizer_options for spec in study.specs if spec.optimizer == "adam"}
    assert of_arm == {(), (("weight_decay", 0.0),)}


def test_the_usual_arms_are_the_runs_that_they_were():
    plain, arms = study_of("without,1e-5"), study_of("without,lga")
    assert plain.title == "Does LGA help on digits?"
    assert {spec.lga is None for spec in plain.specs} == {True, False}
    assert [spec for spec in plain.specs if spec.lga is None] == [spec for spec in arms.specs if spec.lga is None]
    assert [arm_of(replace(spec, optimizer="")) for spec in arms.specs] == ["without", "1e-7"] * 2


def train(trial):
    """A quadratic."""
    p = torch.nn.Parameter(torch.rand(5))
    optimizer = trial.make_optimizer([p], "sgd", momentum=0.5)
    trial.attach(optimizer, steps_per_epoch=2, gamma2=1e-3)
    calls.append((trial.arm, trial.lr, type(optimizer).__name__, dict(optimizer.defaults)))
    for _ in range(2):
        loss = p.square().sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step(loss=loss)
    return p.norm()


calls: list = []


def test_a_function_in_every_arm():
    calls.clear()
    arms = ["without", "lga", "adam(lr=1,betas=0.5,0.6)", "torch.optim:Adagrad+1e-2"]
    result = lossaware.compare(train, direction="minimize", lrs=1e-2, seeds=2, arms=arms, progress=False)
    of_runs = {(arm, lr, name) for arm, lr, name, _ in calls}
    assert of_runs == {
        ("without", 0.01, "SGD"),
        ("lga", 0.01, "SGD"),
        ("adam(betas=0.5,0.6)", 1.0, "Adam"),
        ("torch.optim:Adagrad+1e-2", 0.01, "Adagrad"),
    }
    assert {str(more["betas"]) for _, _, name, more in calls if name == "Adam"} == {"(0.5, 0.6)"}
    assert {more["momentum"] for _, _, name, more in calls if name == "SGD"} == {0.5}
    assert [row["setting"]["arm"] for row in result.to_dict()] == arms[1:]
    assert ">this arm</th>" in result._repr_html_()


def test_a_function_without_lga_may_compare_bases():
    def bare(trial):
        trial.make_optimizer([torch.nn.Parameter(torch.ones(2))], "sgd")
        return {"sgd": 1.0, "adam": 2.0}[trial.arm] + trial.seed

    result = lossaware.compare(bare, direction="maximize", seeds=2, lrs=0.1, arms="sgd,adam", progress=False)
    assert result.to_dict()[0]["difference"]["mean"] == 1.0
    assert result.verdict == "On the score, against sgd: too few seeds to tell."


def test_an_arm_may_be_a_class_of_optimizer():
    arms = parse_arms([torch.optim.AdamW, torch.optim.Adafactor, "adam"])
    assert [arm.optimizer for arm in arms] == ["adamw", "torch.optim:Adafactor", "adam"]

    class Local(torch.optim.SGD):
        pass

    with pytest.raises(UsageError, match=r"Local is not in a module that can be imported: .* 'file.py:Local'"):
        parse_arms([torch.optim.AdamW, Local])
    with pytest.raises(UsageError, match="got the class int"):
        parse_arms([torch.optim.AdamW, int])


@pytest.mark.parametrize(
    ("arms", "message"),
    [
        ("without,adam", "does not call trial.make_optimizer.*: make its optimizer by trial.make_optimizer"),
        ("without,adam+auto", "does not call trial.make_optimizer"),
        ("without,momo", "momo"),
    ],
)
def test_an_arm_that_would_train_as_another_is_refused(arms, message, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "momo", None)

    def own(trial):
        optimizer = torch.optim.SGD([torch.nn.Parameter(torch.ones(2))], lr=0.1)
        if "momo" in arms:
            optimizer = trial.make_optimizer([torch.nn.Parameter(torch.ones(2))], "sgd")
        trial.attach(optimizer, steps_per_epoch=1)
        return 0.0

    with pytest.raises(UsageError, match=message):
        lossaware.compare(own, direction="maximize", seeds=1, lrs=0.1, arms=arms, progress=False)


def test_arms_and_gamma2_do_not_go_together():
    with pytest.raises(UsageError, match="gamma2='auto' cannot be combined with arms='without,lga'"):
        lossaware.compare(train, direction="minimize", lrs=1e-2, arms="without,lga", gamma2="auto")
