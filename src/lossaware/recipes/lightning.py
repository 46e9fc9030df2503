"""LGA in the Lightning Trainer, which divides the loss under accumulation and keeps it from the step in 16 bits."""

from typing import Any

import torch
from torch import Tensor

from lossaware.lga import LGA
from lossaware.recipes import metrics

try:
    from lightning.pytorch.callbacks import Callback
except ImportError:
    try:
        from pytorch_lightning.callbacks import Callback
    except ImportError:
        raise ImportError("this recipe needs Lightning: pip install 'lossaware[lightning]'") from None


class LossAware(Callback):  # type: ignore[misc]  # its class is not known where Lightning is not installed
    """Hands each step's loss to the LGA that ``configure_optimizers`` attached, and keeps its state in checkpoints.

    The loss is the true mean of the micro-batches, in every precision. Under manual optimization, where only you know
    which loss belongs to which optimizer, call ``lga.observe(loss)`` yourself; the state is kept all the same. At the
    Trainer's ``log_every_n_steps`` its loggers get LGA's status.

    Raises:
        RuntimeError: When training starts, if no optimizer has LGA attached, or the checkpoint to resume from was
            made without.

    Example:
        .. code-block:: python

            def configure_optimizers(self):
                optimizer = torch.optim.SGD(self.parameters(), lr=1e-3)
                LGA(optimizer, steps_per_epoch=self.trainer.estimated_stepping_batches // self.trainer.max_epochs)
                return optimizer

            trainer = Trainer(callbacks=[LossAware()])
    """

    def __init__(self) -> None:
        self._kept: list[dict[str, Any] | None] | None = None  # states read from a checkpoint, until they can be loaded
        self._logged_at = 0

    def on_fit_start(self, trainer: Any, pl_module: Any) -> None:
        """Look for LGA."""
        if not any(_companions(trainer)):
            raise RuntimeError(
                "no optimizer of this Trainer has LGA attached: call LGA(optimizer, ...) in configure_optimizers"
            )

    def on_before_backward(self, trainer: Any, pl_module: Any, loss: Tensor) -> None:
        """Observe the loss, which Lightning has divided by the number of micro-batches, and scaled in float16."""
        if not pl_module.automatic_optimization:
            return
        loss = loss.detach() * trainer.accumulate_grad_batches
        scaler = getattr(trainer.precision_plugin, "scaler", None)
        if scaler is not None:
            loss = loss / scaler.scale(torch.ones_like(loss))  # unlike get_scale(), this does not wait for the device
        for lga in filter(None, _companions(trainer)):
            lga.observe(loss)

    def on_train_batch_end(self, trainer: Any, pl_module: Any, *_: Any) -> None:
        """Log the status, once a step: several batches may make one."""
        step, every = trainer.global_step, trainer.log_every_n_steps
        if every and step % every == 0 and step != self._logged_at:
            self._logged_at = step
            companions = _companions(trainer)
            for index, lga in enumerate(companions):
                if lga is not None:
                    found = metrics(lga, "lga/" if len(companions) == 1 else f"lga{index}/")
                    for logger in trainer.loggers:
                        logger.log_metrics(found, step=step)

    def on_save_checkpoint(self, trainer: Any, pl_module: Any, checkpoint: dict[str, Any]) -> None:
        """Put the states into the checkpoint."""
        checkpoint["lossaware"] = [None if lga is None else lga.state_dict() for lga in _companions(trainer)]

    def on_load_checkpoint(self, trainer: Any, pl_module: Any, checkpoint: dict[str, Any]) -> None:
        """Take the states out of the checkpoint; the optimizers do not exist yet."""
        self._kept = checkpoint.get("lossaware", [])

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        """Load the states."""
        kept, self._kept = self._kept, None
        companions = _companions(trainer)
        if kept is None:
            return
        if [state is not None for state in kept] != [lga is not None for lga in companions]:
            raise RuntimeError(
                "the checkpoint's optimizers had LGA attached in another way than this Trainer's: resume with the same "
                "configure_optimizers and the same callbacks"
            )
        for lga, state in zip(companions, kept, strict=True):
            if lga is not None and state is not None:
                lga.load_state_dict(state)


def _companions(trainer: Any) -> list[LGA | None]:
    return [LGA.of(optimizer) for optimizer in trainer.optimizers]
