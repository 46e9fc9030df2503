"""The command line. A command's imports are in its function, so that help is fast."""

import codecs
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
    from lossaware.cli.config_file import expand
    from lossaware.cli.mistakes import explain
    from lossaware.cli.output import listing, print_message
except ImportError as error:
    raise SystemExit(f"lossaware: the command line needs {error.name}: {how_to_install('studies')}") from None

app = App(
    name="lossaware",
    help="Make any optimizer loss-aware (LGA), and find out whether it really helps.",
    version=__version__,
    default_parameter=Parameter(negative=""),
    suppress_keyboard_interrupt=False,  # `main` prints how to continue
)


app.command(compare)
app.register_install_completion_command()


@app.command(name="tasks")
def list_tasks() -> int:
    """List the built-in tasks of compare."""
    from lossaware.studies.specs.tasks import tasks

    return listing(tasks(), "Your own: my_task.py:build, or package.module:build.")


@app.command(name="optimizers")
def list_optimizers() -> int:
    """List the built-in base optimizers of compare."""
    from lossaware.studies.specs.optimizers import optimizers

    return listing(optimizers(), "Any other torch.optim.Optimizer: file.py:Class, or package.module:Class.")


app.command("lossaware.cli.study:app", name="study", help="Run the paper's experiments, or your own grid of runs.")
app.command("lossaware.cli.data:app", name="data", help="Download the public data sets, or make stand-ins.")
app.command(
    "lossaware.cli.plot:plot", name="plot", help="Draw the paper's figures, or a study over its learning rates."
)
app.command("lossaware.cli.plot:figure", name="figure", show=False)
app.command("lossaware.cli.theory:app", name="theory", help="Compare the paper's theorems with runs.")
app.command(
    "lossaware.cli.lengths:lengths", name="lengths", help="Test whether the paper's runs without LGA were shorter."
)
app.command("lossaware.cli.report:report", name="report", help="Show all measured results in one page.")


def _write_plainly(error: UnicodeError) -> tuple[str, int]:
    from lossaware.studies.specs.escape import write_plainly  # not above, so that help is fast

    return write_plainly(error)


_PLAINLY = "lossaware.plainly"
codecs.register_error(_PLAINLY, _write_plainly)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run a command and exit: 0 done, 1 a run failed, 2 wrong input, 130 stopped by Ctrl-C."""
    _open_streams()
    words = list(sys.argv[1:] if arguments is None else arguments)
    report = _reporter(words)
    with _report_notes(report):
        raise SystemExit(_run(words, report))


def _run(arguments: Sequence[str], report: Callable[[str], None]) -> int:
    """Run a command and return the exit code."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors=_PLAINLY)  # print the table even if the terminal does not support a character
    try:
        for argument in arguments:
            if not _is_text(argument):
                raise UsageError(f"argument {argument!r} is not valid UTF-8, so results could not contain it")
        code = app(
            expand(arguments, {"compare": compare}),
            exit_on_error=False,
            print_error=False,
            result_action="return_value",
        )
        sys.stdout.flush()
    except UsageError as error:
        report(str(error))
        code = 2
    except CycloptsError as error:
        report(explain(error))
        code = 2
    except KeyboardInterrupt as stop:
        report(str(stop) or "stopped")
        code = 130
    except BrokenPipeError:
        # The reader of the output has closed it.
        _drop_output()
        code = 1
    except OSError as error:
        # A folder without permissions, or an output on a full disk: commands cannot check this everywhere.
        if error.errno in (errno.EMFILE, errno.ENFILE):
            report(f"{error.strerror}: raise the limit (ulimit -n), or lower --jobs")
        elif error.filename is None and error.errno != errno.ENOSPC:
            raise
        elif error.filename is None:
            _drop_output()
            report(f"the output: {error.strerror}")
        else:
            report(f"{error.filename}: {error.strerror}")
        code = 2
    return code if isinstance(code, int) else 0


@contextmanager
def _report_notes(report: Callable[[str], None]) -> Iterator[None]:
    """A context in which a `Note` is reported as one line; other warnings are shown as usual."""
    show_warning = warnings.showwarning

    def show(message: Warning | str, category: type[Warning], *where: Any, **more: Any) -> None:
        if issubclass(category, Note):
            report(str(message))
        else:
            show_warning(message, category, *where, **more)

    with warnings.catch_warnings():
        warnings.showwarning = show
        warnings.simplefilter("default", Note)  # independent of PYTHONWARNINGS
        yield


def _reporter(arguments: Sequence[str]) -> Callable[[str], None]:
    """Prints messages. If several processes share the runs, only the first rank does, as all find the same mistake."""
    if not any(argument.partition("=")[0] == "--distributed" for argument in arguments):
        return print_message
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")  # otherwise torch prints performance warnings on each rank
    return print_message if os.environ.get("RANK", "0") == "0" else lambda message: None


def _is_text(argument: str) -> bool:
    """Whether an argument is valid UTF-8. File names may contain other bytes."""
    try:
        argument.encode()
    except UnicodeEncodeError:
        return False
    return True


def _open_streams() -> None:
    """Replace closed standard streams by the null device.

    Otherwise Python sets them to None. The next opened file, such as a database, would then get their file descriptor,
    and libraries would print into it.
    """
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(number)
        except OSError:
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)  # gets the lowest free number
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w" if number else "r", encoding="utf-8"))  # noqa: SIM115


def _drop_output() -> None:
    """Discard output that cannot be written. Without this, Python reports an error when it flushes at exit."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
