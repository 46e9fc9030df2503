"""Accumulation, clipping and schedulers that step after each step."""

import dataclasses

import pytest
import torch
from torch import nn

from lossaware.errors import UsageError
from lossaware.studies.specs.optimizers import make_optimizer
from lossaware.studies.specs.run_spec import RunSpec, options
from lossaware.studies.task import Data, InMemory, Task
from lossaware.studies.training import run as run_module
from lossaware.studies.training.loop_options import loop_options
from lossaware.studies.training.run import run

SPEC = RunSpec(task="own", optimizer="sgd", lr=0.1, seed=3, epochs=2, batch_size=5)
X = torch.randn(23, 2, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def trained(monkeypatch):
    """Trains a linear model; gives records, the parameters before and after each step, and the learning rates."""

    def measure(model, batch):
        return {"loss": 100 * (model(batch[0]) - batch[0].sum(1, keepdim=True)).square().mean()}

    task = Task(
        "own", "", lambda: nn.Linear(2, 1), lambda folder: Data(InMemory((X,)), InMemory((X,))), measure, "loss"
    )

    def train(**changes):
        steps = []

        def make(*arguments):
            optimizer = make_optimizer(*arguments)
            weights = optimizer.param_groups[0]["params"][0]
            note = lambda *_: steps.append((weights.detach().clone(), optimizer.param_groups[0]["lr"]))  # noqa: E731
            optimizer.register_step_pre_hook(note)
            optimizer.register_step_post_hook(note)
            return optimizer

        monkeypatch.setattr(run_module, "load_task", lambda name, options: task)
        monkeypatch.setattr(run_module, "make_optimizer", make)
        return list(run(dataclasses.replace(SPEC, **changes), None)), steps

    return train


def test_a_step_has_the_mean_of_its_batches(trained):
    """23 examples in five batches: steps of two, two and one. Two batches of 5 equal one of 10, up to rounding."""
    whole, whole_steps = trained(batch_size=10, lr=1e-3)
    parts, part_steps = trained(lr=1e-3, training=options(accumulate=2), lga=options(gamma2=0.0))
    assert len(part_steps) == len(whole_steps) == 2 * 2 * 3
    for (one, _), (other, _) in zip(part_steps[:4], whole_steps[:4], strict=True):
        torch.testing.assert_close(one, other)
    assert parts[-1].lga is not None
    assert parts[-1].lga["steps"] == 6
    assert parts[0].train["loss"] == pytest.approx(whole[0].train["loss"], rel=1e-3)


def test_lga_gets_the_mean_loss_of_each_step(trained):
    one, _ = trained(lr=1e-9, training=options(accumulate=5), lga=options(gamma2=0.0))
    assert one[0].lga is not None
    assert one[0].lga["loss"] == pytest.approx(one[0].train["loss"], rel=0.2)  # the batches differ in size
    assert one[0].lga["steps"] == 1


def test_the_norm_of_a_step_is_clipped(trained):
    _, free = trained()
    _, clipped = trained(training=options(clip=0.01))
    longest = [
        max(float((after - before).norm()) for (before, _), (after, _) in zip(steps[::2], steps[1::2], strict=True))
        for steps in (free, clipped)
    ]
    assert longest[0] > 1
    assert 0 < longest[1] <= 0.1 * 0.01 * (1 + 1e-5)


@pytest.mark.parametrize(("accumulate", "steps"), [(1, 10), (2, 6)])
def test_a_schedule_per_step_ends_with_the_run(trained, accumulate, steps):
    chosen = options(interval="step", accumulate=accumulate)
    _, rates_by_step = trained(scheduler="CosineAnnealingLR", training=chosen)
    rates = [rate for _, rate in rates_by_step[::2]]
    assert len(rates) == steps
    assert rates[0] == 0.1
    assert rates[steps // 2] == pytest.approx(0.05)
    assert rates == sorted(rates, reverse=True)
    _, rates_by_step = trained(scheduler="OneCycleLR", training=chosen)
    assert 0.09 < max(rate for _, rate in rates_by_step) <= 0.1


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"training": options(clap=1.0)}, "training has no option 'clap'; did you mean clip"),
        ({"training": options(clip=-1.0)}, "clip must be a number above 0"),
        ({"training": options(accumulate=1.5)}, "accumulate must be an integer of at least 1, got 1.5"),
        ({"training": options(interval="batch")}, "interval must be epoch or step, got 'batch'"),
        (
            {"training": options(interval="step"), "scheduler": "ReduceLROnPlateau"},
            "without a loss, got ReduceLROnPlateau",
        ),
        ({"training": options(clip=1.0), "distributed": "ddp-2"}, "cannot be used with runs on several ranks"),
    ],
)
def test_mistakes(changes, message):
    with pytest.raises(UsageError, match=message):
        loop_options(dataclasses.replace(SPEC, **changes))


def test_runs_keep_the_keys_that_they_had_before_there_were_options():
    assert "training" not in SPEC.to_json()
    clipped = dataclasses.replace(SPEC, training=options(clip=1.0))
    assert clipped.key != SPEC.key
    assert RunSpec.from_json(clipped.to_json()) == clipped
