"""The table of a study: what was measured, in the layout of the paper, with the published figures beside it."""

import csv
import io
import math
import statistics as plain_statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from rich.console import Group, RenderableType
from rich.text import Text

from lossaware.errors import UsageError
from lossaware.studies.arguments import did_you_mean
from lossaware.studies.spec import EpochRecord, RunSpec
from lossaware.studies.statistics import Summary, epoch_ratio, summary
from lossaware.studies.study import Cell, Coordinates, Overrides, Quantity, Study, without_lga

Key = tuple[Coordinates, Coordinates]

NOT_RUN = "not run"
MIXED = "of cells under different settings"
GAP = 2  # spaces between columns


class Results(Protocol):
    """Where finished runs are read from."""

    def records(self, spec: RunSpec) -> Sequence[EpochRecord]:
        """The epochs of a run so far, in order; empty for an unknown run."""

    def environment(self, spec: RunSpec) -> Mapping[str, str]:
        """What a run was made with (see `lossaware.studies.environment`); empty for an unknown run."""

    def specs(self) -> Sequence[RunSpec]:
        """All runs that are there, finished or not, each once."""


@dataclass(frozen=True)
class Measured:
    """A cell of a study, measured.

    Attributes:
        cell: What was to be measured.
        values: What it shows for each finished seed, in the units of the table.
        summary: Mean and interval of the values.
        overrides: What differs from the study's file in the runs shown.
        sources: The cells that a derived one is made of.
    """

    cell: Cell
    values: Mapping[int, float]
    summary: Summary
    overrides: Overrides = field(default_factory=Overrides)
    sources: Sequence["Measured"] = ()

    @property
    def there(self) -> bool:
        """Whether there is anything to show."""
        return self.summary.n > 0 or self.summary.lost > 0

    @property
    def difference(self) -> float:
        """Measured minus published, in the units of the table.

        NaN where either is missing, and for runs under other settings than the study's, see `agrees`.
        """
        if self.cell.published is None or self.changed:
            return math.nan
        return self.summary.mean - float(self.cell.published)

    @property
    def agrees(self) -> bool | None:
        """Whether the published figure lies in the interval.

        None without either of them, and for runs under other settings than the study's: their figures are not those
        that were published.
        """
        if self.cell.published is None or math.isnan(self.summary.low) or self.changed:
            return None
        return self.summary.low <= float(self.cell.published) <= self.summary.high

    @property
    def caution(self) -> str:
        """See `RunSpec.caution`."""
        cautions = [*(spec.caution for spec in self.cell.specs), *(source.caution for source in self.sources)]
        return next(filter(None, cautions), "")

    @property
    def differs(self) -> str:
        """What differs from the study's file, in a line."""
        return self._of_sources(lambda source: source.differs) if self.sources else describe(self.overrides)

    @property
    def said(self) -> str:
        """The caution, and what differs from the study's file, in a line."""
        return ", ".join(filter(None, [self.caution, self.differs]))

    @property
    def changed(self) -> str:
        """What is `said`, but for the number of seeds."""
        if self.sources:
            return self._of_sources(lambda source: source.changed)
        plain = {name: value for name, value in self.overrides.to_plain().items() if name not in ("seeds", "only")}
        return ", ".join(filter(None, [self.caution, describe(Overrides.from_plain(plain))]))

    def _of_sources(self, say: Callable[["Measured"], str]) -> str:
        """What all cells say that it is made of, or that they differ."""
        said = {say(source) for source in self.sources}
        return said.pop() if len(said) == 1 else MIXED

    @property
    def partial(self) -> bool:
        """Whether some, but not all of its seeds are finished, or of those of a cell that it is made of."""
        return self.there and (
            len(self.values) < len(self.cell.specs) or any(source.partial for source in self.sources)
        )


