"""`lossaware study`: the paper's tables, and any other grid of runs from a TOML file."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import App, Parameter

from lossaware.errors import UsageError

if TYPE_CHECKING:
    from lossaware.studies.study import Overrides, Study

app = App(
    name="study",
    help="Run the paper's experiments, or your own grid of runs, and show them beside the published figures.",
    default_parameter=Parameter(negative=""),
)

OUT = Path("lossaware-out")


@app.command(name="list")
def list_studies() -> int:
    """List the studies that come with the package."""
    from lossaware.cli import listing
    from lossaware.studies.study import load_study, studies

    return listing({name: load_study(name).title for name in studies()}, "Your own: FILE.toml, made like these.")


@app.command
def run(
    name: str,
    *,
    only: tuple[str, ...] = (),
    seeds: int | None = None,
    epochs: int | None = None,
    settings: Annotated[tuple[str, ...], Parameter(name="--set")] = (),
    data: Path | None = None,
    jobs: int | None = None,
    out: Path = OUT,
) -> int:
    """Carry out the runs of a study that are missing, and show its table.

    Runs are kept by what they are: one that several studies need is computed once, and the same command again runs
    only what is missing. What is overridden here is shown above the table.

    Args:
        name: One of `lossaware study list`, or a FILE.toml of your own.
        only: Points of an axis to run, axis=point,point; may be given several times.
        seeds: How many seeds instead of those of the study.
        epochs: Passes over the training set instead of those of the study.
        settings: Any other setting of all runs: batch_size=32, task_options.pad=0; may be given several times.
        data: Folder of the data, for tasks that need one.
        jobs: Runs at a time. Default: one a core.
        out: Folder of the results.
    """
    from lossaware.cli import console, say
    from lossaware.studies.study import load_study
    from lossaware.studies.study_run import carry_out_study

    study = load_study(name)
    chosen = study.overridden(_overrides(study, only, seeds, epochs, settings))
    failures = carry_out_study(chosen, data=data, jobs=jobs, out=out, console=console(sys.stderr))
    _print(study, out, "text", prefer=chosen.overrides)
    if failures:
        say(f"{failures} run{'s' * (failures != 1)} failed, see above; the same command tries again")
    return 1 if failures else 0


@app.command
def show(
    name: str,
    *,
    out: Path = OUT,
    format: Literal["text", "markdown", "latex", "csv"] = "text",  # noqa: A002
) -> int:
    """Show the table of a study: measured, published and their difference.

    Args:
        name: One of `lossaware study list`, or a FILE.toml of your own.
        out: Folder of the results.
        format: How to write it.
    """
    from lossaware.studies.study import load_study

    _print(load_study(name), out, format)
    return 0


def _print(study: "Study", out: Path, form: str, prefer: "Overrides | None" = None) -> None:
    from lossaware.cli import console
    from lossaware.studies import study_results, study_table

    folder = study_results.Folder(out)
    with folder.reading() as results:
        table = study_results.show(study, results, folder.launches(study), prefer=prefer)
    if form == "text":
        study_table.print_text(table, console(sys.stdout))
    else:
        sys.stdout.write(study_table.FORMATS[form](table))


def _overrides(
    study: "Study", only: Sequence[str], seeds: int | None, epochs: int | None, settings: Sequence[str]
) -> "Overrides":
    from lossaware.studies.study import Overrides, parse_settings

    chosen: dict[str, tuple[str, ...]] = {}
    for text in only:
        axis, equals, points = text.partition("=")
        names = [point.strip() for point in points.split(",")]
        if not (axis.strip() and equals and all(names)):
            raise UsageError(f"--only wants axis=point, got {text!r}; axes: {', '.join(study.file.axes)}")
        chosen[axis.strip()] = (*chosen.get(axis.strip(), ()), *names)
    for option, count in (("--seeds", seeds), ("--epochs", epochs)):
        if count is not None and count < 1:
            raise UsageError(f"{option} must be at least 1, got {count}")
    given: dict[str, Any] = {"seeds": seeds, "epochs": epochs}
    for text in settings:
        key, equals, value = (part.strip() for part in text.partition("="))
        if not (key and equals):
            raise UsageError(f"--set wants key=value, got {text!r}")
        if given.get(key) is not None:
            raise UsageError(f"--set gives {key} twice")
        given[key] = value
    return Overrides(chosen, parse_settings({key: value for key, value in given.items() if value is not None}))
