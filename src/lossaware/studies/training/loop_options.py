"""Options of the training loop of a task: accumulation, clipping, early stopping, and when the scheduler steps."""

import math
from dataclasses import dataclass, fields

from lossaware.errors import UsageError
from lossaware.studies.specs.options import did_you_mean
from lossaware.studies.specs.run_spec import RunSpec

INTERVALS = ("epoch", "step")


@dataclass(frozen=True)
class LoopOptions:
    """The options of a run.

    Attributes:
        accumulate: Batches per step, at least 1; the step uses the mean of their gradients and losses.
        clip: Maximum norm of all gradients together, above 0; None for no clipping.
        interval: When the scheduler steps: after each ``"epoch"`` or each ``"step"``.
        patience: Training ends after this number of epochs, at least 1, without a better score on the validation set.
            None: no early stopping.
    """

    accumulate: int = 1
    clip: float | None = None
    interval: str = "epoch"
    patience: int | None = None


def loop_options(spec: RunSpec) -> LoopOptions:
    """The options in the field ``training`` of a specification.

    Raises:
        UsageError: An option does not exist or has a value that is not allowed.
    """
    values = dict(spec.training)
    known = [field.name for field in fields(LoopOptions)]
    for name in values:
        if name not in known:
            raise UsageError(f"training has no option {name!r}{did_you_mean(name, known)}")
    accumulate, clip, interval = values.get("accumulate", 1), values.get("clip"), values.get("interval", "epoch")
    if isinstance(accumulate, bool) or not isinstance(accumulate, int) or accumulate < 1:
        raise UsageError(f"accumulate must be an integer of at least 1, got {accumulate!r}")
    if clip is not None and (
        isinstance(clip, bool) or not isinstance(clip, int | float) or not (math.isfinite(clip) and clip > 0)
    ):
        raise UsageError(f"clip must be a number above 0, the maximum norm of the gradients, got {clip!r}")
    if interval not in INTERVALS:
        raise UsageError(f"the scheduler's interval must be epoch or step, got {interval!r}")
    if interval == "step" and spec.scheduler in (None, "ReduceLROnPlateau"):
        raise UsageError(f"interval step needs a scheduler without a loss, got {spec.scheduler or 'none'}")
    patience = spec.patience
    if patience is not None and (isinstance(patience, bool) or not isinstance(patience, int) or patience < 1):
        raise UsageError(f"patience must be an integer of at least 1, the number of epochs, got {patience!r}")
    if spec.distributed is not None and (accumulate > 1 or clip is not None or patience is not None):
        raise UsageError("accumulate, clip and patience cannot be used with runs on several ranks")
    return LoopOptions(accumulate, clip, str(interval), patience)
