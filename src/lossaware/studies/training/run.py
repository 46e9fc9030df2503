"""One run: from a frozen specification to one record per epoch.

The same run gives the same numbers, bit for bit, also if it was interrupted and continued.
"""

import math
import time
import warnings
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from lossaware.errors import GateWarning, UsageError
from lossaware.studies.specs import early_stopping
from lossaware.studies.specs.data_folder import DataSource
from lossaware.studies.specs.examples import size_of, steps_of
from lossaware.studies.specs.optimizers import attributes, make_optimizer, set_mode
from lossaware.studies.specs.options import did_you_mean, where
from lossaware.studies.specs.run_spec import VALIDATION, EpochRecord, RunSpec
from lossaware.studies.specs.task import Data, Task
from lossaware.studies.specs.tasks import load_task
from lossaware.studies.training.attach import attach_lga
from lossaware.studies.training.batches import Batches, Resident
from lossaware.studies.training.checkpoint import Checkpoint
from lossaware.studies.training.loop_options import loop_options
from lossaware.studies.training.ranks import SharedCheckpoint, SingleProcess, check_ranks, ranks_of
from lossaware.studies.training.reproducible import derived, reproducible
from lossaware.studies.training.scheduler import advance, make_scheduler
from lossaware.studies.training.step import Accumulated, PlainStep, Step

ProgressHook = Callable[[int, int, int, Tensor], None]
"""Receives the epoch (from 1), the step (from 1), the number of steps per epoch, and the loss of that step."""

PROGRESS_SECONDS = 0.3
PRECISIONS = ("fp32", "bf16")
DEVICES = ("cpu", "cuda")


def run(
    spec: RunSpec,
    data_folder: DataSource,
    *,
    on_progress: ProgressHook | None = None,
    on_data: Callable[[Data], None] | None = None,
    checkpoint: Checkpoint | None = None,
) -> Generator[EpochRecord, None, None]:
    """Train as specified by ``spec``, and yield a record after each epoch.

    Until the iterator ends, torch computes on one thread, with deterministic algorithms where it has them. A loss that
    is not finite is recorded like any other and does not end the run.

    Args:
        spec: The run.
        data_folder: The folder of the task's data; None for tasks that do not need it.
        on_progress: Called within an epoch, at most every `PROGRESS_SECONDS`.
        on_data: Receives the data after loading.
        checkpoint: Saves the run between epochs. Epochs of an existing checkpoint are yielded unchanged, and the
            following ones have the same bits as without interruption. None saves nothing.

    Raises:
        UsageError: The specification has an unknown name or a value that is not allowed, the data is missing or
            damaged, or the task does not measure a loss.
    """
    check_spec(spec)
    with reproducible(spec.device):
        task = load_task(spec.task, spec.task_options)
        data = task.load(data_folder)
        if on_data is not None:
            on_data(data)
        if checkpoint is not None:
            checkpoint.bind("data", [files.content for files in data.files])
        shared = ranks_of(spec.distributed).checkpoint(checkpoint)
        training, records = _start_or_resume(partial(_Training, spec, task, data), spec.epochs, shared)
        yield from records
        is_at_end = False
        while not is_at_end:
            with warnings.catch_warnings(action="ignore", category=GateWarning):  # tables and reports have it
                records.append(training.epoch(len(records) + 1, on_progress))
            is_at_end = early_stopping.is_at_end(spec, records, task.score, higher_is_better=task.higher_is_better)
            if shared is not None and not is_at_end:
                shared.keep(lambda: _checkpoint_state(training, records))
            yield records[-1]


def rehearse_step(spec: RunSpec, task: Task, data: Data) -> None:
    """Train on one batch and test one.

    Raises:
        UsageError: See `run`.
        Exception: An error of the task.
    """
    with warnings.catch_warnings(action="ignore"):  # the run repeats them
        _Training(spec, task, data).rehearse()


def _start_or_resume(
    begin: "Callable[[], _Training]", epochs: int, checkpoint: Checkpoint | SharedCheckpoint | None
) -> tuple["_Training", list[EpochRecord]]:
    """A run at its beginning, or restored from its checkpoint, with the epochs so far."""
    if checkpoint is not None and (state := checkpoint.load()) is not None:
        training = begin()
        try:
            records = _records_of(state, epochs)
            training.load_state_dict(state["training"])
        except Exception as error:  # it may be half loaded
            checkpoint.refuse(f"does not fit ({where(error)})")
        else:
            checkpoint.tell(f"resumes after epoch {len(records)} of {epochs}", len(records))
            return training, records
    return begin(), []


def _records_of(state: Mapping[str, Any], epochs: int) -> list[EpochRecord]:
    """The epochs of a checkpoint.

    Raises:
        Exception: They are not the first epochs of an unfinished run.
    """
    records = [EpochRecord(**record) for record in state["records"]]
    if not 0 < len(records) < epochs or [record.epoch for record in records] != list(range(1, len(records) + 1)):
        raise ValueError(f"it has the epochs {[record.epoch for record in records]} of {epochs}")
    for record in records:
        for measures in (record.train, record.test, record.lga or {}):
            if not all(type(name) is str and type(value) is float for name, value in measures.items()):
                raise ValueError(f"epoch {record.epoch} has measures that are not numbers")
        if type(record.seconds) is not float:
            raise ValueError(f"epoch {record.epoch} took {record.seconds!r} seconds")
    return records


