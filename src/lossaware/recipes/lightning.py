"""LGA in the Lightning Trainer, which divides the loss under accumulation and scales it in float16."""

import logging
import math
from typing import Any

import torch
from torch import Tensor

from lossaware.errors import UsageError
from lossaware.lga import LGA
from lossaware.recipes import load_for_other_data, metrics

try:
    from lightning.pytorch.callbacks import Callback
except ImportError:
    try:
        from pytorch_lightning.callbacks import Callback
    except ImportError:
        raise ImportError("this recipe needs Lightning: install lossaware with the extra 'lightning'") from None

logger = logging.getLogger("lossaware")

_BEFORE_TRAINING = "lossaware_before_training"
"""Key in the checkpoint of a tuner, which is written and restored before training."""


def steps_per_epoch(trainer: Any) -> int:
    """Return the number of optimizer steps in one epoch, independent of ``max_epochs`` and ``max_steps``.

    It counts the batches of this rank as the Trainer does, with ``limit_train_batches``, and divides them by
    ``accumulate_grad_batches``. It can be called in ``configure_optimizers``: it sets up the data loader if the Trainer
    has not done so yet.

    Args:
        trainer: The ``lightning.pytorch.Trainer``, during ``fit``.

    Raises:
        UsageError: The training data has no length.
    """
    steps = _steps_per_epoch(trainer)
    if steps is None:
        raise UsageError(
            "the training data has no length, so the number of steps in an epoch is unknown: pass steps_per_epoch, the "
            "number of optimizer steps per loss status, or set Trainer(limit_train_batches=...) to a number of batches"
        )
    return steps


def _steps_per_epoch(trainer: Any) -> int | None:
    if trainer.train_dataloader is None:
        trainer.fit_loop.setup_data()
    batches = 0 if trainer.limit_train_batches == 0 else trainer.num_training_batches
    return None if math.isinf(batches) else max(1, math.ceil(batches / trainer.accumulate_grad_batches))


