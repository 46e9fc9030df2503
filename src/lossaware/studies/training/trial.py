"""A trial: what a function that trains gets. Its seed, its learning rate, and an optimizer without or with LGA."""

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
from lossaware.studies.specs.atomic import write_whole
from lossaware.studies.specs.optimizers import make_optimizer, set_mode
from lossaware.studies.specs.options import call
from lossaware.studies.specs.run_spec import EpochRecord, RunSpec
from lossaware.studies.specs.trial_function import SCORE, as_number, check_score
from lossaware.studies.training.attach import lga_arguments

PROGRESS_SECONDS = 0.3
"""The shortest time between two looks at the loss, which may wait for a device."""
_OF_ANY_ARM = ("steps_per_epoch", "upper_bound", "process_group", "axis_name")
"""Arguments in a function's code that hold for a gamma2 that sets itself, too; others were chosen for a fixed one."""

_ATTACH, _MAKE = "trial.attach(optimizer, ...)", "trial.make_optimizer(params)"


@dataclass(frozen=True)
class Listener:
    """Who hears of a trial.

    Attributes:
        epoch: Gets what is known after an epoch.
        length: Gets the number of epochs, where the function says it.
        progress: Gets the epoch (from 1), the step (from 1), the steps of an epoch, and the loss of that step.
        rehearsed: Called at the end of a rehearsal that found nothing wrong.
    """

    epoch: Callable[[EpochRecord], None] = lambda record: None
    length: Callable[[int], None] = lambda epochs: None
    progress: Callable[[int, int, int, float], None] = lambda epoch, step, steps, loss: None
    rehearsed: Callable[[], None] = lambda: None


class Rehearsed(SystemExit):
    """A rehearsal has seen enough: one step. No ``except Exception`` stops it, and a script that it ends ends well."""


