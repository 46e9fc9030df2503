"""Torch's own features for training, compared with the reference on the gradients that the base optimizer saw."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from loop import SETTINGS, Watched, batches, loss_of, net, sgd, train
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from lossaware import LGA

ADAMW: dict[str, Any] = {"lr": 0.01, "weight_decay": 0.01}
MOMENTUM: dict[str, Any] = {"lr": 0.05, "momentum": 0.9}


def optimizer_of(module: torch.nn.Module, name: str, fused: bool) -> Any:
    if name == "adamw":
        return torch.optim.AdamW(module.parameters(), **ADAMW, fused=fused)
    return torch.optim.SGD(module.parameters(), **MOMENTUM, fused=fused)


ARGUMENTS: dict[str, dict[str, Any]] = {"adamw": ADAMW, "momentum": MOMENTUM}


@pytest.mark.parametrize("fused", [False, True], ids=["", "fused"])
@pytest.mark.parametrize("name", ARGUMENTS)
def test_autocast_bfloat16(name: str, fused: bool, device: str) -> None:
    module = net(device)
    watched = Watched(optimizer_of(module, name, fused))
    losses = train(module, watched.optimizer, batches(12, device=device), autocast=torch.bfloat16)
    watched.judge(name, losses, **ARGUMENTS[name])


@pytest.mark.parametrize("channel", ["step", "observe"])
@pytest.mark.parametrize("clip", [None, 0.5], ids=["", "clipped"])
@pytest.mark.parametrize("fused", [False, True], ids=["", "fused"])
@pytest.mark.parametrize("name", ARGUMENTS)
def test_autocast_float16_with_overflow(name: str, fused: bool, clip: float | None, channel: str, device: str) -> None:
    """Steps 3 and 8 overflow: they change nothing, and their losses do not count."""
    module = net(device)
    watched = Watched(optimizer_of(module, name, fused))
    optimizer: Any = watched.optimizer
    scaler = torch.amp.GradScaler(device, init_scale=2.0**14)
    steps, losses = [], []
    for step, batch in enumerate(batches(14, device=device)):
        optimizer.zero_grad()
        with torch.autocast(device, torch.float16):
            loss = loss_of(module, batch)
        if channel == "observe":
            watched.lga.observe(loss)
        scaler.scale(loss * (math.inf if step in (3, 8) else 1.0)).backward()
        if clip is not None:
            scaler.unscale_(optimizer)
            torch.nn.utils.clip_grad_norm_(module.parameters(), clip)
        before = watched.flat()
        kwargs = {"loss": loss.detach()} if channel == "step" else {}
        scaler.step(optimizer, **kwargs)
        scaler.update()
        moved = not np.array_equal(watched.flat(), before)
        assert moved == (step not in (3, 8))
        if moved:
            steps.append(step)
            losses.append(float(loss.detach()))
    # A fused step is called where others are skipped; its records of these steps are removed.
    finite = [i for i, g in enumerate(watched.gradients) if np.isfinite(g).all()]
    watched.trajectory[:] = [watched.trajectory[i] for i in finite]
    watched.gradients = [watched.gradients[i] for i in finite]
    assert len(finite) == len(steps) == 12
    watched.judge(name, losses, **ARGUMENTS[name])


@pytest.mark.parametrize("channel", ["step", "observe"])
def test_accumulation(channel: str) -> None:
    """Four micro-batches make the step of the whole batch, whose loss is their mean."""
    data = batches(48, size=4)
    module, whole = net(), net()
    watched = Watched(sgd(module.parameters()))
    if channel == "step":
        losses = train(module, watched.optimizer, data, accumulate=4)
    else:
        losses = []
        for start in range(0, 48, 4):
            micro = [loss_of(module, batch) / 4 for batch in data[start : start + 4]]
            for loss in micro:
                watched.lga.observe(loss * 4)
                loss.backward()
            losses.append(sum(float(loss.detach()) for loss in micro))
            watched.optimizer.step()
            watched.optimizer.zero_grad()
    watched.judge("momentum", losses, **MOMENTUM)

    optimizer = sgd(whole.parameters())
    lga = LGA(optimizer, **SETTINGS)
    joined = [tuple(torch.cat(parts) for parts in zip(*data[i : i + 4], strict=True)) for i in range(0, 48, 4)]
    train(whole, optimizer, joined)  # type: ignore[arg-type]
    for ours, theirs in zip(module.parameters(), whole.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-5)
    assert lga.status.statuses == 3


def gradients(module: torch.nn.Module) -> list[torch.Tensor]:
    return [p.grad.clone() for p in module.parameters() if p.grad is not None]


@pytest.mark.parametrize("by", ["norm", "value"])
def test_phi_reads_gradients_clipped_before_the_step(by: str) -> None:
    module = net()
    watched = Watched(sgd(module.parameters()))
    losses, clipped = [], 0
    for batch in batches(12):
        watched.optimizer.zero_grad()
        loss = loss_of(module, batch)
        loss.backward()
        before = gradients(module)
        if by == "norm":
            torch.nn.utils.clip_grad_norm_(module.parameters(), 0.3)
        else:
            torch.nn.utils.clip_grad_value_(module.parameters(), 0.05)
        clipped += any(not torch.equal(*pair) for pair in zip(gradients(module), before, strict=True))
        watched.optimizer.step(loss=loss.detach())
        losses.append(float(loss.detach()))
    assert clipped > 6
    watched.judge("momentum", losses, **MOMENTUM)


def test_a_compiled_model() -> None:
    """torch.compile of the model; LGA and its optimizer run eagerly."""
    module, eager = net(), net()
    watched = Watched(sgd(module.parameters()))
    compiled: Any = torch.compile(module, backend="aot_eager")  # the default only takes longer to compile
    losses = []
    for batch in batches(8):
        watched.optimizer.zero_grad()
        loss = loss_of(compiled, batch)
        loss.backward()
        watched.optimizer.step(loss=loss.detach())
        losses.append(float(loss.detach()))
    watched.judge("momentum", losses, **MOMENTUM)

    optimizer = sgd(eager.parameters())
    LGA(optimizer, **SETTINGS)
    train(eager, optimizer, batches(8))
    for ours, theirs in zip(module.parameters(), eager.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-5)


@pytest.mark.parametrize("decay", [None, 0.9], ids=["SWA", "EMA"])
def test_averaged_models_average_the_corrected_parameters(decay: float | None) -> None:
    module = net()
    watched = Watched(sgd(module.parameters()))
    averaged = None
    for step, batch in enumerate(batches(12)):
        watched.optimizer.zero_grad()
        loss = loss_of(module, batch)
        watched.lga.observe(loss)
        loss.backward()
        watched.optimizer.step()
        if step == 3:  # a copy of the model, made in the midst of training
            averaged = AveragedModel(module, multi_avg_fn=get_ema_multi_avg_fn(decay) if decay else None)
        if averaged is not None:
            averaged.update_parameters(module)
    assert averaged is not None
    points = [np.concatenate([p.double().numpy().ravel() for p in point]) for point in watched.trajectory[3:]]
    expected = points[0] if decay else np.mean(points, axis=0)
    if decay:
        for point in points[1:]:
            expected = decay * expected + (1 - decay) * point
    ours = torch.cat([p.detach().double().ravel() for p in averaged.parameters()]).numpy()
    np.testing.assert_allclose(ours, expected, rtol=0, atol=1e-6)
    watched.judge("momentum", replay(watched), **MOMENTUM)


def replay(watched: Watched) -> list[float]:
    """The losses along the recorded trajectory."""
    module = net()
    losses = []
    points = [[p.detach() for p in net().parameters()], *watched.trajectory]
    for point, batch in zip(points, batches(12), strict=False):
        with torch.no_grad():
            for p, value in zip(module.parameters(), point, strict=True):
                p.copy_(value)
            losses.append(float(loss_of(module, batch)))
    return losses
