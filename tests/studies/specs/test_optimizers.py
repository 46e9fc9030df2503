"""Other optimizers: runs call them correctly, LGA supports each, and missing packages are reported."""

import dataclasses
import io
import sys
from typing import Any, ClassVar, Literal

import pytest
import torch
from torch import nn

from lossaware.errors import UsageError
from lossaware.extras import how_to_install
from lossaware.studies.specs.alig import AliG
from lossaware.studies.specs.optimizers import make_optimizer, set_mode
from lossaware.studies.specs.run_spec import RunSpec, options
from lossaware.studies.specs.study import load_study
from lossaware.studies.specs.tasks import load_task
from lossaware.studies.training.run import run
from support import needs

PEERS = ("momo", "momo-adam", "alig", "schedulefree-sgd", "schedulefree-adamw", "prodigy", "lion", "signsgd")
OTHER_PEERS = ("dadapt-adam", "dog", "mechanic-sgd", "mechanic-adamw")
SPEC = RunSpec("digits", "sgd", lr=0.01, seed=1, epochs=2, batch_size=200, task_options=options(hidden=8))


@pytest.mark.parametrize("name", [*PEERS, *OTHER_PEERS])
def test_lga_on_each_peer(name):
    """It receives the loss of every step, and its pushes are visible."""
    spec = dataclasses.replace(SPEC, optimizer=name, epochs=1)
    (without,) = run(spec, None)
    (with_lga,) = run(dataclasses.replace(spec, lga=options(gamma2=1e-5)), None)
    assert with_lga.lga["steps"] == 8
    assert with_lga.lga["steps_without_loss"] == 0
    assert with_lga.lga["open_share"] > 0
    assert with_lga.test["loss"] != without.test["loss"]


class Modal(torch.optim.SGD):
    """Requires everything that a base may require, and records it."""

    events: ClassVar[list[str | float]] = []

    def train(self):
        self.events.append("train")

    def eval(self):
        self.events.append("eval")

    def step(self, closure=None, loss=None):
        assert closure is None
        assert not loss.requires_grad
        self.events.append(float(loss))
        return super().step()


@pytest.mark.parametrize("lga", [None, options(gamma2=1e-7)])
def test_a_base_gets_its_losses_and_modes(monkeypatch, lga):
    monkeypatch.setitem(sys.modules, "of_a_user", sys.modules[__name__])
    monkeypatch.setattr(Modal, "events", [])
    records = list(run(dataclasses.replace(SPEC, optimizer="of_a_user:Modal", batch_size=719, lga=lga), None))
    modes = ["train", None, None, "eval"] * 2
    assert len(Modal.events) == len(modes)
    for event, mode in zip(Modal.events, modes, strict=True):
        assert event == mode or (mode is None and isinstance(event, float))
    losses = [event for event in Modal.events if isinstance(event, float)]
    assert sum(losses[:2]) / 2 == pytest.approx(records[0].train["loss"], rel=1e-6)
    assert sum(losses[2:]) / 2 == pytest.approx(records[1].train["loss"], rel=1e-6)


def test_schedule_free_is_trained_at_y_and_tested_at_x():
    """Against the method as its paper has it: Defazio et al., "The Road Less Scheduled" (2024)."""
    lr, beta, steps = 0.5, 0.9, 5
    spec = dataclasses.replace(SPEC, optimizer="schedulefree-sgd", lr=lr, epochs=steps, batch_size=1438)
    records = list(run(spec, None))
    task = load_task("digits", spec.task_options)
    torch.manual_seed(spec.seed)
    model, data = task.model(), task.data(None)

    def loss_at(point, examples):
        parameters = dict(zip(dict(model.named_parameters()), point, strict=True))
        inputs, labels = examples.tensors
        return nn.functional.cross_entropy(torch.func.functional_call(model, parameters, (inputs,)), labels)

    x = z = [p.detach().clone() for p in model.parameters()]
    for t, record in enumerate(records):
        y = [((1 - beta) * b + beta * a).requires_grad_() for a, b in zip(x, z, strict=True)]
        loss = loss_at(y, data.train)
        assert record.train["loss"] == pytest.approx(loss.item(), rel=1e-4)
        z = [b - lr * g for b, g in zip(z, torch.autograd.grad(loss, y), strict=True)]
        x = [a + (b - a) / (t + 1) for a, b in zip(x, z, strict=True)]
        assert record.test["loss"] == pytest.approx(loss_at(x, data.test).item(), rel=1e-4)
    assert loss_at(y, data.test).item() != pytest.approx(records[-1].test["loss"], rel=1e-3)