class Trial:
    """One run of a function that trains, without LGA or with it; made by ``lossaware compare`` and `lossaware.compare`.

    Attributes:
        seed: Decides whatever is random; the same in all arms. Python's, NumPy's and torch's generators are seeded
            with it before the function is called.
        arm: The name of the arm: ``"without"``, ``"lga"``, a rule's (``"auto"``), a gamma2, or a base optimizer's, as
            in ``--arms``.
        device: Where to compute: ``--device``.
        data: The folder that ``--data`` names, or None.

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
        self._called = set[str]()  # of what the arms may differ by

    def __repr__(self) -> str:
        return f"Trial(arm={self.arm!r}, seed={self.seed}, lr={self._spec.lr or None})"

    @property
    def lr(self) -> float:
        """The learning rate.

        Raises:
            UsageError: The comparison has none.
        """
        if not self._spec.lr:
            raise UsageError(
                "the function reads trial.lr, and the comparison has no learning rate: say --lrs 1e-4,1e-3 "
                "(in Python, lrs=[1e-4, 1e-3])"
            )
        return self._spec.lr

    @property
    def checkpoint(self) -> Path:
        """A folder of the run's own, for what it needs to go on in the middle.

        It is there until the run is complete, and empty where the function's file, lossaware or torch has changed.
        Where it is not empty, the run was interrupted: go on from what lies there, with
        ``trial.epochs(n, start=...)``.
        """
        self._folder.mkdir(parents=True, exist_ok=True)
        self._reports.keep_in(self._folder)
        return self._folder

    # Arms -------------------------------------------------------------------------------------------------------------

    def attach(self, optimizer: Optimizer, **settings: Any) -> LGA:
        """Make the optimizer loss-aware, if this is an arm with LGA.

        Elsewhere it gives a `lossaware.Baseline`: the same calls, and the base optimizer to the bit. So the loop
        below, ``optimizer.step(loss=loss)`` included, is the same in all arms.

        Args:
            optimizer: As for `lossaware.LGA`.
            settings: Those of `lossaware.LGA`; ``steps_per_epoch`` is needed. What the comparison says, as by
                ``--gamma2``, goes before these; in the arm ``auto``, of these only ``steps_per_epoch``,
                ``upper_bound`` and ``process_group`` count, as the others were chosen for a fixed gamma2, unless these
                say ``gamma2="auto"`` themselves.

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
        """The same for JAX: `lossaware.optax.loss_aware` of an optax optimizer, or one that ignores the loss.

        Args:
            base: Any optax optimizer.
            settings: Those of `lossaware.optax.loss_aware`; see `attach`.
        """
        from lossaware import optax, optax_baseline

        self._called.add(_ATTACH)
        make = optax_baseline.baseline if self._spec.lga is None else optax.loss_aware
        return call("trial.loss_aware", make, base, options=self._settings(settings))

    def make_optimizer(self, params: Iterable[torch.nn.Parameter], name: str = "adamw", **options: Any) -> Optimizer:
        """The base optimizer of this arm, in training mode.

        Args:
            params: What it steps.
            name: The base of the arms that name none: one of ``lossaware optimizers``, or ``file.py:Class``.
            options: Keyword arguments of that base, besides the learning rate. A base that an arm names has those
                that the arm names, and else its own defaults.

        Raises:
            UsageError: The name or an option does not exist.
        """
        self._called.add(_MAKE)
        if self._spec.optimizer:
            name, options = self._spec.optimizer, dict(self._spec.optimizer_options)
        optimizer = make_optimizer(name, params, self.lr, options)
        set_mode(optimizer, "train")
        return optimizer

    def _settings(self, given: dict[str, Any]) -> dict[str, Any]:
        arm = dict(self._spec.lga or ())
        if isinstance(arm.get("gamma2"), str) and given.get("gamma2") != arm["gamma2"]:
            given = {name: value for name, value in given.items() if name in _OF_ANY_ARM}
        return lga_arguments({**given, **arm})

    def _status(self) -> dict[str, float] | None:
        if self._spec.lga is None:
            return None
        found = asdict(self._attached[0].status) if self._attached else {}
        return {name: float(value) for name, value in found.items()}

    # Reports ----------------------------------------------------------------------------------------------------------

    def epochs(self, count: int, *, start: int = 0) -> Iterator[int]:
        """The epochs to train, counted from 0 as by ``range(start, count)``.

        Args:
            count: How many there are in all, at least 1; ``--epochs`` goes before it.
            start: How many of them a checkpoint has already.

        Raises:
            UsageError: A number is out of its range.
        """
        if isinstance(count, bool) or not isinstance(count, int) or count < 1:
            raise UsageError(f"trial.epochs(count): count must be a whole number of at least 1, got {count!r}")
        count = self._spec.epochs or count
        if isinstance(start, bool) or not isinstance(start, int) or not 0 <= start <= count:
            raise UsageError(f"trial.epochs: start must be a whole number from 0 to {count}, got {start!r}")
        self._listener.length(count)
        return self._numbered(start, count)

    def _numbered(self, start: int, count: int) -> Iterator[int]:
        self._reports.start_clock()  # what comes before the first epoch, such as compiling, is no training time
        for epoch in range(start, count):
            self._progress.begin(epoch + 1)
            yield epoch
            self._seen()

    def report(self, epoch: int | None = None, /, **values: Any) -> None:
        """Say what was measured after an epoch.

        Several calls for one epoch are one report.

        Args:
            epoch: Counted from 0 or from 1, one after another; None is the next.
            values: Numbers, or tensors of one, by whatever names. ``loss`` is the mean training loss: where the last
                one is not finite, the run is said to have diverged.

        Raises:
            UsageError: An epoch is left out, or a value is no number.
        """
        self._seen()
        self._reports.add(epoch, values)

    def finish(self, score: Any) -> int:
        """Say the score of the whole run, where no single report has it. A function returns it instead.

        Args:
            score: A number.

        Returns:
            The number of epochs.

        Raises:
            UsageError: It is no number.
        """
        return self._reports.end(check_score("the run", score))

    # Rehearsal --------------------------------------------------------------------------------------------------------

    def seen(self) -> None:
        """Check what a rehearsal has seen.

        Raises:
            UsageError: The arms are the same training, or LGA gets no loss.
        """
        needed = [_MAKE] if self._spec.optimizer else []
        needed += [_ATTACH] if self._spec.lga is not None or not self._called else []
        for call_of in needed:
            if call_of not in self._called:
                raise UsageError(f"the function does not call {call_of}, so this arm would train as the others do")
        for attached in self._attached:
            if attached.status.steps_without_loss:
                raise UsageError(
                    "LGA gets no loss: pass it by optimizer.step(loss=loss), or lga.observe(loss) before it"
                )

    def _seen(self) -> None:
        """End a rehearsal here; in a run, do nothing."""
        if self._rehearsal:
            self.seen()
            self._listener.rehearsed()
            raise Rehearsed(0)

    def _stepped(self, attached: LGA) -> None:
        self._seen()
        self._progress.step(attached)


