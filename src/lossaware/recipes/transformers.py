"""LGA in the Transformers Trainer, which calls ``optimizer.step()`` and keeps the loss to itself."""

import json
import math
import os
from typing import Any

from torch import Tensor

from lossaware.lga import LGA
from lossaware.recipes import metrics

FILE = "lossaware.json"
"""LGA's state, in the checkpoint folder."""


class LossAware:
    """Mixin that makes a ``transformers.Trainer`` loss-aware; to be named before it.

    LGA gets the true mean loss of each step, also under accumulation and where the Trainer divides by tokens; its
    state lies in the checkpoints, and its status in the logs.

    Args:
        *args: Those of the Trainer.
        lga: The settings of `LGA`. ``steps_per_epoch`` may be left out where the training data has a length.
        **kwargs: Those of the Trainer.

    Raises:
        RuntimeError: When training resumes from a checkpoint that was made without LGA.

    Example:
        .. code-block:: python

            class LossAwareTrainer(LossAware, transformers.Trainer):
                pass

            trainer = LossAwareTrainer(model, args, train_dataset=data, lga={"gamma2": 1e-8})
    """

    lga: LGA | None
    """Once training has started."""

    def __init__(self, *args: Any, lga: dict[str, Any], **kwargs: Any) -> None:
        self.lga = None
        self._lga_settings = dict(lga)
        super().__init__(*args, **kwargs)

    def create_optimizer(self, *args: Any, **kwargs: Any) -> Any:
        """The Trainer's optimizer, with LGA attached."""
        optimizer = super().create_optimizer(*args, **kwargs)  # type: ignore[misc]
        self.lga = LGA.of(optimizer)
        if self.lga is None:
            settings = self._lga_settings
            if "steps_per_epoch" not in settings:
                settings = {**settings, "steps_per_epoch": self._steps_per_epoch()}
            self.lga = LGA(optimizer, **settings)
        return optimizer

    def _steps_per_epoch(self) -> int:
        trainer: Any = self
        try:
            batches: int = len(trainer.get_train_dataloader())
        except TypeError:
            raise ValueError(
                "the training data has no length: say how many steps make an epoch, lga={'steps_per_epoch': ...}"
            ) from None
        accumulated: int = trainer.args.gradient_accumulation_steps
        return max(1, math.ceil(batches / accumulated))

    def training_step(self, *args: Any, **kwargs: Any) -> Tensor:
        """The Trainer's, whose result LGA observes."""
        loss: Tensor = super().training_step(*args, **kwargs)  # type: ignore[misc]
        if self.lga is not None:
            # The Trainer's losses of the micro-batches add up to that of the step, LGA takes their mean.
            parts: int = self.current_gradient_accumulation_steps  # type: ignore[attr-defined]
            self.lga.observe(loss * parts)
        return loss

    def log(self, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
        """The Trainer's, with LGA's status beside the training loss."""
        if self.lga is not None and "loss" in logs:
            logs = {**logs, **metrics(self.lga)}
        super().log(logs, *args, **kwargs)  # type: ignore[misc]

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
            raise RuntimeError(f"{checkpoint} has no {FILE}: it was made without LGA, so LGA cannot resume from it")
        with open(path, encoding="utf-8") as file:
            self.lga.load_state_dict(json.load(file))
