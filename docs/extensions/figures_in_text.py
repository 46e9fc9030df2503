"""Roles that insert a measured or a published figure into a sentence, so that figures are not written by hand.

All use the same folder of results as `measured`. Words with spaces are quoted, as in a shell.

``{measured}`table02 algorithm=SGD "strategy=w/ LGA" lr=1e-4``` is the mean of the one cell that the points name, with
its interval. ``printed`` gives its published figure. ``agreement`` counts the chosen cells that agree with the
published figures. ``effects`` counts verdicts on the chosen pairs of cells, and ``printed-effects`` those pairs by
their published figures. ``value`` is a number of the one row of a CSV file that has the given values, and ``rows``
counts: of the rows that have all values but the last one, how many have the last one too.
"""

import csv
import json
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxRole
from stored import study_table

from lossaware.errors import UsageError
from lossaware.studies.analysis.comparisons import comparisons, pairs
from lossaware.studies.analysis.counts import Ways
from lossaware.studies.analysis.study_table import Key, StudyTable
from lossaware.studies.report.numbers import without_interval
from lossaware.studies.report.study_table import digits_of, show_mean
from lossaware.studies.specs.study import Overrides, load_study
from lossaware.studies.specs.study_file import split_points


def setup(app: Sphinx) -> dict[str, Any]:
    """Register the roles."""
    roles = {
        "measured": Measured,
        "printed": Published,
        "agreement": Agreement,
        "effects": Effects,
        "printed-effects": PrintedEffects,
        "value": Value,
        "rows": Rows,
        "speed": Speed,
    }
    for name, role in roles.items():
        app.add_role(name, role())
    return {"parallel_read_safe": True, "parallel_write_safe": True}


class _FigureRole(SphinxRole):
    @property
    def folder(self) -> Path:
        """The folder of results."""
        return Path(self.config.results_folder)

    def words(self) -> tuple[str, list[str]]:
        """The first word, which names a study or a file, and the others."""
        first, *others = shlex.split(self.text)
        return first, others

    def run(self) -> tuple[list[nodes.Node], list[nodes.system_message]]:
        """The figure; what the text names must exist, or the site is not built."""
        try:
            return [nodes.inline(self.rawtext, self.figure())], []
        except (UsageError, ValueError, KeyError, OSError) as error:
            message = self.inliner.reporter.error(f"{self.rawtext}: {error}", line=self.lineno)
            return [nodes.problematic(self.rawtext, self.rawtext)], [message]

    def figure(self) -> str:
        """The text in the sentence."""
        raise NotImplementedError


class _StudyRole(_FigureRole):
    def chosen(self) -> tuple[StudyTable, list[Key]]:
        """The study, and the cells that the points choose, as ``--only`` of ``study run`` does."""
        name, points = self.words()
        study = load_study(name)
        split = (word.partition("=") for word in points)
        only = {axis: split_points(names, study.file.axes.get(axis, ())) for axis, _, names in split}
        chosen = study.overridden(Overrides(only))
        table = study_table(self.env, self.folder, name)
        return table, [key for key, cell in study.cells.items() if chosen.chosen(cell) and not cell.derived]

    def one(self) -> tuple[StudyTable, Key]:
        """The one cell that is chosen."""
        table, keys = self.chosen()
        if len(keys) != 1:
            raise ValueError(f"{len(keys)} cells are chosen, not one")
        return table, keys[0]


class Measured(_StudyRole):
    """The mean of a cell, with half the width of its interval."""

    def figure(self) -> str:
        """See `_FigureRole.figure`."""
        table, key = self.one()
        measured = table.cells[key]
        few = without_interval(measured.summary.n) if measured.summary.n == 2 else ""
        return show_mean(measured, digits_of([measured])[0]) + f" ({few})" * bool(few)


