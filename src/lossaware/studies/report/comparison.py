"""The outcome of a comparison, as a page and as data."""

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean, quantiles
from typing import Any

from lossaware.studies.analysis.comparisons import Comparison, comparisons
from lossaware.studies.analysis.failed import with_failures
from lossaware.studies.analysis.study_table import tabulate
from lossaware.studies.report import page as report
from lossaware.studies.report.comparison_table import (
    badges,
    comparison_table,
    is_about_lga,
    labels_of,
    lead,
    setting_of,
    show_score,
    sides_of,
)
from lossaware.studies.report.curves import Curves, Scores, heading_of, plot_curves, plot_scores
from lossaware.studies.report.table import Table
from lossaware.studies.report.writers.json import to_plain
from lossaware.studies.specs.escape import csv_text, json_text
from lossaware.studies.specs.formatting import number
from lossaware.studies.specs.provenance import environment
from lossaware.studies.specs.run_spec import VALIDATION, RunSpec
from lossaware.studies.specs.study import Metric, Study
from lossaware.studies.specs.task import Subject
from lossaware.studies.store.results import Results

MANY = 8
"""Minimum number of epochs for a statement on their time."""

ONE_RATE = "Only one learning rate was compared. LGA often helps only where it is too small: compare larger ones, too."


@dataclass(frozen=True)
class Outcome:
    """The outcome of a comparison.

    Attributes:
        tables: First the task's score on the test set, then the same score in training; for functions that train only
            their score.
        lead: The verdicts of the first table in one sentence.
        remarks: Further statements on the outcome, one sentence each.
        report: The path of the page.
        failures: Runs that failed, with the reason.
        facts: The settings and machines of the report.
        scores: One record per run: the names of its row, its arm, seed and measured score.
        curves: One record per run and epoch: the same names, the epoch, and all measures after it.
    """

    tables: Sequence[Table]
    lead: str
    remarks: Sequence[str]
    report: Path
    failures: Sequence[tuple[RunSpec, str]]
    facts: Mapping[str, Mapping[str, str]]
    scores: Sequence[Mapping[str, Any]]
    curves: Sequence[Mapping[str, Any]]

    def to_csv(self) -> str:
        """One line per run: the names of its row, its arm, seed and measured score."""
        rows = [tuple(record.values()) for record in self.scores]
        return csv_text([tuple(self.scores[0]), *dict.fromkeys(rows)])

    def to_json(self) -> str:
        """The outcome as JSON."""
        content: dict[str, Any] = {
            "tables": [to_plain(table) for table in self.tables],
            "remarks": list(self.remarks),
            "report": str(self.report),
            "failures": [{"run": json.loads(spec.to_json()), "message": message} for spec, message in self.failures],
            "facts": {heading: dict(facts) for heading, facts in self.facts.items()},
        }
        return json_text(content, indent=2, allow_nan=False)


