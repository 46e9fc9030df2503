"""Figure 1 as an experiment: descent in one dimension among local optima A to E, without and with LGA.

The paper draws the landscape without a formula. This one follows the caption and Section 3.1: A and B are shallow, with
small gradients, and far from the global optimum E, whose loss is 0.

Every starting point is a separate problem, with its own loss, bounds and gamma2. The law runs on all of them at once,
elementwise.
"""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from lossaware.gamma2 import BackOff
from lossaware.law import Law
from lossaware.law_state import LawState
from lossaware.lower_bounds import Progressive

NAMES = "ABCDE"
_WELLS = ((1.2, 0.30, 0.50), (3.0, 0.45, 0.36), (4.6, 0.75, 0.30), (6.2, 0.90, 0.32), (8.2, 1.25, 0.42))
"""Centre, depth and width of each optimum."""
_LOW, _HIGH = 0.0, 10.0
"""Outside, the loss rises with the square of the distance."""


def loss(x: Tensor) -> Tensor:
    """The loss, elementwise: a bowl around E that is flat far away, minus five wells.

    Its minimum is 0 up to the rounding of the constants, 1e-3.
    """
    lowest, depth, _ = _WELLS[-1]
    value = depth + 2.4 * (1 - torch.exp(-(((x - lowest) / 4.2) ** 2)))
    for centre, depth, width in _WELLS:
        value = value - depth * torch.exp(-(((x - centre) / width) ** 2) / 2)
    return value + torch.relu(_LOW - x) ** 2 + torch.relu(x - _HIGH) ** 2


def turning_points() -> tuple[list[float], list[float]]:
    """The local optima A to E, and the barriers between them, from left to right, to 1e-4."""
    x = torch.linspace(_LOW - 1, _HIGH + 1, 120_001, dtype=torch.float64)
    falls = loss(x).diff() < 0
    turns = (falls[1:] != falls[:-1]).nonzero().flatten()
    optima = [float(x[i + 1]) for i in turns if falls[i]]
    barriers = [float(x[i + 1]) for i in turns if not falls[i]]
    return optima, barriers


def starting_points(count: int) -> Tensor:
    """``count`` points, evenly spaced over the landscape."""
    return torch.linspace(_LOW, _HIGH, count, dtype=torch.float64)


@dataclass(frozen=True)
class Descent:
    """Settings of a descent; the defaults are those of LGA, except for the length of a status.

    Attributes:
        momentum: Of ``torch.optim.SGD``; 0 is gradient descent.
        steps_per_status: Steps per loss status; 1 is Algorithm 1 read literally.
        lr: Learning rate of the base.
        steps: Number of steps.
        eps: See `lossaware.LGA`.
        xi: See `lossaware.LGA`.
        backoff: See `lossaware.LGA`.
    """

    momentum: float
    steps_per_status: int
    lr: float = 0.01
    steps: int = 600
    eps: float = 0.1
    xi: float = 0.01
    backoff: float = 0.1

    def paths(self, starts: Tensor, gamma2s: Sequence[float]) -> Tensor:
        """Positions of all points before each step and after the last.

        Args:
            starts: Starting points, of shape (points,).
            gamma2s: Values of gamma2; 0 is the base alone.

        Returns:
            Positions of shape (steps + 1, gamma2s, points), float64.
        """
        sizes = torch.tensor(gamma2s, dtype=torch.float64)[:, None]
        x = starts.double().expand(len(gamma2s), -1).clone().requires_grad_()
        optimizer = torch.optim.SGD([x], lr=self.lr, momentum=self.momentum)
        law = Law(self.steps_per_status, Progressive(), self.eps, BackOff(self.backoff))
        state = LawState(*(torch.full_like(x, value, requires_grad=False) for value in LawState()))
        positions = [x.detach().clone()]
        for _ in range(self.steps):
            losses = loss(x)
            # The points are independent, so the gradient of the sum consists of the gradients of the points.
            (gradient,) = torch.autograd.grad(losses.sum(), x)
            x.grad = gradient
            optimizer.step()
            state = law.advance(state, losses.detach(), torch)
            with torch.no_grad():
                phi = torch.where(gradient >= 0, gradient + self.xi, gradient - self.xi)
                x -= state.gamma2_factor * state.omega * sizes / phi
            positions.append(x.detach().clone())
        return torch.stack(positions)


@dataclass(frozen=True)
class Share:
    """Counts of starting points by whether they end in the basin of the global optimum.

    Attributes:
        base: ``gradient descent`` or ``momentum``.
        steps_per_status: See `Descent`.
        gamma2: See `lossaware.LGA`; 0 is without LGA.
        first_push: Largest push of the first step over all points, gamma2 * Omega / |phi|, in units of x.
        starts: Number of starting points.
        reached: Number of points that end beyond the last barrier.
        gained: Number of points that reach it only with LGA.
        lost: Number of points that reach it only without LGA.
        final_loss: Mean loss at the end.
    """

    base: str
    steps_per_status: int
    gamma2: float
    first_push: float
    starts: int
    reached: int
    gained: int
    lost: int
    final_loss: float

    @property
    def share(self) -> float:
        """Share of the points that reach E, in [0, 1]."""
        return self.reached / self.starts


@dataclass(frozen=True)
class Figure1:
    """Results of Figure 1.

    Attributes:
        shares: One row per base, reading and gamma2.
        settings: The settings, as plain values.
    """

    shares: Sequence[Share]
    settings: dict[str, Any]


BASES = {"gradient descent": 0.0, "momentum": 0.9}
READINGS = (1, 30)
GAMMA2S = (0.0, 1e-8, 1e-6, 1e-4, 1e-3, 3e-3, 1e-2, 2e-2, 3e-2, 1e-1)
STARTS = 201


def measure() -> Figure1:
    """Descend from all starting points with each base, reading and gamma2. Deterministic; takes seconds."""
    starts = starting_points(STARTS)
    shares = []
    for base, momentum in BASES.items():
        for steps_per_status in READINGS:
            descent = Descent(momentum, steps_per_status)
            paths = descent.paths(starts, GAMMA2S)
            shares += _shares(base, descent, paths)
    optima, barriers = turning_points()
    settings = {
        **{name: value for name, value in asdict(descent).items() if name not in ("momentum", "steps_per_status")},
        "lower_bound": "progressive, log base 10",
        "starts": f"{STARTS}, evenly from {_LOW:g} to {_HIGH:g}",
        "momentum": BASES["momentum"],
        "optima": {name: round(x, 3) for name, x in zip(NAMES, optima, strict=True)},
        "barriers": [round(x, 3) for x in barriers],
    }
    return Figure1(shares, settings)


def _shares(base: str, descent: Descent, paths: Tensor) -> list[Share]:
    inside = paths[-1] > turning_points()[1][-1]
    without = inside[GAMMA2S.index(0.0)]
    # The first step of the base is the same for all, so the difference is the push.
    pushes = (paths[1] - paths[1, GAMMA2S.index(0.0)]).abs().amax(dim=1)
    return [
        Share(
            base=base,
            steps_per_status=descent.steps_per_status,
            gamma2=gamma2,
            first_push=float(pushes[row]),
            starts=paths.shape[2],
            reached=int(inside[row].sum()),
            gained=int((inside[row] & ~without).sum()),
            lost=int((without & ~inside[row]).sum()),
            final_loss=math.fsum(loss(paths[-1, row]).tolist()) / paths.shape[2],
        )
        for row, gamma2 in enumerate(GAMMA2S)
    ]
