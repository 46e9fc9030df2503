"""LGA in training frameworks: a few lines each, where a framework hides the loss from its optimizer's step."""

import dataclasses
import logging
import math
from typing import Any

from lossaware.lga import LGA

logger = logging.getLogger("lossaware")


def metrics(lga: LGA, prefix: str = "lga/") -> dict[str, float]:
    """What LGA is doing, as a flat dictionary that every logger takes.

    Args:
        lga: Its status is read, which may wait for the device.
        prefix: Put before each name.

    Returns:
        The fields of `lossaware.Status`, and of the last `Measurement` where ``lga.measure_every`` asked for one. What
        is not finite yet, such as the bounds before the first loss, is left out.

    Example:
        >>> import torch
        >>> optimizer = torch.optim.SGD([torch.nn.Parameter(torch.ones(2))], lr=0.1)
        >>> metrics(LGA(optimizer, steps_per_epoch=100))["lga/gamma2"]
        1e-08
    """
    found = dataclasses.asdict(lga.status)
    measured = lga.measurement
    if measured is not None:
        found |= {
            "update_norm": measured.update_norm,
            "correction_norm": measured.correction_norm,
            "correction_ratio": measured.ratio,
        }
    return {prefix + name: float(value) for name, value in found.items() if math.isfinite(value)}


def load_for_other_data(lga: LGA, state_dict: Any) -> None:
    """Load a state whose epochs may have had another length; ``lga.steps_per_epoch`` stays what it is here.

    Args:
        lga: To load into.
        state_dict: From `LGA.state_dict`.

    Raises:
        ValueError: See `LGA.load_state_dict`.
    """
    settings = state_dict.get("hyperparameters") if isinstance(state_dict, dict) else None
    if isinstance(settings, dict) and settings.get("steps_per_epoch", lga.steps_per_epoch) != lga.steps_per_epoch:
        logger.info(
            "steps_per_epoch is %d from here on, and was %s in the checkpoint: the epochs have another length",
            *(lga.steps_per_epoch, settings["steps_per_epoch"]),
        )
        state_dict = {**state_dict, "hyperparameters": {**settings, "steps_per_epoch": lga.steps_per_epoch}}
    lga.load_state_dict(state_dict)
