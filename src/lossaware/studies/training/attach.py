"""LGA on an optimizer, by the options of a specification."""

from collections.abc import Iterable, Mapping
from typing import Any

from torch.optim import Optimizer

from lossaware.errors import UsageError
from lossaware.studies.specs.options import call, did_you_mean
from lossaware.studies.specs.run_spec import Options


def attach_lga(optimizer: Optimizer, options: Options, steps: int) -> Any:
    """`lossaware.LGA` with these options; see `lga_arguments`."""
    from lossaware import LGA

    return call("LGA", LGA, optimizer, options={"steps_per_epoch": steps, **lga_arguments(options)})


def lga_arguments(options: Mapping[str, Any] | Iterable[tuple[str, Any]]) -> dict[str, Any]:
    """Options of a specification as the arguments of `lossaware.LGA`.

    ``lower_bound.<name>`` are options of the lower bound, and ``gamma2.<name>`` those of the rule named by gamma2.

    Raises:
        UsageError: A name is unknown, or options exclude each other.
    """
    from lossaware.lower_bounds import LOWER_BOUNDS
    from lossaware.rules import RULES, rule_class

    chosen = dict(options)
    bound, strategy = _pop_prefixed(chosen, "lower_bound."), _pop_prefixed(chosen, "gamma2.")
    if bound or isinstance(chosen.get("lower_bound"), str):
        name = chosen.get("lower_bound", "progressive")
        if name not in LOWER_BOUNDS:
            raise UsageError(f"unknown lower bound {name!r}{did_you_mean(str(name), LOWER_BOUNDS)}")
        chosen["lower_bound"] = call(f"lower bound {name!r}", LOWER_BOUNDS[name], options=bound)
    if strategy:
        name = chosen.get("gamma2")
        if name not in RULES:
            allowed = " or ".join(repr(rule) for rule in RULES)
            raise UsageError(f"gamma2.{min(strategy)} needs gamma2 {allowed}, got {name!r}")
        chosen["gamma2"] = call(f"gamma2 {name!r}", rule_class(name), options=strategy)
    return chosen


def _pop_prefixed(options: dict[str, Any], prefix: str) -> dict[str, Any]:
    """Remove the options with this prefix, and return them without it."""
    return {name.removeprefix(prefix): options.pop(name) for name in list(options) if name.startswith(prefix)}
