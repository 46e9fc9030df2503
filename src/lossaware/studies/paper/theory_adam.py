"""The analysis under Adam (A.2), compared with runs: its difference Delta S, and its bound.

From the same x_t and the same moments, A.2 compares the squared distance to the optimum after Adam's step alone, S1,
with that after Adam's step and the correction, S2: Delta S = S1 - S2, summed over coordinates and steps. Above 0, LGA
helps. Its bound is 2 d alpha / (xi (1 - beta1) sqrt(1 - beta2)) * sum of Omega / sqrt(t), with the step size
alpha / sqrt(t). `docs/theory.md` states which of its steps do not hold; `counterexample` breaks the bound.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from lossaware import LGA
from lossaware.studies.paper.theory import EPS, XI, Problem, problems, quadratic

BETA1, BETA2 = 0.9, 0.999
TINY = 1e-8
"""Adam's epsilon, which A.2 omits."""

ALPHAS = (1e-3, 1e-5)
GAMMA2S = (1e-8, 1e-4, 1e-2)
STEPS = 300


@dataclass(frozen=True)
class AdamRun:
    """Adam with LGA, and the bounds of A.2. Arrays have one value per step.

    Attributes:
        problem: The problem.
        alpha: Step size of the first step; that of step t is alpha / sqrt(t).
        gamma2: See `lossaware.LGA`.
        differences: Delta S_t, summed over the coordinates.
        excess: The largest abs(Delta S_t,i) over the coordinates.
        omegas: Omega of each step.
        moments: The largest abs(m_t) / sqrt(v_t) over the coordinates, without bias correction; 0 where v_t is 0.
        reaches: The largest abs(x_t - x*) over the coordinates.
        losses: f(x_t) before each step.
        base_losses: The same for Adam alone, on its own trajectory.
        pushes: gamma2 Omega / xi of each step, after back-offs.
    """

    problem: Problem
    alpha: float
    gamma2: float
    differences: np.ndarray
    excess: np.ndarray
    omegas: np.ndarray
    moments: np.ndarray
    reaches: np.ndarray
    losses: np.ndarray
    base_losses: np.ndarray
    pushes: np.ndarray

    @property
    def _steps(self) -> np.ndarray:
        return np.arange(1, len(self.omegas) + 1)

    @property
    def bounds(self) -> np.ndarray:
        """A.2's bound of abs(Delta S_t,i), per step."""
        factor = 2 * self.alpha / (XI * (1 - BETA1) * math.sqrt(1 - BETA2))
        bounds: np.ndarray = factor * self.omegas / np.sqrt(self._steps)
        return bounds

    @property
    def bound(self) -> float:
        """A.2's bound of Delta S."""
        return float(len(self.problem.start) * self.bounds.sum())

    @property
    def sound_bounds(self) -> np.ndarray:
        """A valid bound of abs(Delta S_t,i), per step: push (2 abs(x_t - x*) + 2 abs(Adam's step) + push).

        Adam's step is at most alpha_t times the bias-corrected bound of abs(m) / sqrt(v), see `largest_moment`.
        """
        t = self._steps
        corrected = np.sqrt(1 - BETA2**t) / (1 - BETA1**t) * largest_moment()
        steps = self.alpha / np.sqrt(t) * corrected
        bounds: np.ndarray = self.pushes * (2 * self.reaches + 2 * steps + self.pushes)
        return bounds

    @property
    def regret_difference(self) -> float:
        """The regret of Adam alone minus that of Adam with LGA, each on its own trajectory."""
        return float((self.base_losses - self.losses).sum())


def largest_moment() -> float:
    """Upper bound of abs(m_t) / sqrt(v_t) for beta1^2 < beta2 (Cauchy and Schwarz)."""
    return (1 - BETA1) / math.sqrt((1 - BETA2) * (1 - BETA1**2 / BETA2))


