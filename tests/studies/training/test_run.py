"""A run: the same numbers each time, the same data without and with LGA, and one-line errors."""

import dataclasses
import json
import math
import time
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional

from lossaware import LGA
from lossaware.errors import UsageError
from lossaware.studies.models.classification import classification
from lossaware.studies.specs.optimizers import make_optimizer, optimizers
from lossaware.studies.specs.run_spec import RunSpec, options
from lossaware.studies.specs.task import Data, InMemory, Task
from lossaware.studies.specs.tasks import load_task
from lossaware.studies.training import run as run_module
from lossaware.studies.training.attach import attach_lga
from lossaware.studies.training.reproducible import derived
from lossaware.studies.training.run import run
from support import AT_ONE
from support.examples import tensors_of

SPEC = RunSpec(task="digits", optimizer="sgd", lr=0.01, seed=3, epochs=2, batch_size=100)


def numbers(spec, folder=None):
    """All records except the wall time, exactly."""
    records = [dataclasses.asdict(record) for record in run(spec, folder)]
    for record in records:
        assert record.pop("seconds") > 0
    return json.dumps(records)


@pytest.fixture
def with_task(monkeypatch):
    """Makes runs use this task for any name."""

    def use(task):
        monkeypatch.setattr(run_module, "load_task", lambda name, options: task)

    return use


@pytest.fixture
def trained_batches(with_task):
    """A task of small numbers, whose batches are noted as training sees them, augmentation and dropout included."""
    batches: list[torch.Tensor] = []
    inputs = torch.arange(23.0).unsqueeze(1)
    examples = InMemory((inputs, inputs.squeeze(1).long() % 2))

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.layers = nn.Sequential(nn.Dropout(0.5), nn.Linear(1, 2))

        def forward(self, x):
            if self.training:
                batches.append(torch.cat([x, self.layers[0](torch.ones_like(x))]))
            return self.layers(x / 23)

    def augment(batch, generator):
        return batch[0] + torch.rand(1, generator=generator), batch[1]

    with_task(Task("seen", "", Net, lambda folder: Data(examples, examples, augment), classification))
    return batches


@pytest.mark.parametrize(
    "spec",
    [
        SPEC,
        dataclasses.replace(SPEC, lga=options(gamma2=1e-6)),
        dataclasses.replace(SPEC, optimizer="adam", lga=options(gamma2=1e-6, steps_per_epoch=1)),
        dataclasses.replace(SPEC, precision="bf16", lga=options(gamma2=1e-6)),
    ],
)
def test_the_same_run_gives_the_same_bits(spec):
    first = numbers(spec)
    torch.rand(3)  # earlier work in the process must not matter
    assert numbers(spec) == first
    assert numbers(dataclasses.replace(spec, seed=4)) != first


def test_lenet_gives_the_same_bits(tiny_mnist):
    spec = RunSpec("mnist", "adam", 1e-3, seed=0, epochs=2, batch_size=64, lga=options(gamma2=1e-5))
    assert numbers(spec, tiny_mnist) == numbers(spec, tiny_mnist)


def test_a_run_equals_a_handwritten_loop():
    """Same initialisation, order and means as a plain loop, with LGA attached as a user would."""
    spec = dataclasses.replace(SPEC, optimizer="momentum", lga=options(gamma2=1e-4))
    records = list(run(spec, None))
    task = load_task("digits")
    x, y = tensors_of(task.data(None).train)
    xt, yt = tensors_of(task.data(None).test)
    torch.manual_seed(3)
    model = task.model()
    optimizer: Any = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
    lga = LGA(optimizer, gamma2=1e-4, steps_per_epoch=15)
    order = torch.Generator().manual_seed(derived(3, "order"))
    for record in records:
        losses, right = [], 0
        for chosen in torch.randperm(len(x), generator=order).split(100):
            outputs = model(x[chosen])
            loss = functional.cross_entropy(outputs, y[chosen])
            losses += [loss.item()] * len(chosen)
            right += int((outputs.argmax(1) == y[chosen]).sum())
            optimizer.zero_grad()
            loss.backward()
            optimizer.step(loss=loss)
        assert record.train["loss"] == pytest.approx(math.fsum(losses) / len(x), rel=1e-12)
        assert record.train["accuracy"] == pytest.approx(right / len(x), rel=1e-6)
        with torch.no_grad():
            outputs = model(xt)
        assert record.test["loss"] == pytest.approx(functional.cross_entropy(outputs, yt).item(), rel=1e-6)
        assert record.test["accuracy"] == pytest.approx(float((outputs.argmax(1) == yt).float().mean()), rel=1e-6)
        assert record.lga == {name: float(value) for name, value in dataclasses.asdict(lga.status).items()}
    assert lga.status.open_share > 0.5


