"""SGD on three numbers, and the channels by which a loss arrives."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch

import reference
from lossaware import LGA

G = torch.tensor([0.5, -0.25, 0.125])
START = torch.tensor([1.0, 2.0, 3.0])


class Setup:
    """SGD on three numbers with a fixed gradient, and a correction that anyone can see."""

    def __init__(self, **kwargs: Any) -> None:
        self.p = torch.nn.Parameter(START.clone())
        self.optimizer: Any = torch.optim.SGD([self.p], lr=0.1)
        self.lga: Any = LGA(self.optimizer, **{"steps_per_epoch": 10, "gamma2": 1e-3, **kwargs})
        self.p.grad = G.clone()

    def moved_by(self, omega: float) -> bool:
        """Whether the parameters are where one step with this Omega takes them."""
        g = G.double().numpy()
        expected = START.double().numpy() - 0.1 * g - 1e-3 * omega / reference.phi(g, 0.01)
        return bool(np.allclose(self.p.detach().double().numpy(), expected, rtol=0, atol=1e-6))


def closure_of(setup: Setup, loss: Any) -> Callable[[], Any]:
    def closure() -> Any:
        setup.p.grad = G.clone()
        return loss

    return closure


CHANNELS: dict[str, Callable[[Setup, Any], Any]] = {
    "step(loss=)": lambda setup, loss: setup.optimizer.step(loss=loss),
    "step(closure)": lambda setup, loss: setup.optimizer.step(closure_of(setup, loss)),
    "step(closure=)": lambda setup, loss: setup.optimizer.step(closure=closure_of(setup, loss)),
    "observe": lambda setup, loss: (setup.lga.observe(loss), setup.optimizer.step()),
    "observe, step(None)": lambda setup, loss: (setup.lga.observe(loss), setup.optimizer.step(None)),
    "observe, step(closure=None)": lambda setup, loss: (setup.lga.observe(loss), setup.optimizer.step(closure=None)),
}
