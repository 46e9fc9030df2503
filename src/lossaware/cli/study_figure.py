"""`lossaware study figure`: a study by learning rate, as a picture and a table."""

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lossaware.errors import UsageError

if TYPE_CHECKING:
    from lossaware.studies.analysis.lr_sensitivity import Series
    from lossaware.studies.specs.study import Study


def figure(
    name: str,
    *,
    relative: bool = False,
    out: Path = Path("lossaware-out"),
    results: Path = Path("results"),
    to: Path = Path("results"),
) -> int:
    """Draw a study over its learning rates; tell how much they matter, and how soon each has the bases' best score.

    A base is what the study has without and with LGA. Writes NAME-lr.svg, .png, .csv and .json, NAME-overall.csv with
    the worst and the mean score over the rates, and NAME-times.csv, from the runs that are there.

    Args:
        name: One of `lossaware study list`, or a FILE.toml of your own.
        relative: Draw instead what each method loses against the tuned base, at its worst, best and own learning rate
            and in the mean, by task: NAME-relative.svg, .png, .csv and .json.
        out: Folder of the runs.
        results: Folder of exported studies.
        to: Folder to write to.
    """
    from lossaware.cli.output import tell
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
    settings = {"study": study.name, "digest": study.digest, "runs": list(table.provenance)}
    if relative:
        _draw_relative(series, study, settings, to)
        return 0
    tables = {
        f"{study.name}-lr": sensitivity.score_rows(series),
        f"{study.name}-overall": sensitivity.overall_rows(series),
    }
    if times:
        tables[f"{study.name}-times"] = sensitivity.time_rows(times)
    save(to, f"{study.name}-lr", tables=tables, picture=lr_plot.draw_scores(series), settings=settings)
    results_page.refresh(to)
    panels = list(dict.fromkeys(one.panel for one in series))
    for panel in panels:
        _show(panel, *lr_plot.score_overview(series, panel))
    tell(f"Worst and mean are over the learning rates {', '.join(map(number, sorted(series[0].rates)))}.\n")
    if times:
        for panel in panels:
            _show(panel, *lr_plot.time_overview(series, times, panel))
        tell("A base's best score is that of its best epoch.")
        tell("Epochs and seconds of training until then: the median seed, at the rate that takes the fewest epochs.")
        tell("Seconds are only as good as the machine was free of other work.\n")
    for path in [to / f"{study.name}-lr.svg", *(to / f"{written}.csv" for written in tables)]:
        tell(path)
    return 0


def _draw_relative(series: "Sequence[Series]", study: "Study", settings: Mapping[str, Any], to: Path) -> None:
    from lossaware.cli.output import tell
    from lossaware.studies.analysis.relative import MEASURES, by_place, relative_rows, relatives
    from lossaware.studies.report import relative_plot
    from lossaware.studies.report import results_markdown as results_page
    from lossaware.studies.report.artifacts import save

    found = relatives(series)
    if not found:
        raise UsageError(f"{study.what}: no base of it is measured at all of its learning rates, so none can be tuned")
    name = f"{study.name}-relative"
    picture = relative_plot.draw_relative(found)
    save(to, name, tables={name: relative_rows(found)}, picture=picture, settings=settings)
    results_page.refresh(to)
    for measure in filter(lambda measure: by_place(found, measure), MEASURES):
        _show(f"Lost against the tuned base {relative_plot.TITLES[measure]}", *relative_plot.overview(found, measure))
    tell("In percent of the base's score, or in points where the measure is in percent; below 0 it is better.")
    tell(
        "The tuned base is at its best of the study's learning rates: a base and its LGA against itself, others against"
    )
    tell("the best base.\n")
    for kind in ("svg", "csv"):
        tell(to / f"{name}.{kind}")


def _show(title: str, heads: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    from rich.table import Table

    from lossaware.cli.output import console

    shown = Table(*heads, title=title)
    for row in rows:
        shown.add_row(*row)
    console(sys.stdout).print(shown)
