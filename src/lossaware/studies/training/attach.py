"""LGA on an optimizer, as a specification says it."""

from collections.abc import Iterable, Mapping
from typing import Any

from torch.optim import Optimizer

from lossaware.errors import UsageError
from lossaware.studies.specs.options import call, did_you_mean
from lossaware.studies.specs.run_spec import Options


def attach_lga(optimizer: Optimizer, options: Options, steps: int) -> Any:
    """`lossaware.LGA` with ``options``; see `lga_arguments`."""
    from lossaware import LGA

    return call("LGA", LGA, optimizer, options={"steps_per_epoch": steps, **lga_arguments(options)})


def lga_arguments(options: Mapping[str, Any] | Iterable[tuple[str, Any]]) -> dict[str, Any]:
    """Options of a specification as the arguments of `lossaware.LGA`.

    Of these, ``lower_bound.<name>`` go to the lower bound, and ``gamma2.<name>`` to the rule that gamma2 names.

    Raises:
        UsageError: A name is unknown, or options do not go together.
    """
    from lossaware.lower_bounds import LOWER_BOUNDS
    from lossaware.rules import RULES, rule_class

    chosen = dict(options)
    bound, strategy = _taken(chosen, "lower_bound."), _taken(chosen, "gamma2.")
    if bound or isinstance(chosen.get("lower_bound"), str):
        name = chosen.get("lower_bound", "progressive")
        if name not in LOWER_BOUNDS:
            raise UsageError(f"unknown lower bound {name!r}{did_you_mean(str(name), LOWER_BOUNDS)}")
        chosen["lower_bound"] = call(f"lower bound {name!r}", LOWER_BOUNDS[name], options=bound)
    if strategy:
        name = chosen.get("gamma2")
        if name not in RULES:
            allowed = " or ".join(repr(rule) for rule in RULES)
            raise UsageError(f"gamma2.{min(strategy)} goes with gamma2 {allowed} alone, got {name!r}")
        chosen["gamma2"] = call(f"gamma2 {name!r}", rule_class(name), options=strategy)
    return chosen


def _taken(options: dict[str, Any], prefix: str) -> dict[str, Any]:
    """Those of the options that begin so, without it; they are taken out."""
    return {name.removeprefix(prefix): options.pop(name) for name in list(options) if name.startswith(prefix)}
