"""The reference: the method and the base optimizers in plain, slow NumPy float64.

No code is shared with the package. Every fast version (for-loop, foreach, fused, compiled, Triton, JAX) is compared
with these few lines, so they are written to be compared with the paper by eye: `Law` is Eq. 3, Eq. 4 and lines 7-9 of
Algorithm 1; `phi` is Eq. 5; `trajectory` is line 11. The optimizers follow their own papers, with the default arguments
and the deviations of `torch.optim`, and take its argument names, so that one dictionary of arguments makes both.

It is one file of more than 450 lines, so that the reference can be read and copied separately.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
LowerBound = Callable[[float, float, int], float]  # (previous bound, the status' mean loss, its number from 1) -> bound


# ------------------------------------------------------------------------------------------------------- the method


def progressive(log_base: float = 10.0) -> LowerBound:
    """Eq. 3: L_t = w L_{t-1} + (1 - w) f_t with w = 1 / log(t + 10)."""

    def update(lower: float, loss: float, count: int) -> float:
        w = math.log(log_base) / math.log(count + 10)
        return w * lower + (1 - w) * loss

    return update


def average() -> LowerBound:
    """A.9, first variant: the plain mean of all statuses so far."""
    return lambda lower, loss, count: (lower * (count - 1) + loss) / count


def momentum(beta: float = 0.9) -> LowerBound:
    """A.9, second variant: L_t = beta L_{t-1} + (1 - beta) f_t."""
    return lambda lower, loss, count: beta * lower + (1 - beta) * loss


@dataclass
class RunningLevel:
    """The upper bound that is not the paper's: feed it each finite loss, read the range in which losses count."""

    width: float = 4.0
    memory: int = 20

    count: int = 0
    level: float = 0.0
    spread: float = 0.0  # mean distance from the level
    upper: float = math.nan
    origin: float = 0.0

    def see(self, loss: float) -> None:
        self.count += 1
        change = loss - self.level
        most = self.width * max(self.spread, abs(self.level) / 100)
        early_outliers = self.count <= self.memory and change < -most
        if self.count == 1 or early_outliers:
            self.level, self.spread = loss, 0.0
        else:
            distance = min(abs(change), most) if most > 0 else abs(change)
            weight = 1 / min(self.count, self.memory)
            self.level += weight * math.copysign(distance, change)
            self.spread += weight * (distance - self.spread)
        upper, origin = self.level + self.width * self.spread, min(2 * self.level, 0.0)
        held = self.count > 10 * self.memory
        self.upper = max(self.upper, upper) if held else upper
        self.origin = min(self.origin, origin) if held else origin

    def limited(self, loss: float) -> float:
        return min(max(loss, self.origin), self.upper)


def phi(g: Array, xi: float) -> Array:
    """Eq. 5, elementwise: g + xi where g >= 0 (and -0.0 is), g - xi where g < 0."""
    return np.where(g >= 0, g + xi, g - xi)


