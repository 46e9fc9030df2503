"""The settings of LGA: defaults and checks, with the same messages in torch and in JAX."""

import math
import numbers
from dataclasses import dataclass, replace
from typing import Any, ParamSpec, TypeVar

from lossaware.choices import described
from lossaware.gamma2 import Gamma2Rule
from lossaware.law import Law
from lossaware.lower_bounds import LowerBound, make_lower_bound
from lossaware.rules import is_rule, make_rule
from lossaware.upper_bounds import UpperBound, make_upper_bound

P = ParamSpec("P")
R = TypeVar("R")

_ZERO_GRADIENT = ("push", "rest")


@dataclass(frozen=True)
class Settings:
    """Checked and complete settings; the fields are the arguments of `lossaware.LGA`.

    Attributes:
        gamma2: The user's number or rule.
        rule: The resulting rule.
        law: The law with these settings.
    """

    steps_per_epoch: int
    gamma2: float | Gamma2Rule
    eps: float
    xi: float
    lower_bound: LowerBound
    upper_bound: UpperBound
    backoff: float
    zero_gradient: str
    rule: Gamma2Rule
    law: Law

    def with_steps_per_epoch(self, steps: Any) -> "Settings":
        """The same settings for another length of an epoch.

        Raises:
            ValueError: It is not an integer of at least 1.
        """
        steps = check("steps_per_epoch", steps, low=1, integer=True)
        law = replace(self.law, steps_per_status=self.rule.steps_per_status(steps))
        return replace(self, steps_per_epoch=steps, law=law)

    def hyperparameters(self) -> dict[str, Any]:
        """The settings as plain values, for checkpoints and messages."""
        names = ("steps_per_epoch", "gamma2", "eps", "xi", "lower_bound", "upper_bound", "backoff", "zero_gradient")
        return {name: described(getattr(self, name)) for name in names}

    def __str__(self) -> str:
        bounds = ("lower_bound", "upper_bound")
        settings = self.hyperparameters().items()
        return ", ".join(f"{name}={value if name in bounds else repr(value)}" for name, value in settings)


def make_settings(
    *,
    steps_per_epoch: Any,
    gamma2: Any,
    eps: Any,
    xi: Any,
    lower_bound: Any,
    upper_bound: Any,
    backoff: Any,
    zero_gradient: Any,
    arrays: tuple[type, ...] = (),
    remedy_for_schedules: str = "",
) -> Settings:
    """Check the settings and fill in the defaults, which depend on the rule for gamma2.

    Args:
        steps_per_epoch: See `lossaware.LGA`, as for all other settings.
        gamma2: A number, ``"auto"`` or a rule.
        eps: None for the rule's default.
        xi: None for the rule's default.
        lower_bound: A name, an object, or None for the rule's default.
        upper_bound: A name or an object.
        backoff: In [0, 1].
        zero_gradient: None for the rule's default.
        arrays: Types that are accepted as numbers without a check, as their values may not be known yet.
        remedy_for_schedules: Added to the message if a number is a function.

    Raises:
        ValueError: A setting is out of its range; the message names it, its value, and the allowed range.
        TypeError: ``steps_per_epoch`` is missing.
    """

    def checked(name: str, value: Any, **limits: Any) -> Any:
        return value if isinstance(value, arrays) else check(name, value, hint=remedy_for_schedules, **limits)

    backoff = checked("backoff", backoff, high=1.0)
    if not isinstance(gamma2, str) and not is_rule(gamma2):
        gamma2 = checked("gamma2", gamma2)
    rule = make_rule(gamma2, backoff)
    defaults = rule.defaults
    zero_gradient = defaults.zero_gradient if zero_gradient is None else zero_gradient
    if zero_gradient not in _ZERO_GRADIENT:
        raise ValueError(f"zero_gradient must be 'push' or 'rest': got {zero_gradient!r}")
    if steps_per_epoch is None and rule.needs_epochs:
        raise TypeError(
            "steps_per_epoch is missing: pass the number of optimizer steps in an epoch, steps_per_epoch=len(loader), "
            "divided by the number of batches that are accumulated"
        )
    steps_per_epoch = 1 if steps_per_epoch is None else checked("steps_per_epoch", steps_per_epoch, low=1, integer=True)
    if rule.moves_base:
        _refuse_unread(rule, eps=eps, xi=xi, lower_bound=lower_bound, zero_gradient=zero_gradient)
    eps = checked("eps", defaults.eps if eps is None else eps)
    _check_rule(rule)
    steps_per_status = rule.steps_per_status(steps_per_epoch)
    law = Law(
        steps_per_status=checked(f"steps_per_status of {type(rule).__name__}", steps_per_status, low=1, integer=True),
        lower_bound=make_lower_bound(defaults.lower_bound if lower_bound is None else lower_bound),
        eps=eps,
        rule=rule,
        upper_bound=make_upper_bound(upper_bound),
    )
    return Settings(
        steps_per_epoch=steps_per_epoch,
        gamma2=rule if isinstance(gamma2, str) else gamma2,
        eps=eps,
        xi=checked("xi", defaults.xi if xi is None else xi, above=True),
        lower_bound=law.lower_bound,
        upper_bound=law.upper_bound,
        backoff=backoff,
        zero_gradient=zero_gradient,
        rule=rule,
        law=law,
    )


def _refuse_unread(rule: Gamma2Rule, **values: Any) -> None:
    """Refuse settings of Eq. 2 and 4 that the rule does not use, unless they have its default values."""
    for name, value in values.items():
        default = getattr(rule.defaults, name)
        if value is not None and value != default:
            raise ValueError(f"{name} must not be set, because {type(rule).__name__} does not use it: got {value!r}")


def _check_rule(rule: Gamma2Rule) -> None:
    if not 0 <= rule.momentum < 1:
        raise ValueError(f"momentum of {type(rule).__name__} must be at least 0 and below 1: got {rule.momentum!r}")


def check(
    name: str,
    value: Any,
    *,
    low: float = 0.0,
    high: float = math.inf,
    above: bool = False,
    integer: bool = False,
    hint: str = "",
) -> float | int:
    """The value as a Python number.

    Args:
        name: Name for the message.
        value: The value.
        low: Minimum.
        high: Maximum; infinity itself is not allowed.
        above: Whether the value must be above ``low``.
        integer: Whether it must be an integer.
        hint: Added to the message if the value is a function.

    Raises:
        ValueError: It is not a number, or out of its range.
    """
    kind = numbers.Integral if integer else numbers.Real
    number = float(value) if isinstance(value, kind) and not isinstance(value, bool) else math.nan
    if not (low < number if above else low <= number) or not number <= high or math.isinf(number):
        allowed = f"{'an integer' if integer else 'a finite number'} {'above' if above else 'of at least'} {low:g}"
        allowed += f" and at most {high:g}" if high < math.inf else ""
        if integer and hasattr(value, "__len__") and not isinstance(value, str):
            raise ValueError(f"{name} must be {allowed}: got a {type(value).__name__}; use len(...) of it")
        raise ValueError(f"{name} must be {allowed}: got {value!r}{hint if callable(value) else ''}")
    return int(value) if integer else number