def test_data_order_and_dropout_are_the_same_without_and_with_lga(trained_batches):
    spec = dataclasses.replace(SPEC, task="seen", batch_size=5, epochs=3)
    list(run(spec, None))
    without = [batch.clone() for batch in trained_batches]
    trained_batches.clear()
    list(run(dataclasses.replace(spec, lga=options(gamma2=0.1, eps=0.0)), None))
    assert len(trained_batches) == len(without) == 3 * 5
    assert all(torch.equal(one, two) for one, two in zip(trained_batches, without, strict=True))
    # The order is another one in each epoch, and with another seed.
    assert not torch.equal(without[0], without[5])
    trained_batches.clear()
    list(run(dataclasses.replace(spec, seed=4), None))
    assert not torch.equal(without[0], trained_batches[0])


def test_each_epoch_sees_each_example_once(with_task):
    task = load_task("digits")
    data = task.data(None)
    numbered = InMemory((*tensors_of(data.train), torch.arange(len(data.train))))
    numbers: list[int] = []

    def measure(model, batch):
        numbers.extend(batch[2].tolist())
        return classification(model, batch[:2])

    test = InMemory((*tensors_of(data.test), torch.zeros(len(data.test), dtype=torch.long)))
    with_task(dataclasses.replace(task, data=lambda folder: Data(numbered, test), measure=measure))
    next(run(SPEC, None))
    assert sorted(numbers[: len(numbered)]) == list(range(len(numbered)))
    assert numbers[: len(numbered)] != list(range(len(numbered)))


def test_a_data_set_need_not_be_in_memory(with_task):
    class Stream:
        def __len__(self) -> int:
            return 12

        def batches(self, size, generator) -> Iterator[tuple[torch.Tensor, ...]]:
            for start in range(0, 12, size):
                x = torch.arange(start, min(start + size, 12)).float().unsqueeze(1)
                yield x, (x[:, 0] > 5).long()

    task = Task("stream", "", lambda: nn.Linear(1, 2), lambda folder: Data(Stream(), Stream()), classification)
    with_task(task)
    assert len(list(run(dataclasses.replace(SPEC, batch_size=5), None))) == 2


def test_tests_take_as_many_at_a_time_as_the_task_says(with_task):
    sizes = []

    def measure(model, batch):
        if not model.training:
            sizes.append(len(batch[0]))
        return classification(model, batch)

    task = dataclasses.replace(load_task("digits"), measure=measure)
    with_task(task)
    expected = next(run(SPEC, None)).test
    assert sizes == [359]
    with_task(dataclasses.replace(task, test_batch_size=100))
    measures = next(run(SPEC, None)).test
    assert sizes[1:] == [100, 100, 100, 59]
    assert measures == pytest.approx(expected, rel=1e-6)


def test_evaluation_does_not_change_the_model(with_task):
    """During testing, the statistics of batch normalisation do not change, dropout is off, and there is no graph."""
    modes = []

    def measure(model, batch):
        measures = classification(model, batch)
        modes.append((model.training, measures["loss"].requires_grad))
        return measures

    x = torch.randn(30, 4, generator=torch.Generator().manual_seed(0))
    examples = InMemory((x, (x[:, 0] > 0).long()))
    with_task(Task("t", "", lambda: nn.Linear(4, 2), lambda folder: Data(examples, examples), measure))
    list(run(dataclasses.replace(SPEC, batch_size=15), None))
    assert modes == [(True, True), (True, True), (False, False)] * 2