@dataclass
class Law:
    """The scalar part: pass it one loss per step, and read Omega and gamma2 for the correction of that step."""

    steps_per_epoch: int
    gamma2: float = 1e-8
    eps: float = 0.1
    xi: float = 0.01
    lower_bound: LowerBound = field(default_factory=progressive)
    backoff: float = 0.1
    zero_gradient: str = "push"
    running: RunningLevel | None = None  # decides U and where L starts; None: U is the first loss, and L starts at 0

    lower: float = 0.0  # L_0, counted from where L starts
    upper: float = math.nan  # U, unknown before the first finite loss
    factor: float = 1.0  # product of all back-off factors so far
    statuses: int = 0
    open_steps: int = 0
    closed_below: int = 0  # steps whose gate was closed because f - L < eps
    closed_above: int = 0  # steps whose gate was closed because f > U
    previous: float = math.nan  # mean loss of the last complete status
    pending: list[float] = field(default_factory=list)  # finite losses since then

    def omega(self, loss: float | None) -> float:
        """Process the loss of a step and return Omega(f); None and a loss that is not finite change nothing."""
        if loss is None or not math.isfinite(loss):
            return 0.0
        counted = loss
        if self.running is not None:
            self.running.see(loss)
            self.upper = self.running.upper
            counted = self.running.limited(loss)
        elif math.isnan(self.upper):
            self.upper = loss
        self.pending.append(counted)
        if len(self.pending) == self.steps_per_epoch:
            self._complete(sum(self.pending) / len(self.pending))
            self.pending = []
        gap = loss - self.origin - self.lower
        if gap < self.eps:
            self.closed_below += 1
            return 0.0
        if loss > self.upper:
            self.closed_above += 1
            return 0.0
        self.open_steps += 1
        return gap

    @property
    def origin(self) -> float:
        return 0.0 if self.running is None else self.running.origin

    def _complete(self, mean: float) -> None:
        if self.running is not None:
            mean = self.running.limited(mean)
        if self.statuses > 0 and mean > self.previous:
            self.factor *= self.backoff
        self.statuses += 1
        self.previous = mean
        self.lower = self.lower_bound(self.lower, mean - self.origin, self.statuses)

    def correction(self, omega: float, g: Array, gamma2: float | None = None) -> Array:
        """Return the correction that line 11 subtracts in addition to the base step: gamma2 * Omega / phi(g)."""
        gamma2 = self.gamma2 if gamma2 is None else gamma2
        push = gamma2 * self.factor * omega / phi(g, self.xi)
        return np.where(g == 0, 0.0, push) if self.zero_gradient == "rest" else push


@dataclass
class SelfSet:
    """gamma2 "auto": pass it one loss per step, and read the correction of that step."""

    steps_per_status: int
    scale: float  # root mean square of the parameters at the start
    xi: float = 1.0
    reach: float = 0.02
    momentum: float = 0.9
    growth: float = 1.3
    shrink: float = 0.6
    fade: float = 0.93
    certainty: float = 1.0

    upper: float = math.nan  # U, the first finite loss
    factor: float = 1.0
    previous: tuple[float, float] | None = None  # mean loss of the last status, and the variance of that mean
    mean: Array | float = 0.0  # of the gradients, over the steps that pushed
    pending: list[float] = field(default_factory=list)

    def share(self, loss: float | None) -> float:
        """Take one step's loss in and return the push as a share of the largest that is allowed."""
        if loss is None or not math.isfinite(loss):
            return 0.0
        if math.isnan(self.upper):
            self.upper = loss
        self.pending.append(loss)
        if len(self.pending) == self.steps_per_status:
            self._complete()
            self.pending = []
        if loss < 0 or loss > self.upper:
            return 0.0
        return min(self.factor * math.sqrt(loss / self.upper), 1.0) if self.upper > 0 else 0.0

    def _complete(self) -> None:
        n = len(self.pending)
        mean = sum(self.pending) / n
        variance = sum((f - mean) ** 2 for f in self.pending) / (n - 1) / n if n > 1 else 0.0
        if self.previous is not None:
            change, error = mean - self.previous[0], math.sqrt(variance + self.previous[1])
            if abs(change) <= self.certainty * error:
                self.factor *= self.fade
            else:
                self.factor *= self.growth if change < 0 else self.shrink
            if mean > 0 and self.upper > 0:
                self.factor = min(self.factor, math.sqrt(self.upper / mean))
        self.previous = mean, variance

    def correction(self, share: float, g: Array) -> Array:
        """Return the correction in addition to the base step; it is 0 for elements with a mean gradient of 0."""
        if share == 0:
            return np.zeros_like(g)
        self.mean = self.momentum * self.mean + (1 - self.momentum) * g
        push = share * self.reach * self.scale * self.xi / phi(self.mean, self.xi)
        return np.where(self.mean == 0, 0.0, push)


# ------------------------------------------------------------------------------------------------ the base optimizers


