"""`lossaware lengths`: the epoch of our curves that fits each published column best."""

import sys
from pathlib import Path

from lossaware.errors import UsageError


def lengths(*, out: Path = Path("lossaware-out"), results: Path = Path("results"), to: Path = Path("results")) -> int:
    """Test the hypothesis that the paper's runs without LGA were shorter than those with LGA.

    For each measured column of the paper's tables: the epoch at which our curves are nearest to the published figures,
    with a bootstrap interval over the cells of the column.

    Args:
        out: Folder of the runs.
        results: Folder of exported studies.
        to: Folder to write lengths.svg, .png, .csv and .json, and lengths-pairs.csv to.
    """
    from lossaware.cli.output import console, print_line
    from lossaware.studies.analysis.collect import measurements
    from lossaware.studies.paper import lengths as fits
    from lossaware.studies.paper.lengths_plot import plot_lengths
    from lossaware.studies.report import results_markdown as results_page
    from lossaware.studies.report.artifacts import save
    from lossaware.studies.report.results_summary import all_tables, of_the_paper
    from lossaware.studies.report.table import plain_table
    from lossaware.studies.report.writers import text
    from lossaware.studies.specs.atomic import check_writable

    check_writable(to)
    with measurements(out, results) as measured:
        tables = [table for table in all_tables(measured) if of_the_paper(table.study)]
        columns = fits.columns(tables, measured.sources)
    if not (pairs := fits.pairs(columns)):
        raise UsageError("no column was measured without and with LGA; run one: lossaware study run table02 --data DIR")
    numbers = {"lengths": fits.rows(columns), "lengths-pairs": fits.pair_rows(pairs)}
    settings = {"resamples": fits.RESAMPLES, "fewest_cells": fits.MIN_CELLS}
    save(to, "lengths", tables=numbers, plot=plot_lengths(pairs), settings=settings)
    results_page.refresh(to)
    rows = [
        (
            f"{row['study']}: {row['setting']}",
            str(row["without"]),
            str(row["with"]),
            f"{row['later']:+d} ({row['low']} to {row['high']})",
        )
        for row in numbers["lengths-pairs"]
    ]
    heads = ("column", "without", "with", "later (95 %)")
    screen = console(sys.stdout)
    table = plain_table("Epoch that fits the published column best", heads, rows)
    screen.print(text.render(table, screen.width, screen.encoding))
    print_line("")
    print_line(to / "lengths.svg")
    return 0
