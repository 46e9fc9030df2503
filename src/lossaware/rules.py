"""The rules for gamma2 by name, or as objects."""

import importlib
from typing import Any

from lossaware.gamma2 import BackOff, Gamma2Rule

RULES = {"auto": ("lossaware.gamma2", "AutoGamma2"), "agreement": ("lossaware.agreement", "Agreement")}
"""Module and class of each rule; the module is imported when the rule is used."""

_NEEDED = [name for name in vars(Gamma2Rule) if not name.startswith("_")]


def rule_class(name: str) -> type[Gamma2Rule]:
    """The class of a rule in `RULES`."""
    module, class_name = RULES[name]
    rule: type[Gamma2Rule] = getattr(importlib.import_module(module), class_name)
    return rule


def make_rule(gamma2: Any, backoff: Any) -> Gamma2Rule:
    """The rule for the argument ``gamma2``.

    Args:
        gamma2: A checked number, one of `RULES`, or a rule.
        backoff: For a number, see `lossaware.gamma2.BackOff`.

    Raises:
        ValueError: It is another string, or an object that does not have all parts of a rule.
    """
    names = ", ".join(repr(name) for name in RULES)
    allowed = f"gamma2 must be a number of at least 0, {names} or a rule such as AutoGamma2()"
    if isinstance(gamma2, str):
        if gamma2 not in RULES:
            meant = gamma2.strip().lower()
            raise ValueError(f"{allowed}: got {gamma2!r}" + (f"; did you mean {meant!r}?" if meant in RULES else ""))
        return rule_class(gamma2)()
    if not is_rule(gamma2):
        return BackOff(backoff, gamma2)
    lacking = [name for name in _NEEDED if not hasattr(gamma2, name)]
    if isinstance(gamma2, type) or lacking:
        raise ValueError(
            f"{allowed}: got {gamma2!r}"
            + (f", which lacks {', '.join(lacking)}" if lacking else ", a class; create an instance")
        )
    rule: Gamma2Rule = gamma2
    return rule


def is_rule(gamma2: Any) -> bool:
    """Whether it is a rule, and not a number or a name."""
    return hasattr(gamma2, "step_size") or hasattr(gamma2, "group_size")
