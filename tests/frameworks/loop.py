"""The plain training loop that every framework is compared with, and the network and data that they share."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import reference
from lossaware import LGA

Batch = tuple[Tensor, Tensor]
Trajectory = list[list[Tensor]]

SETTINGS: dict[str, Any] = {"steps_per_epoch": 4, "gamma2": 1e-3, "eps": 0.01, "backoff": 0.5}
"""Settings of LGA with large pushes and several statuses in a short run."""


def net(device: str = "cpu") -> nn.Sequential:
    """Two small layers, the same ones each time."""
    generator = torch.Generator().manual_seed(0)
    module = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 1))
    with torch.no_grad():
        for p in module.parameters():
            p.copy_(torch.randn(p.shape, generator=generator) / 3)
    return module.to(device)


def batches(count: int, size: int = 8, seed: int = 0, device: str = "cpu") -> list[Batch]:
    """Regression batches whose losses go up and down."""
    generator = torch.Generator().manual_seed(seed)
    result = []
    for _ in range(count):
        x = torch.randn(size, 6, generator=generator)
        y = x.sum(1, keepdim=True) * (0.5 + torch.rand(1, generator=generator))
        result.append((x.to(device), y.to(device)))
    return result


def loss_of(module: Callable[[Tensor], Tensor], batch: Batch) -> Tensor:
    """The mean squared error."""
    x, y = batch
    return (module(x) - y).float().square().mean()


def sgd(params: Any, **kwargs: Any) -> Any:
    return torch.optim.SGD(params, **{"lr": 0.05, "momentum": 0.9, **kwargs})


def record(optimizer: Any) -> Trajectory:
    """A list that gets a copy of all parameters after each of the optimizer's steps, LGA's correction included."""
    trajectory: Trajectory = []
    optimizer.register_step_post_hook(
        lambda *_: trajectory.append([p.detach().clone() for g in optimizer.param_groups for p in g["params"]])
    )
    return trajectory


class Attached(NamedTuple):
    """An optimizer with LGA, and the record of its steps."""

    optimizer: Any
    lga: LGA
    trajectory: Trajectory


def attached(module: nn.Module, **kwargs: Any) -> Attached:
    """SGD with LGA for the module; further arguments are those of SGD."""
    optimizer = sgd(module.parameters(), **kwargs)
    return Attached(optimizer, LGA(optimizer, **SETTINGS), record(optimizer))


class Watched:
    """An optimizer with LGA, whose gradients, losses and parameters are written down to be judged by the reference."""

    def __init__(self, optimizer: Any, **settings: Any) -> None:
        self.settings = {**SETTINGS, **settings}
        self.optimizer = optimizer
        self.params = [p for g in optimizer.param_groups for p in g["params"]]
        self.start = self.flat()
        self.gradients: list[reference.Array] = []
        self.losses: list[float] = []
        optimizer.register_step_pre_hook(self._before)
        self.lga = LGA(optimizer, **self.settings)
        self.trajectory = record(optimizer)

    def flat(self) -> reference.Array:
        return torch.cat([p.detach().double().reshape(-1) for p in self.params]).cpu().numpy()

    def _before(self, optimizer: Any, args: Any, kwargs: Any) -> None:
        scale = getattr(optimizer, "grad_scale", None)  # a fused step unscales by itself
        flat = torch.cat([p.grad.double().reshape(-1) for p in self.params])
        self.gradients.append((flat if scale is None else flat / scale).cpu().numpy().copy())

    def judge(self, name: str, losses: Sequence[float | None], tolerance: float = 2e-6, **kwargs: Any) -> None:
        """Hold the trajectory to the reference, and see that LGA took part in it.

        Args:
            name: Of the base optimizer in the reference.
            losses: The true mean loss of each step that was made.
            tolerance: On each parameter; the rounding of float32.
            **kwargs: The base optimizer's arguments.
        """
        s = self.settings
        law = reference.Law(s["steps_per_epoch"], s["gamma2"], s["eps"], backoff=s["backoff"])
        ways = [
            list(
                reference.trajectory(reference.OPTIMIZERS[name](**kwargs), self.start, self.gradients, losses, lga=lga)
            )
            for lga in (law, None)
        ]
        ours = [torch.cat([p.double().reshape(-1) for p in point]).cpu().numpy() for point in self.trajectory]
        assert len(ours) == len(losses) == self.lga.status.steps
        np.testing.assert_allclose(ours, ways[0], rtol=0, atol=tolerance)
        assert np.abs(np.array(ways[0][-1]) - ways[1][-1]).max() > 100 * tolerance
        assert self.lga.status.lower_bound == pytest.approx(law.lower, rel=1e-12)  # a GPU has its own logarithm
        assert law.lower > 0


def plain(data: Sequence[Batch], *, fused: bool = False, **kwargs: Any) -> Attached:
    """The run of the plain loop that a framework's run is compared with; further arguments are those of `train`."""
    module = net()
    run = attached(module, fused=fused)
    train(module, run.optimizer, data, **kwargs)
    return run


