"""`lossaware study`: the paper's tables, and your own grids of runs from TOML files."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import App, Parameter

from lossaware.cli.values import Integer, data_source
from lossaware.errors import UsageError

if TYPE_CHECKING:
    from lossaware.studies.analysis.study_table import StudyTable
    from lossaware.studies.specs.study import Overrides, Study

app = App(
    name="study",
    help="Run the paper's experiments, or your own grid of runs, and compare them with the published figures.",
    default_parameter=Parameter(negative=""),
)

OUT = Path("lossaware-out")
RESULTS = Path("results")


@app.command(name="list")
def list_studies() -> int:
    """List the studies that come with the package."""
    from lossaware.cli.output import listing
    from lossaware.studies.specs.study import load_study, studies

    return listing({name: load_study(name).title for name in studies()}, "Your own: FILE.toml, made like these.")


@app.command
def run(
    name: str,
    *,
    only: tuple[str, ...] = (),
    seeds: Integer | None = None,
    epochs: Integer | None = None,
    settings: Annotated[tuple[str, ...], Parameter(name="--set")] = (),
    data: Path | None = None,
    no_verify: bool = False,
    jobs: Integer | None = None,
    engine: str = "local",
    ray_address: str | None = None,
    out: Path = OUT,
    results: Path = RESULTS,
    fresh: bool = False,
    tensorboard: Path | None = None,
    device: Literal["cpu", "cuda"] | None = None,
    precision: Literal["fp32", "bf16"] | None = None,
    distributed: str | None = None,
) -> int:
    """Execute the missing runs of a study, and show its table.

    A run that several studies need is computed once, and repeating the command executes only missing runs. Exported
    runs of others are reused. Overrides are shown above the table.

    Args:
        name: One of `lossaware study list`, or a FILE.toml of your own.
        only: Points of an axis to run, axis=point,point; may be given several times. A point may have commas.
        seeds: Number of seeds instead of the study's.
        epochs: Passes over the training set instead of the study's.
        settings: Any other setting of all runs, such as batch_size=32, lga.gamma2=1e-7, optimizer_options.momentum=0.9,
            or an option of the task, such as pad=0; may be given several times.
        data: Folder of the data, for tasks that need one.
        no_verify: Read data files even if they differ from their checksums. Each run's record states it.
        jobs: Runs at a time. Default: one per core, and at most 8 on a GPU.
        engine: The engine that executes the runs: local or ray.
        ray_address: An existing Ray cluster, HOST:PORT or auto. Default: a new one on this machine.
        out: Folder for the runs.
        results: Folder of exported studies (`lossaware study export`), whose runs are reused.
        fresh: Compute all runs, without those of --results.
        tensorboard: Folder for TensorBoard's logs.
        device: cpu or cuda, short for --set device=... It is part of a run's specification, as the last bits differ.
        precision: fp32, or bf16 (autocast), short for --set precision=...
        distributed: ddp or fsdp: the processes of a torchrun share each run. It is part of a run's specification, too.
    """
    from lossaware.cli.output import console, print_message
    from lossaware.studies.analysis.collect import measurements
    from lossaware.studies.execution.factory import open_engine
    from lossaware.studies.execution.study import run_study
    from lossaware.studies.specs.study import load_study
    from lossaware.studies.training.ranks import named_here

    source = data_source(data, no_verify)
    study = load_study(name)
    reused = None if fresh else results
    with open_engine(engine, jobs=jobs, device=device, ray_address=ray_address, distributed=distributed) as run_engine:
        short = {"device": device, "precision": precision, "distributed": named_here(distributed)}
        settings += tuple(f"{key}={value}" for key, value in short.items() if value)
        chosen = study.overridden(_overrides(study, only, seeds, epochs, settings))
        failures = run_study(
            chosen,
            data=source,
            engine=run_engine,
            out=out,
            results=reused,
            console=console(sys.stderr),
            tensorboard=tensorboard,
        )
    with measurements(out, reused) as measured:
        _print(measured.table(study, chosen.overrides))
    if failures:
        print_message(f"{failures} run{'s' * (failures != 1)} failed, see above; the same command tries again")
    return 1 if failures else 0


@app.command
def show(
    name: str,
    *,
    out: Path = OUT,
    results: Path = RESULTS,
    format: str = "text",  # noqa: A002
) -> int:
    """Show the table of a study: measured figures, published figures and their differences.

    Args:
        name: One of `lossaware study list`, or a FILE.toml of your own.
        out: Folder of the runs.
        results: Folder of exported studies.
        format: Output format: text, markdown, latex, html, csv or json.
    """
    from lossaware.cli.output import print_message
    from lossaware.studies.analysis.collect import measurements
    from lossaware.studies.report.study_table import study_table
    from lossaware.studies.report.writers import check_format, write
    from lossaware.studies.specs.study import load_study

    check_format(format)
    with measurements(out, results) as measured:
        table = measured.table(load_study(name))
    if not any(measured.values for measured in table.cells.values()):
        print_message(
            f"there are no results of it: runs are read from {out} (--out), exported ones from {results} (--results); "
            "a clone of the repository has those of the paper in its folder results"
        )
    if format == "text":
        _print(table)
    else:
        sys.stdout.write(write(study_table(table), format))
    return 0


@app.command
def export(name: str, *, to: Path = RESULTS, out: Path = OUT) -> int:
    """Write the results of a study to text files, to be read and committed.

    NAME.csv has the value of each cell and seed, NAME-epochs.csv every epoch of every run, NAME.study.json the
    specification of each run, and command, commit, machine, date and overrides. A README.md of `lossaware report` is
    updated.

    Args:
        name: One of `lossaware study list`, or a FILE.toml of your own.
        to: Folder to write to. The runs of earlier exports to it are kept.
        out: Folder of the runs.
    """
    from lossaware.cli.output import print_line
    from lossaware.studies.analysis.collect import measurements
    from lossaware.studies.analysis.export import export as export_study
    from lossaware.studies.report import results_markdown as results_page
    from lossaware.studies.specs.study import load_study

    study = load_study(name)
    with measurements(out, to) as measured:
        for path in export_study(measured.table(study), measured.sources, measured.launches(study), to):
            print_line(path)
    results_page.refresh(to)
    return 0


@app.command(name="import")
def import_runs(*, results: Path = RESULTS, out: Path = OUT) -> int:
    """Copy the runs of exported studies to the folder of runs, if they are missing there.

    Args:
        results: Folder of exported studies.
        out: Folder of the runs.
    """
    from lossaware.cli.output import print_line
    from lossaware.studies.store.database import Store
    from lossaware.studies.store.exported import Exported, copy_missing_runs
    from lossaware.studies.store.folder import Folder

    exported = Exported(results)
    if not (specs := exported.specs()):
        raise UsageError(f"there are no exported studies in {results}")
    with Store(Folder(out).database) as store:
        count = copy_missing_runs(specs, exported, store)
        print_line(f"{count} of {len(specs)} runs were missing and are copied from {results}.")
    if own := sum(bool(spec.own_code) for spec in specs):
        print_line(f"Not copied: {own} of {len(specs)} runs, whose own code may have changed. Run them again.")
    return 0


@app.command
def verify(folder: Path = RESULTS, /, *, add_digests: bool = False) -> int:
    """Check every number of stored runs, exported studies and the tables of plots for changes since it was written.

    Prints each changed run and epoch; the exit code is then 2.

    Args:
        folder: Folder of exported studies, or of runs (--out of the other commands).
        add_digests: Add digests to exported studies of earlier versions, in their present state. The files state it.
    """
    from lossaware.cli.output import print_line, print_message
    from lossaware.studies.report import artifacts
    from lossaware.studies.store.export import add_digests as add
    from lossaware.studies.store.verify import verify as verify_folder

    if add_digests:
        for path in (*add(folder), *artifacts.add_digests(folder)):
            print_line(f"{path} has digests now")
    checked = verify_folder(folder)
    problems = [*checked.problems, *artifacts.damage(folder)]
    for problem in problems:
        print_message(problem)
    if problems:
        return 2
    print_line(f"{folder}: {checked.runs} runs with {checked.epochs} epochs are unchanged.")
    return 0


@app.command
def backup(to: Path, /, *, out: Path = OUT) -> int:
    """Copy the folder of runs, also while runs are computed.

    Other ways of copying can miss runs that are still in results.sqlite-wal.

    Args:
        to: Folder of the copy.
        out: Folder of the runs.
    """
    from lossaware.cli.output import print_line
    from lossaware.studies.store.folder import Folder

    for path in Folder(out).back_up(to):
        print_line(path)
    return 0


app.command("lossaware.cli.plot:study_figure", name="figure", show=False)


def _print(table: "StudyTable") -> None:
    from lossaware.cli.output import console
    from lossaware.studies.report.study_table import study_table
    from lossaware.studies.report.writers import text

    screen = console(sys.stdout)
    screen.print(text.render(study_table(table), screen.width, screen.encoding))


def _overrides(
    study: "Study", only: Sequence[str], seeds: int | None, epochs: int | None, settings: Sequence[str]
) -> "Overrides":
    from lossaware.studies.specs.study import Overrides
    from lossaware.studies.specs.study_file import parse_settings, split_points

    chosen: dict[str, tuple[str, ...]] = {}
    for text in only:
        axis, equals, points = text.partition("=")
        names = split_points(points, study.file.axes.get(axis.strip(), ()))
        if not (axis.strip() and equals and all(names)):
            raise UsageError(f"--only needs axis=point, got {text!r}; axes: {', '.join(study.file.axes)}")
        chosen[axis.strip()] = (*chosen.get(axis.strip(), ()), *names)
    for option, count in (("--seeds", seeds), ("--epochs", epochs)):
        if count is not None and count < 1:
            raise UsageError(f"{option} must be at least 1, got {count}")
    values: dict[str, Any] = {"seeds": seeds, "epochs": epochs}
    for text in settings:
        key, equals, value = (part.strip() for part in text.partition("="))
        if not (key and equals):
            raise UsageError(f"--set needs key=value, got {text!r}")
        if values.get(key) is not None:
            raise UsageError(f"--set has {key} twice")
        values[key] = value
    return Overrides(chosen, parse_settings({key: value for key, value in values.items() if value is not None}))
