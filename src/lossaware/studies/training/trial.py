"""A trial, the argument of a training function: its seed, its learning rate, and an optimizer without or with LGA."""

import json
import shutil
import time
import weakref
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, NoReturn

import torch
from torch.optim import Optimizer

from lossaware.baseline import Baseline
from lossaware.errors import UsageError
from lossaware.lga import LGA
from lossaware.studies.specs.arms import arm_of
from lossaware.studies.specs.atomic import write_atomic
from lossaware.studies.specs.optimizers import make_optimizer, set_mode
from lossaware.studies.specs.options import call
from lossaware.studies.specs.regular_file import MALFORMED, read_regular
from lossaware.studies.specs.run_spec import EpochRecord, RunSpec
from lossaware.studies.specs.seal import is_sealed, sealed
from lossaware.studies.specs.trial_function import SCORE, as_number, check_score
from lossaware.studies.training.attach import lga_arguments

PROGRESS_SECONDS = 0.3
"""Minimum time between two readings of the loss, which may wait for a device."""
_OF_ANY_ARM = ("steps_per_epoch", "upper_bound", "process_group", "axis_name")
"""Arguments in a function's code that also hold for rules; others were chosen for a fixed gamma2."""

_ATTACH, _MAKE, _EPOCHS = "trial.attach(optimizer, ...)", "trial.make_optimizer(params)", "trial.epochs(n)"
_REMEDIES = {
    _ATTACH: ": call it instead of LGA(optimizer, ...), or in JAX trial.loss_aware(base, ...); a Trainer gets the "
    "optimizer to which it is attached",
    _MAKE: ': make its optimizer by trial.make_optimizer(model.parameters(), "adamw"), which gives the base of the arm',
}


@dataclass(frozen=True)
class Listener:
    """Callbacks of a trial.

    Attributes:
        epoch: Receives the record of an epoch.
        length: Receives the number of epochs, if the function sets it.
        progress: Receives the epoch (from 1), the step (from 1), the steps per epoch, and the loss of that step.
        rehearsed: Called at the end of a successful rehearsal.
    """

    epoch: Callable[[EpochRecord], None] = lambda record: None
    length: Callable[[int], None] = lambda epochs: None
    progress: Callable[[int, int, int, float], None] = lambda epoch, step, steps, loss: None
    rehearsed: Callable[[], None] = lambda: None


class Rehearsed(SystemExit):
    """The end of a rehearsal after one step. ``except Exception`` does not catch it, and a script exits with code 0."""


