"""A table of paired comparisons, for the terminal and for machines."""

import math
from collections.abc import Callable, Sequence
from typing import Any

from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table as RichTable
from rich.text import Text

from lossaware.studies.analysis.paired import Measure, Row, Table, notes
from lossaware.studies.analysis.statistics import FEW, Summary
from lossaware.studies.specs.formatting import size


def how_to_read(table: Table) -> str:
    """What the columns are, and what the verdicts rest on."""
    seeds = max((len(row.pair.base.runs) for row in table.rows), default=0)
    spread = "± is the half width of the 95 % t-interval" if seeds > 1 else "one seed has no interval"
    sizes = {size(gamma2) for row in table.rows if (gamma2 := (row.pair.variant.lga or {}).get("gamma2")) is not None}
    parts = [
        f"Means over {seeds} seed{'s' * (seeds != 1)}; {spread}. Difference: with minus without, from the same seeds.",
        "Epochs: the share of the base's epochs after which LGA reaches its final score (1 where it never does); in "
        "brackets the same of the base itself, which may have passed it earlier.",
    ]
    holm = (
        ", with Holm's correction over the rows of a table (an interval without 0 may not be enough)"
        if len(table.rows) > 1
        else ""
    )
    parts.append(f"Verdicts rest on the paired t-test{holm}, checked by an exact sign-flip test.")
    if seeds < FEW:
        parts.append(f"{seeds} is few: with fewer than {FEW} seeds no sign test can be significant.")
    if len(sizes) == 1 and "gamma2" not in table.columns:
        parts.append(f"LGA has gamma2 {sizes.pop()}.")
    return " ".join(parts)


def show_ratio(row: Row) -> str:
    """``0.63 (0.95)``: LGA, and the base itself."""
    if math.isnan(row.epochs_ratio):
        return "—"
    return f"{row.epochs_ratio:.2f} ({row.own_epochs_ratio:.2f})"


_STYLES = {"helps": "bold green", "hurts": "bold red", "no difference shown": "", "too few seeds to tell": "yellow"}

CELLS: Sequence[tuple[str, Callable[[Row, Measure], str]]] = (
    ("without", lambda row, measure: measure.show_summary(row.base)),
    ("with LGA", lambda row, measure: measure.show_summary(row.variant)),
    ("difference", lambda row, measure: measure.show_summary(row.difference.difference, signed=True)),
    ("epochs", lambda row, measure: show_ratio(row)),
    ("verdict", lambda row, measure: row.verdict.word),
)
"""The columns after those that say what a row is: heading, and how its cells are written."""


def render(table: Table) -> RenderableType:
    """The table for a terminal."""
    grid = RichTable(box=None, pad_edge=False, padding=(0, 3, 0, 0), header_style="bold")
    for name in table.columns:
        grid.add_column(name, no_wrap=True)
    for name, _ in CELLS:
        grid.add_column(name, justify="left" if name == "verdict" else "right", no_wrap=name != "verdict")
    for row in table.rows:
        cells = [Text(write(row, table.measure)) for _, write in CELLS]
        cells[-1].stylize(_STYLES[row.verdict.word])
        grid.add_row(*row.pair.setting.values(), *cells)
    remark = [Text(table.remark, style="dim")] if table.remark else []
    return Padding(Group(Text(table.title, style="bold"), *remark, Text(), grid), (1, 0, 0, 0), expand=False)


def gathered_notes(table: Table) -> list[str]:
    """The `notes` of all rows, each once, with the rows it belongs to."""
    where: dict[str, list[str]] = {}
    for row in table.rows:
        for note in notes(row.pair):
            where.setdefault(note, []).append(" ".join(row.pair.setting.values()))
    total = len(table.rows)
    return [f"{'All rows' if len(rows) == total > 1 else ', '.join(rows)}: {note}" for note, rows in where.items()]


def lead(table: Table) -> str:
    """The verdicts of a table in one sentence."""
    rows: dict[str, list[str]] = {}
    for row in table.rows:
        rows.setdefault(row.verdict.word, []).append(" ".join(row.pair.setting.values()))
    total = len(table.rows)
    if total == 1:
        word = table.rows[0].verdict.word
        said = f"LGA {word}" if word in ("helps", "hurts") else word
        return f"On the {table.measure.title}: {said}."
    parts = []
    for word, singular, plural in (
        ("helps", "LGA helps in {n} of {total} comparisons", ""),
        ("hurts", "hurts in {n}", ""),
        ("no difference shown", "{n} shows no difference", "{n} show no difference"),
        ("too few seeds to tell", "{n} has too few seeds to tell", "{n} have too few seeds to tell"),
    ):
        found = rows.get(word, [])
        if not found and word not in ("helps", "hurts"):
            continue
        phrase = plural if plural and len(found) != 1 else singular
        named = f" ({', '.join(found)})" if 0 < len(found) < total and word in ("helps", "hurts") else ""
        parts.append(phrase.format(n=len(found) or "none", total=total) + named)
    return f"On the {table.measure.title}, {', '.join(parts)}."


def to_json(table: Table) -> dict[str, Any]:
    """The table as plain data, ready for ``json.dumps``; scores are as measured, not percentages; NaN becomes None."""
    measure = table.measure
    return {
        "title": table.title,
        "measure": {"name": measure.name, "split": measure.split, "higher_is_better": measure.higher_is_better},
        "rows": [
            {
                "setting": dict(row.pair.setting),
                "seeds": row.pair.seeds,
                "without": _summary_json(row.base),
                "with": _summary_json(row.variant),
                "difference": _summary_json(row.difference.difference),
                "t_p": _plain(row.difference.t_p),
                "sign_flip_p": _plain(row.difference.flip_p),
                "epochs_ratio": _plain(row.epochs_ratio),
                "base_epochs_ratio": _plain(row.own_epochs_ratio),
                "verdict": row.verdict.word,
                "reason": row.verdict.reason,
                "notes": notes(row.pair),
                "scores": [
                    {
                        "seed": seed,
                        "without": _plain(measure.final(row.pair.base.runs[seed])),
                        "with": _plain(measure.final(row.pair.variant.runs[seed])),
                    }
                    for seed in row.pair.seeds
                ],
            }
            for row in table.rows
        ],
        "remark": table.remark,
    }


def _summary_json(values: Summary) -> dict[str, Any]:
    return {
        "n": values.n,
        "mean": _plain(values.mean),
        "low": _plain(values.low),
        "high": _plain(values.high),
        "lost": values.lost,
    }


def _plain(value: float) -> float | None:
    return value if math.isfinite(value) else None