@dataclass(frozen=True)
class StudyTable:
    """A study with what was measured of it.

    Attributes:
        study: As its file says it.
        cells: Each cell, measured as far as its runs are there.
        remarks: What a reader must know first: overrides, a changed file.
        provenance: When, where and by what command it was measured.
    """

    study: Study
    cells: Mapping[Key, Measured]
    remarks: Sequence[str] = ()
    provenance: Sequence[str] = ()

    @property
    def marks(self) -> Mapping[Key, str]:
        """A letter for each cell that the remarks or the legend say something of."""
        letters: dict[str, str] = {}
        return {
            key: letters.setdefault(text, chr(ord("a") + len(letters)))
            for key, measured in self.cells.items()
            if (text := self._peculiarity(measured))
        }

    @property
    def legend(self) -> list[str]:
        """What the letters mean."""
        said = {letter: self._peculiarity(self.cells[key]) for key, letter in self.marks.items()}
        return [f"{letter}: {text}" for letter, text in said.items()]

    def _peculiarity(self, measured: Measured) -> str:
        """What sets a cell apart from the others."""
        parts = []
        if measured.there and measured.caution and not self._common_caution:
            parts.append(measured.caution)
        if measured.there and measured.differs and not self._common_overrides:
            parts.append(measured.differs)
        if measured.partial:
            some = f"{len(measured.values)} of {len(measured.cell.specs)} seeds"
            parts.append("of cells that lack some of their seeds" if measured.sources else some)
        if measured.summary.lost:
            parts.append(f"{measured.summary.lost} of {len(measured.values)} values are not finite")
        return "; ".join(parts)

    @property
    def _common_overrides(self) -> str:
        """Overrides that all measured cells share."""
        return self._common(lambda measured: describe(measured.overrides))

    @property
    def _common_caution(self) -> str:
        return self._common(lambda measured: measured.caution)

    def _common(self, say: Callable[[Measured], str]) -> str:
        """What all measured cells say alike."""
        said = {say(measured) for measured in self.cells.values() if measured.values}
        return said.pop() if len(said) == 1 else ""

    @property
    def head(self) -> list[str]:
        """What is shown above the table."""
        common = self._common_overrides
        caution = [f"Measured with {self._common_caution}, not with real ones."] if self._common_caution else []
        return [*caution, *([f"Overridden: {common}."] if common else []), *self.remarks]

    @property
    def caption(self) -> str:
        """How to read the table."""
        shown = {measured.cell.quantity.title: None for measured in self.cells.values()}
        parts = ["; ".join(shown).capitalize() + "."]
        seeds = {len(measured.values) for measured in self.cells.values() if measured.values}
        if seeds == {1}:
            parts.append("One seed, so no interval.")
        elif seeds:
            count = f"{max(seeds)} seeds" if len(seeds) == 1 else f"{min(seeds)} to {max(seeds)} seeds"
            parts.append(f"Mean over {count}; ± is the half width of the 95 % t-interval.")
        if any(measured.cell.derived for measured in self.cells.values()):
            parts.append("Means and deviations are computed from the figures shown, as in the paper.")
        judged = [measured.agrees for measured in self.cells.values() if measured.agrees is not None]
        if any(math.isfinite(measured.difference) for measured in self.cells.values()):
            parts.append("Difference: measured minus published.")
        if any(m.there and m.changed and m.cell.published is not None for m in self.cells.values()):
            parts.append("Figures under overridden settings are not held against the published ones.")
        if judged:
            parts.append(f"The published figure lies in the interval in {sum(judged)} of {len(judged)} cells.")
        if missing := sum(not measured.there for measured in self.cells.values()):
            parts.append(f"Not run: {missing} of {len(self.cells)} cells.")
        return " ".join(parts)


def tabulate(
    study: Study,
    results: Results,
    launches: Sequence[Overrides] = (),
    remarks: Sequence[str] = (),
    *,
    prefer: Overrides | None = None,
) -> StudyTable:
    """Measure every cell of a study.

    Args:
        study: As its file says it.
        results: Where the runs are.
        launches: Overrides with which the study was run, latest last. A cell whose own runs are missing shows those
            of the launch that came nearest.
        remarks: To show above the table.
        prefer: Overrides whose runs come before the study's own.
    """
    variants = [(Overrides(), study)]
    for overrides in launches:
        settings_only = Overrides(settings=overrides.settings)
        if settings_only not in [known for known, _ in variants]:
            variants.append((settings_only, study.overridden(settings_only)))

    def nearness(measured: Measured) -> tuple[bool, bool, bool, int, int, bool]:
        specs = measured.cell.specs
        return (
            measured.there,
            prefer is not None and measured.overrides.settings == prefer.settings,
            not measured.changed,
            specs[0].epochs if specs else 0,
            len(measured.values),
            not measured.partial,
        )

    cells: dict[Key, Measured] = {}
    for key in study.cells:
        found = [_measure(variant.cells[key], results, overrides) for overrides, variant in variants]
        # Derived cells come after the cells they are made from.
        cells[key] = _derive(found[0].cell, cells) if found[0].cell.derived else max(found, key=nearness)
    return StudyTable(study, cells, remarks)


def _measure(cell: Cell, results: Results, overrides: Overrides) -> Measured:
    values = {spec.seed: value for spec in cell.specs if (value := measure(cell.quantity, spec, results)) is not None}
    return Measured(cell, values, summary(list(values.values())), overrides)


