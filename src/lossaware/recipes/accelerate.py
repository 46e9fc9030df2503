"""LGA with Accelerate, whose optimizer takes no loss in its ``step`` and hides its step hooks."""

from typing import Any

from torch import Tensor

from lossaware.lga import LGA


def attach(accelerator: Any, optimizer: Any, **settings: Any) -> LGA:
    """Attach LGA to an optimizer and have its state kept by ``accelerator.save_state`` and ``load_state``.

    Args:
        accelerator: The ``accelerate.Accelerator``.
        optimizer: A torch optimizer, before or after ``accelerator.prepare``.
        **settings: Those of `LGA`.
    """
    lga = LGA(optimizer_inside(optimizer), **settings)
    accelerator.register_for_checkpointing(lga)
    return lga


def backward(accelerator: Any, lga: LGA, loss: Tensor, **kwargs: Any) -> None:
    """Go back through the loss by ``accelerator.backward``, and hand it over to LGA.

    Args:
        accelerator: The ``accelerate.Accelerator``; it scales the loss, and divides it under accumulation.
        lga: It gets the loss as it is.
        loss: The mean loss of the micro-batch.
        **kwargs: Those of ``accelerator.backward``.
    """
    lga.observe(loss)
    accelerator.backward(loss, **kwargs)


def optimizer_inside(optimizer: Any) -> Any:
    """The torch optimizer in Accelerate's wrapper, which does not run step hooks; any other optimizer as it is."""
    while type(optimizer).__name__ == "AcceleratedOptimizer":
        optimizer = optimizer.optimizer
    return optimizer