@dataclass
class Optimizer:
    """The optimizer of one parameter array; its state starts at zero and takes the array's shape by broadcasting."""

    lr: float
    weight_decay: float = 0.0
    maximize: bool = False
    t: int = 0  # steps taken

    def step(self, x: Array, g: Array) -> Array:
        """Return the parameters after a step of the base optimizer alone from x with gradient g."""
        self.t += 1
        return self.update(x, self.descent(g) + self.weight_decay * x)

    def descent(self, g: Array) -> Array:
        """Return the gradient that the base descends: the negated one with `maximize`."""
        return -g if self.maximize else g

    def update(self, x: Array, g: Array) -> Array:
        raise NotImplementedError

    def settle(self, x: Array) -> None:
        """Record the parameters after the correction."""


@dataclass
class SGD(Optimizer):
    lr: float = 1e-3
    momentum: float = 0.0
    dampening: float = 0.0
    nesterov: bool = False
    buf: Array | float = 0.0

    def update(self, x: Array, g: Array) -> Array:
        if self.momentum == 0:
            return x - self.lr * g
        self.buf = g if self.t == 1 else self.momentum * self.buf + (1 - self.dampening) * g
        return x - self.lr * (g + self.momentum * self.buf if self.nesterov else self.buf)


@dataclass
class Momentum(SGD):
    momentum: float = 0.9


@dataclass
class ASGD(Optimizer):
    lr: float = 1e-2
    lambd: float = 1e-4
    alpha: float = 0.75
    t0: float = 1e6
    eta: float = math.nan  # the step size: the learning rate at the first step, then made by the step before
    mu: float = 1.0  # the weight of the newest parameters in their average, also made by the step before
    ax: Array | float = 0.0

    def update(self, x: Array, g: Array) -> Array:
        eta = self.lr if self.t == 1 else self.eta
        return x * (1 - self.lambd * eta) - eta * g

    def settle(self, x: Array) -> None:
        self.ax = self.ax + self.mu * (x - self.ax)
        self.eta = self.lr / (1 + self.lambd * self.lr * self.t) ** self.alpha
        self.mu = 1 / max(1, self.t - self.t0)


@dataclass
class RMSprop(Optimizer):
    lr: float = 1e-2
    alpha: float = 0.99
    eps: float = 1e-8
    v: Array | float = 0.0

    def update(self, x: Array, g: Array) -> Array:
        self.v = self.alpha * self.v + (1 - self.alpha) * g**2
        return x - self.lr * g / (np.sqrt(self.v) + self.eps)


@dataclass
class Adadelta(Optimizer):
    lr: float = 1.0
    rho: float = 0.9
    eps: float = 1e-6
    v: Array | float = 0.0
    deltas: Array | float = 0.0

    def update(self, x: Array, g: Array) -> Array:
        self.v = self.rho * self.v + (1 - self.rho) * g**2
        delta = np.sqrt(self.deltas + self.eps) / np.sqrt(self.v + self.eps) * g
        self.deltas = self.rho * self.deltas + (1 - self.rho) * delta**2
        return x - self.lr * delta


@dataclass
class Adagrad(Optimizer):
    lr: float = 1e-2
    lr_decay: float = 0.0
    eps: float = 1e-10
    total: Array | float = 0.0

    def update(self, x: Array, g: Array) -> Array:
        self.total = self.total + g**2
        lr = self.lr / (1 + (self.t - 1) * self.lr_decay)
        return x - lr * g / (np.sqrt(self.total) + self.eps)


@dataclass
class Adam(Optimizer):
    lr: float = 1e-3
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    m: Array | float = 0.0
    v: Array | float = 0.0

    def moments(self, g: Array) -> tuple[Array, Array, float, float]:
        """Both moving averages including this gradient, and the divisors of their bias correction."""
        b1, b2 = self.betas
        self.m = b1 * self.m + (1 - b1) * g
        self.v = b2 * self.v + (1 - b2) * g**2
        return self.m, self.v, 1 - b1**self.t, 1 - b2**self.t

    def update(self, x: Array, g: Array) -> Array:
        m, v, bias1, bias2 = self.moments(g)
        return x - self.lr * (m / bias1) / (np.sqrt(v / bias2) + self.eps)


