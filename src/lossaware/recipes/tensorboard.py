"""LGA in TensorBoard: one call where you log."""

from typing import Any

from lossaware.lga import LGA
from lossaware.recipes import metrics


def log_status(writer: Any, lga: LGA, step: int | None = None, prefix: str = "lga/") -> None:
    """Write what LGA is doing as scalars.

    Args:
        writer: A ``torch.utils.tensorboard.SummaryWriter``, or anything else with its ``add_scalar``.
        lga: Its status is read, which may wait for the device.
        step: The step to show it at; the number of optimizer steps so far if None.
        prefix: Put before each name.
    """
    step = lga.status.steps if step is None else step
    for name, value in metrics(lga, prefix).items():
        writer.add_scalar(name, value, step)
