"""Make any optimizer loss-aware (LGA), and learn honestly whether that helps."""

import importlib
from typing import TYPE_CHECKING, Any

from lossaware._version import __version__
from lossaware.errors import UsageError

if TYPE_CHECKING:
    from lossaware.companion import LGA
    from lossaware.gamma2 import SelfSet
    from lossaware.status import Average, LowerBound, Momentum, Progressive, Status, Zero

__all__ = [
    "LGA",
    "Average",
    "LowerBound",
    "Momentum",
    "Progressive",
    "SelfSet",
    "Status",
    "UsageError",
    "Zero",
    "__version__",
]

_HOME = {"LGA": "companion", "SelfSet": "gamma2"} | dict.fromkeys(
    ("Average", "LowerBound", "Momentum", "Progressive", "Status", "Zero"), "status"
)


def __getattr__(name: str) -> Any:
    # Names are loaded when they are used: neither the command line's help nor JAX users wait for torch.
    if name in _HOME:
        return getattr(importlib.import_module(f"lossaware.{_HOME[name]}"), name)
    raise AttributeError(f"module 'lossaware' has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
