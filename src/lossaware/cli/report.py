"""`lossaware report`: all measured results in one page."""

from pathlib import Path

from lossaware.errors import UsageError


def report(
    *,
    out: Path = Path("lossaware-out/results.html"),
    results: Path = Path("results"),
    store: Path = Path("lossaware-out"),
) -> int:
    """Show all measured results in one HTML page that works offline.

    It has all studies in the paper's layout with measured and published figures, the number of cells that agree, the
    number in which LGA helps or hurts, both figures, the theory, and the provenance of each.

    Args:
        out: The page. With the ending .md it is a short page of --results only: counts, and a list of files.
        results: Folder of exported studies and plots.
        store: Folder of the runs.
    """
    from lossaware.cli.output import print_line
    from lossaware.studies.analysis.collect import measurements
    from lossaware.studies.paper.figures import figure2
    from lossaware.studies.report import page as report
    from lossaware.studies.report import results_html as results_report
    from lossaware.studies.report import results_markdown as results_page
    from lossaware.studies.specs.atomic import write_atomic

    if out.suffix == ".md":
        if not results.is_dir():
            raise UsageError(f"there is no folder {results}")
        results_page.write(results, out)
    else:
        if not (results.is_dir() or store.is_dir()):
            raise UsageError(f"neither the folder {results} nor the folder {store} exists: there are no results")
        report.check_replaceable(out)
        with measurements(store, results) as measured:
            page = results_report.render(measured, results, figure2)
        write_atomic(out, page)
    print_line(out)
    return 0
