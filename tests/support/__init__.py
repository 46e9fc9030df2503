"""Helpers: torch's optimizer for a name of the reference, inputs for both, optional packages."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
import torch

from reference import Array

AT_ONE = ("adadelta", "prodigy", "dadapt-adam", "dog", "mechanic-sgd", "mechanic-adamw")
"""Optimizers of the studies whose learning rate is 1."""
FUSED_ON_CPU = ("sgd", "momentum", "adam", "adamw", "adagrad")


@contextmanager
def default_dtype(dtype: torch.dtype) -> Iterator[None]:
    """Torch stores some scalars of its states (ASGD's eta, NAdam's product) in the default dtype."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


@contextmanager
def no_waiting() -> Iterator[None]:
    """Raise an error if the host waits for the GPU."""
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


def needs(module: str) -> Any:
    """The module; the test is skipped if it is not installed, with the command to install it."""
    package = module.partition(".")[0]
    return pytest.importorskip(module, reason=f"{package} is not installed: pip install -e '.[everything]' brings it")


def needs_torch(version: str, what: str) -> None:
    """The test skips with an older torch, which lacks something."""
    if torch.__version__ < version:
        pytest.skip(f"{what} needs torch {version}")


def enable_x64(on: bool) -> Any:
    """JAX's context of this name, which older versions have in another module."""
    jax = needs("jax")
    return jax.enable_x64(on) if hasattr(jax, "enable_x64") else needs("jax.experimental").enable_x64(on)


def torch_optimizer(name: str, params: Any, **kwargs: Any) -> Any:
    """Torch's optimizer for a name of `reference.OPTIMIZERS`; its for-loop unless `kwargs` select another.

    The type is Any because torch's type does not have `step(loss=...)`.
    """
    if not kwargs.get("fused"):
        kwargs.setdefault("foreach", False)
    if name == "momentum":
        return torch.optim.SGD(params, **{"momentum": 0.9, **kwargs})
    cls = next(value for key, value in vars(torch.optim).items() if key.lower() == name)
    return cls(params, **kwargs)


def set_gradients(params: Sequence[torch.Tensor], gradient: Array) -> None:
    """Give each parameter its share of one flat NumPy gradient, in its own shape and dtype."""
    parts = torch.split(torch.tensor(gradient), [p.numel() for p in params])
    for p, part in zip(params, parts, strict=True):
        p.grad = part.reshape(p.shape).to(p.dtype)


def flat(params: Sequence[torch.Tensor]) -> Array:
    """All parameters as one NumPy float64 vector."""
    return torch.cat([p.detach().reshape(-1).to(torch.float64) for p in params]).numpy()


def parameters(x: Array, *shapes: tuple[int, ...], dtype: torch.dtype = torch.float64) -> list[torch.nn.Parameter]:
    """One flat NumPy vector as parameters of these shapes."""
    parts = torch.split(torch.tensor(x), [int(np.prod(shape)) for shape in shapes])
    return [torch.nn.Parameter(part.reshape(shape).to(dtype)) for part, shape in zip(parts, shapes, strict=True)]