class Published(_StudyRole):
    """The published figure of a cell."""

    def figure(self) -> str:
        """See `_FigureRole.figure`."""
        table, key = self.one()
        published = table.cells[key].cell.published
        if published is None:
            raise ValueError("the paper has no figure there")
        return str(published)


class Agreement(_StudyRole):
    """The number of chosen cells that agree with the published figures: ``14 of 21``."""

    def figure(self) -> str:
        """See `_FigureRole.figure`."""
        table, keys = self.chosen()
        judged = [agrees for key in keys if (agrees := table.cells[key].agrees) is not None]
        return f"{sum(judged)} of {len(judged)}"


class Effects(_StudyRole):
    """Verdicts on the chosen pairs, at the study's own settings."""

    def figure(self) -> str:
        """See `_FigureRole.figure`."""
        table, keys = self.chosen()
        compared = [it for it in comparisons(table) if it.variant in keys and it.count and not it.with_lga.changed]
        if not compared:
            return "no pair is measured"
        words = [it.verdict.word if it.count > 1 else "one seed" for it in compared]
        parts = [f"{count} of {len(compared)}: {word}" for word in dict.fromkeys(words) if (count := words.count(word))]
        unsure = Ways.of(it.way for it in compared if it.verdict.word == "too few seeds to tell")
        if unsure.total:
            parts.append(f"of the undecided {unsure.better} better, {unsure.equal} the same, {unsure.worse} worse")
        return "; ".join(parts)


class PrintedEffects(_StudyRole):
    """The chosen pairs by their published figures: ``better in 24 of 28, worse in 3``."""

    def figure(self) -> str:
        """See `_FigureRole.figure`."""
        table, keys = self.chosen()
        gains = []
        for variant, base in pairs(table.study).items():
            with_, without = table.study.cells[variant], table.study.cells[base]
            if variant in keys and with_.published is not None and without.published is not None:
                gains.append((with_.published - without.published) * (1 if with_.metric.higher_is_better else -1))
        better, worse = sum(gain > 0 for gain in gains), sum(gain < 0 for gain in gains)
        return f"better in {better} of {len(gains)}, worse in {worse}"


class _TableRole(_FigureRole):
    def table(self, name: str) -> list[dict[str, str]]:
        """The rows of a CSV file in the folder."""
        path = self.folder / name
        self.env.note_dependency(str(path))
        with path.open(encoding="utf-8", newline="") as file:
            return list(csv.DictReader(file))


def _having(rows: Sequence[dict[str, str]], words: Sequence[str]) -> list[dict[str, str]]:
    wanted = dict(word.split("=", 1) for word in words)
    return [row for row in rows if all(row[name] == value for name, value in wanted.items())]


class Value(_TableRole):
    """A number of the one row that has the given values; its column is the last word, a format may follow a colon."""

    def figure(self) -> str:
        """See `_FigureRole.figure`."""
        name, (*values, column) = self.words()
        column, _, form = column.partition(":")
        rows = _having(self.table(name), values)
        if len(rows) != 1:
            raise ValueError(f"{len(rows)} rows have these values, not one")
        return format(float(rows[0][column]), form) if form else rows[0][column]


class Rows(_TableRole):
    """Of the rows that have all values but the last, how many have the last one: ``18 of 18``."""

    def figure(self) -> str:
        """See `_FigureRole.figure`."""
        name, values = self.words()
        among = _having(self.table(name), values[:-1])
        return f"{len(_having(among, values[-1:]))} of {len(among)}"


class Speed(_FigureRole):
    """A ratio of the benchmarks."""

    def figure(self) -> str:
        """See `_FigureRole.figure`."""
        part, (name,) = self.words()
        path = self.folder / "speed" / "speed.json"
        self.env.note_dependency(str(path))
        goals = json.loads(path.read_text(encoding="utf-8"))["parts"][part]["goals"]
        (ratio,) = [goal["value"] for goal in goals if goal["what"] == name]
        return f"{ratio:.2f}"