@pytest.mark.parametrize(
    ("name", "chosen"),
    [
        ("StepLR", options(step_size=1, gamma=0.1)),
        ("MultiStepLR", options(milestones="1,3")),
        ("MultiStepLR", options(milestones="2,")),
        ("CosineAnnealingLR", options(T_max=4)),
        ("ReduceLROnPlateau", options(patience=0, mode="max")),
    ],
)
def test_schedulers_step_once_per_epoch(with_task, monkeypatch, name, chosen):
    optimizers = []

    def make(*arguments):
        optimizers.append(make_optimizer(*arguments))
        return optimizers[-1]

    monkeypatch.setattr(run_module, "make_optimizer", make)
    spec = dataclasses.replace(SPEC, scheduler=name, scheduler_options=chosen, epochs=4, lga=options())
    rates = [optimizers[-1].param_groups[0]["lr"] for _ in run(spec, None)]
    assert len(rates) == 4
    expected = {
        "StepLR": [1e-3, 1e-4, 1e-5, 1e-6],
        "MultiStepLR": [1e-3, 1e-3, 1e-4, 1e-4] if chosen == options(milestones="1,3") else [1e-2, 1e-3, 1e-3, 1e-3],
        "CosineAnnealingLR": [0.01 * (1 + math.cos(math.pi * epoch / 4)) / 2 for epoch in (1, 2, 3, 4)],
        "ReduceLROnPlateau": [1e-2, 1e-3, 1e-4, 1e-5],
    }
    assert rates == pytest.approx(expected[name])


def test_a_loss_that_is_no_longer_finite_is_recorded():
    records = list(run(dataclasses.replace(SPEC, lr=1e30, lga=options(), epochs=3), None))
    assert len(records) == 3
    assert not math.isfinite(records[-1].train["loss"])
    assert records[-1].lga["nonfinite_losses"] > 0


def test_bfloat16_is_another_computation_with_a_near_result():
    exact = list(run(SPEC, None))[-1]
    rounded = list(run(dataclasses.replace(SPEC, precision="bf16"), None))[-1]
    assert exact.train["loss"] != rounded.train["loss"]
    assert rounded.train["loss"] == pytest.approx(exact.train["loss"], rel=0.02)


READINGS: dict[str, dict[str, Any]] = {
    "letter": {"steps_per_epoch": 1, "lower_bound": "progressive", "lower_bound.log_base": math.e},
    "momentum": {"lower_bound": "momentum", "lower_bound.beta": 1.0},
}


def test_the_readings_of_lga_are_options(with_task):
    """Algorithm 1 to the letter and the default reading have different records."""
    letter = options(**READINGS["letter"])
    records = {chosen: list(run(dataclasses.replace(SPEC, lga=chosen), None))[-1] for chosen in (options(), letter)}
    assert [record.lga["statuses"] for record in records.values()] == [2, 30]
    momentum = options(**READINGS["momentum"])
    assert list(run(dataclasses.replace(SPEC, lga=momentum), None))[-1].lga["lower_bound"] == 0


def test_progress_is_reported_occasionally(monkeypatch):
    reports = []
    monkeypatch.setattr(run_module, "PROGRESS_SECONDS", 0.0)
    list(run(SPEC, None, on_progress=lambda *state: reports.append(state)))
    assert [(epoch, step, steps) for epoch, step, steps, _ in reports] == [
        (e, s, 15) for e in (1, 2) for s in range(1, 16)
    ]
    assert not any(loss.requires_grad for *_, loss in reports)
    monkeypatch.setattr(run_module, "PROGRESS_SECONDS", 3600.0)
    reports.clear()
    list(run(SPEC, None, on_progress=lambda *state: reports.append(state)))
    assert not reports


