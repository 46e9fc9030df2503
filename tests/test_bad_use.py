"""Bad use gets help: one clear line that names the remedy (for losses of other types see `test_channels`)."""

from __future__ import annotations

import gc
import importlib
import importlib.util
import logging
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch

from lossaware import LGA
from support import needs


def sgd() -> Any:
    return torch.optim.SGD(torch.nn.Linear(2, 1).parameters(), lr=0.1)


def step(optimizer: Any, **kwargs: Any) -> None:
    for group in optimizer.param_groups:
        for p in group["params"]:
            p.grad = torch.ones_like(p)
    optimizer.step(**kwargs)


def error_of(call: Any) -> str:
    with pytest.raises((TypeError, ValueError)) as raised:
        call()
    assert "\n" not in str(raised.value)
    return str(raised.value)


def test_forgetting_the_loss() -> None:
    optimizer = sgd()
    LGA(optimizer, steps_per_epoch=10)
    with pytest.warns(UserWarning, match="no loss") as caught:
        step(optimizer)
    message = str(caught[0].message)
    assert len(caught) == 1
    assert caught[0].filename == __file__  # it points to the caller's own line
    for remedy in ("optimizer.step(loss=loss)", "optimizer.step(closure)", "lga.observe(loss)"):
        assert remedy in message


def test_passing_the_loss_twice() -> None:
    optimizer = sgd()
    lga = LGA(optimizer, steps_per_epoch=10)
    lga.observe(1.0)
    assert error_of(lambda: step(optimizer, loss=1.0)) == (
        "pass the loss of a step in one way only: got it by step(loss=...) and by observe(loss)"
    )
    step(optimizer, loss=1.0)


def test_a_loss_that_is_a_vector() -> None:
    optimizer = sgd()
    lga = LGA(optimizer, steps_per_epoch=10)
    for call in (lambda: step(optimizer, loss=torch.ones(4)), lambda: lga.observe(torch.ones(4))):
        message = error_of(call)
        assert "(4,)" in message
        assert "loss.mean()" in message


@pytest.mark.parametrize("name", ["StepLR", "ReduceLROnPlateau", "SequentialLR"])
def test_a_scheduler_as_optimizer(name: str) -> None:
    from torch.optim import lr_scheduler

    optimizer = sgd()
    step_lr = lr_scheduler.StepLR(optimizer, 1)
    schedulers: dict[str, Callable[[], Any]] = {
        "StepLR": lambda: step_lr,
        "ReduceLROnPlateau": lambda: lr_scheduler.ReduceLROnPlateau(optimizer),
        "SequentialLR": lambda: lr_scheduler.SequentialLR(optimizer, [step_lr], []),
    }
    scheduler = schedulers[name]()
    message = error_of(lambda: LGA(scheduler, steps_per_epoch=10))
    assert message == (
        f"LGA attaches to a torch.optim.Optimizer: got {name}, which holds one; attach LGA to its .optimizer"
    )


def test_other_things_as_optimizer() -> None:
    assert "create an instance, Adam(model.parameters(), ...)" in error_of(
        lambda: LGA(torch.optim.Adam, steps_per_epoch=10)  # type: ignore[call-overload]
    )
    assert "attach one LGA to each optimizer" in error_of(
        lambda: LGA([sgd(), sgd()], steps_per_epoch=10)  # type: ignore[call-overload]
    )


# Wrappers that hide the step hooks ----------------------------------------------------------------------------------


def accelerates() -> Any:
    accelerate = needs("accelerate")
    try:
        return accelerate.Accelerator(cpu=True).prepare(sgd())
    finally:
        accelerate.state.AcceleratorState._reset_state(reset_partial_state=True)
        accelerate.state.GradientState._reset_state()


def fabrics() -> Any:
    fabric = needs("lightning.fabric").Fabric(accelerator="cpu", devices=1)
    return fabric.setup(torch.nn.Linear(2, 1), sgd())[1]


def lightnings() -> Any:
    return needs("lightning.pytorch.core.optimizer").LightningOptimizer(sgd())


