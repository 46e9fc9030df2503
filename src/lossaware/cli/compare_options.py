"""Groups of options of `lossaware compare`: each field is an option."""

from collections.abc import Iterator
from dataclasses import asdict, dataclass, fields
from typing import TYPE_CHECKING, Any, Literal

from lossaware.cli.values import Integer, parse_named

if TYPE_CHECKING:
    from lossaware.studies.specs.run_spec import Value


@dataclass(frozen=True)
class TaskOptions:
    """Options of the training of a task. A training function or a command sets these itself.

    Attributes:
        optimizers: Base optimizers (`lossaware optimizers`), separated by commas. Default: sgd,adam.
        batch_size: Examples per step. Default: the task's.
        scheduler: A scheduler of torch.optim.lr_scheduler: StepLR,step_size=5,gamma=0.5.
        scheduler_interval: Whether the scheduler steps per epoch or per step. Default: epoch.
        accumulate: Batches per step, whose gradients are accumulated. Default: 1.
        clip: Maximum norm of the gradients of a step; larger ones are scaled to it. Default: no clipping.
        patience: Early stopping: a run ends after this number of epochs without a better score on the task's
            validation set, and its best epoch counts. Default: no early stopping.
        precision: fp32, or bf16 (autocast).
        distributed: ddp or fsdp: the processes of a torchrun share each run. It is part of a run's specification, too.
    """

    optimizers: str | None = None
    batch_size: Integer | None = None
    scheduler: str | None = None
    scheduler_interval: Literal["epoch", "step"] | None = None
    accumulate: Integer | None = None
    clip: float | None = None
    patience: Integer | None = None
    precision: Literal["fp32", "bf16"] = "fp32"
    distributed: str | None = None

    def used(self) -> Iterator[tuple[str, Any]]:
        """The options that have another value than their default, with these values."""
        for field in fields(self):
            value = getattr(self, field.name)
            if value != field.default:
                yield f"--{field.name.replace('_', '-')}", value

    def training(self) -> "dict[str, Value]":
        """The field ``training`` of a specification, without defaults."""
        interval = None if self.scheduler_interval == "epoch" else self.scheduler_interval
        accumulate = None if self.accumulate == 1 else self.accumulate
        return _set({"accumulate": accumulate, "clip": self.clip, "interval": interval, "patience": self.patience})


@dataclass(frozen=True)
class LgaOptions:
    """Settings of LGA besides gamma2.

    Attributes:
        steps_per_epoch: Steps per loss status of LGA; 1 is Algorithm 1 to the letter. Default: an epoch.
        eps: Minimum gap between loss and lower bound for the correction. Default: 0.1, and 0 for gamma2 auto.
        xi: Stability constant of LGA's correction. Default: 0.01, and 1 for gamma2 auto.
        lower_bound: progressive, average, momentum or zero; options follow: progressive,log_base=2.718. Default:
            progressive, and zero for gamma2 auto.
        backoff: Factor on a fixed gamma2 whenever the loss of a status rose. Default: 0.1.
        zero_gradient: Correction where a gradient is exactly zero: push (as the paper) or rest. Default: push, and
            rest for gamma2 auto.
    """

    steps_per_epoch: Integer | None = None
    eps: float | None = None
    xi: float | None = None
    lower_bound: str | None = None
    backoff: float | None = None
    zero_gradient: str | None = None

    def arguments(self) -> "dict[str, Value]":
        """The field ``lga`` of a specification, without defaults.

        Raises:
            UsageError: The lower bound is not written as a name with options.
        """
        bound, options = parse_named("--lower-bound", self.lower_bound)
        own = {f"lower_bound.{key}": value for key, value in options}
        return _set({**asdict(self), "lower_bound": bound, **own})


def _set(values: "dict[str, Value]") -> "dict[str, Value]":
    return {name: value for name, value in values.items() if value is not None}