def measure(quantity: Quantity, spec: RunSpec, results: Results) -> float | None:
    """What a run shows, in the units of the table; None where it, or the base it is held against, is not finished."""
    curve = _curve(quantity, spec, results)
    if not curve:
        return None
    factor = 100 if quantity.percent else 1
    match quantity.at:
        case "final":
            return factor * curve[-1]
        case "best":
            finite = [value for value in curve if math.isfinite(value)]
            return factor * (max if quantity.higher_is_better else min)(finite, default=math.nan)
    base = _curve(quantity, without_lga(spec), results)
    if not base:
        return None
    ratio = epoch_ratio(base, curve, higher_is_better=quantity.higher_is_better)
    if quantity.at == "ratio" or math.isnan(ratio):
        return ratio
    return factor * curve[round(ratio * len(base)) - 1]


def _curve(quantity: Quantity, spec: RunSpec, results: Results) -> list[float]:
    """The measure after each epoch; empty unless the run is finished."""
    records = results.records(spec)
    if len(records) < spec.epochs:
        return []
    known = getattr(records[-1], quantity.set)
    if quantity.name not in known:
        raise UsageError(f"task {spec.task!r} measures no {quantity.name!r}{did_you_mean(quantity.name, known)}")
    return [getattr(record, quantity.set).get(quantity.name, math.nan) for record in records]


def _derive(cell: Cell, cells: Mapping[Key, Measured]) -> Measured:
    assert cell.derived
    kind, sources = cell.derived
    made_of = [cells[key] for key in sources]
    means = [source.summary.mean for source in made_of]
    if not all(map(math.isfinite, means)):
        return Measured(cell, {}, summary([]))
    value = plain_statistics.fmean(means) if kind == "mean" else plain_statistics.pstdev(means)
    return Measured(cell, {}, Summary(1, value, math.nan, math.nan), sources=made_of)


def describe(overrides: Overrides) -> str:
    """What was overridden in a line: ``epochs = 2, seeds = 1``."""
    parts = []
    for name, value in overrides.to_plain().items():
        if name == "only":
            continue
        if isinstance(value, dict):
            parts += [f"{name}.{inner} = {given}" for inner, given in value.items()]
        else:
            parts.append(f"{name} = {value}")
    return ", ".join(parts)


# --- writing --------------------------------------------------------------------------------------------------------


Lines = Sequence[tuple[str, Callable[[Measured, int], str]]]
"""What each row of the table consists of: a name, and how it is written to a number of digits."""


def show_mean(measured: Measured, digits: int) -> str:
    """The mean, with half the width of its interval where it has one."""
    if not measured.there:
        return NOT_RUN
    mean, half = measured.summary.mean, measured.summary.half_width
    shown = f"{mean:.{digits}f}" if math.isfinite(mean) else "not finite"
    return f"{shown} ± {half:.{digits}f}" if math.isfinite(half) else shown


def show_published(measured: Measured, digits: int) -> str:
    """The published figure as it was printed; empty without one."""
    return "" if measured.cell.published is None else str(measured.cell.published)


def show_difference(measured: Measured, digits: int) -> str:
    """Measured minus published; empty where they are not to be compared."""
    if not math.isfinite(measured.difference):
        return ""
    shown = f"{measured.difference:+.{digits}f}"
    return shown if float(shown) else shown[1:]


LINES: Lines = (("measured", show_mean), ("published", show_published), ("difference", show_difference))


@dataclass(frozen=True)
class _Grid:
    """A table as texts: what any format is written from.

    Attributes:
        heads: The names of each column, one a column axis.
        rows: The names of each row, then the name of the line, then its cells.
    """

    heads: Sequence[Coordinates]
    rows: Sequence[tuple[Coordinates, Sequence[tuple[str, Sequence[str]]]]]


def _grid(table: StudyTable) -> _Grid:
    study, marks = table.study, table.marks
    lines = LINES if any(m.cell.published is not None for m in table.cells.values()) else LINES[:1]
    rows = []
    for row in study.rows:
        measured = [table.cells[row, column] for column in study.columns]
        digits = digits_of(measured)
        texts = []
        for name, write in lines:
            cells = list(map(write, measured, digits))
            if name == "measured":
                cells = [
                    f"{text} [{marks[row, column]}]" if (row, column) in marks else text
                    for text, column in zip(cells, study.columns, strict=True)
                ]
            if any(cells):
                texts.append((name, cells))
        rows.append((row, texts))
    return _Grid(study.columns, rows)


