"""The command line. Imports what a command needs only when it runs, so that help comes at once."""

import errno
import io
import os
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from lossaware._version import __version__
from lossaware.errors import Note, UsageError
from lossaware.extras import how_to_install

try:
    from cyclopts import App, CycloptsError, Parameter

    from lossaware.cli.compare import compare
    from lossaware.cli.mistakes import explain
    from lossaware.cli.output import listing, say
except ImportError as error:
    raise SystemExit(f"lossaware: the command line needs {error.name}: {how_to_install('studies')}") from None

app = App(
    name="lossaware",
    help="Make any optimizer loss-aware (LGA), and find out whether it really helps.",
    version=__version__,
    default_parameter=Parameter(negative=""),
    suppress_keyboard_interrupt=False,  # `main` says how to go on
)


app.command(compare)


@app.command(name="tasks")
def list_tasks() -> int:
    """List the tasks that compare knows."""
    from lossaware.studies.specs.tasks import tasks

    return listing(tasks(), "Your own: my_task.py:build or package.module:build.")


@app.command(name="optimizers")
def list_optimizers() -> int:
    """List the base optimizers that compare knows."""
    from lossaware.studies.specs.optimizers import optimizers

    return listing(optimizers(), "Any other torch.optim.Optimizer: file.py:Class, or package.module:Class.")


app.command("lossaware.cli.study:app", name="study", help="Run the paper's experiments, or a grid of your own.")
app.command("lossaware.cli.data:app", name="data", help="Download the public data sets, or make stand-ins.")
app.command(
    "lossaware.cli.plot:plot", name="plot", help="Draw the paper's figures, or a study over its learning rates."
)
app.command("lossaware.cli.plot:figure", name="figure", show=False)
app.command("lossaware.cli.theory:app", name="theory", help="Hold the paper's theorems against runs.")
app.command(
    "lossaware.cli.lengths:lengths", name="lengths", help="Test whether the paper's runs without LGA were shorter."
)
app.command("lossaware.cli.report:report", name="report", help="Show everything measured, as one page.")


def main(arguments: Sequence[str] | None = None) -> None:
    """Run a command and exit: 0 done, 1 a run failed, 2 wrong input, 130 stopped by Ctrl-C."""
    _open_streams()
    given = list(sys.argv[1:] if arguments is None else arguments)
    say = _of_one_rank(given)
    with _notes_by(say):
        raise SystemExit(_run(given, say))


def _run(given: Sequence[str], say: Callable[[str], None]) -> int:
    """Run a command; gives the code with which to exit."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # a terminal that lacks a character shall not cost the table
    try:
        for argument in given:
            if not _is_text(argument):
                raise UsageError(f"argument {argument!r} is not valid UTF-8, so no result could name it")
        code = app(
            given,
            exit_on_error=False,
            print_error=False,
            result_action="return_value",
        )
        sys.stdout.flush()
    except UsageError as error:
        say(str(error))
        code = 2
    except CycloptsError as error:
        say(explain(error))
        code = 2
    except KeyboardInterrupt as stop:
        say(str(stop) or "stopped")
        code = 130
    except BrokenPipeError:
        # Whoever read our output has left.
        _drop_output()
        code = 1
    except OSError as error:
        # A folder that may not be read, or an output on a full disk: what no command can foresee everywhere.
        if error.errno in (errno.EMFILE, errno.ENFILE):
            say(f"{error.strerror}: raise the limit (ulimit -n), or lower --jobs")
        elif error.filename is None and error.errno != errno.ENOSPC:
            raise
        elif error.filename is None:
            _drop_output()
            say(f"the output: {error.strerror}")
        else:
            say(f"{error.filename}: {error.strerror}")
        code = 2
    return code if isinstance(code, int) else 0


@contextmanager
def _notes_by(say: Callable[[str], None]) -> Iterator[None]:
    """While it lasts, a `Note` is one line; other warnings are shown as ever."""
    shown = warnings.showwarning

    def show(message: Warning | str, category: type[Warning], *where: Any, **more: Any) -> None:
        if issubclass(category, Note):
            say(str(message))
        else:
            shown(message, category, *where, **more)

    with warnings.catch_warnings():
        warnings.showwarning = show
        yield


def _of_one_rank(arguments: Sequence[str]) -> Callable[[str], None]:
    """`say`; but where processes share the runs, all find the same mistake, and only the first rank says it."""
    if not any(argument.partition("=")[0] == "--distributed" for argument in arguments):
        return say
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")  # else torch tells each rank of what may be slow
    return say if os.environ.get("RANK", "0") == "0" else lambda message: None


def _is_text(argument: str) -> bool:
    """Whether it can be written; bytes that are no UTF-8, as in a file's name, cannot."""
    try:
        argument.encode()
    except UnicodeEncodeError:
        return False
    return True


def _open_streams() -> None:
    """Where a standard stream is closed, whatever is written there is dropped.

    Python then has None in its place; and the next file that is opened, a database say, would get its number, and with
    it whatever libraries print there.
    """
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(number)
        except OSError:
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)  # gets the lowest number that is free
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w" if number else "r", encoding="utf-8"))  # noqa: SIM115


def _drop_output() -> None:
    """What cannot be written is not written; without this Python complains when it flushes at exit."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
