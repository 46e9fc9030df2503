"""What a comparison showed, as a page and for machines."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from lossaware.studies.analysis.comparison import Comparison
from lossaware.studies.analysis.paired import Measure, Pair, Table, make_table
from lossaware.studies.analysis.statistics import summary
from lossaware.studies.report import page as report
from lossaware.studies.report.figures import learning_curves, sensitivity, series_labels
from lossaware.studies.report.paired_table import gathered_notes, how_to_read, lead, to_json
from lossaware.studies.specs.formatting import number, size
from lossaware.studies.specs.provenance import environment
from lossaware.studies.specs.run_spec import RunSpec
from lossaware.studies.specs.task import Subject
from lossaware.studies.store.database import Store


@dataclass(frozen=True)
class Outcome:
    """What a comparison showed.

    Attributes:
        tables: First the task's score on the test set, then the same score while training; of a function that trains,
            its score alone.
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


def summarize(
    comparison: Comparison, task: Subject, store: Store, page: Path, failures: Sequence[tuple[RunSpec, str]] = ()
) -> Outcome:
    """Judge what the store has of a comparison, and write the report to ``page``."""
    pairs = comparison.pairs(store)
    is_task = comparison.kind == "task"
    test = Measure(task.score, "test" if is_task else "reported", task.higher_is_better, task.percent)
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
    ][: 2 if is_task else 1]
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
                    *[f"{comparison.epochs} epoch{'s' * (comparison.epochs != 1)}"] * bool(comparison.epochs),
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
                *[
                    report.Section(f"Learning curves: {shown.title}", band, figures=learning_curves(pairs, shown))
                    for shown in _drawn(pairs, test)
                ],
                *[
                    report.Section(
                        "How it depends on the learning rate",
                        " ".join([f"{test.title.capitalize()}: the line joins the means, a dot is a seed.", *remarks]),
                        figures=sensitivity(pairs, test),
                    )
                    for _ in range(all(comparison.lrs))
                ],
                *[report.Section(table.title, table.remark, table=table) for table in tables[1:]],
                *[
                    report.Section(f"Learning curves: {shown.title}", band, figures=learning_curves(pairs, shown))
                    for shown in [train] * is_task
                ],
            ],
            legend=labels,
            facts=facts,
            command=here["command"],
        ),
        page,
    )
    return outcome


def _drawn(pairs: Sequence[Pair], measure: Measure) -> list[Measure]:
    """The measures whose curves are drawn: the score, unless it is known of the last epoch alone, then the loss."""
    if measure.split != "reported":
        return [measure]
    runs = [run for pair in pairs for arm in (pair.base, pair.variant) for run in arm.runs.values()]
    for shown in (measure, Measure("loss", measure.split, higher_is_better=False, percent=False)):
        if any(math.isfinite(value) for run in runs for value in shown.curve(run)[:-1]):
            return [shown]
    return []


def _remarks(comparison: Comparison, pairs: Sequence[Pair], measure: Measure) -> list[str]:
    """What a choice of learning rate does to the comparison: LGA at a poor one can lose to the base at a good one."""
    if len(comparison.lrs) < 2:
        return []
    remarks = []
    for optimizer in comparison.optimizers:
        means: dict[str, dict[str, float]] = {}
        for pair in pairs:
            if pair.setting.get("optimizer", "") == optimizer:
                for arm in (pair.base, pair.variant):
                    mean = summary([measure.final(arm.runs[seed]) for seed in pair.seeds]).mean
                    if math.isfinite(mean):
                        means.setdefault(arm.label, {})[pair.setting["lr"]] = mean
        best = []
        for label, by_lr in means.items():
            lr = (max if measure.higher_is_better else min)(by_lr, key=by_lr.__getitem__)
            best.append(f"{measure.show(by_lr[lr])}{measure.unit} {label} (lr {lr})")
        if best:
            remarks.append(f"At its best learning rate tried, {optimizer or 'it'} reaches {', '.join(best)}.")
    return remarks


def _facts(comparison: Comparison, task: Subject, store: Store) -> dict[str, dict[str, str]]:
    """What was run, and where: settings, and every environment that contributed a run."""
    settings = {
        "task": f"{comparison.task}: {task.summary}",
        **{f"task's {name}": str(value) for name, value in comparison.task_options},
        "optimizers": ", ".join(filter(None, comparison.optimizers)),
        "learning rates": ", ".join(map(number, filter(None, comparison.lrs))),
        "gamma2": ", ".join(map(size, comparison.gamma2s)),
        **{f"LGA's {name}": str(value) for name, value in comparison.lga},
        "seeds": "0" if comparison.seeds == 1 else f"0 to {comparison.seeds - 1}",
        "epochs": str(comparison.epochs or ""),
        "batch size": str(comparison.batch_size or ""),
        "scheduler": (comparison.scheduler or "none") if comparison.batch_size else "",
        **{f"scheduler's {name}": str(value) for name, value in comparison.scheduler_options},
        "precision": comparison.precision,
        "device": comparison.device,
        **({"distributed": comparison.distributed} if comparison.distributed else {}),
    }
    settings = {name: value for name, value in settings.items() if value}  # a function decides some by itself
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
