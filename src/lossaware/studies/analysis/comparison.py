"""A comparison: every optimizer at every learning rate, without LGA and with it."""

from collections.abc import Sequence
from dataclasses import dataclass

from lossaware.studies.analysis.paired import Arm, Pair
from lossaware.studies.specs.formatting import number, size
from lossaware.studies.specs.run_spec import EpochRecord, Options, RunSpec, function_options, lga_options
from lossaware.studies.specs.trial_command import TrialCommand
from lossaware.studies.store.database import Store


@dataclass(frozen=True)
class Comparison:
    """What to compare: every optimizer at every learning rate, without LGA and with it at every gamma2.

    Attributes:
        task: Name of the task, as in `RunSpec`.
        task_options: Keyword arguments of the function that builds it.
        optimizers: Names of base optimizers.
        lrs: Learning rates, above 0.
        gamma2s: Sizes of LGA's correction, at least 0, or ``"auto"``.
        seeds: How many seeds, counted from 0; at least 1.
        epochs: Passes over the training set.
        batch_size: Examples a step.
        lga: LGA's other settings.
        scheduler: As in `RunSpec`.
        scheduler_options: As in `RunSpec`.
        precision: As in `RunSpec`.
        device: As in `RunSpec`.
        distributed: As in `RunSpec`.
        kind: As in `RunSpec`. For a function that trains, ``task`` is its place; it may have no optimizer (``""``),
            no learning rate (0) and no number of epochs (0) from here, and its gamma2 may be `AS_CODED`.
    """

    task: str
    optimizers: Sequence[str]
    lrs: Sequence[float]
    gamma2s: Sequence[float | str]
    seeds: int
    epochs: int
    batch_size: int
    task_options: Options = ()
    lga: Options = ()
    scheduler: str | None = None
    scheduler_options: Options = ()
    precision: str = "fp32"
    device: str = "cpu"
    distributed: str | None = None
    kind: str = "task"

    def spec(self, optimizer: str, lr: float, seed: int, gamma2: float | str | None) -> RunSpec:
        """One run; without LGA where gamma2 is None."""
        return RunSpec(
            task=self.task,
            task_options=self.task_options,
            optimizer=optimizer,
            lr=lr,
            seed=seed,
            epochs=self.epochs,
            batch_size=self.batch_size,
            scheduler=self.scheduler,
            scheduler_options=self.scheduler_options,
            precision=self.precision,
            device=self.device,
            distributed=self.distributed,
            lga=None if gamma2 is None else self._lga(gamma2),
            kind=self.kind,
        )

    def _lga(self, gamma2: float | str) -> Options:
        if self.kind != "task":
            return function_options(gamma2, dict(self.lga))
        return lga_options({**dict(self.lga), "gamma2": gamma2})

    def specs(self) -> list[RunSpec]:
        """All runs. Those of one seed come together, so that whatever is finished early can be compared."""
        return [
            self.spec(optimizer, lr, seed, gamma2)
            for seed in range(self.seeds)
            for optimizer in self.optimizers
            for lr in self.lrs
            for gamma2 in (None, *self.gamma2s)
        ]

    def pairs(self, store: Store) -> list[Pair]:
        """What the store has of this comparison: a pair for each optimizer, learning rate and gamma2."""
        pairs = []
        epochs = self.epochs if self.kind == "task" else 0
        for optimizer in self.optimizers:
            for lr in self.lrs:
                base = self._arm(store, optimizer, lr, None)
                for gamma2 in self.gamma2s:
                    setting = {"optimizer": optimizer} if optimizer else {}
                    setting |= {"lr": number(lr)} if lr else {}
                    if len(self.gamma2s) > 1:
                        setting["gamma2"] = size(gamma2)
                    setting = setting or self._only_row()
                    pairs.append(Pair(setting, base, self._arm(store, optimizer, lr, gamma2), epochs))
        return pairs

    def _only_row(self) -> dict[str, str]:
        """What a row stands for where nothing varies."""
        name = TrialCommand(self.task).name if self.kind == "command" else self.task.rpartition(":")[2]
        return {self.kind: name}

    def _arm(self, store: Store, optimizer: str, lr: float, gamma2: float | str | None) -> Arm:
        label = "without" if gamma2 is None else "with LGA"
        if gamma2 is not None and len(self.gamma2s) > 1:
            label += f", gamma2 {size(gamma2)}"
        return Arm(
            label=label,
            runs={seed: self._records(store, self.spec(optimizer, lr, seed, gamma2)) for seed in range(self.seeds)},
            lga=None if gamma2 is None else dict(self.spec(optimizer, lr, 0, gamma2).lga or ()),
        )

    @staticmethod
    def _records(store: Store, spec: RunSpec) -> list[EpochRecord]:
        return store.records(spec) if store.complete(spec) or not spec.is_open_ended else []
