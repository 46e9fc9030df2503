"""Theorem 3.1 (A.1), compared with runs: the squared distance to the optimum, R(t), and its bound.

The theorem says that R(t) <= prod(1 - mu lambda_i) R(0) <= (1 - mu gamma1)^t R(0), with lambda_t = gamma1 + gamma2
Omega / phi^2, if 0 <= 1 - mu lambda_t and f(x*) = 0. `docs/theory.md` states what its proof needs in addition.
`COUNTEREXAMPLES` are runs that satisfy the theorem's conditions and break its bound, and one that shows why f(x*) = 0
is needed.

There is one lambda_t per coordinate. In place of the single one of the theorem, the smallest is used. This reading
gives the weakest bound, so a run that breaks it breaks the bounds of other readings too.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
import torch
from torch import Tensor

from lossaware import LGA

EPS, XI = 0.1, 0.01
START_LOSS = math.log(10)
"""The loss at which the quadratics start: that of an untrained classifier of 10 classes."""


@dataclass(frozen=True)
class Problem:
    """A strongly convex, smooth function.

    Attributes:
        name: Its name in tables.
        loss: The function, of a float64 vector.
        start: x_0.
        optimum: x*.
        mu: Coefficient of strong convexity, above 0.
        smoothness: L, the largest curvature.
    """

    name: str
    loss: Callable[[Tensor], Tensor]
    start: Tensor
    optimum: Tensor
    mu: float
    smoothness: float


def quadratic(name: str, hessian: Tensor, start: Tensor, lowest: float = 0.0) -> Problem:
    """f(x) = x' H x / 2 + lowest, with the optimum x* = 0.

    Args:
        name: Its name in tables.
        hessian: H, symmetric and positive definite.
        start: x_0.
        lowest: f(x*).
    """
    curvatures = torch.linalg.eigvalsh(hessian)
    return Problem(
        name,
        lambda x: x @ hessian @ x / 2 + lowest,
        start,
        torch.zeros_like(start),
        float(curvatures[0]),
        float(curvatures[-1]),
    )


def quadratics() -> list[Problem]:
    """Ten dimensions, mu = 1 and L = 100, with the principal axes along the coordinates, and rotated against them."""
    dimensions = 10
    curvatures = torch.logspace(0, 2, dimensions, dtype=torch.float64)
    place = torch.arange(dimensions, dtype=torch.float64)
    cosines = torch.cos(math.pi / dimensions * (place[None, :] + 0.5) * place[:, None])
    rotation = cosines / cosines.norm(dim=1, keepdim=True)  # orthogonal: the discrete cosine transform
    start = torch.ones(dimensions, dtype=torch.float64)
    start *= math.sqrt(2 * START_LOSS / float(curvatures.sum()))
    return [
        quadratic("quadratic, along the axes", curvatures.diag(), start),
        quadratic("quadratic, across the axes", rotation.T @ curvatures.diag() @ rotation, rotation.T @ start),
    ]


@cache
def logistic_regression(l2: float = 0.01) -> Problem:
    """l2-regularised logistic regression of odd and even digits (scikit-learn), with all parameters regularised.

    mu is the regulariser's. L is computed from the logistic loss's largest curvature, 1/4. f(x*) is above 0.
    """
    from sklearn.datasets import load_digits

    images, digits = load_digits(return_X_y=True)
    inputs = torch.tensor(np.hstack([images / 16, np.ones((len(images), 1))]), dtype=torch.float64)
    signed = inputs * (2 * torch.tensor(digits % 2, dtype=torch.float64) - 1)[:, None]

    def loss(x: Tensor) -> Tensor:
        return torch.nn.functional.softplus(-(signed @ x)).mean() + l2 / 2 * (x @ x)

    count, dimensions = signed.shape
    optimum = torch.zeros(dimensions, dtype=torch.float64)
    identity = torch.eye(dimensions, dtype=torch.float64)
    for _ in range(20):  # Newton's method converges to machine precision in about 8 steps
        errors = torch.sigmoid(-(signed @ optimum))
        gradient = l2 * optimum - signed.T @ errors / count
        hessian = l2 * identity + (signed.T * (errors * (1 - errors))) @ signed / count
        optimum = optimum - torch.linalg.solve(hessian, gradient)
    smoothness = l2 + float(torch.linalg.eigvalsh(signed.T @ signed / count)[-1]) / 4
    return Problem("logistic regression", loss, torch.zeros_like(optimum), optimum, l2, smoothness)


# --- A run and its bounds -------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Run:
    """Gradient descent with LGA, and the theorem's bounds. Arrays have one value per step, unless noted.

    Attributes:
        problem: The problem.
        gamma1: Step size of the base.
        gamma2: See `lossaware.LGA`; 0 is gradient descent alone.
        distances: R(t) before each step and after the last: (steps + 1).
        losses: f(x_t) at the same points: (steps + 1).
        omegas: Omega of each step.
        lowest: The smallest lambda_t over the coordinates, as the theorem defines it.
        highest: The largest one.
        exact: The largest gamma1 + gamma2 Omega / (phi g), the actual factor of the gradient. Infinite where a
            gradient is 0 and Omega is not.
    """

    problem: Problem
    gamma1: float
    gamma2: float
    distances: np.ndarray
    losses: np.ndarray
    omegas: np.ndarray
    lowest: np.ndarray
    highest: np.ndarray
    exact: np.ndarray

    @property
    def lga_bound(self) -> np.ndarray:
        """prod(1 - mu lambda_i) R(0), with the smallest lambda_i of each step: (steps + 1)."""
        factors = np.cumprod(1 - self.problem.mu * self.lowest)
        bound: np.ndarray = np.concatenate([[1.0], factors]) * self.distances[0]
        return bound

    @property
    def base_bound(self) -> np.ndarray:
        """(1 - mu gamma1)^t R(0): (steps + 1)."""
        places = np.arange(len(self.distances))
        bound: np.ndarray = (1 - self.problem.mu * self.gamma1) ** places * self.distances[0]
        return bound

    @property
    def premise(self) -> bool:
        """Whether 0 <= 1 - mu lambda_t at each step and coordinate, the theorem's condition on the step size."""
        return bool((self.problem.mu * self.highest <= 1 + 1e-12).all())

    @property
    def condition(self) -> bool:
        """Whether lambda_t <= 1/L at each step and coordinate, which the proof needs."""
        return bool((self.problem.smoothness * self.highest <= 1 + 1e-12).all())

    def broken(self, bound: np.ndarray) -> int | None:
        """The first t at which R(t) exceeds the bound by more than rounding, or None."""
        above = self.distances > bound * (1 + 1e-9) + 1e-20 * self.distances[0]
        return int(above.argmax()) if above.any() else None


