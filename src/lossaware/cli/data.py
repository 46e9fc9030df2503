"""``lossaware data``: the data of the paper's tasks, and how to get it."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from cyclopts import App

from lossaware.cli.values import Integer
from lossaware.errors import UsageError

if TYPE_CHECKING:
    from lossaware.studies.data.sets import DataSet

app = App(name="data", help="Download the public data sets, or make stand-ins for features that are not available.")


@app.command(name="get")
def get(name: str, *, data: Path) -> int:
    """Download a public data set into a folder, in its official layout.

    Existing files are not changed. A failed download leaves no files; run the same command again to repeat it.

    Args:
        name: mnist, cifar10, cifar100 or tinyimagenet.
        data: The folder, which tasks then read as --data.
    """
    from lossaware.cli.output import console
    from lossaware.studies.data import download

    data_set = _data_set(name)
    if not data_set.files:
        raise UsageError(f"{name} cannot be downloaded: {data_set.source}; put it into {data / data_set.place}")
    screen = console(sys.stderr)
    with _bars(screen) as bar:
        download.get(data_set, data, report=lambda line: _print_to(screen, line), bar=bar)
    return 0


@app.command(name="list")
def list_all(*, data: Path | None = None) -> int:
    """List the data that the paper's tasks read.

    Args:
        data: A folder, to list which data it has.
    """
    from lossaware.cli.output import print_line
    from lossaware.studies.data.sets import DATA_SETS

    rows = [
        (name, entry.place, f"{entry.summary}; {f'{entry.megabytes} MB' if entry.files else entry.source}")
        for name, entry in DATA_SETS.items()
    ]
    wide = [max(len(row[column]) for row in rows) for column in range(2)]
    for name, place, summary in rows:
        state = "" if data is None else ("present  " if (data / place).is_dir() else "missing  ")
        print_line(f"{name:<{wide[0]}}  {state}{place:<{wide[1]}}  {summary}")
    print_line("\nDownload the first four: lossaware data get NAME --data DIR")
    return 0


@app.command(name="record")
def record(name: str, *, data: Path) -> int:
    """Record the checksums of a data set's present files, with which later readings are compared.

    For data sets without known checksums, and for files that were changed on purpose.

    Args:
        name: mnist, cifar10, cifar100, tinyimagenet, segmentation or tacos.
        data: The folder that tasks read as --data.
    """
    from lossaware.cli.output import print_line
    from lossaware.studies.data.checksums import MANIFEST, record_files

    for place in record_files(_data_set(name), data):
        print_line(f"{place / MANIFEST} is written")
    return 0


@app.command(name="stand-in")
def stand_in(name: Literal["tacos"], *, data: Path, seed: Integer = 0) -> int:
    """Make stand-in features for TACoS: noise that encodes the annotated spans. Their results say nothing on videos.

    The task grounding reads them with --set features=stand-in, and each result with them states it.

    Args:
        name: tacos.
        data: The folder, with the annotations in tacos/.
        seed: Determines all values.
    """
    from lossaware.cli.output import console
    from lossaware.studies.data.folder import require
    from lossaware.studies.data.stand_in import make_stand_in
    from lossaware.studies.data.tacos import PLACE
    from lossaware.studies.tasks.grounding import FEATURES, SOURCE

    if seed < 0:
        raise UsageError(f"--seed must be at least 0, got {seed}")
    files = require(data, PLACE, "grounding", SOURCE)
    screen = console(sys.stderr)
    make_stand_in(files, files.path(FEATURES["stand-in"]), seed, report=lambda line: _print_to(screen, line))
    return 0


def _data_set(name: str) -> "DataSet":
    from lossaware.studies.data.sets import DATA_SETS
    from lossaware.studies.specs.options import did_you_mean

    if name not in DATA_SETS:
        raise UsageError(f"unknown data set {name!r}{did_you_mean(name, DATA_SETS)}")
    return DATA_SETS[name]


def _print_to(console: Any, line: str) -> None:
    console.print(line, markup=False, highlight=False, soft_wrap=True)


@contextmanager
def _bars(console: Any) -> Iterator[Callable[[str], "_Bar"]]:
    """A context with a function that makes one progress bar per file, shown only on a terminal."""
    from rich import progress as bars

    columns = (
        bars.TextColumn("{task.description}"),
        bars.BarColumn(),
        bars.DownloadColumn(),
        bars.TransferSpeedColumn(),
        bars.TimeRemainingColumn(),
    )
    with bars.Progress(*columns, console=console, disable=not console.is_terminal) as progress:
        tasks: dict[str, Any] = {}

        def bar(name: str) -> _Bar:
            # A second attempt uses the bar of the first.
            if name not in tasks:
                tasks[name] = progress.add_task(name, total=None)
            return _Bar(progress, tasks[name])

        yield bar


class _Bar:
    """A progress bar of rich with pooch's interface."""

    def __init__(self, progress: Any, task: Any) -> None:
        self._progress, self._task = progress, task

    @property
    def total(self) -> float | None:
        total: float | None = next(task.total for task in self._progress.tasks if task.id == self._task)
        return total

    @total.setter
    def total(self, total: float) -> None:
        self._progress.update(self._task, total=total or None, completed=0)

    def update(self, size: int) -> None:
        self._progress.advance(self._task, size)

    def reset(self) -> None:
        self._progress.update(self._task, completed=0)

    def close(self) -> None:
        """Do nothing, so that the full bar remains visible."""
