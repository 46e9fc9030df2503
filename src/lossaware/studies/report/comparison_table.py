"""The table of a comparison: each optimizer and learning rate without and with LGA, and the verdict."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType
from typing import Any, get_args

from lossaware.studies.analysis.activity import lga_of, notes
from lossaware.studies.analysis.comparisons import Comparison, comparisons
from lossaware.studies.analysis.failed import with_failures
from lossaware.studies.analysis.outlook import MOST, Outlook, outlooks
from lossaware.studies.analysis.statistics import FEWEST, Summary, Verdict, Word, summary
from lossaware.studies.analysis.study_table import WIDE, StudyTable, tabulate
from lossaware.studies.report.explanation import estimate_behind, explanation, tests_behind
from lossaware.studies.report.numbers import signed, true_minus, with_spread, without_interval
from lossaware.studies.report.table import Cell, Row, Table, finite
from lossaware.studies.specs.formatting import size
from lossaware.studies.specs.run_spec import RunSpec
from lossaware.studies.specs.study import Metric, Study
from lossaware.studies.specs.trial_command import TrialCommand
from lossaware.studies.store.results import Results


def comparison_table(
    study: Study,
    results: Results,
    *,
    title: str = "",
    remark: str = "",
    margin: float | None = None,
    failures: Mapping[RunSpec, str] = MappingProxyType({}),
) -> Table:
    """The table of a comparison, with verdicts that are corrected for all its rows.

    Args:
        study: Made by `lossaware.studies.specs.comparison.comparison`.
        results: The results of its runs.
        title: Heading; by default the measure.
        remark: A sentence below the heading.
        margin: The largest irrelevant difference, in units of the measured score.
        failures: Runs that failed, with the reason.
    """
    measured, ratios = tabulate(study, results), tabulate(study.measuring(at="ratio"), results)
    compared = with_failures(comparisons(measured), failures)
    rows, records, explanations = [], [], []
    all_outlooks = outlooks(compared, margin)
    metric = next(iter(study.cells.values())).metric
    for it, outlook in zip(compared, all_outlooks, strict=True):
        setting = setting_of(study, it)
        if more := explanation(it, outlook, lambda summed: number_format(metric, summed, is_difference=True)):
            explanations.append(f"{' '.join(setting.values())}: {it.verdict.word}: {more}.")
        keys = (it.variant, it.base)
        ratio, own = (mean_ratio(ratios, it, key) if has_curve(it, results) else math.nan for key in keys)
        cells = [
            Cell(verdict=explained(it.verdict, more)),
            Cell(show_summary(metric, it.base_scores)),
            Cell(show_summary(metric, it.lga_scores)),
            Cell(show_summary(metric, it.result.difference, is_difference=True)),
            Cell(show_epochs(ratio, own)),
        ]
        rows.append(Row(tuple(setting.values()), cells))
        records.append(_record(it, outlook, setting, ratio, own, notes(it, results, labels_of(study, it))))
    heads = ["verdict", *sides_of(study), "difference", "same score after"]
    optional = {4: epochs_read(sides_of(study))}
    if not any(has_curve(it, results) for it in compared):
        heads, optional = heads[:4], {}
        rows = [replace(row, cells=row.cells[:4]) for row in rows]
    return Table(
        title=(title or metric.title.capitalize()) + (", %" if metric.percent else ""),
        axes=tuple(setting_of(study, compared[0])),
        heads=[(head,) for head in heads],
        rows=rows,
        text_columns=frozenset({0, *optional}),
        optional=optional,
        remark=remark,
        legend=gathered_notes(study, compared, results),
        explanations=explanations,
        caption=how_to_read(compared, all_outlooks, sides_of(study)),
        records=records,
        facts={
            "measure": {
                "name": metric.name,
                "split": metric.set,
                "higher_is_better": metric.higher_is_better,
            },
            **({} if margin is None else {"margin": margin}),
        },
    )


def setting_of(study: Study, compared: Comparison) -> dict[str, str]:
    """The names of a row by column: ``{"optimizer": "sgd", "lr": "1e-3"}``, and the arm if there are several."""
    (row, column), file = compared.variant, study.file
    setting = dict(zip(file.rows, row, strict=True))
    # Functions that train have their own optimizer, and may have their own learning rate; so may arms.
    setting = {name: point for name, point in setting.items() if point and getattr(file.axes[name][point], name)}
    if len(study.columns) > 2:
        setting |= dict(zip(file.columns, column, strict=True))
    spec = compared.with_lga.cell.specs[0]
    if spec.kind == "command":
        return setting or {"command": TrialCommand(spec.task).name}
    return setting or {spec.kind: spec.task.rpartition(":")[2]}


def is_about_lga(study: Study) -> bool:
    """Whether the arms differ only in LGA."""
    arms = list(study.file.axes["arm"].values())
    return not arms[0].lga and all(arm.lga for arm in arms[1:]) and all(arm.optimizer is None for arm in arms)


def sides_of(study: Study) -> tuple[str, str]:
    """Names of the reference and of the arm that is compared with it, for tables."""
    if is_about_lga(study):
        return "without", "with LGA"
    return study.reference, study.columns[1][0] if len(study.columns) == 2 else "this arm"


def labels_of(study: Study, compared: Comparison) -> tuple[str, str]:
    """Names of the two sides of a comparison, for legends."""
    _, (arm,) = compared.variant
    first, second = sides_of(study)
    return first, second if len(study.columns) == 2 else f"with {arm}" if is_about_lga(study) else arm


def mean_ratio(ratios: StudyTable, compared: Comparison, key: tuple[tuple[str, ...], tuple[str, ...]]) -> float:
    """The mean of `statistics.epoch_ratio` over the seeds of a comparison; ``key`` is one of its two cells.

    The base's own ratio is below 1 if it had passed its final score earlier.
    """
    return summary([ratios.cells[key].scores[seed] for seed in compared.seeds]).mean


def has_curve(compared: Comparison, results: Results) -> bool:
    """Whether a run of the base has a score before its last epoch; a function may return only the final one."""
    runs = [compared.metric.curve(results.records(spec)) for spec in compared.without.cell.specs]
    return any(math.isfinite(score) for run in runs for score in run[:-1])


def how_to_read(
    compared: Sequence[Comparison], outlooks: Sequence[Outlook], sides: tuple[str, str] = ("without", "with LGA")
) -> str:
    """Explanation of the columns, and of the tests behind the verdicts."""
    reference, arm = sides
    seeds = max((len(it.without.cell.specs) for it in compared), default=0)
    spread = _spread(compared)
    means = "; ".join([f"Means over {seeds} seed{'s' * (seeds != 1)}", *spread])
    sizes = {gamma2 for it in compared if (gamma2 := lga_of(it.with_lga.cell.specs).get("gamma2")) is not None}
    parts = [
        f"{means}. Difference: {arm} minus {reference}, from the same seeds.",
    ]
    parts += [*tests_behind(compared), *estimate_behind(outlooks)]
    if len(sizes) == 1:
        gamma2 = sizes.pop()
        parts.append(f"LGA has gamma2 {gamma2 if isinstance(gamma2, str) else size(float(gamma2))}.")
    return " ".join(parts)


def epochs_read(sides: tuple[str, str]) -> str:
    """The meaning of the column of epochs."""
    reference, arm = sides
    base, arm = reference.replace("without", "the base"), arm.replace("with LGA", "LGA")
    return (
        f"Same score after: the share of the epochs after which {arm} reaches the final score of {base}, 100 % if "
        f"it never does; in brackets the same for {base} itself, which may reach it before the last epoch."
    )


def _spread(compared: Sequence[Comparison]) -> list[str]:
    """Explanations of how these rows show the spread of the seeds."""
    means = [
        (one, it.metric.scale / it.metric.factor)
        for it in compared
        for one in (it.base_scores, it.lga_scores, it.result.difference)
    ]
    wide = [one.is_wider_than(scale) for one, scale in means]
    has_interval = any(one.n >= FEWEST and not is_wide for (one, _), is_wide in zip(means, wide, strict=True))
    return [
        *["± is the half width of the 95 % t-interval"] * has_interval,
        *[without_interval(n) for n in sorted({one.n for one, _ in means}) if 0 < n < FEWEST],
        *[f"in brackets {WIDE}"] * any(wide),
    ]


def gathered_notes(study: Study, compared: Sequence[Comparison], results: Results) -> list[str]:
    """The `notes` of all rows. A note that several rows share appears once, with their names."""
    where: dict[str, list[str]] = {}
    for it in compared:
        for note in notes(it, results, labels_of(study, it)):
            where.setdefault(note, []).append(" ".join(setting_of(study, it).values()))
    total = len(compared)
    return [f"{'All rows' if len(rows) == total > 1 else ', '.join(rows)}: {note}" for note, rows in where.items()]


def lead(study: Study, compared: Sequence[Comparison]) -> str:
    """The verdicts of a table in one sentence."""
    rows: dict[str, list[str]] = {}
    for it in compared:
        rows.setdefault(it.verdict.word, []).append(" ".join(setting_of(study, it).values()))
    total = len(compared)
    measure = compared[0].metric.measure
    who = "LGA" if is_about_lga(study) else sides_of(study)[1].replace("this arm", "another arm")
    measure += "" if is_about_lga(study) else f", against {study.reference}"
    if total == 1:
        word = compared[0].verdict.word
        verdict = f"{who} {word}" if word in ("helps", "hurts") else "the runs failed" if word == "failed" else word
        return f"On the {measure}: {verdict}."
    parts = []
    for word, singular, plural in (
        ("helps", f"{who} helps in {{n}} of {{total}} comparisons", ""),
        ("hurts", "hurts in {n}", ""),
        ("no difference shown", "{n} shows no difference", "{n} show no difference"),
        ("too few seeds to tell", "{n} has too few seeds to tell", "{n} have too few seeds to tell"),
        ("failed", "{n} failed", ""),
    ):
        names = rows.get(word, [])
        if not names and word not in ("helps", "hurts"):
            continue
        phrase = plural if plural and len(names) != 1 else singular
        listed = f" ({', '.join(names)})" if 0 < len(names) < total and word in ("helps", "hurts") else ""
        parts.append(phrase.format(n=len(names) or "none", total=total) + listed)
    return f"On the {measure}, {', '.join(parts)}."


def badges(compared: Sequence[Comparison]) -> list[tuple[str, str]]:
    """Each verdict of a table, and its text: with the number of rows if there are several comparisons."""
    words = [it.verdict.word for it in compared]
    return [
        (word, word if len(words) == 1 else f"{words.count(word)} of {len(words)}: {word}")
        for word in get_args(Word)
        if word in words
    ]


# --- numbers --------------------------------------------------------------------------------------------------------


def show_score(metric: Metric, score: float) -> str:
    """A score as text, without unit; a dash if it is not finite."""
    if not math.isfinite(score):
        return "—"
    return true_minus(f"{100 * score:.2f}" if metric.percent else f"{score:.4g}")


def number_format(metric: Metric, values: Summary, *, is_difference: bool = False) -> Callable[[float], str]:
    """A format for a mean and its interval: two decimals in percent, else two digits of the half width.

    Args:
        metric: The metric.
        values: The mean.
        is_difference: Whether numbers have a sign.
    """
    half = values.half_width
    if metric.percent:
        form = ".2f"
    elif not 1e-6 <= half < 1e6:  # a width that is NaN, 0, tiny or huge does not determine the decimals
        form = ".4g"
    else:
        form = f".{max(0, 1 - math.floor(math.log10(half)))}f"

    def show(value: float) -> str:
        if not math.isfinite(value):
            return "—"
        text = format(100 * value if metric.percent else value, form)
        return signed(text) if is_difference else true_minus(text)

    return show


def show_summary(metric: Metric, values: Summary, *, is_difference: bool = False) -> str:
    """``mean ± half width`` with the same decimals; see `number_format` and `with_spread`."""
    half = values.half_width
    width = number_format(metric, values)(half) if metric.percent or 1e-6 <= half < 1e6 else f"{half:.2g}"
    show = number_format(metric, values, is_difference=is_difference)
    return with_spread(values, show, width, scale=metric.scale / metric.factor)


def show_epochs(ratio: float, own: float) -> str:
    """``26 % of the epochs``; in brackets the base's own share if it is below 100 %. See `mean_ratio`."""
    if math.isnan(ratio):
        return "—"
    whole, base = (f"{100 * share:.0f} %" for share in (ratio, own))
    return f"{whole} of the epochs" + (f" ({base})" if base != "100 %" else "")