def summarize(
    study: Study,
    task: Subject,
    results: Results,
    page: Path,
    failures: Sequence[tuple[RunSpec, str]] = (),
    *,
    margin: float | None = None,
) -> Outcome:
    """Judge the results of a comparison, and write the report to ``page``.

    Args:
        study: See `lossaware.studies.specs.comparison`.
        task: Its task, or its function that trains.
        results: The results of its runs.
        page: The path of the report.
        failures: Runs that failed, with the reason.
        margin: The largest irrelevant difference, in units of the measured score.
    """
    failed = dict(failures)
    training = [study.measuring(set="train")] if study.kind == "task" else []
    caution = study.specs[0].caution
    notes = [f"Measured with {caution}, not with real ones."] * bool(caution)
    if patience := study.specs[0].patience:
        notes.append(
            f"A run ends after {patience} epoch{'s' * (patience != 1)} without a better score on the validation set. "
            "The epoch with the best validation score counts."
        )
    data = " ".join(notes)
    counts = f"of the epoch with the best validation {task.score}" if patience else "of the last epoch"
    tables = [
        comparison_table(study, results, remark=data, margin=margin, failures=failed),
        *(
            comparison_table(
                it,
                results,
                title=f"Running training {task.score} {counts}",
                remark=f"Measured during training, batch by batch, as in the paper's Tables 1 and 2. {data}".strip(),
                margin=margin,
                failures=failed,
            )
            for it in training
        ),
    ]
    compared = with_failures(comparisons(tabulate(study, results)), failed)
    facts = _facts(study, task, results)
    remarks = [*_remarks(study, compared, results), *_lengths(study, compared, results)]
    outcome = Outcome(
        tables,
        lead(study, compared),
        remarks,
        page,
        failures,
        facts,
        scores=_run_scores(study, compared, results),
        curves=_run_curves(study, compared, results),
    )
    metric = compared[0].metric
    sections = [_section(tables[0], study, compared, results, _curve_metrics(compared, results))]
    if all(it.without.cell.specs[0].lr for it in compared):
        sentences = [f"{metric.measure.capitalize()}: the line joins the means, a dot is a seed.", *remarks]
        sections.append(
            report.Section(
                "Score by learning rate",
                " ".join(sentences),
                plots=[report.Plots("", "", plot_scores(_scores(study, compared)))],
            )
        )
    for it, table in zip(training, tables[1:], strict=True):
        alone = replace(table, legend=(), caption="", optional={})
        drawn = [next(iter(it.cells.values())).metric]
        sections.append(replace(_section(alone, study, compared, results, drawn), folded=True))
    here = environment()
    seeds, epochs, patience = len(study.file.base.all_seeds), study.specs[0].epochs, study.specs[0].patience
    subtitle = [
        f"{seeds} seed{'s' * (seeds != 1)}",
        *[f"{'at most ' * bool(patience)}{epochs} epoch{'s' * (epochs != 1)}"] * bool(epochs),
        here["date"][:10],
    ]
    report.write(
        report.Report(
            title=study.title,
            subtitle=" · ".join(subtitle),
            badges=badges(compared),
            lead=outcome.lead,
            sections=sections,
            legend=list(dict.fromkeys(label for it in compared for label in labels_of(study, it))),
            facts=facts,
            command=here["command"],
        ),
        page,
    )
    return outcome


def _runs(study: Study, compared: Sequence[Comparison]) -> Iterator[tuple[Comparison, dict[str, Any], RunSpec]]:
    """The runs of all comparisons, with their names; runs of a base once per variant of LGA."""
    for it in compared:
        for label, side in zip(labels_of(study, it), (it.without, it.with_lga), strict=True):
            for spec in side.cell.specs:
                yield it, {**setting_of(study, it), "arm": label, "seed": spec.seed}, spec


def _run_scores(study: Study, compared: Sequence[Comparison], results: Results) -> list[dict[str, Any]]:
    return [
        {**names, it.metric.name: [math.nan, *it.metric.curve(it.metric.counted(spec, results.records(spec)))][-1]}
        for it, names, spec in _runs(study, compared)
    ]


def _run_curves(study: Study, compared: Sequence[Comparison], results: Results) -> list[dict[str, Any]]:
    return [
        {**names, "epoch": record.epoch, **it.metric.of(record)}
        for it, names, spec in _runs(study, compared)
        for record in results.records(spec)
    ]


def _section(
    table: Table, study: Study, compared: Sequence[Comparison], results: Results, metrics: Sequence[Metric]
) -> report.Section:
    """A table and its learning curves."""
    return report.Section(
        table.title,
        table.remark,
        table=table,
        plots=[
            report.Plots(
                f"Learning curves: {metric.measure}",
                "Mean over the seeds; the band reaches from the lowest to the highest seed.",
                plot_curves(_curves(study, compared, results, metric)),
            )
            for metric in metrics
        ],
    )


def _curve_metrics(compared: Sequence[Comparison], results: Results) -> list[Metric]:
    """The metrics with curves: the score; the loss if the score is only known for the last epoch."""
    metric = compared[0].metric
    if metric.set != "reported":
        return [metric]
    runs = [results.records(spec) for it in compared for cell in (it.without, it.with_lga) for spec in cell.cell.specs]
    for candidate in (metric, replace(metric, name="loss", higher_is_better=False, percent=False)):
        if any(math.isfinite(value) for run in runs for value in candidate.curve(run)[:-1]):
            return [candidate]
    return []


