"""`lossaware compare`: a task trained without and with LGA from the same seeds, and what that shows."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any

from rich.console import Console

from lossaware.studies import report, run
from lossaware.studies.engine import Engine
from lossaware.studies.environment import environment
from lossaware.studies.figures import learning_curves, sensitivity, series_labels
from lossaware.studies.optimizers import make_optimizer
from lossaware.studies.ranks import ranks_of
from lossaware.studies.spec import Options, RunSpec, lga_options
from lossaware.studies.statistics import summary
from lossaware.studies.store import Store
from lossaware.studies.tables import (
    Arm,
    Measure,
    Pair,
    Table,
    gathered_notes,
    how_to_read,
    lead,
    make_table,
    number,
    size,
    to_json,
)
from lossaware.studies.task import Task
from lossaware.studies.watch import carry_out_watched


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
            lga=None if gamma2 is None else lga_options({**dict(self.lga), "gamma2": gamma2}),
        )

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
        for optimizer in self.optimizers:
            for lr in self.lrs:
                base = self._arm(store, optimizer, lr, None)
                for gamma2 in self.gamma2s:
                    setting = {"optimizer": optimizer, "lr": number(lr)}
                    if len(self.gamma2s) > 1:
                        setting["gamma2"] = size(gamma2)
                    pairs.append(Pair(setting, base, self._arm(store, optimizer, lr, gamma2), self.epochs))
        return pairs

    def _arm(self, store: Store, optimizer: str, lr: float, gamma2: float | str | None) -> Arm:
        label = "without" if gamma2 is None else "with LGA"
        if gamma2 is not None and len(self.gamma2s) > 1:
            label += f", gamma2 {size(gamma2)}"
        return Arm(
            label=label,
            runs={seed: store.records(self.spec(optimizer, lr, seed, gamma2)) for seed in range(self.seeds)},
            lga=None if gamma2 is None else dict(self.spec(optimizer, lr, 0, gamma2).lga or ()),
        )


@dataclass(frozen=True)
class Outcome:
    """What a comparison showed.

    Attributes:
        tables: First the task's score on the test set, then the same score while training.
        remarks: What else should be known of the outcome, a sentence each.
        report: Where the page was written.
        failures: Runs that failed, with the reason.
        facts: What was run, as in the report.
    """

    tables: Sequence[Table]
    remarks: Sequence[str]
    report: Path
    failures: Sequence[tuple[RunSpec, str]]
    facts: Mapping[str, Mapping[str, str]]

    def to_json(self) -> str:
        """Everything for machines."""
        content: dict[str, Any] = {
            "tables": [to_json(table) for table in self.tables],
            "remarks": list(self.remarks),
            "report": str(self.report),
            "failures": [{"run": json.loads(spec.to_json()), "message": message} for spec, message in self.failures],
            "facts": {heading: dict(facts) for heading, facts in self.facts.items()},
        }
        return json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False)


def compare(
    comparison: Comparison,
    task: Task,
    *,
    data: Path | None,
    engine: Engine,
    out: Path,
    console: Console,
    tensorboard: Path | None = None,
) -> Outcome:
    """Carry out what is missing of a comparison, and write its report.

    Args:
        comparison: What to compare.
        task: Its task, loaded.
        data: Folder of the data, for tasks that need one.
        engine: Where its runs execute.
        out: Folder of the results (``results.sqlite``) and the report (``report.html``).
        console: Where progress is shown.
        tensorboard: Folder for logs that TensorBoard reads; None for none.

    Raises:
        UsageError: A setting, the data or the folder is not as it must be. All of this is found before the first run.
        Stopped: Ctrl-C. What is finished is in the store.
    """
    specs = comparison.specs()
    check(specs, task)
    page, database = out / "report.html", out / "results.sqlite"
    if not database.exists():
        task.load(data)  # its errors belong before anything is written
    report.check_writable(page)
    with Store(database) as store:
        if store.missing(specs):
            task.load(data)
        failures = carry_out_watched(specs, store, engine, data=data, console=console, tensorboard=tensorboard)
        return summarize(comparison, task, store, page, failures)


def check(specs: Sequence[RunSpec], task: Task) -> None:
    """Set up each kind of run once, without training, so that a wrong setting is one line before the first run.

    Raises:
        UsageError: An unknown name, an option that does not exist, or a value that is not allowed.
    """
    for spec in {replace(spec, seed=0): spec for spec in specs}.values():
        rehearse(spec, task)


def rehearse(spec: RunSpec, task: Task) -> None:
    """Make the optimizer, its scheduler and LGA as a run would."""
    run.check_spec(spec)
    optimizer = make_optimizer(spec.optimizer, task.make_model().parameters(), spec.lr, spec.optimizer_options)
    ranks_of(spec.distributed).check(optimizer, spec.optimizer)
    run.rehearse_scheduler(spec, optimizer)
    if spec.lga is not None:
        run.attach_lga(optimizer, spec.lga, steps=1)


def summarize(
    comparison: Comparison, task: Task, store: Store, page: Path, failures: Sequence[tuple[RunSpec, str]] = ()
) -> Outcome:
    """Judge what the store has of a comparison, and write the report to ``page``."""
    pairs = comparison.pairs(store)
    test = Measure(task.score, "test", task.higher_is_better, task.percent)
    train = Measure(task.score, "train", task.higher_is_better, task.percent)
    caution = comparison.specs()[0].caution
    data = f"Measured with {caution}, not with real ones." if caution else ""
    tables = [
        make_table(test, pairs, remark=data),
        make_table(
            train,
            pairs,
            title=f"Running training {task.score} of the last epoch",
            remark=f"Taken while training, batch by batch, as in the paper's Tables 1 and 2. {data}".strip(),
        ),
    ]
    facts = _facts(comparison, task, store)
    remarks = _remarks(comparison, pairs, test)
    here = environment()
    labels = series_labels(pairs)
    band = "Mean over the seeds; the band reaches from the lowest to the highest seed."
    outcome = Outcome(tables, remarks, page, failures, facts)
    report.write(
        report.Report(
            title=f"Does LGA help on {task.name}?",
            subtitle=" · ".join(
                [
                    f"{comparison.seeds} seed{'s' * (comparison.seeds != 1)}",
                    f"{comparison.epochs} epoch{'s' * (comparison.epochs != 1)}",
                    here["date"][:10],
                ]
            ),
            lead=lead(tables[0]),
            sections=[
                report.Section(
                    tables[0].title,
                    tables[0].remark,
                    table=tables[0],
                    notes=gathered_notes(tables[0]),
                    caption=how_to_read(tables[0]),
                ),
                report.Section(f"Learning curves: {test.title}", band, figures=learning_curves(pairs, test)),
                report.Section(
                    "How it depends on the learning rate",
                    " ".join([f"{test.title.capitalize()}: the line joins the means, a dot is a seed.", *remarks]),
                    figures=sensitivity(pairs, test),
                ),
                report.Section(tables[1].title, tables[1].remark, table=tables[1]),
                report.Section(f"Learning curves: {train.title}", band, figures=learning_curves(pairs, train)),
            ],
            legend=labels,
            facts=facts,
            command=here["command"],
        ),
        page,
    )
    return outcome


def _remarks(comparison: Comparison, pairs: Sequence[Pair], measure: Measure) -> list[str]:
    """What a choice of learning rate does to the comparison: LGA at a poor one can lose to the base at a good one."""
    if len(comparison.lrs) < 2:
        return []
    remarks = []
    for optimizer in comparison.optimizers:
        means: dict[str, dict[str, float]] = {}
        for pair in pairs:
            if pair.setting["optimizer"] == optimizer:
                for arm in (pair.base, pair.variant):
                    mean = summary([measure.final(arm.runs[seed]) for seed in pair.seeds]).mean
                    if math.isfinite(mean):
                        means.setdefault(arm.label, {})[pair.setting["lr"]] = mean
        best = []
        for label, by_lr in means.items():
            lr = (max if measure.higher_is_better else min)(by_lr, key=by_lr.__getitem__)
            best.append(f"{measure.show(by_lr[lr])}{measure.unit} {label} (lr {lr})")
        if best:
            remarks.append(f"At its best learning rate tried, {optimizer} reaches {', '.join(best)}.")
    return remarks


def _facts(comparison: Comparison, task: Task, store: Store) -> dict[str, dict[str, str]]:
    """What was run, and where: settings, and every environment that contributed a run."""
    settings = {
        "task": f"{comparison.task}: {task.summary}",
        **{f"task's {name}": str(value) for name, value in comparison.task_options},
        "optimizers": ", ".join(comparison.optimizers),
        "learning rates": ", ".join(map(number, comparison.lrs)),
        "gamma2": ", ".join(map(size, comparison.gamma2s)),
        **{f"LGA's {name}": str(value) for name, value in comparison.lga},
        "seeds": "0" if comparison.seeds == 1 else f"0 to {comparison.seeds - 1}",
        "epochs": str(comparison.epochs),
        "batch size": str(comparison.batch_size),
        "scheduler": comparison.scheduler or "none",
        **{f"scheduler's {name}": str(value) for name, value in comparison.scheduler_options},
        "precision": comparison.precision,
        "device": comparison.device,
        **({"distributed": comparison.distributed} if comparison.distributed else {}),
    }
    specs = comparison.specs()
    places: dict[str, dict[str, None]] = {}
    for spec in specs:
        for name, value in store.environment(spec).items():
            places.setdefault(name, {})[value] = None
    dates = sorted(places.pop("date", {}))
    places.pop("command", None)
    machine = {name: " / ".join(values) for name, values in places.items()}
    if dates:
        machine["runs begun"] = dates[0] if len(dates) == 1 else f"{dates[0]} to {dates[-1]}"
    costs = {}
    for label, with_lga in (("without", False), ("with LGA", True)):
        seconds = [
            record.seconds for spec in specs if (spec.lga is not None) is with_lga for record in store.records(spec)
        ]
        if seconds:
            costs[label] = f"{median(seconds):.3g} s an epoch (median)"
    return {"Settings": settings, "Software and machine": machine, "Training time": costs}
