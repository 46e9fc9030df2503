"""LGA in training frameworks whose optimizer step does not receive the loss."""

import dataclasses
import logging
import math
from typing import Any

from lossaware.lga import LGA

logger = logging.getLogger("lossaware")


def metrics(lga: LGA, prefix: str = "lga/") -> dict[str, float]:
    """Return LGA's status as a flat dictionary, which any logger accepts.

    Args:
        lga: The LGA to read. Reading its status may synchronize with the device.
        prefix: Prefix of each name.

    Returns:
        The fields of `lossaware.Status`, and of the last `Measurement` if ``lga.measure_every`` is set. Values that are
        not finite yet, such as the bounds before the first loss, are omitted.

    Example:
        >>> import torch
        >>> optimizer = torch.optim.SGD([torch.nn.Parameter(torch.ones(2))], lr=0.1)
        >>> metrics(LGA(optimizer, steps_per_epoch=100))["lga/gamma2"]
        1e-08
    """
    values = dataclasses.asdict(lga.status)
    measured = lga.measurement
    if measured is not None:
        values |= {
            "update_norm": measured.update_norm,
            "correction_norm": measured.correction_norm,
            "correction_ratio": measured.ratio,
        }
    return {prefix + name: float(value) for name, value in values.items() if math.isfinite(value)}


def load_for_other_data(lga: LGA, state_dict: Any) -> None:
    """Load a state that may have another ``steps_per_epoch``; ``lga.steps_per_epoch`` does not change.

    Args:
        lga: The LGA that receives the state.
        state_dict: A state from `LGA.state_dict`.

    Raises:
        ValueError: See `LGA.load_state_dict`.
    """
    settings = state_dict.get("hyperparameters") if isinstance(state_dict, dict) else None
    if isinstance(settings, dict) and settings.get("steps_per_epoch", lga.steps_per_epoch) != lga.steps_per_epoch:
        logger.info(
            "steps_per_epoch is now %d and was %s in the checkpoint: the length of an epoch has changed",
            *(lga.steps_per_epoch, settings["steps_per_epoch"]),
        )
        state_dict = {**state_dict, "hyperparameters": {**settings, "steps_per_epoch": lga.steps_per_epoch}}
    lga.load_state_dict(state_dict)