def _checkpoint_state(training: "_Training", records: Sequence[EpochRecord]) -> dict[str, Any]:
    return {"training": training.state_dict(), "records": [asdict(record) for record in records]}


class _Training:
    """A model in training, with all its changing state."""

    def __init__(self, spec: RunSpec, task: Task, data: Data) -> None:
        self._task = task
        self._ranks = ranks_of(spec.distributed)
        self._device = torch.device(spec.device)
        self._loop = loop_options(spec)
        self._batches = Batches(spec, data, self._device)
        self._test = Resident(data.test, self._device)
        self._validation = None if data.validation is None else Resident(data.validation, self._device)
        if self._loop.patience is not None and self._validation is None:
            raise UsageError(f"task {task.name!r}: patience needs a validation set: return Data(validation=...)")
        self._count = steps_of(data.train, spec.batch_size)
        self._steps = math.ceil(self._count / self._loop.accumulate)
        torch.manual_seed(spec.seed)
        # Made on the CPU, so that its initialisation is the same on each device.
        self._model = task.make_model().to(self._device)
        measure = _Measure(task, self._model, _autocast(spec.precision, self._device))
        self._measure = self._ranks.spread(self._model, measure)
        self._optimizer = make_optimizer(spec.optimizer, self._model.parameters(), spec.lr, spec.optimizer_options)
        self._ranks.check(self._optimizer, spec.optimizer)
        self._scheduler = make_scheduler(spec, self._optimizer, self._steps)
        self._lga = None if spec.lga is None else attach_lga(self._optimizer, spec.lga, self._steps)
        # Dropout and similar layers draw the same numbers without and with LGA, no matter what was drawn before.
        torch.manual_seed(derived(spec.seed, self._ranks.purpose("training")))
        with_lga = self._lga is not None
        self._plain = PlainStep(self._measure, self._optimizer, with_lga, self._device, self._ranks, self._loop)
        self._step: Step = self._plain
        if self._loop.accumulate > 1:
            self._step = Accumulated(self._plain, self._loop.accumulate, self._count)

    def epoch(self, epoch: int, on_progress: ProgressHook | None) -> EpochRecord:
        """Train for one epoch, number ``epoch``, and test."""
        report = _progress_reporter(on_progress, epoch, self._count)
        start = time.perf_counter()
        set_mode(self._optimizer, "train")
        self._model.train()
        means = _Means(self._task, self._ranks)
        for number, batch in enumerate(self._batches, 1):
            measures = self._step(batch)
            means.add(measures, size_of(batch))
            report(number, measures["loss"])
            if self._loop.interval == "step" and (number % self._loop.accumulate == 0 or number == self._count):
                advance(self._scheduler, math.nan)
        train = means.result()
        self._ranks.settle(self._model)
        set_mode(self._optimizer, "eval")
        seconds = time.perf_counter() - start
        if self._loop.interval == "epoch":
            advance(self._scheduler, train["loss"])
        return EpochRecord(
            epoch=epoch,
            train=train,
            test=self._test_measures(),
            lga=None if self._lga is None else {k: float(v) for k, v in asdict(self._lga.status).items()},
            seconds=seconds,
        )

    def rehearse(self) -> None:
        """Train on one batch and test one."""
        self._model.train()
        set_mode(self._optimizer, "train")
        self._plain(next(iter(self._batches)))
        self._model.eval()
        set_mode(self._optimizer, "eval")
        with torch.no_grad():
            for examples in filter(None, (self._test, self._validation)):
                self._measure(next(iter(examples.batches(self._task.test_batch_size, None))))

    @torch.no_grad()
    def _test_measures(self) -> dict[str, float]:
        """The measures on the test set, and those on the validation set with the prefix `VALIDATION`."""
        self._model.eval()
        values: dict[str, float] = {}
        for prefix, examples in (("", self._test), (VALIDATION, self._validation)):
            if examples is not None:
                means = _Means(self._task, self._ranks)
                for batch in examples.batches(self._task.test_batch_size, None):
                    means.add(self._measure(batch), size_of(batch))
                values |= {prefix + name: value for name, value in means.result().items()}
        return values

    def state_dict(self) -> dict[str, Any]:
        """The state on which the next epochs depend."""
        return {
            **self._ranks.state(self._model, self._optimizer),
            "attributes": attributes(self._optimizer),
            "scheduler": None if self._scheduler is None else self._scheduler.state_dict(),
            "lga": None if self._lga is None else self._lga.state_dict(),
            "random": {name: self._ranks.gather(generator.get_state()) for name, generator in self._generators()},
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore a result of `state_dict` of the same specification."""
        self._ranks.load(self._model, self._optimizer, state)
        vars(self._optimizer).update(state["attributes"])
        if self._scheduler is not None:
            self._scheduler.load_state_dict(state["scheduler"])
        if self._lga is not None:
            self._lga.load_state_dict(state["lga"])
        for name, generator in self._generators():
            generator.set_state(self._ranks.own(state["random"][name]))

    def _generators(self) -> Iterator[tuple[str, torch.Generator]]:
        yield "training", torch.default_generator
        if self._device.type == "cuda":
            yield "cuda", torch.cuda.default_generators[torch.cuda.current_device()]
        yield from self._batches.generators.items()


class _Measure:
    """The task's measures of a batch, checked at the first call in training and in testing."""

    def __init__(self, task: Task, model: nn.Module, autocast: Callable[[], AbstractContextManager[Any]]) -> None:
        self._task = task
        self._model = model
        self._autocast = autocast
        self._checked: set[bool] = set()

    def __call__(self, batch: Any) -> Mapping[str, Tensor]:
        with self._autocast():
            measures = self._task.measure(self._model, batch)
        if (training := torch.is_grad_enabled()) not in self._checked:
            _check_measures(self._task, measures)
            self._checked.add(training)
        return measures


class _Means:
    """Means of the measures over the examples of an epoch. Values stay tensors until the end of the epoch."""

    def __init__(self, task: Task, ranks: SingleProcess) -> None:
        self._task = task
        self._ranks = ranks
        self._values: dict[str, list[Tensor]] = {}
        self._sizes: list[int] = []

    def add(self, measures: Mapping[str, Tensor], examples: int) -> None:
        self._sizes.append(examples)
        for name, value in measures.items():
            self._values.setdefault(name, []).append(value)

    def result(self) -> dict[str, float]:
        if not self._sizes:
            raise UsageError(f"task {self._task.name!r}: one of its data sets has no batches")
        sizes = torch.tensor(self._sizes, dtype=torch.float64)
        return {
            name: float(
                self._ranks.mean(
                    torch.stack([value.reshape(()) for value in values]).cpu().double().dot(sizes) / sizes.sum()
                )
            )
            for name, values in self._values.items()
        }


def _check_measures(task: Task, measures: Mapping[str, Tensor]) -> None:
    label = f"task {task.name!r}: measure"
    if not isinstance(measures, Mapping):
        raise UsageError(f"{label} must return tensors by name, got {type(measures).__name__}")
    for name in ("loss", task.score):
        if name not in measures:
            remedy = "" if name == "loss" else "; set Task(score=...) to the name of the score"
            raise UsageError(f"{label} must return {name!r}, got {', '.join(measures) or 'nothing'}{remedy}")
    for name, value in measures.items():
        if not (isinstance(value, Tensor) and value.numel() == 1):
            description = (
                f"a tensor of shape {tuple(value.shape)}; reduce it, for example by .mean()"
                if isinstance(value, Tensor)
                else f"{type(value).__name__}; leave out .item()"
                if isinstance(value, float)
                else type(value).__name__
            )
            raise UsageError(f"{label} must return a tensor of one number for {name!r}, got {description}")
    if torch.is_grad_enabled() and not measures["loss"].requires_grad:
        raise UsageError(f"{label} returns a loss that has no gradient; was it detached?")


def _progress_reporter(on_progress: ProgressHook | None, epoch: int, steps: int) -> Callable[[int, Tensor], None]:
    if on_progress is None:
        return lambda step, loss: None
    due = time.monotonic() + PROGRESS_SECONDS

    def report(step: int, loss: Tensor) -> None:
        nonlocal due
        if (now := time.monotonic()) >= due:
            on_progress(epoch, step, steps, loss.detach())
            due = now + PROGRESS_SECONDS

    return report


def check_spec(spec: RunSpec) -> None:
    """Raise `UsageError` if a value of ``spec`` is out of its range."""
    if spec.epochs < (spec.kind == "task"):
        raise UsageError(f"a run needs at least 1 epoch, got {spec.epochs}")
    if spec.batch_size < (spec.kind == "task"):
        raise UsageError(f"a batch needs at least 1 example, got {spec.batch_size}")
    if not 0 <= spec.seed < 2**63:
        raise UsageError(f"seed must be an integer from 0 to 2^63 - 1, got {spec.seed}")
    if spec.precision not in PRECISIONS:
        raise UsageError(f"unknown precision {spec.precision!r}{did_you_mean(spec.precision, PRECISIONS)}")
    if spec.device not in DEVICES:
        raise UsageError(f"unknown device {spec.device!r}{did_you_mean(spec.device, DEVICES)}")
    if spec.device == "cuda" and not torch.cuda.is_available():
        raise UsageError(f"device 'cuda': torch {torch.__version__} does not find a usable GPU")
    if spec.kind == "task":
        check_ranks(spec)
        loop_options(spec)


def _autocast(precision: str, device: torch.device) -> Callable[[], AbstractContextManager[Any]]:
    return nullcontext if precision == "fp32" else partial(torch.autocast, device.type, dtype=torch.bfloat16)
