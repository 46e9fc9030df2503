"""The base optimizers by name. A new one is one entry of the table, or a user's ``file.py:Class``.

Runs support two extensions of the interface. A base whose ``step`` has an argument ``loss`` gets the loss. A base with
``train()`` and ``eval()``, as schedule-free ones, is switched with the model. (With batch normalisation, its running
statistics are those of the trained weights, not of the tested ones.)
"""

import inspect
import math
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch.optim import Optimizer

from lossaware.errors import UsageError
from lossaware.extras import how_to_install
from lossaware.studies.specs import user_code as own_code
from lossaware.studies.specs.options import call, did_you_mean, where


@dataclass(frozen=True)
class _Entry:
    """An optimizer with a name.

    Attributes:
        summary: One line for lists.
        place: ``module:Class``; its first arguments are parameters and learning rate.
        preset: Keyword arguments that belong to the name.
        package: The required package; None if torch suffices.
    """

    summary: str
    place: str
    preset: Mapping[str, Any] = field(default_factory=dict)
    package: str | None = None


_TABLE: Mapping[str, _Entry] = {
    "sgd": _Entry("Stochastic gradient descent", "torch.optim:SGD"),
    "momentum": _Entry("SGD with momentum 0.9", "torch.optim:SGD", {"momentum": 0.9}),
    "asgd": _Entry("Averaged SGD", "torch.optim:ASGD"),
    "rmsprop": _Entry("RMSprop", "torch.optim:RMSprop"),
    "adam": _Entry("Adam", "torch.optim:Adam"),
    "adamax": _Entry("Adamax: Adam with the infinity norm", "torch.optim:Adamax"),
    "adadelta": _Entry("Adadelta", "torch.optim:Adadelta"),
    "adamw": _Entry("Adam with decoupled weight decay", "torch.optim:AdamW"),
    "nadam": _Entry("Adam with Nesterov momentum", "torch.optim:NAdam"),
    "radam": _Entry("Rectified Adam", "torch.optim:RAdam"),
    "adagrad": _Entry("Adagrad", "torch.optim:Adagrad"),
    # Peers: other methods that need less tuning according to their authors, or that use the loss.
    "momo": _Entry("MoMo: momentum whose step follows the loss; lr is its cap", "momo:Momo", package="momo-opt"),
    "momo-adam": _Entry("MoMo-Adam: Adam whose step follows the loss", "momo:MomoAdam", package="momo-opt"),
    "alig": _Entry(
        "ALI-G: Nesterov momentum 0.9, Polyak's step for a minimum of 0; lr is its cap",
        "lossaware.studies.specs.alig:AliG",
    ),
    "schedulefree-sgd": _Entry(
        "Schedule-free SGD: averaged iterates in place of a schedule",
        "schedulefree:SGDScheduleFree",
        package="schedulefree",
    ),
    "schedulefree-adamw": _Entry("Schedule-free AdamW", "schedulefree:AdamWScheduleFree", package="schedulefree"),
    "prodigy": _Entry(
        "Prodigy: Adam that estimates its step size; lr multiplies it", "prodigyopt:Prodigy", package="prodigyopt"
    ),
    "dadapt-adam": _Entry(
        "D-Adaptation: Adam that estimates its step size; lr multiplies it",
        "pytorch_optimizer:DAdaptAdam",
        package="pytorch_optimizer",
    ),
    "dog": _Entry(
        "DoG: SGD whose step is the distance over the gradients, averaged; lr multiplies it",
        "lossaware.studies.specs.averaged_dog:AveragedDoG",
        package="dog-optimizer",
    ),
    "mechanic-sgd": _Entry(
        "Mechanic: SGD whose scale is learnt",
        "lossaware.studies.specs.mechanic:MechanicSGD",
        package="mechanic-pytorch",
    ),
    "mechanic-adamw": _Entry(
        "Mechanic: AdamW whose scale is learnt",
        "lossaware.studies.specs.mechanic:MechanicAdamW",
        package="mechanic-pytorch",
    ),
    "lion": _Entry("Lion: the sign of a momentum", "pytorch_optimizer:Lion", package="pytorch_optimizer"),
    "signsgd": _Entry(
        "SignSGD: the sign of the gradient", "pytorch_optimizer:SignSGD", {"momentum": 0.0}, "pytorch_optimizer"
    ),
}


def optimizers() -> dict[str, str]:
    """The names of the built-in base optimizers, with a summary and the required package."""
    return {
        name: f"{entry.summary} ({entry.package})" if entry.package else entry.summary for name, entry in _TABLE.items()
    }


def name_of_class(kind: type) -> str:
    """The name of an optimizer's class: one of `optimizers`, or ``package.module:Class``.

    Raises:
        UsageError: It is not an optimizer's class, or no other process could import it.
    """
    if not issubclass(kind, Optimizer):
        raise UsageError(f"an optimizer must be a subclass of torch.optim.Optimizer, got the class {kind.__name__}")
    for name, entry in _TABLE.items():
        if not entry.preset and _is_at(kind, *entry.place.split(":")):
            return name
    parts = kind.__module__.split(".")
    for module in (".".join(parts[: count + 1]) for count in range(len(parts))):  # the shortest is the public one
        if module != "__main__" and _is_at(kind, module, kind.__name__):
            return f"{module}:{kind.__name__}"
    raise UsageError(
        f"the optimizer {kind.__name__} is not in a module that can be imported: move it to a file, and name it "
        f"'file.py:{kind.__name__}'"
    )