@dataclass
class AdamW(Adam):
    weight_decay: float = 1e-2

    def step(self, x: Array, g: Array) -> Array:
        self.t += 1
        return self.update(x * (1 - self.lr * self.weight_decay), self.descent(g))


@dataclass
class Adamax(Adam):
    lr: float = 2e-3

    def update(self, x: Array, g: Array) -> Array:
        b1, b2 = self.betas
        self.m = b1 * self.m + (1 - b1) * g
        self.v = np.maximum(b2 * self.v, np.abs(g) + self.eps)
        return x - self.lr * (self.m / (1 - b1**self.t)) / self.v


@dataclass
class NAdam(Adam):
    lr: float = 2e-3
    momentum_decay: float = 4e-3
    mu_product: float = 1.0

    def update(self, x: Array, g: Array) -> Array:
        m, v, _, bias2 = self.moments(g)
        mu, mu_next = (
            self.betas[0] * (1 - 0.5 * math.pow(0.96, t * self.momentum_decay)) for t in (self.t, self.t + 1)
        )
        self.mu_product *= mu
        nesterov = (1 - mu) / (1 - self.mu_product) * g + mu_next / (1 - self.mu_product * mu_next) * m
        return x - self.lr * nesterov / (np.sqrt(v / bias2) + self.eps)


@dataclass
class RAdam(Adam):
    def update(self, x: Array, g: Array) -> Array:
        m, v, bias1, bias2 = self.moments(g)
        b2 = self.betas[1]
        rho_inf = 2 / (1 - b2) - 1
        rho = rho_inf - 2 * self.t * math.pow(b2, self.t) / bias2
        if rho <= 5:
            return x - self.lr * m / bias1
        r = math.sqrt((rho - 4) * (rho - 2) * rho_inf / ((rho_inf - 4) * (rho_inf - 2) * rho))
        return x - self.lr * (m / bias1) * r * math.sqrt(bias2) / (np.sqrt(v) + self.eps)


OPTIMIZERS: dict[str, Callable[..., Optimizer]] = {
    cls.__name__.lower(): cls
    for cls in (SGD, Momentum, ASGD, RMSprop, Adam, Adamax, Adadelta, AdamW, NAdam, RAdam, Adagrad)
}


# ----------------------------------------------------------------------------------------------------------- together


def trajectory(
    optimizer: Optimizer,
    x: Array,
    gradients: Sequence[Array] | Callable[[Array], Array],
    losses: Sequence[float | None],
    *,
    lga: Law | None = None,
    settings: Sequence[Mapping[str, Any]] | None = None,
) -> Iterator[Array]:
    """Yield the parameters after each step (Algorithm 1).

    Args:
        optimizer: A new base optimizer; its state is changed, and can be read afterwards.
        x: The initial parameters.
        gradients: One array per step, or a function of the parameters.
        losses: One loss per step; None for a step without a loss.
        lga: A new law; None for the base optimizer alone.
        settings: The optimizer's hyperparameters for each step, as a scheduler sets them.
    """
    for t, loss in enumerate(losses):
        for name, value in (settings[t] if settings else {}).items():
            setattr(optimizer, name, value)
        g = gradients(x) if callable(gradients) else gradients[t]
        x = optimizer.step(x, g)
        if lga is not None:
            x = x - lga.correction(lga.omega(loss), optimizer.descent(g))
        optimizer.settle(x)
        yield x


# --------------------------------------------------------------------------------------------------------- agreement