class Trial:
    """One run of a training function, without or with LGA; made by ``lossaware compare`` and `lossaware.compare`.

    Attributes:
        seed: The seed, the same in all arms. Python's, NumPy's and torch's generators are seeded with it before the
            function is called.
        arm: The name of the arm: ``"without"``, ``"lga"``, a rule's (``"auto"``), a gamma2, or a base optimizer's, as
            in ``--arms``.
        device: The device of ``--device``.
        data: The folder of ``--data``, or None.

    Example:
        .. code-block:: python

            def train(trial):
                model = make_model()
                optimizer = torch.optim.AdamW(model.parameters(), lr=trial.lr)
                trial.attach(optimizer, steps_per_epoch=len(loader))
                for epoch in trial.epochs(10):
                    for x, y in loader:
                        loss = loss_of(model(x), y)
                        optimizer.zero_grad()
                        loss.backward()
                        optimizer.step(loss=loss)
                    accuracy = test(model)
                    trial.report(epoch, loss=loss, accuracy=accuracy)
                return accuracy
    """

    def __init__(
        self,
        spec: RunSpec,
        *,
        folder: Path,
        data: Path | None = None,
        listener: Listener | None = None,
        rehearsal: bool = False,
    ) -> None:
        self.seed = spec.seed
        self.arm = arm_of(spec)
        self.device = torch.device(spec.device)
        self.data = data
        self._spec = spec
        self._folder = folder
        self._listener = listener or Listener()
        self._rehearsal = rehearsal
        self._progress = _Progress(self._listener)
        self._reports = _Reports(self._listener.epoch, self._status)
        self._attached: list[LGA] = []
        self._called = set[str]()  # the calls by which arms can differ

    def __repr__(self) -> str:
        return f"Trial(arm={self.arm!r}, seed={self.seed}, lr={self._spec.lr or None})"

    @property
    def lr(self) -> float:
        """The learning rate.

        Raises:
            UsageError: The comparison does not have learning rates.
        """
        if not self._spec.lr:
            raise UsageError(
                "the function reads trial.lr, but the comparison does not have learning rates: set --lrs 1e-4,1e-3 "
                "(in Python, lrs=[1e-4, 1e-3])"
            )
        return self._spec.lr

    @property
    def checkpoint(self) -> Path:
        """The run's own folder for checkpoints.

        It exists until the run is complete, and is empty if the function's file, lossaware or torch has changed. If it
        is not empty, the run was interrupted: load its files, and continue with ``trial.epochs(n, start=...)``.
        """
        self._folder.mkdir(parents=True, exist_ok=True)
        self._reports.keep_in(self._folder)
        return self._folder

    # Arms -------------------------------------------------------------------------------------------------------------

    def attach(self, optimizer: Optimizer, **settings: Any) -> LGA:
        """Make the optimizer loss-aware, if this is an arm with LGA.

        In other arms it returns a `lossaware.Baseline`, with the same calls and exactly the base optimizer's steps. So
        the loop, with ``optimizer.step(loss=loss)``, is the same in all arms.

        Args:
            optimizer: See `lossaware.LGA`.
            settings: The settings of `lossaware.LGA`; ``steps_per_epoch`` is required. Settings of the comparison, as
                by ``--gamma2``, take precedence. In the arm ``auto``, only ``steps_per_epoch``, ``upper_bound`` and
                ``process_group`` of these are used, as the others were chosen for a fixed gamma2, unless they contain
                ``gamma2="auto"``.

        Raises:
            UsageError: A setting does not exist or is out of its range, or LGA cannot go with the optimizer.
        """
        self._called.add(_ATTACH)
        kind = _WatchedBaseline if self._spec.lga is None else _Watched
        try:
            attached = call("trial.attach", kind, optimizer, options=self._settings(settings))
        except UsageError as error:
            raise UsageError(str(error).replace("trial.attach: ", "trial.attach(optimizer, ...): ")) from error
        attached.tell(self._stepped)
        self._attached.append(attached)
        return attached

    def loss_aware(self, base: Any, **settings: Any) -> Any:
        """The same for JAX: `lossaware.optax.loss_aware` of an optax optimizer, or a baseline that ignores the loss.

        Args:
            base: Any optax optimizer.
            settings: The settings of `lossaware.optax.loss_aware`; see `attach`.
        """
        from lossaware import optax, optax_baseline

        self._called.add(_ATTACH)
        make = optax_baseline.baseline if self._spec.lga is None else optax.loss_aware
        return call("trial.loss_aware", make, base, options=self._settings(settings))

    def make_optimizer(self, params: Iterable[torch.nn.Parameter], name: str = "adamw", **options: Any) -> Optimizer:
        """The base optimizer of this arm, in training mode.

        Args:
            params: The parameters.
            name: The base of arms without their own: one of ``lossaware optimizers``, or ``file.py:Class``.
            options: Keyword arguments of this base, besides the learning rate. An arm's own base has the arm's options,
                and otherwise its defaults.

        Raises:
            UsageError: The name or an option does not exist.
        """
        self._called.add(_MAKE)
        if self._spec.optimizer:
            name, options = self._spec.optimizer, dict(self._spec.optimizer_options)
        optimizer = make_optimizer(name, params, self.lr, options)
        set_mode(optimizer, "train")
        return optimizer

    def _settings(self, chosen: dict[str, Any]) -> dict[str, Any]:
        arm = dict(self._spec.lga or ())
        if isinstance(arm.get("gamma2"), str) and chosen.get("gamma2") != arm["gamma2"]:
            chosen = {name: value for name, value in chosen.items() if name in _OF_ANY_ARM}
        return lga_arguments({**chosen, **arm})

    def _status(self) -> dict[str, float] | None:
        if self._spec.lga is None:
            return None
        status = asdict(self._attached[0].status) if self._attached else {}
        return {name: float(value) for name, value in status.items()}

    # Reports ----------------------------------------------------------------------------------------------------------

    def epochs(self, count: int, *, start: int = 0) -> Iterator[int]:
        """The epochs to train, counted from 0 as by ``range(start, count)``.

        Args:
            count: Total number of epochs, at least 1; ``--epochs`` takes precedence.
            start: Number of epochs in a checkpoint.

        Raises:
            UsageError: A number is out of its range.
        """
        if isinstance(count, bool) or not isinstance(count, int) or count < 1:
            raise UsageError(f"trial.epochs(count): count must be an integer of at least 1, got {count!r}")
        self._called.add(_EPOCHS)
        count = self._spec.epochs or count
        if isinstance(start, bool) or not isinstance(start, int) or not 0 <= start <= count:
            raise UsageError(f"trial.epochs: start must be an integer from 0 to {count}, got {start!r}")
        self._listener.length(count)
        return self._numbered(start, count)

    def _numbered(self, start: int, count: int) -> Iterator[int]:
        self._reports.start_clock()  # the time before the first epoch, for example of compiling, does not count
        for epoch in range(start, count):
            self._progress.begin(epoch + 1)
            yield epoch
            self._end_rehearsal()

    def report(self, epoch: int | None = None, /, *unnamed: Any, **values: Any) -> None:
        """Report the measures of an epoch.

        Several calls for one epoch are combined.

        Args:
            epoch: Counted from 0 or from 1, in order; None is the next.
            unnamed: Not allowed: each value needs a name.
            values: Numbers, or tensors of one element, by any names. ``loss`` is the mean training loss: if the last
                one is not finite, the run has diverged.

        Raises:
            UsageError: An epoch is skipped, or a value has no name or is not a number.
        """
        if unnamed:
            raise UsageError(
                f"trial.report(epoch, ...): a value needs a name, such as loss=loss, got {unnamed[0]!r:.60}"
            )
        self._end_rehearsal()
        self._reports.add(epoch, values)

    def finish(self, score: Any) -> int:
        """Report the score of the whole run, if no report has it. A function returns it instead.

        Args:
            score: A number.

        Returns:
            The number of epochs.

        Raises:
            UsageError: It is not a number.
        """
        return self._reports.end(check_score("the run", score))

    # Rehearsal --------------------------------------------------------------------------------------------------------

    def check_calls(self) -> None:
        """Check the calls during a rehearsal.

        Raises:
            UsageError: The arms do not differ, or LGA does not get the loss.
        """
        if self._spec.epochs and _EPOCHS not in self._called and "{epochs}" not in self._spec.task:
            raise UsageError(f"--epochs {self._spec.epochs} would do nothing: the function does not call {_EPOCHS}")
        needed = [_MAKE] if self._spec.optimizer else []
        needed += [_ATTACH] if self._spec.lga is not None or not self._called & {_ATTACH, _MAKE} else []
        for call_of in needed:
            if call_of not in self._called:
                raise UsageError(
                    f"the function does not call {call_of}, so this arm would not differ from the others"
                    f"{_REMEDIES.get(call_of, '')}"
                )
        for attached in self._attached:
            if attached.status.steps_without_loss:
                raise UsageError(
                    "LGA does not get the loss: pass it by optimizer.step(loss=loss), or lga.observe(loss) before it"
                )

    def _end_rehearsal(self) -> None:
        """End a rehearsal; in a run, do nothing."""
        if self._rehearsal:
            self.check_calls()
            self._listener.rehearsed()
            raise Rehearsed(0)

    def _stepped(self, attached: LGA) -> None:
        self._end_rehearsal()
        self._progress.step(attached)


