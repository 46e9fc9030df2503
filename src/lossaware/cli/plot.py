"""`lossaware plot`: the paper's two figures, and any study over its learning rates."""

import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lossaware.errors import UsageError

if TYPE_CHECKING:
    from lossaware.studies.analysis.lr_sensitivity import Series
    from lossaware.studies.report.plot import Plot
    from lossaware.studies.report.table import Table
    from lossaware.studies.specs.study import Study

OUT = Path("lossaware-out")
RESULTS = Path("results")


def plot(name: str, /, *, relative: bool = False, out: Path = OUT, results: Path = RESULTS, to: Path = RESULTS) -> int:
    """Plot one of the paper's figures, or a study over its learning rates: SVG, PNG and the numbers as CSV.

    figure01 is descent among local optima, without and with LGA; it is computed for the plot, in seconds. figure02 is
    the training loss of all optimizers, from the runs of Table 1. overview is the picture of the README: accuracy on
    MNIST by learning rate, without, with LGA, with "auto", and a peer. A study is plotted by optimizer and learning
    rate; its tables show how much the learning rate matters, and how soon each optimizer reaches the bases' best
    score. A base is an optimizer that the study has without and with LGA.

    Args:
        name: figure01, figure02, overview, one of `lossaware study list`, or your own FILE.toml.
        relative: Plot instead the loss of each method against the tuned base, at its worst, best and default
            learning rate and in the mean, by task: NAME-relative.svg, .png, .csv and .json.
        out: Folder of the runs.
        results: Folder of exported studies.
        to: Folder to write to.
    """
    if relative and name in ("figure01", "figure02", "overview"):
        raise UsageError(f"--relative is for studies, got {name}")
    match name:
        case "figure01":
            return _figure01(to)
        case "figure02":
            return _figure02(out, results, to)
        case "overview":
            return _overview(out, results, to)
        case _:
            return _study(name, out, results, to, relative)


def figure(name: str, /, *, out: Path = OUT, results: Path = RESULTS, to: Path = RESULTS) -> int:
    """Former name of `lossaware plot` for figure01, figure02 and overview, removed in the next version."""
    return _renamed("lossaware figure", name, False, out, results, to)


def study_figure(
    name: str, /, *, relative: bool = False, out: Path = OUT, results: Path = RESULTS, to: Path = RESULTS
) -> int:
    """Former name of `lossaware plot` for studies, removed in the next version."""
    return _renamed("lossaware study figure", name, relative, out, results, to)


def _renamed(former: str, name: str, relative: bool, out: Path, results: Path, to: Path) -> int:
    from lossaware.cli.output import print_message

    print_message(f"{former} is now lossaware plot; the former name will be removed in the next version")
    return plot(name, relative=relative, out=out, results=results, to=to)


def _save(to: Path, name: str, tables: Mapping[str, Any], plot: "Plot", settings: Mapping[str, Any]) -> None:
    from lossaware.studies.report import results_markdown
    from lossaware.studies.report.artifacts import save

    save(to, name, tables=tables, plot=plot, settings=settings)
    results_markdown.refresh(to)


def _print(table: "Table") -> None:
    from lossaware.cli.output import console
    from lossaware.studies.report.writers import text

    screen = console(sys.stdout)
    screen.print(text.render(table, screen.width, screen.encoding))


def _figure01(to: Path) -> int:
    from lossaware.cli.output import print_line
    from lossaware.studies.paper import landscape
    from lossaware.studies.paper.figures import plot_figure1
    from lossaware.studies.report.table import Cell, Row, Table
    from lossaware.studies.specs.atomic import check_writable

    check_writable(to)
    measured = landscape.measure()
    rows = [asdict(share) | {"share": share.share} for share in measured.shares]
    _save(to, "figure01", {"figure01": rows}, plot_figure1(measured), measured.settings)
    columns = list(dict.fromkeys((share.base, share.steps_per_status) for share in measured.shares))
    shares = {(share.base, share.steps_per_status, share.gamma2): share for share in measured.shares}
    lines = []
    for gamma2 in landscape.GAMMA2S:
        line = [shares[*column, gamma2] for column in columns]
        push = f"{max(share.first_push for share in line):.2g}"
        cells = [Cell(push), *(Cell(f"{share.share:.1%} (+{share.gained} -{share.lost})") for share in line)]
        lines.append(Row((f"{gamma2:g}" if gamma2 else "without",), cells))
    heads = [("", "first push"), *((base, f"status: {count} step{'s' * (count != 1)}") for base, count in columns)]
    _print(Table("Starting points that reach E", ("gamma2",), heads, lines))
    print_line("")
    print_line(to / "figure01.svg")
    return 0


