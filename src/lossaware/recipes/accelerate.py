"""LGA with Accelerate, whose optimizer wrapper does not accept a loss in ``step`` and does not run step hooks."""

import math
from typing import Any

import torch
from torch import Tensor

from lossaware.errors import UsageError
from lossaware.lga import LGA

_NOT_SUPPORTED = {"DEEPSPEED": "DeepSpeed", "MEGATRON_LM": "Megatron-LM"}


def attach(accelerator: Any, optimizer: Any, **settings: Any) -> LGA:
    """Attach LGA to an optimizer, and register its state for ``accelerator.save_state`` and ``load_state``.

    Args:
        accelerator: The ``accelerate.Accelerator``.
        optimizer: A torch optimizer, before or after ``accelerator.prepare``.
        **settings: The settings of `LGA`. The function `steps_per_epoch` computes the setting of the same name.

    Raises:
        UsageError: The accelerator uses DeepSpeed or Megatron-LM.
    """
    kind = getattr(accelerator.distributed_type, "value", accelerator.distributed_type)
    if kind in _NOT_SUPPORTED:
        raise UsageError(
            f"LGA does not support Accelerate with {_NOT_SUPPORTED[kind]}: use DDP or FSDP, or use DeepSpeed's own "
            "engine without ZeRO (docs/frameworks/deepspeed.md)"
        )
    lga = LGA(optimizer_inside(optimizer), **settings)
    accelerator.register_for_checkpointing(lga)
    return lga


def steps_per_epoch(accelerator: Any, loader: Any) -> int:
    """Return the number of optimizer steps in one epoch, with accumulation. It is the same on all processes.

    A last group of fewer micro-batches counts as a step, because Accelerate makes a step for it. All processes must
    call this function together.

    Args:
        accelerator: The ``accelerate.Accelerator``.
        loader: The data loader for training that ``accelerator.prepare`` returned.

    Raises:
        UsageError: The loader is not prepared, or has no length.
    """
    if not type(loader).__module__.startswith("accelerate."):
        raise UsageError(
            "the loader is not prepared, so its length is not the number of batches of one process: pass the loader "
            "that accelerator.prepare returned"
        )
    try:
        batches: int = len(loader)
    except TypeError:
        raise UsageError(
            "the loader has no length, so the number of steps in an epoch is unknown: pass steps_per_epoch to attach, "
            "the number of optimizer steps per loss status"
        ) from None
    if accelerator.num_processes > 1:  # with even_batches=False some processes may have one more batch
        batches = int(accelerator.gather(torch.tensor([batches], device=accelerator.device)).max())
    accumulated: int = accelerator.gradient_accumulation_steps
    return max(1, math.ceil(batches / accumulated))


def backward(accelerator: Any, lga: LGA, loss: Tensor, **kwargs: Any) -> None:
    """Pass the loss to LGA, and call ``accelerator.backward``.

    Args:
        accelerator: The ``accelerate.Accelerator``. It scales the loss, and divides it under accumulation.
        lga: The LGA that receives the loss, unscaled and not divided.
        loss: The mean loss of the micro-batch.
        **kwargs: Keyword arguments of ``accelerator.backward``.
    """
    lga.observe(loss)
    accelerator.backward(loss, **kwargs)


def optimizer_inside(optimizer: Any) -> Any:
    """Return the torch optimizer inside Accelerate's wrapper, or the optimizer itself if it is not wrapped."""
    while type(optimizer).__name__ == "AcceleratedOptimizer":
        optimizer = optimizer.optimizer
    return optimizer