def _curves(study: Study, compared: Sequence[Comparison], results: Results, metric: Metric) -> list[Curves]:
    """The curves of each base and of its variants."""
    groups: dict[Any, list[Comparison]] = {}
    for it in compared:
        groups.setdefault(it.base, []).append(it)
    curves = []
    for group in groups.values():
        lines = {}
        for it in group:
            for label, cell in zip(labels_of(study, it), (it.without.cell, it.with_lga.cell), strict=True):
                lines[label] = [metric.curve(results.records(spec)) for spec in cell.specs]
        common = setting_of(study, group[0])
        if len(group) > 1:
            common.pop("arm", None)
        curves.append(Curves(heading_of(common), metric, lines))
    return curves


def _scores(study: Study, compared: Sequence[Comparison]) -> list[Scores]:
    """The final scores of each optimizer by learning rate."""
    groups: dict[str, dict[str, dict[float, list[float]]]] = {}
    for it in compared:
        (optimizer, _), _ = it.variant
        lr = it.without.cell.specs[0].lr
        for label, side in zip(labels_of(study, it), (it.without, it.with_lga), strict=True):
            by_lr = groups.setdefault(optimizer, {}).setdefault(label, {})
            by_lr[lr] = [side.scores[seed] for seed in it.seeds]
    return [Scores(name, compared[0].metric, lines) for name, lines in groups.items()]


def _remarks(study: Study, compared: Sequence[Comparison], results: Results) -> list[str]:
    """Sentences on each arm at its best learning rate: LGA at a bad one can be worse than the base at a good one.

    The best is chosen on the validation set; without one, on the shown score.
    """
    if len(study.file.axes["lr"]) < 2:
        helps = any(it.verdict.word == "helps" and it.without.cell.specs[0].lr for it in compared)
        return [ONE_RATE] if helps and is_about_lga(study) else []
    remarks = []
    metric = compared[0].metric
    better = max if metric.higher_is_better else min
    for optimizer in study.file.axes["optimizer"]:
        means: dict[str, dict[str, tuple[float, float]]] = {}
        chosen_on_validation = []
        for it in compared:
            (name, _), _ = it.variant
            sides = zip(labels_of(study, it), (it.without, it.with_lga), (it.base_scores, it.lga_scores), strict=True)
            for label, side, summed in sides:
                if name == optimizer and math.isfinite(summed.mean):
                    validated = _validated(side.cell.specs, it.seeds, metric, results)
                    chosen_on_validation.append(math.isfinite(validated))
                    choice = validated if chosen_on_validation[-1] else summed.mean
                    means.setdefault(label, {})[number(side.cell.specs[0].lr)] = choice, summed.mean
        may_set_rates = any(spec.is_open_ended or spec.scheduler for it in compared for spec in it.with_lga.cell.specs)
        same = [len(by_lr) > 1 and len(set(by_lr.values())) == 1 for by_lr in means.values()]
        if may_set_rates and same and all(same):
            remarks.append(
                "All learning rates give exactly the same scores: probably the code or its scheduler, such as "
                "OneCycleLR with its own max_lr, sets another rate than that of the row."
            )
            continue
        best, largest = [], []
        for label, by_lr in means.items():
            lr = better(by_lr, key=lambda lr: by_lr[lr][0])
            if len(by_lr) > 1 and lr == max(by_lr, key=float):
                largest.append(label)
            unit = " %" if metric.percent else ""
            best.append(f"{show_score(metric, by_lr[lr][1])}{unit} {label} (lr {lr})")
        if best:
            tried = "the best on the validation set" if all(chosen_on_validation) else "the best tried"
            remarks.append(f"At the learning rate that is {tried}, {optimizer or 'it'} reaches {', '.join(best)}.")
        if largest:
            which = f" of {optimizer}" if optimizer else ""
            remarks.append(
                f"The best learning rate{which} is the largest one tried ({', '.join(largest)}). Try larger ones too: "
                "the verdict may change."
            )
    return remarks