def explained(verdict: Verdict, more: str) -> Verdict:
    """The verdict with an explanation before its reason."""
    if not more or verdict.word == "failed":
        return verdict
    return replace(verdict, reason=f"{more[0].upper()}{more[1:]}. {verdict.reason}")


# --- for machines ---------------------------------------------------------------------------------------------------


def _record(
    compared: Comparison,
    outlook: Outlook,
    setting: Mapping[str, str],
    ratio: float,
    own_ratio: float,
    row_notes: Sequence[str],
) -> dict[str, Any]:
    """A row as plain data; scores are as measured, not percentages."""
    more = outlook.more_seeds
    return {
        "setting": dict(setting),
        "seeds": list(compared.seeds),
        "without": _summary(compared.base_scores),
        "with": _summary(compared.lga_scores),
        "difference": _summary(compared.result.difference),
        "t_p": finite(compared.result.t_p),
        "sign_flip_p": finite(compared.result.flip_p),
        "epochs_ratio": finite(ratio),
        "base_epochs_ratio": finite(own_ratio),
        "verdict": compared.verdict.word,
        "reason": compared.verdict.reason,
        "more_seeds": None if more is None else int(more) if math.isfinite(more) else f"more than {MOST}",
        **({} if outlook.margin is None else {"is_within_margin": outlook.is_within_margin}),
        "notes": list(row_notes),
        "scores": [
            {
                "seed": seed,
                "without": finite(compared.without.scores[seed]),
                "with": finite(compared.with_lga.scores[seed]),
            }
            for seed in compared.seeds
        ],
    }


def _summary(values: Summary) -> dict[str, Any]:
    return {
        "n": values.n,
        "mean": finite(values.mean),
        "low": finite(values.low),
        "high": finite(values.high),
        "lost": values.lost,
    }
