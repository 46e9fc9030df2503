"""The short page of a folder of results, as Markdown: counts of its figures, and a list of its files."""

import textwrap
from pathlib import Path

from lossaware.errors import UsageError
from lossaware.studies.analysis.collect import measurements
from lossaware.studies.report import results_summary as summary
from lossaware.studies.report.artifacts import load
from lossaware.studies.report.writers.markdown import grid
from lossaware.studies.specs.atomic import write_atomic
from lossaware.studies.specs.escape import markdown, markdown_code
from lossaware.studies.specs.regular_file import check_regular

NAME = "README.md"
"""File name of the page in a folder of results."""
_MARK = "<!-- Written by lossaware"


def write(folder: Path, path: Path) -> None:
    """Write the page of a folder.

    Args:
        folder: The results.
        path: The file; an existing file is only replaced if it is such a page.

    Raises:
        UsageError: The file is not such a page, or the folder cannot be read or written.
    """
    if path.exists() and not _is_ours(path):
        raise UsageError(f"{path} is not a page of lossaware and is not overwritten: choose another --out")
    write_atomic(path, text(folder))


def refresh(folder: Path) -> None:
    """Update the page of a folder, if it has one, after its files have changed."""
    if _is_ours(folder / NAME):
        write(folder, folder / NAME)


def _is_ours(path: Path) -> bool:
    try:
        check_regular(path, path.stat().st_mode)
        with path.open(encoding="utf-8", errors="replace") as file:
            return file.read(len(_MARK)) == _MARK  # a line may be as long as the file
    except OSError:
        return False


def text(folder: Path) -> str:
    """The page; the same files give the same text."""
    with measurements(None, folder) as measured:
        tables = summary.all_tables(measured)
    rows = summary.counted(tables)
    together = rows[-1].counts
    parts = [
        f"{_MARK} report --out results/{NAME}; changes by hand are overwritten. -->",
        "# Results",
        _paragraph(
            "This folder contains all measurements. Each study has a CSV file of final values, a CSV file of epochs, "
            "and a JSON file with the command, commit, machine and date of its runs. `lossaware report` shows all of "
            "them on one page, `lossaware study show NAME` shows one table. `lossaware study run NAME` uses the runs "
            "in this folder and computes only the missing ones."
        ),
        "<!-- counts -->",
        "## Measured and published figures",
        _paragraph(summary.agreement_text(together)),
        grid(summary.agreement_table(rows)),
        _paragraph(summary.AGREEMENT_READ),
        "## Does LGA help?",
        _paragraph(summary.effects_text(together)),
        grid(summary.effects_table(rows)),
        _paragraph(summary.EFFECTS_READ),
        "<!-- end of counts -->",
        "## Files",
        grid(
            summary.files_table(
                ("files", "content", "command"),
                [
                    (
                        markdown_code(it.pattern) if it.pattern else "those of other studies",
                        markdown(it.content),
                        ", ".join(map(markdown_code, it.commands)),
                    )
                    for it in summary.files(folder, tables, load(folder))
                ],
            ),
            escape=str,
        ),
    ]
    if missing := [table.study for table in tables if not summary.is_measured(table)]:
        parts += [
            "## Not measured yet",
            "\n".join(f"- {markdown_code(study.name)}: {markdown(study.title)}" for study in missing),
        ]
    return "\n\n".join(parts) + "\n"


def _paragraph(text: str) -> str:
    return textwrap.fill(text, 130, break_long_words=False, break_on_hyphens=False)