def _validated(specs: Sequence[RunSpec], seeds: Sequence[int], metric: Metric, results: Results) -> float:
    """The mean final score of these runs on the validation set; NaN without one."""
    last = [
        metric.counted(spec, results.records(spec))[-1].test.get(VALIDATION + metric.name)
        for spec in specs
        if spec.seed in seeds
    ]
    return fmean(value for value in last if value is not None) if last and None not in last else math.nan


def _lengths(study: Study, compared: Sequence[Comparison], results: Results) -> list[str]:
    """With early stopping, the mean number of trained epochs in each arm."""
    if study.specs[0].patience is None:
        return []
    epochs: dict[str, dict[RunSpec, int]] = {}
    for _, names, spec in _runs(study, compared):
        if length := len(results.records(spec)):
            epochs.setdefault(names["arm"], {})[spec] = length
    means = [f"{fmean(lengths.values()):.1f} {arm}" for arm, lengths in epochs.items()]
    return [f"Trained epochs until early stopping, in the mean: {', '.join(means)}."] * bool(means)


def _facts(study: Study, task: Subject, results: Results) -> dict[str, dict[str, str]]:
    """Settings, and all environments of the runs."""
    base, axes, specs = study.file.base, study.file.axes, study.specs
    attached = [dict(point.lga) for point in axes["arm"].values() if isinstance(point.lga, dict)]
    arguments = attached[0] if attached else {}
    shared = next((point.optimizer_options for point in axes["arm"].values() if point.optimizer is None), {})
    plain = specs[0]
    settings = {
        "task": f"{plain.task}: {task.summary}",
        **{f"task's {name}": str(value) for name, value in plain.task_options},
        "optimizers": ", ".join(filter(None, axes["optimizer"])),
        "learning rates": ", ".join(name for name, point in axes["lr"].items() if point.lr),
        "arms": ", ".join(axes["arm"]),
        "gamma2": ", ".join(dict.fromkeys(_format_gamma2(lga["gamma2"]) for lga in attached)),
        **{f"LGA's {name}": str(value) for name, value in sorted(arguments.items()) if name != "gamma2"},
        "seeds": "0" if len(base.all_seeds) == 1 else f"0 to {len(base.all_seeds) - 1}",
        "epochs": str(plain.epochs or ""),
        "batch size": str(plain.batch_size or ""),
        "scheduler": (plain.scheduler or "none") if plain.batch_size else "",
        **{f"scheduler's {name}": str(value) for name, value in plain.scheduler_options},
        **{f"training {name}": str(value) for name, value in plain.training},
        **{f"optimizer's {name}": str(value) for name, value in shared.items()},
        "precision": plain.precision,
        "device": plain.device,
        **({"distributed": plain.distributed} if plain.distributed else {}),
    }
    settings = {name: value for name, value in settings.items() if value}  # functions set some of them
    places: dict[str, dict[str, None]] = {}
    for spec in specs:
        for name, value in results.environment(spec).items():
            places.setdefault(name, {})[value] = None
    dates = sorted(places.pop("date", {}))
    places.pop("command", None)
    machine = {name: " / ".join(values) for name, values in places.items()}
    if dates:
        machine["runs begun"] = dates[0] if len(dates) == 1 else f"{dates[0]} to {dates[-1]}"
    costs = _training_times(study, results)
    return {"Settings": settings, "Software and machine": machine, "Training time": costs}


def _format_gamma2(value: Any) -> str:
    return number(value) if isinstance(value, float) else str(value)


def _training_times(study: Study, results: Results) -> dict[str, str]:
    """The seconds per epoch of each arm, or without and with LGA."""
    times: dict[str, list[float]] = {}
    for (_, (arm,)), cell in study.cells.items():
        without, with_lga = sides_of(study)
        label = arm if not is_about_lga(study) else without if arm == study.reference else with_lga
        times.setdefault(label, []).extend(record.seconds for s in cell.specs for record in results.records(s))
    return {label: _time(seconds) for label, seconds in times.items() if len(seconds) >= MANY}


def _time(seconds: Sequence[float]) -> str:
    low, middle, high = quantiles(seconds, n=4)
    return f"{middle:.3g} s per epoch (half of them {low:.3g} to {high:.3g})"