def _is_at(kind: type, module: str, name: str) -> bool:
    return getattr(sys.modules.get(module), name, None) is kind


def make_optimizer(
    name: str, params: Iterable[torch.nn.Parameter], lr: float, options: Mapping[str, Any] | Iterable[tuple[str, Any]]
) -> Optimizer:
    """The base optimizer ``name`` on ``params``.

    Args:
        name: One of `optimizers`, or ``file.py:Class`` or ``package.module:Class`` of any other
            `torch.optim.Optimizer`.
        params: The parameters.
        lr: Learning rate, above 0.
        options: Other keyword arguments of the optimizer.

    Raises:
        UsageError: The name or an option is unknown, a package is not installed, a value is not allowed, the
            optimizer cannot be made, or it needs a closure.
    """
    if not (math.isfinite(lr) and lr > 0):
        raise UsageError(f"the learning rate must be a number above 0, got {lr}")
    label = f"optimizer {name!r}"
    factory, preset = _find(name)
    chosen = dict(options)
    if "lr" in chosen:
        raise UsageError(f"{label}: lr is not an option of the optimizer; set the learning rate of the run")
    if name in _TABLE:  # some accept all keywords, and would ignore a misspelt one
        known = list(inspect.signature(factory).parameters)[2:]
        for option in chosen:
            if option not in known:
                raise UsageError(f"{label} has no option {option!r}{did_you_mean(option, known)}")
    try:
        optimizer = call(label, factory, list(params), lr, options={**preset, **chosen})
    except UsageError:
        raise
    except Exception as error:
        raise UsageError(f"{label} cannot be made: {where(error)}") from error
    if not isinstance(optimizer, Optimizer):
        raise UsageError(f"{label} must make a torch.optim.Optimizer, got {type(optimizer).__name__}")
    closure = inspect.signature(optimizer.step).parameters.get("closure")
    if closure is not None and closure.default is inspect.Parameter.empty:
        raise UsageError(
            f"{label} needs a closure that it may call several times per step, which studies do not support"
        )
    return optimizer


def takes_option(name: str, option: str) -> bool:
    """Whether the base optimizer ``name`` has an option of that name.

    Raises:
        UsageError: There is no such optimizer, or its package is not installed.
    """
    return option in list(inspect.signature(_find(name)[0]).parameters)[2:]


def takes_loss(optimizer: Optimizer) -> bool:
    """Whether the optimizer's own ``step`` has an argument ``loss``, as loss-aware optimizers do."""
    return "loss" in inspect.signature(type(optimizer).step).parameters


def set_mode(optimizer: Optimizer, mode: Literal["train", "eval"]) -> None:
    """Switch an optimizer that tests other weights than it trains, if it has modes."""
    switch = getattr(optimizer, mode, None)
    if callable(switch):
        switch()


def make_capturable(optimizer: Optimizer) -> None:
    """Make an optimizer count its steps on the GPU, if it can, so that a step does not wait for the GPU.

    Call it before the first step, since the last bits differ.
    """
    for group in optimizer.param_groups:
        if "capturable" in group:
            group["capturable"] = True


def attributes(optimizer: Optimizer) -> dict[str, Any]:
    """The part of an optimizer's state that its ``state_dict()`` lacks, for example MoMo's: numbers, texts and tensors.

    Restore it into ``vars(optimizer)``.
    """
    in_state_dict = {"state", "param_groups", "defaults"}
    return {
        name: value
        for name, value in vars(optimizer).items()
        if name not in in_state_dict and not name.endswith("_hooks") and _is_plain(value)
    }


def _is_plain(value: Any) -> bool:
    if isinstance(value, dict):
        return all(_is_plain(part) for item in value.items() for part in item)
    if isinstance(value, (list, tuple, set)):
        return all(map(_is_plain, value))
    # Parameters belong to the model and must not be replaced by copies.
    is_tensor = isinstance(value, torch.Tensor) and not isinstance(value, torch.nn.Parameter)
    return value is None or is_tensor or isinstance(value, (bool, int, float, complex, str))


def _find(name: str) -> tuple[Callable[..., Optimizer], Mapping[str, Any]]:
    label = f"optimizer {name!r}"
    entry = _TABLE.get(name)
    if entry is None and not own_code.is_own(name):
        raise UsageError(f"unknown {label}{did_you_mean(name, _TABLE)} (or file.py:Class of your own)")
    try:
        factory = own_code.load(label, entry.place if entry else name)
    except UsageError as error:
        if entry is None or entry.package is None or not isinstance(error.__cause__, ModuleNotFoundError):
            raise
        raise UsageError(f"{label} needs the package {entry.package}: {how_to_install('peers')}") from None
    if not callable(factory) or (isinstance(factory, type) and not issubclass(factory, Optimizer)):
        raise UsageError(f"optimizer {name!r} is not a torch.optim.Optimizer")
    return factory, entry.preset if entry else {}