def _figure02(out: Path, results: Path, to: Path) -> int:
    from lossaware.cli.output import print_line
    from lossaware.studies.analysis.collect import measurements
    from lossaware.studies.paper.figures import curve_rows, loss_curves, plot_figure2
    from lossaware.studies.specs.atomic import check_writable
    from lossaware.studies.specs.study import load_study

    study = load_study("table01")
    with measurements(out, results) as measured:
        table = measured.table(study)
        curves = loss_curves(table, measured.sources)
    if not (rows := curve_rows(curves)):
        raise UsageError("there are no runs of Table 1 yet; run some first: lossaware study run table01")
    check_writable(to)
    _save(to, "figure02", {"figure02": rows}, plot_figure2(curves), _settings(study, table.provenance))
    plotted = {(curve.task, curve.strategy, curve.algorithm) for curve in curves if curve.losses.size}
    print_line(f"{len(plotted)} of {len(curves)} curves are plotted; the others were not run.")
    print_line(to / "figure02.svg")
    return 0


def _overview(out: Path, results: Path, to: Path) -> int:
    from lossaware.cli.output import print_line
    from lossaware.studies.analysis.collect import measurements
    from lossaware.studies.analysis.lr_sensitivity import all_series
    from lossaware.studies.report.overview_plot import overview_rows, plot_overview
    from lossaware.studies.specs.atomic import check_writable
    from lossaware.studies.specs.study import load_study

    names = ("auto", "auto-peers")
    with measurements(out, results) as measured:
        tables = [measured.table(load_study(name)) for name in names]
    try:
        rows = overview_rows(*(all_series(table) for table in tables))
    except (KeyError, ValueError):
        raise UsageError(
            f"not all of MNIST is measured; run it first: lossaware study run {names[0]} --data DIR, and {names[1]}"
        ) from None
    check_writable(to)
    settings = {"studies": list(names), "runs": [line for table in tables for line in table.provenance]}
    _save(to, "overview", {"overview": rows}, plot_overview(rows), settings)
    print_line(to / "overview.svg")
    return 0


def _study(name: str, out: Path, results: Path, to: Path, relative: bool) -> int:
    from lossaware.cli.output import print_line
    from lossaware.studies.analysis import lr_sensitivity as sensitivity
    from lossaware.studies.analysis.collect import measurements
    from lossaware.studies.report import lr_plot
    from lossaware.studies.specs.formatting import number
    from lossaware.studies.specs.study import load_study

    study = load_study(name)
    with measurements(out, results) as measured:
        table = measured.table(study)
        series = sensitivity.all_series(table)
        times = sensitivity.times(series, measured.sources)
    all_series, series = series, [one for one in series if one.means]
    if not series:
        raise UsageError(f"{study.label} has no results yet; run it first: lossaware study run {study.source}")
    settings = _settings(study, table.provenance)
    if relative:
        return _relative(all_series, study, settings, to)
    tables = {
        f"{study.name}-lr": sensitivity.score_rows(series),
        f"{study.name}-overall": sensitivity.overall_rows(series),
    }
    if times:
        tables[f"{study.name}-times"] = sensitivity.time_rows(times)
    _save(to, f"{study.name}-lr", tables, lr_plot.plot_series(series), settings)
    panels = list(dict.fromkeys(one.panel for one in series))
    for panel in panels:
        _print(lr_plot.score_overview(series, panel))
    print_line(f"\nWorst and mean are over the learning rates {', '.join(map(number, sorted(series[0].rates)))}.")
    if times:
        for panel in panels:
            _print(lr_plot.time_overview(series, times, panel))
        print_line("\nA base's best score is that of its best epoch.")
        print_line(
            "Epochs and seconds of training until then: the median seed, at the rate that needs the fewest epochs."
        )
        print_line("Seconds are only reliable if the machine had no other load.")
    print_line("")
    for path in [to / f"{study.name}-lr.svg", *(to / f"{table_name}.csv" for table_name in tables)]:
        print_line(path)
    return 0


def _relative(series: "Sequence[Series]", study: "Study", settings: Mapping[str, Any], to: Path) -> int:
    from lossaware.cli.output import print_line
    from lossaware.studies.analysis.relative import MEASURES, by_place, relative_rows, relatives
    from lossaware.studies.report import relative_plot

    losses = relatives(series)
    if not losses:
        raise UsageError(f"{study.label}: no base has results at all of its learning rates, so none can be tuned")
    name = f"{study.name}-relative"
    _save(to, name, {name: relative_rows(losses)}, relative_plot.plot_relative(losses), settings)
    for measure in filter(lambda measure: by_place(losses, measure), MEASURES):
        _print(relative_plot.overview(losses, measure))
    print_line("\nIn percent of the base's score, or in points where the measure is in percent; below 0 it is better.")
    print_line(
        "The tuned base has the best of the study's learning rates. A base and its LGA are compared with this base,"
    )
    print_line("others with the best base.\n")
    for kind in ("svg", "csv"):
        print_line(to / f"{name}.{kind}")
    return 0


def _settings(study: "Study", provenance: Sequence[str]) -> dict[str, Any]:
    return {"study": study.name, "digest": study.digest, "runs": list(provenance)}
