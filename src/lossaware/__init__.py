"""Make any optimizer loss-aware (LGA), and learn honestly whether that helps."""

import importlib
from typing import TYPE_CHECKING, Any

from lossaware._version import __version__
from lossaware.errors import UsageError

if TYPE_CHECKING:
    from lossaware.gamma2 import AutoGamma2
    from lossaware.law_state import Status
    from lossaware.lga import LGA
    from lossaware.lower_bounds import Average, LowerBound, Momentum, Progressive, Zero
    from lossaware.upper_bounds import FirstLoss, RunningLevel, UpperBound

__all__ = [
    "LGA",
    "AutoGamma2",
    "Average",
    "FirstLoss",
    "LowerBound",
    "Momentum",
    "Progressive",
    "RunningLevel",
    "Status",
    "UpperBound",
    "UsageError",
    "Zero",
    "__version__",
]

_HOME = {
    "LGA": "lga",
    "AutoGamma2": "gamma2",
    "Status": "law_state",
    **dict.fromkeys(("Average", "LowerBound", "Momentum", "Progressive", "Zero"), "lower_bounds"),
    **dict.fromkeys(("FirstLoss", "RunningLevel", "UpperBound"), "upper_bounds"),
}


def __getattr__(name: str) -> Any:
    # Names are loaded when they are used: neither the command line's help nor JAX users wait for torch.
    if name in _HOME:
        return getattr(importlib.import_module(f"lossaware.{_HOME[name]}"), name)
    if name == "SelfSet":
        from lossaware.deprecated import renamed

        return renamed(__name__, {"SelfSet": "lossaware.gamma2.AutoGamma2"}, stacklevel=3)(name)
    raise AttributeError(f"module 'lossaware' has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
