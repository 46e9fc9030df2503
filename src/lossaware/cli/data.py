"""``lossaware data``: which data the tasks of the paper read, and how one comes by it."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from cyclopts import App

from lossaware.cli.values import Whole
from lossaware.errors import UsageError

if TYPE_CHECKING:
    from lossaware.studies.data.sets import DataSet

app = App(name="data", help="Download the public data sets, or make stand-ins for features that cannot be had.")


@app.command(name="get")
def get(name: str, *, data: Path) -> int:
    """Download a public data set into a folder, in its official layout.

    What is there already is left as it is. A broken download leaves nothing behind; the same command starts it again.

    Args:
        name: mnist, cifar10, cifar100 or tinyimagenet.
        data: The folder; the one that tasks then get as --data.
    """
    from lossaware.cli.output import console
    from lossaware.studies.data import download

    data_set = _data_set(name)
    if not data_set.files:
        raise UsageError(f"{name} cannot be downloaded: {data_set.source}; it belongs into {data / data_set.place}")
    screen = console(sys.stderr)
    with _bars(screen) as bar:
        download.get(data_set, data, report=lambda line: _say(screen, line), bar=bar)
    return 0


@app.command(name="list")
def list_all(*, data: Path | None = None) -> int:
    """List the data that the paper's tasks read.

    Args:
        data: A folder; says what of it is there.
    """
    from lossaware.cli.output import tell
    from lossaware.studies.data.sets import DATA_SETS

    rows = [
        (name, found.place, f"{found.summary}; {f'{found.megabytes} MB' if found.files else found.source}")
        for name, found in DATA_SETS.items()
    ]
    wide = [max(len(row[column]) for row in rows) for column in range(2)]
    for name, place, summary in rows:
        there = "" if data is None else ("there    " if (data / place).is_dir() else "missing  ")
        tell(f"{name:<{wide[0]}}  {there}{place:<{wide[1]}}  {summary}")
    tell("\nDownload the first four: lossaware data get NAME --data DIR")
    return 0


@app.command(name="record")
def record(name: str, *, data: Path) -> int:
    """Record the checksums of a data set as it is; from then on its files must stay so.

    For data sets that no checksums are known of, and for files that were changed on purpose.

    Args:
        name: mnist, cifar10, cifar100, tinyimagenet, segmentation or tacos.
        data: The folder; the one that tasks get as --data.
    """
    from lossaware.cli.output import tell
    from lossaware.studies.data.checksums import MANIFEST, record_files

    for place in record_files(_data_set(name), data):
        tell(f"{place / MANIFEST} is written")
    return 0


@app.command(name="stand-in")
def stand_in(name: Literal["tacos"], *, data: Path, seed: Whole = 0) -> int:
    """Make stand-in features for TACoS: noise that carries the annotated spans. No result from them is one on videos.

    They are read with --set features=stand-in of the task grounding, and every result from them says so.

    Args:
        name: tacos.
        data: The folder, with the annotations in tacos/.
        seed: Decides all values.
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
    make_stand_in(files, files.path(FEATURES["stand-in"]), seed, report=lambda line: _say(screen, line))
    return 0


def _data_set(name: str) -> "DataSet":
    from lossaware.studies.data.sets import DATA_SETS
    from lossaware.studies.specs.options import did_you_mean

    if name not in DATA_SETS:
        raise UsageError(f"unknown data set {name!r}{did_you_mean(name, DATA_SETS)}")
    return DATA_SETS[name]


def _say(console: Any, line: str) -> None:
    console.print(line, markup=False, highlight=False, soft_wrap=True)


@contextmanager
def _bars(console: Any) -> Iterator[Callable[[str], "_Bar"]]:
    """Makes a progress bar a file, shown where standard error is a terminal."""
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
            # A second attempt gets the bar of the first.
            if name not in tasks:
                tasks[name] = progress.add_task(name, total=None)
            return _Bar(progress, tasks[name])

        yield bar


class _Bar:
    """A bar of rich in the form that pooch wants."""

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
        """Nothing to do: the bar stays, full."""