def schedule_frees() -> Any:
    return needs("schedulefree").ScheduleFreeWrapper(sgd())


class WithoutInit(torch.optim.Optimizer):
    """As SAM and its like do it that skip Optimizer.__init__."""

    def __init__(self, base: Any) -> None:
        self.base_optimizer = base
        self.param_groups = base.param_groups

    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        self.base_optimizer.step()


WRAPPERS = {
    "Accelerate": (accelerates, "optimizer"),
    "Fabric": (fabrics, "optimizer"),
    "Lightning": (lightnings, "optimizer"),
    "schedulefree": (schedule_frees, "base"),
    "SAM-like": (lambda: WithoutInit(sgd()), "base_optimizer"),
}


@pytest.mark.parametrize("name", WRAPPERS)
def test_a_wrapper_that_hides_its_hooks(name: str) -> None:
    make, inside = WRAPPERS[name]
    wrapper = make()
    message = error_of(lambda: LGA(wrapper, steps_per_epoch=10))
    assert message.startswith(("LGA attaches to a", type(wrapper).__name__))
    assert f"its .{inside}" in message
    LGA(getattr(wrapper, inside), steps_per_epoch=10)  # and the remedy works


@pytest.mark.parametrize("shape", [(), (1, 1)], ids=str)
def test_a_loss_without_a_value(shape: tuple[int, ...]) -> None:
    p = torch.nn.Parameter(torch.ones(3))
    optimizer: Any = torch.optim.SGD([p], lr=0.1)
    LGA(optimizer, steps_per_epoch=10)
    p.grad = torch.ones(3)
    with pytest.raises(ValueError, match=r"^the loss must have a value: got a tensor on the device meta$"):
        optimizer.step(loss=torch.ones(shape, device="meta"))
    assert torch.equal(p, torch.ones(3))


def test_parameters_without_values() -> None:
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.ones(3, device="meta"))], lr=0.1)
    with pytest.raises(ValueError, match=r"^parameters must have values when their scale is .* device meta; attach"):
        LGA(optimizer, steps_per_epoch=10, gamma2="auto")
    assert LGA.of(optimizer) is None


@pytest.mark.parametrize("gamma2", [1e-3, "auto"])
def test_lazy_parameters_before_their_first_input(gamma2: Any) -> None:
    """Unguarded: torch's error about a shape, which speaks of load_state_dict."""
    model = torch.nn.LazyLinear(1)
    optimizer: Any = torch.optim.SGD(model.parameters(), lr=0.1)
    with pytest.raises(ValueError, match=r"^parameters must be initialized: .*; attach LGA after it$"):
        LGA(optimizer, steps_per_epoch=10, gamma2=gamma2)
    model(torch.ones(1, 3)).sum().backward()
    LGA(optimizer, steps_per_epoch=10, gamma2=gamma2)
    optimizer.step(loss=1.0)


@pytest.mark.parametrize("gamma2", [1e-3, "auto"])
def test_a_default_device_without_values_changes_nothing(gamma2: Any) -> None:
    runs = []
    for device in ("cpu", "meta"):
        p = torch.nn.Parameter(torch.ones(3))
        optimizer: Any = torch.optim.SGD([p], lr=0.1)
        with torch.device(device):
            lga = LGA(optimizer, steps_per_epoch=2, gamma2=gamma2)
            lga.measure_every(1)
            for loss in (2.0, torch.tensor(1.5, device="cpu"), 1.0):
                p.grad = torch.ones(3, device="cpu")
                optimizer.step(loss=loss)
            lga.load_state_dict(lga.state_dict())
            runs.append((p.tolist(), lga.status, lga.measurement))
    assert runs[0] == runs[1]