# --- ALI-G ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_alig_is_that_of_its_package(momentum):
    package = needs("pytorch_optimizer")
    torch.manual_seed(0)
    ours = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 1)).double()
    theirs = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 1)).double()
    one: Any = AliG(ours.parameters(), lr=0.3, momentum=momentum, delta=1e-6)
    other = package.AliG(theirs.parameters(), max_lr=0.3, momentum=momentum)
    sizes = []
    for step in range(30):
        inputs = torch.randn(16, 4, dtype=torch.float64)
        theirs.load_state_dict(ours.state_dict())  # rounding differences must not grow
        for net in (ours, theirs):
            net.zero_grad()
            loss = (net(inputs) - inputs.sum(1, keepdim=True)).square().mean()
            loss.backward()
            if net is ours and step % 2:
                one.step(loss=loss.detach())
            elif net is ours:
                one.step(lambda loss=loss: loss)
            else:
                other.step(lambda loss=loss: float(loss))
        sizes.append(other.param_groups[0]["step_size"])
        for p, q in zip(ours.parameters(), theirs.parameters(), strict=True):
            torch.testing.assert_close(p, q, rtol=1e-5, atol=1e-7)  # the package sums norms in float32
    assert min(sizes) < 0.3 == max(sizes)  # both sides of the minimum were met


def test_alig_in_numbers():
    """One step by hand: f / |g|^2 = 9 / 36 is below the cap, and so is the same step with its velocity after it."""
    x = nn.Parameter(torch.tensor([3.0]))
    optimizer = AliG([x], lr=1.0, momentum=0.5, delta=1e-12)
    expected = [3 - 1.5 - 0.75]
    velocity, at = -1.5, expected[0]
    velocity = 0.5 * velocity - 0.25 * 2 * at
    expected.append(at - 0.25 * 2 * at + 0.5 * velocity)
    for value in expected:
        optimizer.zero_grad()
        optimizer.step(lambda: (x.square().backward(), x.square())[1])
        assert x.item() == pytest.approx(value)


def test_alig_starts_its_velocity_next_to_other_state():
    """Because gamma2 "auto" stores a mean in the same state."""
    x = nn.Parameter(torch.ones(1))
    x.grad = torch.ones(1)
    optimizer = AliG([x], lr=0.1)
    optimizer.state[x]["of another"] = torch.zeros(1)
    optimizer.step(loss=1.0)
    assert set(optimizer.state[x]) == {"of another", "velocity"}


def test_a_schedule_moves_the_cap_of_alig():
    x = nn.Parameter(torch.tensor([3.0]))
    optimizer = AliG([x], lr=0.1, momentum=0.0)
    scheduler = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.1)
    for lr in (0.1, 0.01):
        before = x.item()
        x.grad = 2 * x.detach()
        optimizer.step(loss=x.detach() ** 2)
        assert x.item() == pytest.approx(before * (1 - 2 * lr))
        scheduler.step()


@pytest.mark.parametrize(("argument", "value"), [("lr", 0.0), ("momentum", 1.0), ("momentum", -0.1), ("delta", 0.0)])
def test_alig_names_values_out_of_range(argument, value):
    with pytest.raises(ValueError, match=f"{argument} must be .* got {value}"):
        AliG([nn.Parameter(torch.zeros(1))], **{argument: value})


