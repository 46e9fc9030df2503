"""The baseline of a comparison: it takes losses like LGA, and does not change the optimizer."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from lossaware.attachment import Attachment
from lossaware.law_state import LawState, Status, summarize
from lossaware.lga import LGA
from lossaware.loss_input import LossInput
from lossaware.update_meter import Measurement


class Baseline(LGA):
    """Replaces `lossaware.LGA` in a run without it: the same calls, and exactly the base optimizer's steps.

    So one training script is enough for both arms of a comparison. The loss arrives in the same three ways and is
    counted, but has no effect. `LGA.of` returns it, so the recipes for Lightning and Transformers work too. It refuses
    the same inputs as LGA. The arguments are those of LGA; they are checked, but have no effect.

    Example:
        >>> model = torch.nn.Linear(3, 1)
        >>> optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
        >>> lga = Baseline(optimizer, steps_per_epoch=100)
        >>> loss = model(torch.ones(8, 3)).square().mean()
        >>> loss.backward()
        >>> optimizer.step(loss=loss)
        >>> lga.status.steps
        1
    """

    def _connect(self, optimizer: Optimizer) -> None:
        # LGA's stepper, with its correction and the C library, is not needed here.
        self._input = LossInput(optimizer, self.process_group, _nothing)
        self._law = LawState()
        self._attachment = Attachment(
            optimizer,
            self,
            before_step=self._before_step,
            after_step=self._after_step,
            before_save=_nothing,
            before_load=_nothing,
            after_load=_nothing,
            after_zero_grad=self._input.after_zero_grad,
        )

    @property
    def steps_per_epoch(self) -> int:
        """As `LGA.steps_per_epoch`."""
        return self.settings.steps_per_epoch

    @steps_per_epoch.setter
    def steps_per_epoch(self, steps: int) -> None:
        self.settings = self.settings.with_steps_per_epoch(steps)

    def _before_step(
        self, optimizer: Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
        if self._input.is_inside_another(args, kwargs):
            return None
        return self._input.begin(optimizer, args, kwargs)

    def _after_step(self, optimizer: Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if self._input.end() and (loss := self._input.take(optimizer)) is not None:
            self._law = self._law._replace(loss=loss, steps=self._law.steps + 1)

    def compile(self, **options: Any) -> Callable[..., None]:  # type: ignore[override]
        """A step with the interface of `LGA.compile`; here it is the optimizer's own step, not compiled."""
        optimizer: Any = self.optimizer

        def step(loss: float | Tensor | None = None, *, scaler: torch.amp.GradScaler | None = None) -> None:
            if scaler is None:
                optimizer.step(loss=loss)
            else:
                scaler.step(optimizer, loss=loss)

        return step

    @property
    def status(self) -> Status:
        """The steps and the last loss; gamma2 is 0 and no gate was open."""
        return summarize(self._law, 0.0, self._input.steps_without_loss)

    def measure_every(self, steps: int | None) -> None:
        """Do nothing, because there is no correction to measure."""

    @property
    def measurement(self) -> Measurement | None:
        """Always None."""
        return None

    def state_dict(self) -> dict[str, Any]:
        """The number of steps."""
        return {"steps": int(self._law.steps), "steps_without_loss": self._input.steps_without_loss}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore a result of `state_dict`.

        Raises:
            ValueError: It is the state of a run with LGA.
        """
        if set(state_dict) != {"steps", "steps_without_loss"}:
            raise ValueError(f"this is not the state of a Baseline, which has no {', '.join(sorted(state_dict))}")
        self._law = self._law._replace(steps=int(state_dict["steps"]))
        self._input.steps_without_loss = int(state_dict["steps_without_loss"])

    def detach(self) -> None:
        """Detach from the optimizer. Detaching twice does nothing."""
        self._attachment.detach()
        self._input.close()

    def __repr__(self) -> str:
        return f"Baseline({self._attachment.name}{'' if self._attachment.active else ', detached'})"


def _nothing(*_: Any) -> None:
    pass
