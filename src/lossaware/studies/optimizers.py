"""The base optimizers by name. A new one is one entry of the table, or ``module:Class`` of a user's own."""

import importlib
import inspect
import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch.optim import Optimizer

from lossaware.errors import UsageError
from lossaware.studies.arguments import call, did_you_mean, where

_TABLE: dict[str, tuple[str, Callable[..., Optimizer], dict[str, Any]]] = {
    "sgd": ("Stochastic gradient descent", torch.optim.SGD, {}),
    "momentum": ("SGD with momentum 0.9", torch.optim.SGD, {"momentum": 0.9}),
    "asgd": ("Averaged SGD", torch.optim.ASGD, {}),
    "rmsprop": ("RMSprop", torch.optim.RMSprop, {}),
    "adam": ("Adam", torch.optim.Adam, {}),
    "adamax": ("Adamax: Adam with the infinity norm", torch.optim.Adamax, {}),
    "adadelta": ("Adadelta", torch.optim.Adadelta, {}),
    "adamw": ("Adam with decoupled weight decay", torch.optim.AdamW, {}),
    "nadam": ("Adam with Nesterov momentum", torch.optim.NAdam, {}),
    "radam": ("Rectified Adam", torch.optim.RAdam, {}),
    "adagrad": ("Adagrad", torch.optim.Adagrad, {}),
}


def optimizers() -> dict[str, str]:
    """The names of the built-in base optimizers, with one line on each."""
    return {name: summary for name, (summary, _, _) in _TABLE.items()}


def make_optimizer(
    name: str, params: Iterable[torch.nn.Parameter], lr: float, options: Mapping[str, Any] | Iterable[tuple[str, Any]]
) -> Optimizer:
    """The base optimizer ``name`` on ``params``.

    Args:
        name: One of `optimizers`, or ``module:Class`` of any other `torch.optim.Optimizer`.
        params: What it steps.
        lr: Learning rate, above 0.
        options: Its other keyword arguments.

    Raises:
        UsageError: Unknown name or option, a value the optimizer refuses, or an optimizer that needs a closure.
    """
    if not (math.isfinite(lr) and lr > 0):
        raise UsageError(f"the learning rate must be a number above 0, got {lr}")
    what = f"optimizer {name!r}"
    factory, preset = _find(name)
    chosen = dict(options)
    if "lr" in chosen:
        raise UsageError(f"{what}: the learning rate is no option of the optimizer; give it as the learning rate")
    arguments = {**preset, **chosen}
    optimizer = call(what, factory, list(params), lr, options=arguments)
    if not isinstance(optimizer, Optimizer):
        raise UsageError(f"{what} makes no torch.optim.Optimizer but {type(optimizer).__name__}")
    closure = inspect.signature(optimizer.step).parameters.get("closure")
    if closure is not None and closure.default is inspect.Parameter.empty:
        raise UsageError(f"{what} needs a closure that it may call several times a step; studies do not run those")
    return optimizer


def _find(name: str) -> tuple[Callable[..., Optimizer], dict[str, Any]]:
    if name in _TABLE:
        _, factory, preset = _TABLE[name]
        return factory, preset
    if ":" not in name:
        raise UsageError(f"unknown optimizer {name!r}{did_you_mean(name, _TABLE)} (or module:Class of your own)")
    module, _, attribute = name.rpartition(":")
    try:
        found = getattr(importlib.import_module(module), attribute)
    except AttributeError:
        raise UsageError(f"optimizer {name!r}: {module} has no {attribute!r}") from None
    except Exception as error:
        raise UsageError(f"optimizer {name!r} cannot be imported: {where(error)}") from error
    if not callable(found) or (isinstance(found, type) and not issubclass(found, Optimizer)):
        raise UsageError(f"optimizer {name!r} is no torch.optim.Optimizer")
    return found, {}
