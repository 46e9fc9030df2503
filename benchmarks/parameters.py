"""Parameters to step on, and proof that they moved as the reference says."""

import numpy as np
import torch
from tests import reference
from torch import Tensor, nn

from lossaware import LGA
from lossaware.lower_bounds import Zero

XI = 0.01
GAMMA2 = 1e-8
LOSS = 2.0
AMOUNT_OF_STEP = GAMMA2 * LOSS
"""Of a step with LGA as `attach` makes it."""


def make_parameters(total: int, tensors: int = 1) -> list[nn.Parameter]:
    """This number of parameters in this number of tensors of equal size, with gradients."""
    generator = torch.Generator().manual_seed(0)
    result = []
    for _ in range(tensors):
        p = nn.Parameter(torch.randn(total // tensors, generator=generator))
        p.grad = torch.randn(total // tensors, generator=generator)
        result.append(p)
    return result


def attach(optimizer: torch.optim.Optimizer, gamma2: float = GAMMA2) -> LGA:
    """LGA whose gate is open at every step with the loss `LOSS`: with L = 0, a constant loss keeps it open."""
    return LGA(optimizer, steps_per_epoch=10**9, gamma2=gamma2, xi=XI, lower_bound=Zero())


def check_correction(
    before: Tensor, after: Tensor, gradient: Tensor, amount: float, steps: int = 1, xi: float = XI
) -> None:
    """Assert that the parameters were pushed as in Eq. 2 and Eq. 5, so that the timed code had an effect."""
    some = slice(0, 10_000)
    push = amount / reference.phi(gradient[some].double().numpy(), xi)
    expected = before[some].double().numpy() - steps * push
    np.testing.assert_allclose(after[some].double().numpy(), expected, rtol=0, atol=1e-6 * steps)
    assert not np.array_equal(after[some].numpy(), before[some].numpy())