def descend(problem: Problem, gamma1: float, gamma2: float, steps: int) -> Run:
    """Gradient descent with LGA on the whole problem: each step is an epoch, and so a loss status.

    Args:
        problem: The problem.
        gamma1: Learning rate of SGD.
        gamma2: See `lossaware.LGA`; 0 is gradient descent alone.
        steps: Number of steps.
    """
    x = problem.start.clone().requires_grad_()
    optimizer = torch.optim.SGD([x], lr=gamma1)
    lga = LGA(optimizer, steps_per_epoch=1, gamma2=gamma2, eps=EPS, xi=XI)
    points, rows = [], []
    for _ in range(steps):
        optimizer.zero_grad()
        loss = problem.loss(x)
        loss.backward()
        points.append((_distance(x, problem), loss.item()))
        lga.observe(loss)
        optimizer.step()
        omega = lga.status.omega
        amount = lga.status.gamma2 * omega
        assert x.grad is not None
        size = x.grad.abs()
        lambdas = gamma1 + amount / (size + XI) ** 2
        exact = gamma1 + (amount / (size * (size + XI)) if amount else torch.zeros_like(size))
        rows.append((omega, lambdas.min().item(), lambdas.max().item(), exact.max().item()))
    points.append((_distance(x, problem), problem.loss(x).item()))
    distances, losses = np.array(points).T
    omegas, lowest, highest, largest = np.array(rows).T
    return Run(problem, gamma1, gamma2, distances, losses, omegas, lowest, highest, largest)


def _distance(x: Tensor, problem: Problem) -> float:
    return float((x.detach() - problem.optimum).square().sum())


# --- The study ------------------------------------------------------------------------------------------------------

STEP_SIZES = (0.1, 0.5, 1.0, 1.5, 2.0)
"""gamma1 in units of 1/L."""
GAMMA2S = (0.0, 1e-8, 1e-5, 1e-4, 1e-3)
STEPS = 300


def problems() -> list[Problem]:
    """The problems of the study."""
    return [*quadratics(), logistic_regression()]


def study() -> list[Run]:
    """Each problem with each step size and gamma2."""
    return [
        descend(problem, size / problem.smoothness, gamma2, STEPS)
        for problem in problems()
        for size in STEP_SIZES
        for gamma2 in GAMMA2S
    ]


