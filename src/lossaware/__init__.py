"""Make any optimizer loss-aware (LGA), and find out whether it really helps."""

import importlib
from typing import TYPE_CHECKING, Any

from lossaware._version import __version__
from lossaware.errors import UsageError

if TYPE_CHECKING:
    from lossaware.baseline import Baseline
    from lossaware.gamma2 import AutoGamma2
    from lossaware.law_state import Status
    from lossaware.lga import LGA
    from lossaware.lower_bounds import Average, LowerBound, Momentum, Progressive, Zero
    from lossaware.studies.comparing.in_python import compare
    from lossaware.studies.training.script import trial
    from lossaware.studies.training.trial import Trial
    from lossaware.upper_bounds import FirstLoss, RunningLevel, UpperBound

__all__ = [
    "LGA",
    "AutoGamma2",
    "Average",
    "Baseline",
    "FirstLoss",
    "LowerBound",
    "Momentum",
    "Progressive",
    "RunningLevel",
    "Status",
    "Trial",
    "UpperBound",
    "UsageError",
    "Zero",
    "__version__",
    "compare",
    "trial",
]

_HOME = {
    "LGA": "lga",
    "AutoGamma2": "gamma2",
    "Baseline": "baseline",
    "Trial": "studies.training.trial",
    "compare": "studies.comparing.in_python",
    "trial": "studies.training.script",
    "Status": "law_state",
    **dict.fromkeys(("Average", "LowerBound", "Momentum", "Progressive", "Zero"), "lower_bounds"),
    **dict.fromkeys(("FirstLoss", "RunningLevel", "UpperBound"), "upper_bounds"),
}


def __getattr__(name: str) -> Any:
    # Names are loaded when they are used: neither the command line's help nor JAX users wait for torch.
    if name in _HOME:
        try:
            return getattr(importlib.import_module(f"lossaware.{_HOME[name]}"), name)
        except ModuleNotFoundError as error:
            if not _HOME[name].startswith("studies"):
                raise
            from lossaware.extras import how_to_install

            package = (error.name or "").partition(".")[0]
            raise ImportError(f"lossaware.{name} needs {package}: {how_to_install('studies')}") from None
    if name == "SelfSet":
        from lossaware.deprecated import renamed

        return renamed(__name__, {"SelfSet": "lossaware.gamma2.AutoGamma2"}, stacklevel=3)(name)
    raise AttributeError(f"module 'lossaware' has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
