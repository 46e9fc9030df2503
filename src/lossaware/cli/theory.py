"""`lossaware theory`: the paper's theorems, compared with runs."""

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cyclopts import App, Parameter

if TYPE_CHECKING:
    from lossaware.studies.report.table import Table

app = App(
    name="theory",
    help="Compare the paper's theorems with runs, and show runs that violate them.",
    default_parameter=Parameter(negative=""),
)


@app.default
def theory(*, to: Path = Path("results")) -> int:
    """Compare Theorem 3.1 (A.1) and the analysis under Adam (A.2) with runs; see docs/theory.md.

    Two quadratics and a regularised logistic regression on digits, in float64, with step sizes inside and outside
    lambda <= 1/L; and runs that break each statement. Deterministic; takes seconds.

    Args:
        to: Folder to write theory.svg, .png and .json, theory-convergence.csv, theory-counterexamples.csv and
            theory-adam.csv to.
    """
    import torch

    from lossaware.cli.output import console, print_line
    from lossaware.studies.paper import theory as convergence
    from lossaware.studies.paper import theory_adam as adam
    from lossaware.studies.paper.theory_plot import plot_theory
    from lossaware.studies.report import results_markdown as results_page
    from lossaware.studies.report.artifacts import save
    from lossaware.studies.report.writers import text
    from lossaware.studies.specs.atomic import check_writable

    check_writable(to)
    torch.set_num_threads(1)  # small problems; and sums in one order are reproducible
    runs = convergence.study()
    broken = [(example, example.make()) for example in convergence.COUNTEREXAMPLES]
    flat = adam.counterexample()
    tables = {
        "theory-convergence": convergence.rows(runs),
        "theory-counterexamples": convergence.counterexample_rows(broken),
        "theory-adam": adam.rows([*adam.study(), flat]),
    }
    settings = {
        "eps": convergence.EPS,
        "xi": convergence.XI,
        "steps_per_epoch": 1,
        "lower_bound": "progressive, log base 10",
        "precision": "float64",
    }
    save(to, "theory", tables=tables, plot=plot_theory(runs, broken, flat), settings=settings)
    results_page.refresh(to)
    screen = console(sys.stdout)
    for table in (
        _summary(tables["theory-convergence"]),
        _broken(tables["theory-counterexamples"]),
        _adam(tables["theory-adam"]),
    ):
        screen.print(text.render(table, screen.width, screen.encoding))
    print_line("")
    print_line(to / "theory.svg")
    return 0


Rows = Sequence[Mapping[str, Any]]


def _summary(rows: Rows) -> "Table":
    from lossaware.studies.report.table import plain_table

    kinds = {
        "lambda <= 1/L (the proof needs it)": [row for row in rows if row["needed"]],
        "only lambda <= 1/mu (the theorem asks it)": [row for row in rows if row["asked"] and not row["needed"]],
        "neither": [row for row in rows if not row["asked"]],
    }
    lines = [
        (name, str(len(group)), str(sum(row["lga_bound_holds"] for row in group))) for name, group in kinds.items()
    ]
    return plain_table("Theorem 3.1", ("step size, at every step and coordinate", "runs", "bound holds"), lines)


def _broken(rows: Rows) -> "Table":
    from lossaware.studies.report.table import plain_table

    lines = [
        (row["example"], row["lacks"], str(row["broken_from"]), f"{row['R']:.4g}", f"{row['bound']:.4g}")
        for row in rows
    ]
    heads = ("run", "lacks", "from step", "R", "bound")
    return plain_table("Runs that break the bound of Theorem 3.1", heads, lines, text_columns=(0,))


def _adam(rows: Rows) -> "Table":
    from lossaware.studies.report.table import plain_table

    names = ("alpha", "gamma2", "difference", "bound", "sound_bound", "regret_difference")
    lines = [
        (row["problem"], *(f"{row[name]:.3g}" for name in names), "holds" if row["bound_holds"] else "broken")
        for row in rows
    ]
    heads = ("problem", "alpha", "gamma2", "Delta S", "bound", "sound bound", "regret", "the bound")
    return plain_table("A.2, under Adam", heads, lines, text_columns=(6,))