class _Watched(LGA):
    """Reports each step. Compiled steps would refuse another hook."""

    def tell(self, stepped: Callable[[LGA], None]) -> None:
        """Set a function that is called after each step."""
        self._attachment.then = partial(stepped, weakref.proxy(self))


class _WatchedBaseline(_Watched, Baseline):
    """Like `_Watched`, in an arm without LGA."""


class _Progress:
    """Reports progress within an epoch."""

    def __init__(self, listener: Listener) -> None:
        self._tell = listener.progress
        self._epoch, self._step = 1, 0
        self._due = time.monotonic() + PROGRESS_SECONDS

    def begin(self, epoch: int) -> None:
        self._epoch, self._step = epoch, 0

    def step(self, attached: LGA) -> None:
        self._step += 1
        if (now := time.monotonic()) >= self._due:
            steps = attached.steps_per_epoch
            self._tell(self._epoch, min(self._step, steps), steps, attached.status.loss)
            self._due = now + PROGRESS_SECONDS


STANDALONE = "lossaware-trial"
"""The folder of a standalone script, in the current folder. lossaware does not remove its files."""


def _discard_checkpoint(folder: Path) -> str:
    """Remove a run's own folder, and return a message about it."""
    if folder.name == STANDALONE:
        return f"remove {folder} to start from the beginning"
    shutil.rmtree(folder, ignore_errors=True)
    return "the run's checkpoint is removed, so it starts from the beginning"