def digits_of(row: Sequence[Measured]) -> list[int]:
    """Decimals of each cell: 2 for percentages and ratios; for the rest as many as the paper gives in the row, or 4."""
    plain = [not (m.cell.quantity.percent or m.cell.quantity.at == "ratio") for m in row]
    published = [
        -int(m.cell.published.as_tuple().exponent)
        for m, is_plain in zip(row, plain, strict=True)
        if is_plain and m.cell.published is not None
    ]
    return [max(published, default=4) if is_plain else 2 for is_plain in plain]


def to_text(table: StudyTable, width: int) -> RenderableType:
    """The table for a terminal; columns that do not fit beside the others follow below them."""
    grid = _grid(table)
    axes = table.study.file.rows
    lead = [max(len(axis), *(len(row[i]) for row, _ in grid.rows)) + 3 for i, axis in enumerate(axes)]
    lead.append(max(len(name) for _, lines in grid.rows for name, _ in lines))
    widths = [
        GAP + max(len(head[-1]), *(len(cells[i]) for _, lines in grid.rows for _, cells in lines))
        for i, head in enumerate(grid.heads)
    ]
    parts: list[RenderableType] = [Text(), Text(table.study.title, style="bold")]
    parts += [Text(line, style="yellow") for line in table.head]
    for chosen in _blocks(grid.heads, widths, width - sum(lead)):
        parts += [Text(), *_block(grid, axes, chosen, lead, widths)]
    parts.append(Text())
    parts += [Text(line, style="yellow") for line in table.legend]
    parts += [Text(line, style="dim") for line in _tail(table)]
    return Group(*parts)


def _tail(table: StudyTable) -> list[str]:
    """What is shown below the table."""
    file = table.study.file
    return [
        " ".join(filter(None, [file.caption, table.caption])),
        *(f"Note: {note}" for note in file.notes),
        *table.provenance,
    ]


def _block(
    grid: _Grid, axes: Sequence[str], chosen: Sequence[int], lead: Sequence[int], widths: Sequence[int]
) -> list[Text]:
    """Some columns of the table, a text a line."""
    widths = list(widths)
    heads = [grid.heads[i] for i in chosen]
    levels = len(heads[0])
    # A name above several columns may be wider than they are together.
    for level in range(levels - 1):
        start = 0
        for names, count in spans([head[: level + 1] for head in heads]):
            inside = chosen[start : start + count]
            widths[inside[-1]] += max(0, GAP + len(names[-1]) + 4 - sum(widths[i] for i in inside))
            start += count
    lines = []
    for level in range(levels):
        last = level == levels - 1
        text = "".join((axis if last else "").ljust(size) for axis, size in zip((*axes, ""), lead, strict=True))
        start = 0
        for names, count in spans([head[: level + 1] for head in heads]):
            size = sum(widths[i] for i in chosen[start : start + count])
            text += names[-1].rjust(size) if last else " " * GAP + f" {names[-1]} ".center(size - GAP, "\u2500")
            start += count
        lines.append(Text(text, style="bold", no_wrap=True))
    for row, texts in grid.rows:
        for number, (name, cells) in enumerate(texts):
            line = Text(no_wrap=True)
            for part, size in zip(row, lead[:-1], strict=True):
                line.append((part if number == 0 else "").ljust(size))
            line.append(name.ljust(lead[-1]), style="dim")
            line.append("".join(cells[i].rjust(widths[i]) for i in chosen), style="" if number == 0 else "dim")
            lines.append(line)
    return lines


def _blocks(heads: Sequence[Coordinates], widths: Sequence[int], room: int) -> list[list[int]]:
    """Columns that go beside each other: as many groups of one first name as fit, or parts of a group that does not."""
    groups: list[list[int]] = []
    for i, head in enumerate(heads):
        if groups and len(head) > 1 and heads[groups[-1][0]][0] == head[0]:
            groups[-1].append(i)
        else:
            groups.append([i])

    def size(columns: Sequence[int]) -> int:
        return sum(widths[i] for i in columns)

    blocks: list[list[int]] = [[]]
    for group in groups:
        if size(blocks[-1]) + size(group) <= room:
            blocks[-1] += group
        elif size(group) <= room:
            blocks.append(list(group))
        else:
            for i in group:
                if not blocks[-1] or size(blocks[-1]) + widths[i] > room or heads[blocks[-1][0]][0] != heads[i][0]:
                    blocks.append([])
                blocks[-1].append(i)
    return [block for block in blocks if block]


