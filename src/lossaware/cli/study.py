"""`lossaware study`: the paper's tables, and any other grid of runs from a TOML file."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import App, Parameter

from lossaware.cli.values import Whole, data_source
from lossaware.errors import UsageError

if TYPE_CHECKING:
    from lossaware.studies.analysis.study_table import StudyTable
    from lossaware.studies.specs.study import Overrides, Study

app = App(
    name="study",
    help="Run the paper's experiments, or your own grid of runs, and show them beside the published figures.",
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
    seeds: Whole | None = None,
    epochs: Whole | None = None,
    settings: Annotated[tuple[str, ...], Parameter(name="--set")] = (),
    data: Path | None = None,
    no_verify: bool = False,
    jobs: Whole | None = None,
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
    """Carry out the runs of a study that are missing, and show its table.

    Runs are kept by what they are: one that several studies need is computed once, and the same command again runs
    only what is missing. Runs that others exported are taken over. What is overridden here is shown above the table.

    Args:
        name: One of `lossaware study list`, or a FILE.toml of your own.
        only: Points of an axis to run, axis=point,point; may be given several times. A point may have commas.
        seeds: How many seeds instead of those of the study.
        epochs: Passes over the training set instead of those of the study.
        settings: Any other setting of all runs, such as batch_size=32, lga.gamma2=1e-7, optimizer_options.momentum=0.9,
            or an option of the task, such as pad=0; may be given several times.
        data: Folder of the data, for tasks that need one.
        no_verify: Read data files also where they differ from their checksums. Each run's record says so.
        jobs: Runs at a time. Default: one a core, and at most 8 on a GPU.
        engine: Where runs execute: local, or ray.
        ray_address: A Ray cluster that is there, HOST:PORT or auto. Default: one is started on this machine.
        out: Folder for the runs.
        results: Folder of exported studies (`lossaware study export`), whose runs need not be computed again.
        fresh: Compute all runs here, and take none from --results.
        tensorboard: Folder for logs that TensorBoard reads.
        device: cpu or cuda, short for --set device=... It is part of what a run is, as the last bits differ.
        precision: fp32, or bf16 (autocast), short for --set precision=...
        distributed: ddp or fsdp: the processes of a torchrun share each run. It is part of what a run is, too.
    """
    from lossaware.cli.output import console, say
    from lossaware.studies.analysis.collect import measurements
    from lossaware.studies.execution.factory import open_engine
    from lossaware.studies.execution.study import run_study
    from lossaware.studies.specs.study import load_study
    from lossaware.studies.training.ranks import named_here

    source = data_source(data, no_verify)
    study = load_study(name)
    reused = None if fresh else results
    with open_engine(engine, jobs=jobs, device=device, ray_address=ray_address, distributed=distributed) as place:
        short = {"device": device, "precision": precision, "distributed": named_here(distributed)}
        settings += tuple(f"{key}={value}" for key, value in short.items() if value)
        chosen = study.overridden(_overrides(study, only, seeds, epochs, settings))
        failures = run_study(
            chosen,
            data=source,
            engine=place,
            out=out,
            results=reused,
            console=console(sys.stderr),
            tensorboard=tensorboard,
        )
    with measurements(out, reused) as there:
        _print(there.table(study, chosen.overrides))
    if failures:
        say(f"{failures} run{'s' * (failures != 1)} failed, see above; the same command tries again")
    return 1 if failures else 0


@app.command
def show(
    name: str,
    *,
    out: Path = OUT,
    results: Path = RESULTS,
    format: str = "text",  # noqa: A002
) -> int:
    """Show the table of a study: measured, published and their difference.

    Args:
        name: One of `lossaware study list`, or a FILE.toml of your own.
        out: Folder of the runs.
        results: Folder of exported studies.
        format: How to write it: text, markdown, latex, html, csv or json.
    """
    from lossaware.cli.output import say
    from lossaware.studies.analysis.collect import measurements
    from lossaware.studies.report.study_table import study_table
    from lossaware.studies.report.writers import check_format, write
    from lossaware.studies.specs.study import load_study

    check_format(format)
    with measurements(out, results) as there:
        table = there.table(load_study(name))
    if not any(measured.values for measured in table.cells.values()):
        say(
            f"nothing of it is measured: runs are looked for in {out} (--out), exported ones in {results} (--results); "
            "a clone of the repository has those of the paper in its folder results"
        )
    if format == "text":
        _print(table)
    else:
        sys.stdout.write(write(study_table(table), format))
    return 0


@app.command
def export(name: str, *, to: Path = RESULTS, out: Path = OUT) -> int:
    """Write what is measured of a study as plain files, to be read and committed.

    NAME.csv has the value of each cell and seed, NAME-epochs.csv every epoch of every run, NAME.study.json the
    specification of each run, and command, commit, machine, date and overrides. A README.md that `lossaware report`
    wrote is brought up to date.

    Args:
        name: One of `lossaware study list`, or a FILE.toml of your own.
        to: Folder to write to. What an earlier export has there stays in.
        out: Folder of the runs.
    """
    from lossaware.cli.output import tell
    from lossaware.studies.analysis.collect import measurements
    from lossaware.studies.analysis.export import export as export_study
    from lossaware.studies.report import results_markdown as results_page
    from lossaware.studies.specs.study import load_study

    study = load_study(name)
    with measurements(out, to) as there:
        for path in export_study(there.table(study), there.sources, there.launches(study), to):
            tell(path)
    results_page.refresh(to)
    return 0


@app.command(name="import")
def import_runs(*, results: Path = RESULTS, out: Path = OUT) -> int:
    """Take all runs of exported studies into the runs at hand, where they are missing.

    Args:
        results: Folder of exported studies.
        out: Folder of the runs.
    """
    from lossaware.cli.output import tell
    from lossaware.studies.store.database import Store
    from lossaware.studies.store.exported import Exported, adopt
    from lossaware.studies.store.folder import Folder

    exported = Exported(results)
    if not (specs := exported.specs()):
        raise UsageError(f"there are no exported studies in {results}")
    with Store(Folder(out).database) as store:
        taken = adopt(specs, exported, store)
        tell(f"{taken} of {len(specs)} runs were missing and are taken from {results}.")
    return 0


@app.command
def verify(folder: Path = RESULTS, /, *, add_digests: bool = False) -> int:
    """Check that stored runs, exported studies and the tables of pictures are what was written, number by number.

    Says which run and epoch is not, and exits with code 2 then.

    Args:
        folder: Folder of exported studies, or of runs (--out of the other commands).
        add_digests: Add digests to exported studies of earlier versions, as they are now. The files say so.
    """
    from lossaware.cli.output import say, tell
    from lossaware.studies.report import artifacts
    from lossaware.studies.store.export import add_digests as add
    from lossaware.studies.store.verify import verify as verified

    if add_digests:
        for path in (*add(folder), *artifacts.add_digests(folder)):
            tell(f"{path} has digests now")
    found = verified(folder)
    problems = [*found.problems, *artifacts.damage(folder)]
    for problem in problems:
        say(problem)
    if problems:
        return 2
    tell(f"{folder}: {found.runs} runs with {found.epochs} epochs are what was written.")
    return 0


@app.command
def backup(to: Path, /, *, out: Path = OUT) -> int:
    """Copy the runs at hand, also while they are being computed.

    A copy by other means misses what is still beside the database, in results.sqlite-wal.

    Args:
        to: Folder of the copy.
        out: Folder of the runs.
    """
    from lossaware.cli.output import tell
    from lossaware.studies.store.folder import Folder

    for path in Folder(out).back_up(to):
        tell(path)
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
