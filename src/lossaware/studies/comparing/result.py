"""The result of a comparison in Python or a notebook."""

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

from lossaware.errors import UsageError
from lossaware.extras import how_to_install
from lossaware.studies.report.comparison import Outcome
from lossaware.studies.report.writers import text
from lossaware.studies.report.writers.html import write
from lossaware.studies.specs.atomic import write_atomic


class Result:
    """The results of a comparison. ``print`` and a notebook show them as a table.

    Attributes:
        verdict: The verdicts in a sentence.
        verdicts: The verdict of each row: ``"helps"``, ``"hurts"``, ``"no difference shown"`` or ``"too few seeds to
            tell"``.
        failures: Runs that failed, with the reason.
    """

    def __init__(self, outcome: Outcome, page: str) -> None:
        self.verdict = outcome.lead
        self.verdicts: list[str] = [record["verdict"] for record in outcome.tables[0].records]
        self.failures = [message for _, message in outcome.failures]
        self._outcome = outcome
        self._page = page

    def __str__(self) -> str:
        width = shutil.get_terminal_size((120, 24)).columns
        table = text.write(self._outcome.tables[0], width).strip()
        return "\n".join([table, "", *self._sentences])

    def __repr__(self) -> str:
        return f"<comparison: {self.verdict}>"

    def to_dict(self) -> list[dict[str, Any]]:
        """The rows as plain values: setting, means with intervals, difference, p values, verdict, and all scores."""
        return [dict(record) for record in self._outcome.tables[0].records]

    def curves(self) -> list[dict[str, Any]]:
        """The reports of each run per epoch, for plots: setting, arm, seed, epoch (from 1), and the values."""
        return [dict(record) for record in self._outcome.curves]

    def to_frame(self) -> Any:
        """A ``pandas.DataFrame`` with a row for each run: its setting, arm, seed and score.

        Raises:
            UsageError: pandas is not installed.
        """
        try:
            import pandas
        except ImportError:
            raise UsageError(f"to_frame needs the package pandas: {how_to_install('notebook')}") from None
        return pandas.DataFrame(self._outcome.scores).drop_duplicates(ignore_index=True)

    def report(self, path: str | Path) -> Path:
        """Write the report, one HTML page, to a file.

        Raises:
            UsageError: It cannot be written there.
        """
        write_atomic(Path(path), self._page)
        return Path(path)

    def _repr_html_(self) -> str:
        return write(replace(self._outcome.tables[0], remark=" ".join(self._sentences)))

    @property
    def _sentences(self) -> list[str]:
        return [self.verdict, *self._outcome.remarks]