class _Reports:
    """The reports of a function, per epoch. The last epoch is sent again with the score."""

    FILE_NAME: ClassVar[str] = ".reported.json"
    """The file in a run's own folder with its last report."""

    def __init__(self, tell: Callable[[EpochRecord], None], status: Callable[[], dict[str, float] | None]) -> None:
        self._tell, self._status = tell, status
        self._first: int | None = None  # the function's number of its first epoch
        self._record: EpochRecord | None = None  # the last one
        self._is_kept = False  # whether it is from an earlier process
        self._began = time.perf_counter()
        self._kept: Path | None = None

    def keep_in(self, folder: Path) -> None:
        """Continue from the last report of an earlier process, if there is one, and save reports from now on."""
        if self._kept is not None:
            return
        self._kept = folder / self.FILE_NAME
        if not self._kept.exists() and not self._kept.is_symlink():
            return
        try:
            content = json.loads(read_regular(self._kept))
            first, record = int(content["first"]), EpochRecord(**content["record"])
            if not is_sealed(content):
                raise ValueError("its digest does not match")
        except (UsageError, *MALFORMED) as error:
            raise UsageError(f"{self._kept}: damaged ({error}); {_discard_checkpoint(folder)}") from None
        if self._record is None and first in (0, 1):
            self._first, self._record, self._is_kept = first, record, True

    def start_clock(self) -> None:
        """Start the time of the next reported epoch."""
        self._began = time.perf_counter()

    def add(self, epoch: int | None, values: dict[str, Any]) -> None:
        """Record a report."""
        if not values:
            raise UsageError("trial.report(epoch, ...) needs a value by its name, such as loss=loss")
        measured = {}
        for name, value in values.items():
            number = as_number(value)
            if number is None:
                raise UsageError(f"trial.report: {name} must be one number, got {type(value).__name__} {value!r:.60}")
            measured[name] = number
        place, last = self._number(epoch), self._record
        if last is not None and place == last.epoch and not self._is_kept:
            self._send(place, {**last.test, **measured}, last.seconds)
        else:
            now = time.perf_counter()
            self._send(place, measured, now - self._began)
            self._began = now

    def end(self, score: float) -> int:
        """Record the score and return the number of epochs."""
        if self._record is None:
            self._send(1, {SCORE: score}, time.perf_counter() - self._began)
            return 1
        self._tell(replace(self._record, test={**self._record.test, SCORE: score}))
        return self._record.epoch

    def _send(self, epoch: int, values: dict[str, float], seconds: float) -> None:
        train = {"loss": values["loss"]} if "loss" in values else {}
        self._record, self._is_kept = EpochRecord(epoch, train, values, self._status(), seconds), False
        self._tell(self._record)
        if self._kept is not None:
            content = {"first": self._first or 0, "record": asdict(self._record)}
            write_atomic(self._kept, json.dumps(sealed(content)))

    def _number(self, epoch: int | None) -> int:
        """The epoch, counted from 1."""
        last = 0 if self._record is None else self._record.epoch
        if epoch is None:
            return last + 1
        if isinstance(epoch, bool) or epoch != int(epoch):
            self._refuse(f"an integer, got {epoch!r}")
        if self._first is None:
            if epoch not in (0, 1):
                self._refuse(f"0 or 1 at first, got {epoch:g}")
            self._first = int(epoch)
        number = int(epoch) - self._first + 1
        if not (1 <= number <= last + 1 if self._is_kept else last <= number <= last + 1):
            self._refuse(f"{last + self._first} next, got {epoch:g}")
        return number

    def _refuse(self, text: str) -> NoReturn:
        more = ""
        if self._is_kept and self._kept is not None:  # otherwise the same command would fail again
            more = f"; {_discard_checkpoint(self._kept.parent)} (report each epoch before saving)"
        raise UsageError(f"trial.report(epoch, ...): epochs must be consecutive: it must be {text}{more}")