def test_a_package_that_was_imported_again() -> None:
    """As by ``importlib.reload`` in a notebook. Without the check: two LGAs would be attached, and each would push."""
    spec = importlib.util.spec_from_file_location("lga_again", str(importlib.import_module("lossaware.lga").__file__))
    assert spec is not None
    assert spec.loader is not None
    second = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(second)
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.ones(3))], lr=0.1)
    lga = LGA(optimizer, steps_per_epoch=10)
    assert second.LGA is not LGA
    with pytest.raises(ValueError, match=r"^this SGD already has LGA attached: call detach\(\) on that one first$"):
        second.LGA(optimizer, steps_per_epoch=10)
    assert second.LGA.of(optimizer) is lga
    second.LGA.of(optimizer).detach()
    assert LGA.of(optimizer) is None
    second.LGA(optimizer, steps_per_epoch=10)


# steps_per_epoch ----------------------------------------------------------------------------------------------------


def run(steps: int, steps_per_epoch: int, loss: Any = 1.0, optimizer: Any = None) -> LGA:
    optimizer = sgd() if optimizer is None else optimizer
    lga = LGA(optimizer, steps_per_epoch=steps_per_epoch)
    for _ in range(steps):
        step(optimizer, loss=loss)
    return lga


@pytest.mark.parametrize("end", ["detach", "out of scope"])
def test_a_status_that_never_completes(end: str, caplog: pytest.LogCaptureFixture) -> None:
    """As if the number of examples were passed instead of the number of batches."""
    lga = run(120, 60_000)
    assert not caplog.records
    if end == "detach":
        lga.detach()
        lga.detach()
    del lga
    gc.collect()
    (record,) = caplog.records
    assert (record.name, record.levelno) == ("lossaware", logging.WARNING)
    assert "LGA made 120 steps, but steps_per_epoch=60000" in record.message
    assert "set steps_per_epoch to the optimizer steps of one epoch" in record.message


@pytest.mark.parametrize(("steps", "steps_per_epoch"), [(120, 120), (130, 120), (20, 120)])
def test_no_notice_for_runs_that_fit_or_were_trials(
    steps: int, steps_per_epoch: int, caplog: pytest.LogCaptureFixture
) -> None:
    run(steps, steps_per_epoch).detach()
    assert not caplog.records


def test_a_resumed_run_includes_earlier_steps(caplog: pytest.LogCaptureFixture) -> None:
    state = run(90, 100).state_dict()
    optimizer = sgd()
    lga = run(0, 100, optimizer=optimizer)
    lga.load_state_dict(state)
    for _ in range(12):
        step(optimizer, loss=1.0)
    lga.detach()
    assert not caplog.records
    assert lga.status.statuses == 1


# The log ------------------------------------------------------------------------------------------------------------


def test_a_back_off_is_a_line_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "lossaware")
    optimizer = sgd()
    lga = LGA(optimizer, steps_per_epoch=2, gamma2=1e-6)
    for loss in (2.0, 2.0, 3.0, 3.0, 1.0, 1.0, 1.5, 2.0):
        step(optimizer, loss=loss)
    assert [record.message for record in caplog.records] == [
        "gamma2 backed off to 1e-07 at step 4: the mean loss of status 2, 3, was above the one before",
        "gamma2 backed off to 1e-08 at step 8: the mean loss of status 4, 1.75, was above the one before",
    ]
    other = sgd()
    resumed = LGA(other, steps_per_epoch=2, gamma2=1e-6)
    resumed.load_state_dict(lga.state_dict())
    step(other, loss=1.0)
    assert len(caplog.records) == 2  # old ones are not reported again


def test_the_log_is_silent_by_default(capfd: pytest.CaptureFixture[str]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        optimizer = sgd()
        LGA(optimizer, steps_per_epoch=1)
        for loss in (1.0, 2.0):
            step(optimizer, loss=loss)
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("kind", [torch.utils.data.DataLoader, list])
def test_a_loader_as_steps_per_epoch_names_its_length(kind: Any) -> None:
    message = error_of(lambda: LGA(sgd(), steps_per_epoch=kind([1, 2])))
    assert message == f"steps_per_epoch must be an integer of at least 1: got a {kind.__name__}; use len(...) of it"