def test_alig_wants_a_loss():
    with pytest.raises(TypeError, match="ALI-G needs the loss"):
        AliG([nn.Parameter(torch.zeros(1))]).step()


# --- DoG and Mechanic -------------------------------------------------------------------------------------------------


def small_net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 1)).double()


def feed(net, optimizer, step):
    generator = torch.Generator().manual_seed(step)
    inputs = torch.randn(16, 4, generator=generator, dtype=torch.float64)
    optimizer.zero_grad()
    (net(inputs) - inputs.sum(1, keepdim=True)).square().mean().backward()
    optimizer.step()


def test_dog_and_its_average_are_those_of_its_package():
    package = needs("dog")
    ours, theirs = small_net(), small_net()
    one = make_optimizer("dog", ours.parameters(), 1.0, {"reps_rel": 1e-3})
    other, averager = package.DoG(theirs.parameters(), reps_rel=1e-3), package.PolynomialDecayAverager(theirs)
    for step in range(20):
        feed(ours, one, step)
        feed(theirs, other, step)
        averager.step()
        modes: tuple[tuple[Literal["train", "eval"], nn.Module], ...] = (
            ("eval", averager.averaged_model),
            ("train", theirs),
        )
        for mode, expected in modes:
            set_mode(one, mode)
            set_mode(one, mode)  # which changes nothing else
            for p, q in zip(ours.parameters(), expected.parameters(), strict=True):
                torch.testing.assert_close(p, q)
    assert not torch.equal(averager.averaged_model[0].weight, theirs[0].weight)
    set_mode(one, "eval")
    with pytest.raises(RuntimeError, match=r"the parameters hold DoG's average: call train\(\) before the step"):
        feed(ours, one, 0)


@pytest.mark.parametrize(("name", "base"), [("mechanic-sgd", torch.optim.SGD), ("mechanic-adamw", torch.optim.AdamW)])
def test_mechanic_is_that_of_its_package(name, base):
    package = needs("mechanic_pytorch")
    ours, theirs = small_net(), small_net()
    one = make_optimizer(name, ours.parameters(), 1.0, {"weight_decay": 0.1})
    other = package.mechanize(base)(theirs.parameters(), lr=1.0, weight_decay=0.1)
    assert package.is_mechanized(one)
    for step in range(20):
        feed(ours, one, step)
        feed(theirs, other, step)
        if step == 10:  # a checkpoint, read as safely as a run reads its own
            buffer = io.BytesIO()
            torch.save([ours.state_dict(), one.state_dict()], buffer)
            buffer.seek(0)
            of_net, of_optimizer = torch.load(buffer, weights_only=True)
            ours = small_net()
            ours.load_state_dict(of_net)
            one = make_optimizer(name, ours.parameters(), 1.0, {"weight_decay": 0.1})
            one.load_state_dict(of_optimizer)
    for p, q in zip(ours.parameters(), theirs.parameters(), strict=True):
        assert torch.equal(p, q)
    assert not torch.equal(ours[0].weight, small_net()[0].weight)


# --- what is wrong, in a line -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "module", "package"),
    [
        ("momo-adam", "momo", "momo-opt"),
        ("prodigy", "prodigyopt", "prodigyopt"),
        ("lion", "pytorch_optimizer", ""),
        ("dog", "dog", "dog-optimizer"),
        ("mechanic-sgd", "mechanic_pytorch", "mechanic-pytorch"),
    ],
)
def test_a_package_that_is_not_installed(monkeypatch, name, module, package):
    monkeypatch.setitem(sys.modules, module, None)
    for adapter in ("averaged_dog", "mechanic"):
        monkeypatch.delitem(sys.modules, f"lossaware.studies.specs.{adapter}", raising=False)
    with pytest.raises(UsageError) as error:
        make_optimizer(name, [nn.Parameter(torch.zeros(1))], 0.1, {})
    needed = package or module
    assert str(error.value) == f"optimizer {name!r} needs the package {needed}: {how_to_install('peers')}"


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("lion", {"beta": "0.9,0.99"}, "optimizer 'lion' has no option 'beta'; did you mean betas?"),
        ("momo", {"beta": 2.0}, "optimizer 'momo': Invalid beta parameter: 2.0"),
        ("schedule-free-sgd", {}, "unknown optimizer 'schedule-free-sgd'; did you mean schedulefree-sgd"),
    ],
)
def test_bad_names_and_options(name, options, message):
    with pytest.raises(UsageError) as error:
        make_optimizer(name, [nn.Parameter(torch.zeros(1))], 0.1, options)
    assert str(error.value).startswith(message)


