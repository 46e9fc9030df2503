"""A training function on a quadratic, and the same loop without a trial."""

import inspect
from typing import Any

import torch

EPOCHS, STEPS_PER_EPOCH = 3, 2


def train(trial, start: float = 1.0):
    """A quadratic."""
    p = torch.nn.Parameter(start + torch.rand(5))
    optimizer: Any = torch.optim.SGD([p], lr=trial.lr)
    trial.attach(optimizer, steps_per_epoch=2, gamma2=1e-2)
    for epoch in trial.epochs(3):
        for _ in range(2):
            loss = p.square().sum()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step(loss=loss)
        trial.report(epoch, loss=loss, norm=p.norm())
    return p.norm()


SOURCE = f"from typing import Any\n\nimport torch\n\n\n{inspect.getsource(train)}"
"""A file with the function."""


def final_norm(lr: float, seed: int) -> float:
    """The norm after the same steps of the base optimizer alone."""
    torch.manual_seed(seed)
    p = torch.nn.Parameter(1 + torch.rand(5))
    optimizer = torch.optim.SGD([p], lr=lr)
    for _ in range(EPOCHS * STEPS_PER_EPOCH):
        optimizer.zero_grad()
        p.square().sum().backward()
        optimizer.step()
    return p.norm().item()