@dataclass
class Agreement:
    """The rule that goes by the agreement of gradients; it steps all tensors of one group together with their base.

    Args:
        tensors: Where the tensors start; a base optimizer for each.
    """

    tensors: list[Array]
    bases: list[Optimizer]
    initial: float = 6e-4
    smallest: float = 2e-5
    largest: float = 0.02
    momentum: float = 0.9
    rate: float = 0.03
    early: float = 3.0
    shrink: float = 0.6
    fade: float = 0.93
    certainty: float = 2.5
    status_steps: int = 25

    def __post_init__(self) -> None:
        def rms(x: Array) -> float:
            return float(np.sqrt(np.mean(x**2)))

        self.rms = rms
        matrices = sorted(rms(x) for x in self.tensors if x.ndim > 1) or [max(rms(x) for x in self.tensors)]
        median = max(matrices[len(matrices) // 2], 1e-3)
        self.scales, before = [], median
        for x in self.tensors:
            if x.ndim > 1:
                before = max(rms(x), median)
                self.scales.append(before)
            else:
                self.scales.append(before if before < 5 * median else median)
        self.m = self.initial
        self.means: list[Array | float] = [0.0 for _ in self.tensors]
        self.highest = 0.0  # the largest rate so far
        self.reach: float | None = None  # how far the base moved a tensor in its last step, were its rate 1
        self.steps = 0
        self.previous: tuple[float, float] | None = None
        self.pending: list[float] = []

    def limited(self, m: float) -> float:
        return min(max(m, self.smallest), self.largest)

    def step(self, gradients: list[Array], loss: float, lr: float) -> None:
        """Move `tensors` by one step of the base and the push."""
        self.steps += 1
        if not all(np.isfinite(g).all() for g in gradients):
            return
        total = sum(s * float(np.abs(g).sum()) for s, g in zip(self.scales, gradients, strict=True))
        along = sum(
            s * float((np.sign(mean) * g).sum()) for s, mean, g in zip(self.scales, self.means, gradients, strict=True)
        )
        agreement = along / total if total > 0 else 0.0
        speed = max(self.rate, min(1.0, self.early / self.steps))
        self.m = self.limited(self.m * (1 + speed * agreement / 64) ** 64)

        self.highest = max(self.highest, lr)
        share = self.m * lr / self.highest if self.highest > 0 else self.m  # a schedule anneals base and push
        factor = 1.0
        if self.reach is not None and self.reach * lr > share:
            factor = share / (self.reach * lr)
        start = [x.copy() for x in self.tensors]
        moved = []
        for i, (base, g) in enumerate(zip(self.bases, gradients, strict=True)):
            base.lr = lr * factor
            after = base.step(self.tensors[i], g)
            moved.append(self.rms(after - self.tensors[i]))
            self.tensors[i] = after
        furthest = max(b / s for b, s in zip(moved, self.scales, strict=True))
        first = self.reach is None
        if furthest > 0:
            self.reach = furthest / (lr * factor)
        if first and furthest > share:  # of the first step it is not known before
            ratio = share / furthest
            moved = [b * ratio for b in moved]
            self.tensors = [x0 + (x - x0) * ratio for x0, x in zip(start, self.tensors, strict=True)]
        if not math.isfinite(loss):
            return
        self.take_in(loss)
        for i, (g, b, s) in enumerate(zip(gradients, moved, self.scales, strict=True)):
            self.means[i] = self.momentum * self.means[i] + (1 - self.momentum) * g
            push = max(share * s - b, 0.0) * np.sign(self.means[i])
            self.tensors[i] = self.tensors[i] - np.where(g == 0, 0.0, push)

    def take_in(self, loss: float) -> None:
        """The loss makes m smaller, once a status."""
        self.pending.append(loss)
        n = len(self.pending)
        if n < self.status_steps:
            return
        mean = sum(self.pending) / n
        variance = sum((f - mean) ** 2 for f in self.pending) / (n - 1) / n
        if self.previous is not None:
            change, error = mean - self.previous[0], math.sqrt(variance + self.previous[1])
            if abs(change) <= self.certainty * error:
                self.m = self.limited(self.m * self.fade)
            elif change > 0:
                self.m = self.limited(self.m * self.shrink)
        self.previous, self.pending = (mean, variance), []