def observing(
    module: Callable[[Tensor], Tensor],
    optimizer: Any,
    lga: LGA,
    data: Iterable[Batch],
    *,
    backward: Callable[[Tensor], Any] = Tensor.backward,
    accumulate: int = 1,
) -> None:
    """The loop for a ``step`` without a loss: LGA observes the loss before the backward pass.

    Args:
        module: The model.
        optimizer: The optimizer with LGA, or a framework's wrapper of it.
        lga: Its LGA, which observes the losses.
        data: The micro-batches.
        backward: A framework's backward pass.
        accumulate: Number of micro-batches per step.
    """
    for index, batch in enumerate(data, 1):
        loss = loss_of(module, batch)
        lga.observe(loss)
        backward(loss / accumulate)
        if index % accumulate == 0:
            optimizer.step()
            optimizer.zero_grad()


def train(
    module: nn.Module,
    optimizer: Any,
    data: Sequence[Batch],
    *,
    accumulate: int = 1,
    autocast: torch.dtype | None = None,
    scaler: Any = None,
    clip: float | None = None,
) -> list[float]:
    """The plain loop, which passes losses to LGA by ``step(loss=...)``.

    Args:
        module: The model.
        optimizer: The optimizer, with or without LGA.
        data: The micro-batches.
        accumulate: Number of micro-batches per step.
        autocast: The dtype of mixed precision.
        scaler: A gradient scaler.
        clip: The norm to clip gradients to.

    Returns:
        The mean loss of each step, whether the scaler skipped it or not.
    """
    with_lga = LGA.of(optimizer) is not None
    losses = []
    for start in range(0, len(data), accumulate):
        optimizer.zero_grad()
        micro = []
        for batch in data[start : start + accumulate]:
            casting = torch.autocast(batch[0].device.type, autocast) if autocast else contextlib.nullcontext()
            with casting:
                loss = loss_of(module, batch)
            micro.append(float(loss.detach()))
            share = loss / accumulate
            (share if scaler is None else scaler.scale(share)).backward()
        losses.append(sum(micro) / len(micro))
        if clip is not None:
            if scaler is not None:
                scaler.unscale_(optimizer)
            nn.utils.clip_grad_norm_(module.parameters(), clip)
        kwargs = {"loss": losses[-1]} if with_lga else {}
        if scaler is None:
            optimizer.step(**kwargs)
        else:
            scaler.step(optimizer, **kwargs)
            scaler.update()
    return losses


def assert_same(ours: Trajectory, plain: Trajectory) -> None:
    """Bit for bit, at each step."""
    assert len(ours) == len(plain) > 0
    for step, (a, b) in enumerate(zip(ours, plain, strict=True)):
        assert all(torch.equal(p, q) for p, q in zip(a, b, strict=True)), f"they part at step {step}"


def assert_same_run(ours: Attached, plain: Attached) -> None:
    """The same trajectory and the same status, and LGA took part in it."""
    assert_same(ours.trajectory, plain.trajectory)
    assert ours.lga.status == plain.lga.status
    assert_matters(ours.lga)


def assert_matters(lga: LGA) -> None:
    """LGA took part: the gate was open, and a status is complete."""
    assert lga.status.open_share > 0
    assert lga.status.statuses > 0
    assert lga.status.steps_without_loss == 0
