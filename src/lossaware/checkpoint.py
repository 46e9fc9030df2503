"""LGA's state_dict: its content, and conversion from older versions."""

import math
from typing import Any

from lossaware.attachment import Attachment
from lossaware.groups import Group
from lossaware.law_state import LawState
from lossaware.loss_input import LossInput
from lossaware.settings import Settings
from lossaware.stepper import Stepper

_OLD_FIELDS = {"decay": "gamma2_factor"}
_COUNTERS = {"count", "statuses", "opened", "steps", "nonfinite", "steps_without_loss"}


def save(settings: Settings, stepper: Stepper, loss_input: LossInput, attachment: Attachment) -> dict[str, Any]:
    """See `LGA.state_dict`."""
    return {
        "hyperparameters": settings.hyperparameters(),
        "state": stepper.read_state()._asdict(),
        "groups": stepper.sizes.state(_measured(settings, attachment)),
        "steps_without_loss": loss_input.steps_without_loss,
    }


def load(state_dict: Any, settings: Settings, stepper: Stepper, loss_input: LossInput, attachment: Attachment) -> None:
    """See `LGA.load_state_dict`. It is checked before any change."""
    state_dict = _upgraded(state_dict)
    _check(state_dict, save(settings, stepper, loss_input, attachment))
    groups = _measured(settings, attachment)
    scales = stepper.sizes.match(state_dict["groups"], groups)
    stepper.sizes.load(scales, groups)
    stepper.load_state(LawState(**state_dict["state"]))
    loss_input.steps_without_loss = int(state_dict["steps_without_loss"])
    loss_input.forget()


def _measured(settings: Settings, attachment: Attachment) -> list[Group]:
    """The groups whose scales are saved; none if the rule does not use scales, so that the optimizer is not needed."""
    return attachment.optimizer.param_groups if settings.rule.uses_scale else []


def _upgraded(state_dict: Any) -> Any:
    """A state_dict of an older version, converted; others are unchanged.

    The first version had a list of the groups' scales, ``decay`` for ``gamma2_factor``, and only the first loss as
    upper bound.
    """
    if not isinstance(state_dict, dict) or "scales" not in state_dict or "groups" in state_dict:
        return state_dict
    upgrade = {("groups" if key == "scales" else key): value for key, value in state_dict.items()}
    saved, state = upgrade.get("hyperparameters"), upgrade.get("state")
    if isinstance(saved, dict):
        gamma2 = saved.get("gamma2")
        if isinstance(gamma2, str) and gamma2.startswith("SelfSet("):
            gamma2 = gamma2.replace("SelfSet(", "AutoGamma2(", 1)
        upgrade["hyperparameters"] = {"upper_bound": "FirstLoss()", **saved}
        if "gamma2" in saved:
            upgrade["hyperparameters"]["gamma2"] = gamma2
    if isinstance(state, dict):
        renamed = {_OLD_FIELDS.get(name, name): value for name, value in state.items()}
        upgrade["state"] = {**{name: LawState()._asdict()[name] for name in ("origin", "level", "spread")}, **renamed}
    return upgrade


def _check(state_dict: Any, own: dict[str, Any]) -> None:
    """Compare a state_dict with that of the LGA that loads it.

    Raises:
        ValueError: A key is unknown or missing, a value is not a number, a counter is not an integer, or a
            hyperparameter differs.
    """
    _check_keys("LGA's state_dict", state_dict, own)
    saved, current = state_dict["hyperparameters"], own["hyperparameters"]
    _check_keys("the hyperparameters in LGA's state_dict", saved, current)
    for name, value in current.items():
        if saved[name] != value:
            raise ValueError(
                f"{name} is {saved[name]!r} in the state_dict but {value!r} here: "
                f"create LGA with the value of the saved state"
            )
    _check_keys("the state in LGA's state_dict", state_dict["state"], own["state"])
    numbers = {**state_dict["state"], "steps_without_loss": state_dict["steps_without_loss"]}
    for name, value in numbers.items():
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise ValueError(f"{name} in LGA's state_dict must be a number: got {value!r}")
        if name in _COUNTERS and not (0 <= value < math.inf and value == int(value)):
            raise ValueError(f"{name} in LGA's state_dict must be an integer of at least 0: got {value!r}")


def _check_keys(name: str, content: Any, expected: dict[str, Any]) -> None:
    if not isinstance(content, dict):
        raise ValueError(f"{name} must be a dictionary: got {type(content).__name__}")
    unknown, missing = sorted(set(content) - set(expected)), sorted(set(expected) - set(content))
    if unknown or missing:
        parts = [f"unknown {', '.join(map(str, unknown))}"] * bool(unknown)
        parts += [f"missing {', '.join(map(str, missing))}"] * bool(missing)
        raise ValueError(f"{name} does not fit: {'; '.join(parts)}")
