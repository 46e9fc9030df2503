"""LGA in the Transformers Trainer, which calls ``optimizer.step()`` without the loss."""

import json
import math
import os
import warnings
from typing import Any

import torch
from torch import Tensor

from lossaware.errors import UsageError
from lossaware.lga import LGA
from lossaware.recipes import load_for_other_data, metrics
from lossaware.recipes.accelerate import optimizer_inside
from lossaware.recipes.item_count import watched_count

FILE = "lossaware.json"
"""Name of the file with LGA's state in the checkpoint folder."""


class LossAware:
    """Mixin that makes a ``transformers.Trainer`` loss-aware. Put it before the Trainer in the list of base classes.

    LGA receives the mean loss of each step, also under accumulation, and if the Trainer divides by the number of
    tokens. LGA's state is saved in the checkpoints, and its status is in the logs. ``steps_per_epoch`` is computed from
    the training data unless you pass it. It is updated when ``auto_find_batch_size`` changes the batch size, and when
    ``train`` is called again.

    Args:
        *args: Arguments of the Trainer.
        lga: The settings of `LGA`. ``steps_per_epoch`` is only needed if the training data has no length.
        **kwargs: Keyword arguments of the Trainer.

    Raises:
        UsageError: When training starts: the training data has no length, or the Trainer uses DeepSpeed.
        RuntimeError: When training resumes: the checkpoint was saved without LGA.

    Example:
        .. code-block:: python

            class LossAwareTrainer(LossAware, transformers.Trainer):
                pass

            trainer = LossAwareTrainer(model, args, train_dataset=data, lga={"gamma2": 1e-8})
    """

    lga: LGA | None
    """The attached LGA; None before training starts."""

    def __init__(self, *args: Any, lga: dict[str, Any], **kwargs: Any) -> None:
        self.lga = None
        self._lga_settings = dict(lga)
        self._own: LGA | None = None  # the LGA that this mixin attached
        self._batches: int | None = None  # of an epoch, once the Trainer has loaded the training data
        self._divides: bool | None = None  # whether the loss is divided by the number of items, once that is known
        super().__init__(*args, **kwargs)

    # Attaching --------------------------------------------------------------------------------------------------------

    def set_initial_training_values(self, args: Any, dataloader: Any, *more: Any, **kwargs: Any) -> Any:
        """Call the Trainer's method, and count the batches of the training data that it has just loaded."""
        self._batches = _length(dataloader)
        return super().set_initial_training_values(args, dataloader, *more, **kwargs)  # type: ignore[misc]

    def create_optimizer(self, *args: Any, **kwargs: Any) -> Any:
        """Create the Trainer's optimizer, and attach LGA to it."""
        trainer: Any = self
        if getattr(trainer, "is_deepspeed_enabled", False):
            raise UsageError("LGA does not support the Trainer with DeepSpeed: use DDP or FSDP")
        optimizer = super().create_optimizer(*args, **kwargs)  # type: ignore[misc]
        inner = optimizer_inside(optimizer)  # a second call to train finds Accelerate's wrapper
        self.lga = LGA.of(inner)
        if self.lga is None:
            settings = self._lga_settings
            if "steps_per_epoch" not in settings:
                settings = {**settings, "steps_per_epoch": self._steps_per_epoch()}
            self.lga = self._own = LGA(inner, **settings)
        elif self.lga is self._own and self._follows:
            self.lga.steps_per_epoch = self._steps_per_epoch()
        self.lga.forget()  # losses of a step that ran out of memory
        self._divides = None
        return optimizer

    @property
    def _follows(self) -> bool:
        return "steps_per_epoch" not in self._lga_settings

    def _steps_per_epoch(self) -> int:
        trainer: Any = self
        batches = _length(trainer.get_train_dataloader()) if self._batches is None else self._batches
        if batches is None:
            raise UsageError(
                "the training data has no length, so the number of steps in an epoch is unknown: pass the number of "
                "optimizer steps per loss status, lga={'steps_per_epoch': ...}"
            )
        accumulated: int = trainer.args.gradient_accumulation_steps
        return max(1, math.ceil(batches / accumulated))

    # The loss ---------------------------------------------------------------------------------------------------------

    def training_step(
        self, model: Any, inputs: Any, num_items_in_batch: Any = None, *args: Any, **kwargs: Any
    ) -> Tensor:
        """Call the Trainer's method, and pass the loss to LGA."""
        trainer: Any = self
        step: Any = super().training_step  # type: ignore[misc]
        parts: int = trainer.current_gradient_accumulation_steps
        sums = self._sums_micro_batches(num_items_in_batch)
        if sums and self._divides is None:
            count = watched_count(num_items_in_batch)
            # A compiled model must not trace the watched count.
            with torch.compiler.set_stance("force_eager"):
                loss: Tensor = step(model, inputs, num_items_in_batch if count is None else count, *args, **kwargs)
            self._divides = num_items_in_batch is not None if count is None else count.is_used
            if not self._divides:
                self._warn_of_sums(num_items_in_batch)
        else:
            loss = step(model, inputs, num_items_in_batch, *args, **kwargs)
        if self.lga is not None:
            # Normally the micro-batch losses of the Trainer add up to the loss of the step. LGA averages the observed
            # losses, so each is multiplied by their number. If the Trainer adds up means, each loss is already a mean.
            adds_means = sums and not self._divides
            self.lga.observe(loss / self._excess(num_items_in_batch) if adds_means else loss * parts)
        return loss

    def _sums_micro_batches(self, num_items_in_batch: Any) -> bool:
        """Whether the Trainer adds up losses, assuming that they are divided by the items of the whole step."""
        trainer: Any = self
        if getattr(trainer, "loss_is_scaled_for_ga", None) is not None:  # since Transformers 5.24: the user decides
            return False
        return (trainer.model_accepts_loss_kwargs and num_items_in_batch is not None) or bool(trainer.compute_loss_func)

    def _excess(self, num_items_in_batch: Any) -> int:
        """The factor on the loss with several ranks: the Trainer assumes division by the items of all ranks."""
        trainer: Any = self
        is_own = next(c for c in type(self).__mro__ if "compute_loss" in vars(c)).__module__.partition(".")[0]
        if is_own != "transformers" or num_items_in_batch is None or not trainer.args.average_tokens_across_devices:
            return 1
        return int(trainer.accelerator.num_processes)

    def _warn_of_sums(self, num_items_in_batch: Any) -> None:
        trainer: Any = self
        times = trainer.args.gradient_accumulation_steps * self._excess(num_items_in_batch)
        if times == 1:
            return
        remedy = "divide it by num_items_in_batch"
        if not trainer.compute_loss_func:
            remedy += ", or set trainer.model_accepts_loss_kwargs = False before trainer.train()"
        warnings.warn(
            "the loss of this Trainer is the mean over a micro-batch, but the Trainer assumes that it is divided by "
            "num_items_in_batch, the number of items in the whole step. So the gradients and the logged loss are "
            f"{times} times too large, with and without LGA. LGA uses the correct mean. To correct the gradients, "
            f"{remedy}",
            stacklevel=3,
        )

    def log(self, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
        """Call the Trainer's method, and add LGA's status to the training loss."""
        if self.lga is not None and "loss" in logs:
            logs = {**logs, **metrics(self.lga)}
        super().log(logs, *args, **kwargs)  # type: ignore[misc]

    # Checkpoints ------------------------------------------------------------------------------------------------------

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        super()._save_optimizer_and_scheduler(output_dir)  # type: ignore[misc]
        if self.lga is None or not self.args.should_save:  # type: ignore[attr-defined]
            return
        path = os.path.join(output_dir, FILE)
        with open(path + ".part", "w", encoding="utf-8") as file:
            json.dump(self.lga.state_dict(), file)
        os.replace(path + ".part", path)

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        super()._load_optimizer_and_scheduler(checkpoint)  # type: ignore[misc]
        if checkpoint is None or self.lga is None:
            return
        path = os.path.join(checkpoint, FILE)
        if not os.path.isfile(path):
            raise RuntimeError(f"{checkpoint} has no {FILE}: it was saved without LGA, so LGA cannot resume from it")
        with open(path, encoding="utf-8") as file:
            state = json.load(file)
        if self.lga is self._own and self._follows:
            load_for_other_data(self.lga, state)
        else:
            self.lga.load_state_dict(state)


def _length(dataloader: Any) -> int | None:
    try:
        return len(dataloader)
    except (TypeError, NotImplementedError):
        return None