def test_torch_is_restored():
    before = (torch.get_num_threads(), torch.are_deterministic_algorithms_enabled())
    try:
        torch.set_num_threads(2)
        records = run(SPEC, None)
        next(records)
        assert (torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()) == (1, True)
        records.close()
        assert (torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()) == (2, before[1])
    finally:
        torch.set_num_threads(before[0])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"epochs": 0}, "at least 1 epoch, got 0"),
        ({"batch_size": 0}, "at least 1 example, got 0"),
        ({"seed": -1}, "seed must be an integer .* got -1"),
        ({"precision": "fp16"}, "unknown precision 'fp16'; did you mean"),
        ({"lr": 0.0}, "learning rate must be a number above 0, got 0.0"),
        ({"lr": math.nan}, "learning rate must be a number above 0, got nan"),
        ({"optimizer": "adm"}, r"unknown optimizer 'adm'; did you mean adam.*file.py:Class"),
        ({"optimizer": "torch.optim:Adm"}, "torch.optim has no 'Adm'"),
        (
            {"optimizer": "no_such_package:Adam"},
            "there is no module 'no_such_package' on the import path .*no_such_package.py:NAME",
        ),
        ({"optimizer": "no_such_file.py:Adam"}, "optimizer 'no_such_file.py:Adam': there is no file no_such_file.py"),
        ({"optimizer": "torch.nn:ReLU"}, "'torch.nn:ReLU' is not a torch.optim.Optimizer"),
        ({"optimizer": "torch.optim:LBFGS"}, "needs a closure"),
        (
            {"optimizer_options": options(momentun=0.9)},
            "optimizer 'sgd' has no option 'momentun'; did you mean momentum",
        ),
        ({"optimizer_options": options(momentum=-1.0)}, "optimizer 'sgd': Invalid momentum value: -1.0"),
        ({"optimizer_options": options(lr=0.1)}, "lr is not an option"),
        ({"scheduler": "StepRL"}, "unknown scheduler 'StepRL'; did you mean StepLR"),
        ({"scheduler": "steplr"}, "unknown scheduler 'steplr'; did you mean StepLR"),
        ({"scheduler": "StepLR"}, "scheduler 'StepLR': missing a required argument: 'step_size'"),
        ({"scheduler": "StepLR", "scheduler_options": options(step=1)}, "has no option 'step'; did you mean step_size"),
        ({"lga": options(gama2=1e-8)}, "LGA has no option 'gama2'; did you mean gamma2"),
        ({"lga": options(gamma2=-1.0)}, "LGA: .*gamma2.*-1"),
        ({"lga": options(steps_per_epoch=0)}, "LGA: .*steps_per_epoch.*0"),
        ({"lga": options(lower_bound="progresive")}, "unknown lower bound 'progresive'; did you mean progressive"),
        ({"lga": options(**{"lower_bound.base": 2})}, "lower bound 'progressive' has no option 'base'"),
        ({"lga": options(**{"lower_bound.log_base": 1.0})}, "lower bound 'progressive': log_base"),
    ],
)
def test_mistakes_in_a_specification(changes, message):
    with pytest.raises(UsageError, match=message) as error:
        list(run(dataclasses.replace(SPEC, **changes), None))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", optimizers())
def test_every_listed_optimizer_learns(name):
    lr = 1.0 if name in AT_ONE else 0.01
    spec = dataclasses.replace(SPEC, optimizer=name, lr=lr, epochs=2)
    first, last = run(spec, None)
    assert last.train["loss"] < first.train["loss"]


def test_a_user_optimizer_is_named_by_its_file(tmp_path):
    (tmp_path / "mine.py").write_text("from torch.optim import SGD\n\n\nclass Mine(SGD):\n    pass\n")
    own = dataclasses.replace(SPEC, optimizer=f"{tmp_path / 'mine.py'}:Mine")
    assert own.own_code == (own.optimizer,)
    (one, two) = ([dataclasses.replace(record, seconds=0.0) for record in run(spec, None)] for spec in (own, SPEC))
    assert one == two


def test_optimizers_are_those_of_torch():
    parameters = [nn.Parameter(torch.zeros(1))]
    momentum = make_optimizer("momentum", parameters, 0.1, {"nesterov": True})
    assert type(momentum) is torch.optim.SGD
    assert momentum.defaults["momentum"] == 0.9
    assert momentum.defaults["nesterov"]
    assert make_optimizer("adam", parameters, 0.1, {"betas": "0.8,0.9"}).defaults["betas"] == (0.8, 0.9)
    assert type(make_optimizer("torch.optim:Adafactor", parameters, 0.1, {})) is torch.optim.Adafactor


def test_attaching_lga_does_not_count_as_training_time(monkeypatch):
    now = 0.0

    def slow(*arguments):
        nonlocal now
        now += 100.0
        return attach_lga(*arguments)

    monkeypatch.setattr(run_module, "attach_lga", slow)
    monkeypatch.setattr(time, "perf_counter", lambda: now)
    assert [record.seconds for record in run(dataclasses.replace(SPEC, lga=options()), None)] == [0.0, 0.0]
    assert now == 100.0