class LossAware(Callback):  # type: ignore[misc]  # its class is not known where Lightning is not installed
    """Callback that attaches LGA to the optimizers of a Trainer, and saves its state in the Trainer's checkpoints.

    When ``fit`` starts, the callback attaches LGA to each optimizer. If ``configure_optimizers`` has attached LGA to
    some optimizers, only these use it. LGA receives the mean loss of each step, in every precision and under
    accumulation. Under manual optimization, call ``lga.observe(loss)`` yourself, because the callback cannot know which
    loss belongs to which optimizer. Every ``log_every_n_steps`` steps, the callback sends LGA's status to the Trainer's
    loggers.

    The callback sets ``steps_per_epoch`` to `steps_per_epoch` of the Trainer when ``fit`` starts. It updates the value
    when the loader or the accumulation changes, for example by a batch size finder. It does not change an LGA that was
    attached with another value.

    Args:
        **settings: The settings of `LGA`. ``steps_per_epoch`` is only needed if the training data has no length.

    Raises:
        UsageError: When ``fit`` starts: there is no optimizer; settings are passed here and LGA was also attached in
            ``configure_optimizers``; the training data has no length; or the strategy is DeepSpeed's.
        RuntimeError: When training starts: the checkpoint to resume from was saved without LGA.

    Example:
        .. code-block:: python

            trainer = Trainer(callbacks=[LossAware(gamma2=1e-8)])
    """

    def __init__(self, **settings: Any) -> None:
        self._settings = settings
        self._steps: int | None = None  # of an epoch, at the last check
        self._following: list[LGA] = []  # those whose steps_per_epoch follows the training data
        self._is_before_training = False
        self._kept: list[dict[str, Any] | None] | None = None  # states read from a checkpoint, until they can be loaded
        self._logged_at = 0

    # Attaching --------------------------------------------------------------------------------------------------------

    def setup(self, trainer: Any, pl_module: Any, stage: str) -> None:
        """Reset the state of the previous fit."""
        if stage == "fit":
            self._is_before_training, self._kept, self._steps, self._following = True, None, None, []

    def on_fit_start(self, trainer: Any, pl_module: Any) -> None:
        """Attach LGA."""
        if type(trainer.strategy).__name__ == "DeepSpeedStrategy":
            raise UsageError("LGA does not support Lightning's DeepSpeedStrategy: use strategy='ddp' or 'fsdp'")
        if any(_companions(trainer)):
            if self._settings:
                raise UsageError(
                    "LGA is already attached in configure_optimizers, so LossAware cannot attach it with "
                    f"{', '.join(self._settings)}: pass the settings in one place only"
                )
            self._find_followers(trainer)
            self._follow(trainer)
            return
        if not trainer.optimizers or type(trainer.optimizers[0]).__name__ == "_MockOptimizer":
            raise UsageError("configure_optimizers returned no optimizer, but LGA needs one")
        settings = self._settings
        if "steps_per_epoch" not in settings:
            settings = {**settings, "steps_per_epoch": steps_per_epoch(trainer)}
        attached = [LGA(optimizer, **settings) for optimizer in trainer.optimizers]
        self._steps = _steps_per_epoch(trainer)
        self._following = [] if "steps_per_epoch" in self._settings else attached

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        """Update ``steps_per_epoch`` if the epoch that begins has another length."""
        if batch_idx == 0:
            self._follow(trainer)

    def _find_followers(self, trainer: Any) -> None:
        """Find the LGAs from configure_optimizers whose steps_per_epoch is that of the Trainer; once per fit."""
        if self._steps is None:
            self._steps = _steps_per_epoch(trainer)
            self._following = [lga for lga in _companions(trainer) if lga and lga.steps_per_epoch == self._steps]

    def _follow(self, trainer: Any) -> None:
        steps = _steps_per_epoch(trainer)
        if steps is None or steps == self._steps:
            return
        if self._following and trainer.is_global_zero:
            logger.info("steps_per_epoch is now %d and was %s: the length of an epoch has changed", steps, self._steps)
        for lga in self._following:
            lga.steps_per_epoch = steps
        self._steps = steps

    # The loss ---------------------------------------------------------------------------------------------------------

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
        """Log the status once per step. A step may consist of several batches."""
        step, every = trainer.global_step, trainer.log_every_n_steps
        if every and step % every == 0 and step != self._logged_at:
            self._logged_at = step
            companions = _companions(trainer)
            for index, lga in enumerate(companions):
                if lga is not None:
                    values = metrics(lga, "lga/" if len(companions) == 1 else f"lga{index}/")
                    for logger_ in trainer.loggers:
                        logger_.log_metrics(values, step=step)

    # Checkpoints ------------------------------------------------------------------------------------------------------

    def on_save_checkpoint(self, trainer: Any, pl_module: Any, checkpoint: dict[str, Any]) -> None:
        """Add the states to the checkpoint."""
        companions = _companions(trainer)
        checkpoint["lossaware"] = [None if lga is None else lga.state_dict() for lga in companions]
        if self._is_before_training:
            checkpoint[_BEFORE_TRAINING] = True
            if any(companions):  # a tuner may change the loader after this
                self._find_followers(trainer)

    def on_load_checkpoint(self, trainer: Any, pl_module: Any, checkpoint: dict[str, Any]) -> None:
        """Read the states from the checkpoint.

        A tuner restores its own checkpoint when the optimizers exist. When a run resumes, they do not exist yet.
        """
        if trainer.state.fn != "fit":
            return
        states = checkpoint.get("lossaware", [])
        if self._is_before_training and not checkpoint.get(_BEFORE_TRAINING, False):
            self._kept = states
            return
        for lga, state in zip(_companions(trainer), states, strict=False):
            if lga is not None and state is not None:
                lga.load_state_dict(state)

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        """Load the states of a resumed run."""
        self._follow(trainer)
        self._is_before_training = False
        saved, self._kept = self._kept, None
        companions = _companions(trainer)
        if saved is None:
            return
        if [state is not None for state in saved] != [lga is not None for lga in companions]:
            raise RuntimeError(
                "the checkpoint was saved with LGA on other optimizers than in this Trainer, or without LGA: resume "
                "with the same configure_optimizers and the same callbacks"
            )
        for lga, state in zip(companions, saved, strict=True):
            if lga is not None and state is not None:
                if lga in self._following:
                    load_for_other_data(lga, state)
                else:
                    lga.load_state_dict(state)


def _companions(trainer: Any) -> list[LGA | None]:
    return [LGA.of(optimizer) for optimizer in trainer.optimizers]
