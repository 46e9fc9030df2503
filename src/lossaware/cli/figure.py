"""`lossaware figure`: the paper's two figures, measured and drawn."""

import sys
from dataclasses import asdict
from pathlib import Path

from cyclopts import App, Parameter

from lossaware.errors import UsageError

app = App(
    name="figure",
    help="Measure and draw the paper's figures: SVG, PNG and the numbers as CSV.",
    default_parameter=Parameter(negative=""),
)

TO = Path("results")


@app.command
def figure01(*, to: Path = TO) -> int:
    """Figure 1: descent among local optima, without and with LGA, and how many starts reach the global one.

    Takes seconds, and gives the same numbers each time.

    Args:
        to: Folder to write figure01.svg, .png, .csv and .json to.
    """
    from rich.table import Table

    from lossaware.cli.output import console, tell
    from lossaware.studies.paper import landscape
    from lossaware.studies.paper.figures import draw_figure1
    from lossaware.studies.report import results_markdown as results_page
    from lossaware.studies.report.artifacts import check_writable, save

    check_writable(to)
    figure = landscape.measure()
    rows = [asdict(share) | {"share": share.share} for share in figure.shares]
    save(to, "figure01", tables={"figure01": rows}, picture=draw_figure1(figure), settings=figure.settings)
    results_page.refresh(to)
    columns = list(dict.fromkeys((share.base, share.steps_per_status) for share in figure.shares))
    shares = {(share.base, share.steps_per_status, share.gamma2): share for share in figure.shares}
    heads = [f"{base}\nstatus: {count} step{'s' * (count != 1)}" for base, count in columns]
    shown = Table("gamma2", "first push", *heads, title="Starting points that reach E")
    for gamma2 in landscape.GAMMA2S:
        line = [shares[*column, gamma2] for column in columns]
        name = f"{gamma2:g}" if gamma2 else "without"
        push = f"{max(share.first_push for share in line):.2g}"
        shown.add_row(name, push, *(f"{share.share:.1%} (+{share.gained} -{share.lost})" for share in line))
    console(sys.stdout).print(shown)
    tell(to / "figure01.svg")
    return 0


@app.command
def figure02(*, out: Path = Path("lossaware-out"), results: Path = Path("results"), to: Path = TO) -> int:
    """Figure 2: training loss of all optimizers on MNIST, CIFAR-10 and CIFAR-100, from the runs of Table 1.

    Draws what is there and names what was not run; `lossaware study run table01` runs it.

    Args:
        out: Folder of the runs.
        results: Folder of exported studies.
        to: Folder to write figure02.svg, .png, .csv and .json to.
    """
    from lossaware.cli.output import tell
    from lossaware.studies.analysis.collect import measurements
    from lossaware.studies.paper.figures import curve_rows, draw_figure2, loss_curves
    from lossaware.studies.report import results_markdown as results_page
    from lossaware.studies.report.artifacts import check_writable, save
    from lossaware.studies.specs.study import load_study

    study = load_study("table01")
    with measurements(out, results) as there:
        table = there.table(study)
        curves = loss_curves(table, there.sources)
    if not (rows := curve_rows(curves)):
        raise UsageError("no run of Table 1 is there to draw; run some first: lossaware study run table01")
    check_writable(to)
    settings = {"study": study.name, "digest": study.digest, "runs": list(table.provenance)}
    save(to, "figure02", tables={"figure02": rows}, picture=draw_figure2(curves), settings=settings)
    results_page.refresh(to)
    drawn = {(curve.task, curve.strategy, curve.algorithm) for curve in curves if curve.losses.size}
    tell(f"{len(drawn)} of {len(curves)} curves are drawn; the others were not run.")
    tell(to / "figure02.svg")
    return 0


@app.command
def overview(*, out: Path = Path("lossaware-out"), results: Path = Path("results"), to: Path = TO) -> int:
    """The picture of the README: accuracy on MNIST by learning rate, without, with LGA, with "auto", and a peer.

    Reads the studies auto and auto-peers.

    Args:
        out: Folder of the runs.
        results: Folder of exported studies.
        to: Folder to write overview.svg, .png, .csv and .json to.
    """
    from lossaware.studies.analysis.collect import measurements
    from lossaware.studies.analysis.lr_sensitivity import all_series
    from lossaware.studies.report import results_markdown as results_page
    from lossaware.studies.report.artifacts import check_writable, save
    from lossaware.studies.report.overview_plot import draw_overview, overview_rows
    from lossaware.studies.specs.study import load_study

    names = ("auto", "auto-peers")
    with measurements(out, results) as there:
        tables = [there.table(load_study(name)) for name in names]
    try:
        rows = overview_rows(*(all_series(table) for table in tables))
    except (KeyError, ValueError):
        raise UsageError(
            f"not all of MNIST is measured; run it first: lossaware study run {names[0]} --data DIR, and {names[1]}"
        ) from None
    check_writable(to)
    settings = {"studies": list(names), "runs": [line for table in tables for line in table.provenance]}
    save(to, "overview", tables={"overview": rows}, picture=draw_overview(rows), settings=settings)
    results_page.refresh(to)
    print(to / "overview.svg")
    return 0
