"""`lossaware lengths`: which epoch of our curves fits each published column best."""

import sys
from pathlib import Path

from lossaware.errors import UsageError


def lengths(*, out: Path = Path("lossaware-out"), results: Path = Path("results"), to: Path = Path("results")) -> int:
    """Test the hypothesis that the paper's runs without LGA were shorter than those with LGA.

    For each column of the paper's tables that was measured: the epoch at which our curves come nearest to the
    published figures, with an interval by bootstrap over the cells of the column.

    Args:
        out: Folder of the runs.
        results: Folder of exported studies.
        to: Folder to write lengths.svg, .png, .csv and .json, and lengths-pairs.csv to.
    """
    from rich.table import Table

    from lossaware.cli.output import console
    from lossaware.studies.analysis.collect import measurements
    from lossaware.studies.paper import lengths as found
    from lossaware.studies.paper.lengths_picture import draw_lengths
    from lossaware.studies.report import results_markdown as results_page
    from lossaware.studies.report.artifacts import check_writable, save
    from lossaware.studies.report.results_summary import all_tables, of_the_paper

    check_writable(to)
    with measurements(out, results) as there:
        tables = [table for table in all_tables(there) if of_the_paper(table.study)]
        columns = found.columns(tables, there.sources)
    if not (pairs := found.pairs(columns)):
        raise UsageError("no column was measured without and with LGA; run one: lossaware study run table02 --data DIR")
    numbers = {"lengths": found.rows(columns), "lengths-pairs": found.pair_rows(pairs)}
    settings = {"resamples": found.RESAMPLES, "fewest_cells": found.FEWEST_CELLS}
    save(to, "lengths", tables=numbers, picture=draw_lengths(pairs), settings=settings)
    results_page.refresh(to)
    shown = Table("column", "without", "with", "later (95 %)", title="Epoch that fits the published column best")
    for row in numbers["lengths-pairs"]:
        later = f"{row['later']:+d} ({row['low']} to {row['high']})"
        shown.add_row(f"{row['study']}: {row['setting']}", str(row["without"]), str(row["with"]), later)
    console(sys.stdout).print(shown)
    print(to / "lengths.svg")
    return 0
