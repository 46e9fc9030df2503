"""`lossaware report`: everything that was measured, as one page."""

from pathlib import Path

from lossaware.errors import UsageError


def report(
    *,
    out: Path = Path("lossaware-out/results.html"),
    results: Path = Path("results"),
    store: Path = Path("lossaware-out"),
) -> int:
    """Show everything that was measured: one HTML page that needs no network.

    All studies in the paper's layout with measured beside published, in how many cells they agree, in how many LGA
    helps or hurts, both figures, the theory, and how each was made.

    Args:
        out: The page. A name that ends in .md gets the short page of --results alone: counts, and a list of files.
        results: Folder of exported studies and of pictures.
        store: Folder of the runs.
    """
    from lossaware.cli.output import tell
    from lossaware.studies.analysis.collect import measurements
    from lossaware.studies.paper.figures import figure2
    from lossaware.studies.report import page as report
    from lossaware.studies.report import results_html as results_report
    from lossaware.studies.report import results_markdown as results_page
    from lossaware.studies.specs.atomic import write_whole

    if out.suffix == ".md":
        if not results.is_dir():
            raise UsageError(f"there is no folder {results}")
        results_page.write(results, out)
    else:
        if not (results.is_dir() or store.is_dir()):
            raise UsageError(f"there is neither a folder {results} nor a folder {store}: nothing was measured")
        report.check_writable(out)
        with measurements(store, results) as there:
            page = results_report.render(there, results, figure2)
        write_whole(out, page)
    tell(out)
    return 0
