"""LGA in TensorBoard."""

from typing import Any

from lossaware.lga import LGA
from lossaware.recipes import metrics


def log_status(writer: Any, lga: LGA, step: int | None = None, prefix: str = "lga/") -> None:
    """Write LGA's status as scalars.

    Args:
        writer: A ``torch.utils.tensorboard.SummaryWriter``, or another object with the method ``add_scalar``.
        lga: The LGA to read. Reading its status may synchronize with the device.
        step: The step of the scalars. None means the number of optimizer steps so far.
        prefix: Prefix of each name.
    """
    step = lga.status.steps if step is None else step
    for name, value in metrics(lga, prefix).items():
        writer.add_scalar(name, value, step)