class _Watched(LGA):
    """Tells of each step. A hook of its own would be refused by compiled steps."""

    def tell(self, stepped: Callable[[LGA], None]) -> None:
        """Have this called after each step."""
        self._attachment.then = partial(stepped, weakref.proxy(self))


class _WatchedBaseline(_Watched, Baseline):
    """In an arm without LGA."""


class _Progress:
    """How far an epoch is, told now and then."""

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


class _Reports:
    """What a function reports, epoch by epoch. The last epoch is told once more when its score is known."""

    KEPT: ClassVar[str] = ".reported.json"
    """The file in a run's own folder that says how far its reports had come."""

    def __init__(self, tell: Callable[[EpochRecord], None], status: Callable[[], dict[str, float] | None]) -> None:
        self._tell, self._status = tell, status
        self._first: int | None = None  # the number that the function gives its first epoch
        self._record: EpochRecord | None = None  # the last one
        self._is_kept = False  # whether that one is from an earlier process
        self._began = time.perf_counter()
        self._kept: Path | None = None

    def keep_in(self, folder: Path) -> None:
        """Go on from what an earlier process reported, if it did, and note what is reported from now on."""
        if self._kept is not None:
            return
        self._kept = folder / self.KEPT
        try:
            found = json.loads(self._kept.read_text())
            first, record = int(found["first"]), EpochRecord(**found["record"])
        except (OSError, ValueError, TypeError, KeyError):
            return
        if self._record is None and first in (0, 1):
            self._first, self._record, self._is_kept = first, record, True

    def start_clock(self) -> None:
        """The epoch that is reported next begins."""
        self._began = time.perf_counter()

    def add(self, epoch: int | None, values: dict[str, Any]) -> None:
        """Take in a report."""
        if not values:
            raise UsageError("trial.report(epoch, ...) needs a value by its name, such as loss=loss")
        measured = {}
        for name, value in values.items():
            found = as_number(value)
            if found is None:
                raise UsageError(f"trial.report: {name} must be one number, got {type(value).__name__} {value!r:.60}")
            measured[name] = found
        number, last = self._number(epoch), self._record
        if last is not None and number == last.epoch and not self._is_kept:
            self._say(number, {**last.test, **measured}, last.seconds)
        else:
            now = time.perf_counter()
            self._say(number, measured, now - self._began)
            self._began = now

    def end(self, score: float) -> int:
        """Take in the score; gives the number of epochs."""
        if self._record is None:
            self._say(1, {SCORE: score}, time.perf_counter() - self._began)
            return 1
        self._tell(replace(self._record, test={**self._record.test, SCORE: score}))
        return self._record.epoch

    def _say(self, epoch: int, values: dict[str, float], seconds: float) -> None:
        train = {"loss": values["loss"]} if "loss" in values else {}
        self._record, self._is_kept = EpochRecord(epoch, train, values, self._status(), seconds), False
        self._tell(self._record)
        if self._kept is not None:
            write_whole(self._kept, json.dumps({"first": self._first or 0, "record": asdict(self._record)}))

    def _number(self, epoch: int | None) -> int:
        """The epoch, counted from 1."""
        last = 0 if self._record is None else self._record.epoch
        if epoch is None:
            return last + 1
        if isinstance(epoch, bool) or epoch != int(epoch):
            self._refuse(f"a whole number, got {epoch!r}")
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
        if self._is_kept and self._kept is not None:  # else the same command would find the same again
            shutil.rmtree(self._kept.parent, ignore_errors=True)
            more = "; the run's checkpoint is removed, so that it starts anew (report an epoch before it is saved)"
        raise UsageError(f"trial.report(epoch, ...): epochs come one after another; it must be {text}{more}")