def to_markdown(table: StudyTable) -> str:
    """The table as Markdown."""
    grid = _grid(table)
    axes = table.study.file.rows
    heads = [*axes, "", *(", ".join(head) for head in grid.heads)]
    out = [f"**{table.study.title}**", ""]
    out += [f"{line}\n" for line in table.head]
    out.append(_pipes(heads))
    out.append(_pipes(["---"] * (len(axes) + 1) + ["---:"] * len(grid.heads)))
    for row, lines in grid.rows:
        for number, (name, cells) in enumerate(lines):
            out.append(_pipes([*(row if number == 0 else [""] * len(row)), name, *cells]))
    out += ["", *(f"{line}  " for line in table.legend), "\n\n".join(_tail(table))]
    return "\n".join(out) + "\n"


def _pipes(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"


def to_latex(table: StudyTable) -> str:
    """The table as LaTeX, for the package booktabs."""
    grid = _grid(table)
    axes = table.study.file.rows
    lead = len(axes) + 1
    file = table.study.file
    caption = " ".join(filter(None, [f"{file.title}.", *table.head, file.caption, table.caption]))
    out = [
        r"\begin{table}",
        r"\centering",
        rf"\caption{{{_tex(caption)}}}",
    ]
    out += [rf"\begin{{tabular}}{{{'l' * lead}{'r' * len(grid.heads)}}}", r"\toprule"]
    for level in range(len(grid.heads[0])):
        last = level == len(grid.heads[0]) - 1
        cells = [_tex(axis) if last else "" for axis in axes] + [""]
        rules = []
        start = lead + 1
        for names, count in spans([head[: level + 1] for head in grid.heads]):
            cells.append(_tex(names[-1]) if count == 1 else rf"\multicolumn{{{count}}}{{c}}{{{_tex(names[-1])}}}")
            rules.append(rf"\cmidrule(lr){{{start}-{start + count - 1}}}")
            start += count
        out.append(" & ".join(cells) + r" \\" + ("" if last else " " + "".join(rules)))
    out.append(r"\midrule")
    for row, lines in grid.rows:
        for number, (name, texts) in enumerate(lines):
            titles = [_tex(part) if number == 0 else "" for part in row]
            out.append(" & ".join([*titles, name, *map(_tex, texts)]) + r" \\")
    below = [*table.legend, *(f"Note: {note}" for note in file.notes)]
    out += [r"\bottomrule", r"\end{tabular}", *(rf"\\ {_tex(line)}" for line in below), r"\end{table}"]
    out += [f"% {line}" for line in table.provenance]  # for whoever keeps the file; no reader of the paper asks
    return "\n".join(out) + "\n"


def spans(names: Sequence[Coordinates]) -> list[tuple[Coordinates, int]]:
    """Equal neighbours as one, with their number."""
    found: list[tuple[Coordinates, int]] = []
    for name in names:
        if found and found[-1][0] == name:
            found[-1] = (name, found[-1][1] + 1)
        else:
            found.append((name, 1))
    return found


_TEX = {
    "&": r"\&",
    "%": r"\%",
    "$": r"\$",
    "#": r"\#",
    "_": r"\_",
    "{": r"\{",
    "}": r"\}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "\\": r"\textbackslash{}",
    "±": r"$\pm$",
    "\u03bc": r"$\mu$",
    "\u03c3": r"$\sigma$",
    "—": "---",
    "[": "{[}",
    "]": "{]}",
}


def _tex(text: str) -> str:
    return "".join(_TEX.get(character, character) for character in text)


CSV_COLUMNS = ("measured", "low", "high", "seeds", "seeds_wanted", "published", "difference", "overridden")


def to_csv(table: StudyTable) -> str:
    """The table for machines: a line a cell, with everything that is known of it, in the units of the table."""
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    study = table.study
    writer.writerow([*study.file.rows, *study.file.columns, *CSV_COLUMNS])
    for (row, column), measured in table.cells.items():
        values = measured.summary
        writer.writerow(
            [
                *row,
                *column,
                *(_plain(value) for value in (values.mean, values.low, values.high)),
                len(measured.values),
                len(measured.cell.specs),
                "" if measured.cell.published is None else measured.cell.published,
                _plain(measured.difference),
                measured.said if measured.there else "",
            ]
        )
    return file.getvalue()


def _plain(value: float) -> str:
    return repr(float(value)) if math.isfinite(value) else ""


FORMATS: Mapping[str, Callable[[StudyTable], str]] = {"markdown": to_markdown, "latex": to_latex, "csv": to_csv}
"""The formats that are files rather than a screen."""