def test_a_schedule_needs_a_learning_rate():
    needs("pytorch_optimizer")
    spec = dataclasses.replace(SPEC, optimizer="pytorch_optimizer:AliG", scheduler="ExponentialLR")
    with pytest.raises(UsageError, match="optimizer 'pytorch_optimizer:AliG' has no learning rate to change"):
        next(run(spec, None))


# --- the study --------------------------------------------------------------------------------------------------------


def test_the_study_holds_all_to_the_same_budget():
    study = load_study("peers")
    by_task = {}
    for spec in study.specs:
        by_task.setdefault((spec.task, spec.epochs, spec.batch_size), []).append(spec)
    assert sorted((task, epochs) for task, epochs, _ in by_task) == [("digits", 20), ("mnist", 2)]
    for specs in by_task.values():
        rates = {}
        for spec in specs:
            rates.setdefault((spec.optimizer, spec.lga is not None), {}).setdefault(spec.lr, set()).add(spec.seed)
        assert set(rates) == {*((name, False) for name in ("sgd", "adam", *PEERS[:-1])), ("sgd", True), ("adam", True)}
        for seeds_by_rate in rates.values():
            assert {1e-4, 1e-3, 1e-2, 1e-1} <= set(seeds_by_rate)
            assert all(seeds == {0, 1, 2} for seeds in seeds_by_rate.values())
        assert {lr for _, own in rates.items() for lr in own} == {1e-4, 1e-3, 2.5e-3, 1e-2, 1e-1, 1.0}
        assert set(rates["prodigy", False]) == {1e-4, 1e-3, 1e-2, 1e-1, 1.0}
    gammas = {spec.task: dict(spec.lga)["gamma2"] for spec in study.specs if spec.lga is not None}
    assert gammas == {"digits": load_task("digits", ()).gamma2, "mnist": load_task("mnist", ()).gamma2}


def test_the_peers_of_auto_share_its_runs():
    """Bases and gamma2 "auto" have the same runs as in `auto`; the other optimizers have the same budget."""
    study, auto = load_study("auto-peers"), {spec.key: spec for spec in load_study("auto").specs}
    peers = [spec for spec in study.specs if spec.key not in auto]
    assert {spec.optimizer for spec in peers} == {"momo", "prodigy", "schedulefree-sgd", "schedulefree-adamw"}
    shared = [spec.key for spec in auto.values() if spec.lga is None or dict(spec.lga)["gamma2"] == "auto"]
    assert {spec.key for spec in study.specs} - {spec.key for spec in peers} == set(shared)
    budgets = {(spec.task, spec.epochs, spec.batch_size, spec.seed) for spec in auto.values()}
    for name in {spec.optimizer for spec in peers}:
        its = [spec for spec in peers if spec.optimizer == name]
        assert {(spec.task, spec.epochs, spec.batch_size, spec.seed) for spec in its} == budgets
        assert {spec.lr for spec in its} == {
            1e-5,
            1e-4,
            1e-3,
            1e-2,
            1e-1,
            {"schedulefree-adamw": 2.5e-3}.get(name, 1.0),
        }
    measured = {cell.row[0]: cell.metric for cell in study.cells.values()}
    assert {name: (what.name, what.higher_is_better) for name, what in measured.items()} == {
        "Digits": ("accuracy", True),
        "MNIST": ("accuracy", True),
        "Autoencoder": ("loss", False),
    }
