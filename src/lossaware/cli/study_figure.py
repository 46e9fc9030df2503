"""`lossaware study figure`: a study by learning rate, as a picture and a table."""

import sys
from pathlib import Path

from lossaware.errors import UsageError


def figure(
    name: str, *, out: Path = Path("lossaware-out"), results: Path = Path("results"), to: Path = Path("results")
) -> int:
    """Draw a study over its learning rates; tell how much they matter, and how soon each has the bases' best score.

    A base is what the study has without and with LGA. Writes NAME-lr.svg, .png, .csv and .json, NAME-overall.csv with
    the worst and the mean score over the rates, and NAME-times.csv, from the runs that are there.

    Args:
        name: One of `lossaware study list`, or a FILE.toml of your own.
        out: Folder of the runs.
        results: Folder of exported studies.
        to: Folder to write to.
    """
    from rich.table import Table

    from lossaware.cli.output import console, tell
    from lossaware.studies.analysis import lr_sensitivity as sensitivity
    from lossaware.studies.analysis.collect import measurements
    from lossaware.studies.report import lr_plot
    from lossaware.studies.report import results_markdown as results_page
    from lossaware.studies.report.artifacts import save
    from lossaware.studies.specs.formatting import number
    from lossaware.studies.specs.study import load_study

    study = load_study(name)
    with measurements(out, results) as there:
        table = there.table(study)
        series = sensitivity.all_series(table)
        times = sensitivity.times(series, there.sources)
    series = [one for one in series if one.means]
    if not series:
        raise UsageError(
            f"{study.what}: nothing of it is measured yet; run it first: lossaware study run {study.source}"
        )
    tables = {
        f"{study.name}-lr": sensitivity.score_rows(series),
        f"{study.name}-overall": sensitivity.overall_rows(series),
    }
    if times:
        tables[f"{study.name}-times"] = sensitivity.time_rows(times)
    settings = {"study": study.name, "digest": study.digest, "runs": list(table.provenance)}
    save(to, f"{study.name}-lr", tables=tables, picture=lr_plot.draw_scores(series), settings=settings)
    results_page.refresh(to)
    screen = console(sys.stdout)

    def show(panel: str, overview: tuple[list[str], list[list[str]]]) -> None:
        heads, rows = overview
        shown = Table(*heads, title=panel)
        for row in rows:
            shown.add_row(*row)
        screen.print(shown)

    panels = list(dict.fromkeys(one.panel for one in series))
    for panel in panels:
        show(panel, lr_plot.score_overview(series, panel))
    tell(f"Worst and mean are over the learning rates {', '.join(map(number, sorted(series[0].rates)))}.\n")
    if times:
        for panel in panels:
            show(panel, lr_plot.time_overview(series, times, panel))
        tell("A base's best score is that of its best epoch.")
        tell("Epochs and seconds of training until then: the median seed, at the rate that takes the fewest epochs.")
        tell("Seconds are only as good as the machine was free of other work.\n")
    for path in [to / f"{study.name}-lr.svg", *(to / f"{written}.csv" for written in tables)]:
        tell(path)
    return 0
