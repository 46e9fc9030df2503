"""What a comparison in Python or a notebook gives."""

from html import escape
from pathlib import Path
from typing import Any

from lossaware.errors import UsageError
from lossaware.studies.report.comparison import Outcome
from lossaware.studies.report.paired_table import gathered_notes, how_to_read, lead, to_json
from lossaware.studies.specs.atomic import write_whole


class Result:
    """What a comparison showed. A notebook shows it as a table.

    Attributes:
        verdict: The verdicts in a sentence.
        verdicts: The verdict of each row: ``"helps"``, ``"hurts"``, ``"no difference shown"`` or ``"too few seeds to
            tell"``.
        failures: Runs that failed, with the reason.
    """

    def __init__(self, outcome: Outcome, page: str) -> None:
        self.verdict = lead(outcome.tables[0])
        self.verdicts: list[str] = [row.verdict.word for row in outcome.tables[0].rows]
        self.failures = [message for _, message in outcome.failures]
        self._outcome = outcome
        self._page = page

    def __repr__(self) -> str:
        return f"<comparison: {self.verdict}>"

    def to_dict(self) -> list[dict[str, Any]]:
        """The rows as plain values: setting, means with intervals, difference, p values, verdict, and all scores."""
        rows: list[dict[str, Any]] = to_json(self._outcome.tables[0])["rows"]
        return rows

    def to_frame(self) -> Any:
        """A ``pandas.DataFrame`` with a row for each run: its setting, arm, seed and score.

        Raises:
            UsageError: pandas is not installed.
        """
        try:
            import pandas
        except ImportError:
            raise UsageError("to_frame needs the package pandas: pip install 'lossaware[notebook]'") from None
        measure = self._outcome.tables[0].measure
        rows = []
        for row in self._outcome.tables[0].rows:
            for arm in (row.pair.base, row.pair.variant):
                for seed, run in arm.runs.items():
                    rows.append({**row.pair.setting, "arm": arm.label, "seed": seed, measure.name: measure.final(run)})
        return pandas.DataFrame(rows).drop_duplicates(ignore_index=True)

    def report(self, path: str | Path) -> Path:
        """Write the report, one HTML page, to a file.

        Raises:
            UsageError: It cannot be written there.
        """
        write_whole(Path(path), self._page)
        return Path(path)

    def _repr_html_(self) -> str:
        table = self._outcome.tables[0]
        heads = [*table.columns, "verdict", "without", "with LGA", "difference"]
        lines = []
        for row in table.rows:
            shown = [table.measure.show_summary(each) for each in (row.base, row.variant)]
            shown.append(table.measure.show_summary(row.difference.difference, signed=True))
            cells = [*row.pair.setting.values(), row.verdict.word, *shown]
            lines.append(f"<tr title='{escape(row.verdict.reason)}'>{_cells('td', cells)}</tr>")
        said = [*gathered_notes(table), how_to_read(table)]
        return (
            f"<div><p><b>{escape(self.verdict)}</b></p><p>{escape(table.title)}</p>"
            f"<table><thead><tr>{_cells('th', heads)}</tr></thead><tbody>{''.join(lines)}</tbody></table>"
            f"{''.join(f'<p><small>{escape(line)}</small></p>' for line in said)}</div>"
        )


def _cells(kind: str, texts: list[str]) -> str:
    return "".join(f"<{kind} style='text-align:left'>{escape(text)}</{kind}>" for text in texts)