def published_moment() -> float:
    """A.2's bound of abs(m_t) / sqrt(v_t)."""
    return (1 - BETA1) / math.sqrt(1 - BETA2)


def train(problem: Problem, alpha: float, gamma2: float, steps: int) -> AdamRun:
    """Adam with and without LGA on the whole problem: each step is an epoch, and so a loss status.

    Args:
        problem: The problem.
        alpha: Step size of the first step.
        gamma2: See `lossaware.LGA`.
        steps: Number of steps.
    """
    x = problem.start.clone().requires_grad_()
    optimizer = torch.optim.Adam([x], lr=alpha, betas=(BETA1, BETA2), eps=TINY)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda t: 1 / math.sqrt(t + 1))
    lga = LGA(optimizer, steps_per_epoch=1, gamma2=gamma2, eps=EPS, xi=XI)
    rows = []
    for _ in range(steps):
        optimizer.zero_grad()
        loss = problem.loss(x)
        loss.backward()
        reach = (x.detach() - problem.optimum).abs().max().item()
        lga.observe(loss)
        optimizer.step()
        scheduler.step()
        status = lga.status
        amount = status.gamma2 * status.omega
        gradient = x.grad
        assert gradient is not None
        push = amount / torch.where(gradient >= 0, gradient + XI, gradient - XI)
        # S1 - S2 = (e + push)^2 - e^2, where x is already the end point of S2.
        difference = push * (2 * (x.detach() - problem.optimum) + push)
        moments = optimizer.state[x]
        ratio = moments["exp_avg"].abs() / moments["exp_avg_sq"].sqrt()
        rows.append(
            (
                difference.sum().item(),
                difference.abs().max().item(),
                status.omega,
                ratio.nan_to_num(0.0).max().item(),
                reach,
                loss.item(),
                amount / XI,
            )
        )
    differences, excess, omegas, ratios, reaches, losses, pushes = np.array(rows).T
    base_losses = losses if gamma2 == 0 else train(problem, alpha, 0.0, steps).losses
    return AdamRun(problem, alpha, gamma2, differences, excess, omegas, ratios, reaches, losses, base_losses, pushes)


def study() -> list[AdamRun]:
    """Each problem with each step size and gamma2."""
    return [train(problem, alpha, gamma2, STEPS) for problem in problems() for alpha in ALPHAS for gamma2 in GAMMA2S]


def counterexample() -> AdamRun:
    """A flat region far from the optimum, where LGA should help. The term that A.2 omits is the larger one there.

    One dimension, f = 1 at a distance of 1e5, alpha = 1e-3, and gamma2 a hundredth of that: Delta S is 5 times the
    bound.
    """
    curvature = torch.tensor([[2e-10]], dtype=torch.float64)
    problem = quadratic("flat and far", curvature, torch.tensor([1e5], dtype=torch.float64))
    return train(problem, 1e-3, 1e-5, STEPS)


def rows(runs: Sequence[AdamRun]) -> list[dict[str, object]]:
    """One row per run: the difference, the bound of A.2 and a valid one, and the regrets."""
    return [
        {
            "problem": run.problem.name,
            "alpha": run.alpha,
            "gamma2": run.gamma2,
            "steps": len(run.omegas),
            "open_steps": int((run.omegas > 0).sum()),
            "difference": float(run.differences.sum()),
            "difference_by_steps": float(run.differences.sum() / len(run.omegas)),
            "bound": run.bound,
            "bound_holds": bool(run.differences.sum() <= run.bound),
            "steps_above_bound": int((run.excess > run.bounds * (1 + 1e-9)).sum()),
            "sound_bound": float(len(run.problem.start) * run.sound_bounds.sum()),
            "largest_m_by_root_v": float(run.moments.max()),
            "m_by_root_v_said": published_moment(),
            "m_by_root_v_sound": largest_moment(),
            "regret_difference": run.regret_difference,
        }
        for run in runs
    ]