def rows(runs: Sequence[Run]) -> list[dict[str, object]]:
    """One row per run: its settings, the conditions on its step sizes, and whether the bounds hold."""
    without = {(run.problem.name, run.gamma1): run for run in runs if run.gamma2 == 0}
    result = []
    for run in runs:
        problem = run.problem
        base = without[problem.name, run.gamma1]
        broken = {"base": run.broken(run.base_bound), "lga": run.broken(run.lga_bound)}
        result.append(
            {
                "problem": problem.name,
                "mu": problem.mu,
                "L": problem.smoothness,
                "gamma1_L": round(run.gamma1 * problem.smoothness, 12),
                "gamma2": run.gamma2,
                "steps": len(run.lowest),
                "open_steps": int((run.omegas > 0).sum()),
                "lambda_L": float(run.highest.max() * problem.smoothness),
                "exact_lambda_L": float(run.exact.max() * problem.smoothness),
                "asked": run.premise,
                "needed": run.condition,
                "base_bound_holds": broken["base"] is None,
                "lga_bound_holds": broken["lga"] is None,
                "broken_from": "" if (first := broken["lga"]) is None else first,
                "R_0": float(run.distances[0]),
                "R_T": float(run.distances[-1]),
                "base_bound_T": float(run.base_bound[-1]),
                "lga_bound_T": float(run.lga_bound[-1]),
                "R_T_by_base": float(run.distances[-1] / base.distances[-1]),
                "largest_R_by_base": float((run.distances / base.distances).max()),
            }
        )
    return result


# --- Counterexamples ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Counterexample:
    """A run that breaks the theorem's bound, and the reason.

    Attributes:
        name: Its name in tables.
        lacks: The condition of the proof that the run violates. Of these, the theorem only states that of ``lowest``.
        make: Makes the run.
    """

    name: str
    lacks: str
    make: Callable[[], Run]


def _vector(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def _step_too_long() -> Run:
    """H = diag(1, 100) and gamma1 = 2/L, without LGA: the steep coordinate changes its sign in each step."""
    problem = quadratic("diag(1, 100)", _vector(1, 100).diag(), _vector(1, 0.2))
    return descend(problem, 2 / 100, 0.0, STEPS)


def _push_too_long() -> Run:
    """A base within 1/L, but LGA moves 99 steep coordinates across their optimum: lambda is 80/L, but below 1/mu."""
    hessian = torch.full((100,), 100.0, dtype=torch.float64)
    start = torch.full((100,), 1e-3, dtype=torch.float64)
    hessian[0] = start[0] = 1
    return descend(quadratic("diag(1, 100, ..., 100)", hessian.diag(), start), 0.5 / 100, 2e-2, 30)


def _coordinates_at_rest() -> Run:
    """H = 1 in 400 dimensions, all but one at their optimum: all lambdas are below 1/L, but 399 pushes increase R."""
    start = torch.zeros(400, dtype=torch.float64)
    start[0] = 1
    problem = quadratic("identity, 400 dimensions", torch.eye(400, dtype=torch.float64), start)
    return descend(problem, 1e-4, 1e-4, STEPS)


def _metric() -> Run:
    """A valley across the axes: even exact lambdas below 1/L, if unequal, turn the step away from the optimum."""
    valley = torch.tensor([[0.505, 0.495], [0.495, 0.505]], dtype=torch.float64)  # curvatures 1 and 0.01
    problem = quadratic("valley across the axes", valley, _vector(-9.8, 10.2))
    return descend(problem, 1e-3, 5e-3, 1)


def _lowest_loss() -> Run:
    """f(x*) = 1, which the theorem excludes, from x*: R(0) = 0, and LGA moves away from it."""
    problem = quadratic("f(x*) = 1", _vector(1, 1).diag(), _vector(0, 0), lowest=1.0)
    return descend(problem, 0.1, 1e-6, STEPS)


COUNTEREXAMPLES = (
    Counterexample("step", "lambda <= 1/L: without it the noise term is above 0", _step_too_long),
    Counterexample("push", "lambda <= 1/L, of the push as well", _push_too_long),
    Counterexample("rest", "g is divided by: where it is 0, the push is no multiple of it", _coordinates_at_rest),
    Counterexample("metric", "one lambda for all coordinates: with several, distances shrink in another norm", _metric),
    Counterexample("lowest", "f(x*) = 0: else the gate is open at the optimum", _lowest_loss),
)


def counterexample_rows(broken: Sequence[tuple[Counterexample, Run]]) -> list[dict[str, object]]:
    """One row per counterexample and its run: the first step that breaks the bound by gamma1, which is the weakest."""
    result = []
    for example, run in broken:
        first = run.broken(run.base_bound)
        assert first is not None, f"{example.name} breaks nothing"
        result.append(
            {
                "example": example.name,
                "lacks": example.lacks,
                "problem": run.problem.name,
                "gamma1": run.gamma1,
                "gamma2": run.gamma2,
                "lambda_L": float(run.highest.max() * run.problem.smoothness),
                "asked": run.premise,
                "needed": run.condition,
                "broken_from": first,
                "R_0": float(run.distances[0]),
                "R": float(run.distances[first]),
                "bound": float(run.base_bound[first]),
            }
        )
    return result
