"""LGA with Accelerate, whose optimizer takes no loss in its ``step`` and hides its step hooks."""

import math
from typing import Any

import torch
from torch import Tensor

from lossaware.errors import UsageError
from lossaware.lga import LGA

_NOT_SUPPORTED = {"DEEPSPEED": "DeepSpeed", "MEGATRON_LM": "Megatron-LM"}


def attach(accelerator: Any, optimizer: Any, **settings: Any) -> LGA:
    """Attach LGA to an optimizer and have its state kept by ``accelerator.save_state`` and ``load_state``.

    Args:
        accelerator: The ``accelerate.Accelerator``.
        optimizer: A torch optimizer, before or after ``accelerator.prepare``.
        **settings: Those of `LGA`. `steps_per_epoch` counts the steps of an epoch.

    Raises:
        UsageError: The accelerator uses DeepSpeed or Megatron-LM.
    """
    kind = getattr(accelerator.distributed_type, "value", accelerator.distributed_type)
    if kind in _NOT_SUPPORTED:
        raise UsageError(
            f"LGA does not support Accelerate with {_NOT_SUPPORTED[kind]}: use DDP or FSDP; DeepSpeed works "
            "by its own engine, without ZeRO (docs/frameworks/deepspeed.md)"
        )
    lga = LGA(optimizer_inside(optimizer), **settings)
    accelerator.register_for_checkpointing(lga)
    return lga


def steps_per_epoch(accelerator: Any, loader: Any) -> int:
    """The optimizer steps of one epoch, with accumulation, the same on all processes.

    A last group of fewer micro-batches is a step, as Accelerate makes it one. All processes must call this together.

    Args:
        accelerator: The ``accelerate.Accelerator``.
        loader: The training data, as ``accelerator.prepare`` returned it.

    Raises:
        UsageError: The loader is not prepared, or has no length.
    """
    if not type(loader).__module__.startswith("accelerate."):
        raise UsageError(
            "this loader is not prepared, so its length is not that of one process: pass what accelerator.prepare "
            "returned"
        )
    try:
        batches: int = len(loader)
    except TypeError:
        raise UsageError(
            "this loader has no length, so the steps of an epoch are not known: choose steps_per_epoch, the number of "
            "steps that make one loss status"
        ) from None
    if accelerator.num_processes > 1:  # with even_batches=False some may have a batch more
        batches = int(accelerator.gather(torch.tensor([batches], device=accelerator.device)).max())
    accumulated: int = accelerator.gradient_accumulation_steps
    return max(1, math.ceil(batches / accumulated))


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
