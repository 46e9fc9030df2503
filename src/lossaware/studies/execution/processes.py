"""Start and end of child processes: without tracebacks, and they end with their parent."""

import contextlib
import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Iterator
from multiprocessing import connection, resource_tracker
from typing import Any


@contextlib.contextmanager
def quiet_start() -> Iterator[None]:
    """A context to start a process: Ctrl-C is delayed, and the process does not execute the program's main module.

    Without the delay, a process that is interrupted before it is ready shows a traceback. Without the main module, a
    run need not import the command line, and a script without ``if __name__ == "__main__"`` can use the engine.

    Python starts such a process by ``python -c``, which would import modules of the standard library from the current
    folder. With `_SAFE_PATH` it does not. The process calls `begin_process`.
    """
    main = sys.modules["__main__"]
    hidden: dict[str, Any] = {name: vars(main)[name] for name in ("__spec__", "__file__") if name in vars(main)}
    with _safe_path():
        resource_tracker.ensure_running()  # its start unblocks signals
    with _delay_interrupts(), _safe_path():
        try:
            for name in hidden:
                delattr(main, name)
            main.__spec__ = None
            yield
        finally:
            vars(main).update(hidden)


_SAFE_PATH = "PYTHONSAFEPATH"
_OURS = "lossaware"
"""Our value of `_SAFE_PATH`; Python accepts any text."""


@contextlib.contextmanager
def _safe_path() -> Iterator[None]:
    """A context in which new Python processes do not import from the current folder."""
    if _SAFE_PATH in os.environ:
        yield
        return
    os.environ[_SAFE_PATH] = _OURS
    try:
        yield
    finally:
        os.environ.pop(_SAFE_PATH, None)


@contextlib.contextmanager
def _delay_interrupts() -> Iterator[None]:
    """A context that delays Ctrl-C to its end.

    A new process inherits the blocked signal. Blocking does not suffice in this process: the threads of libraries
    receive the signal, and Python then raises in the main thread.
    """
    handler = signal.getsignal(signal.SIGINT)
    if handler is None or threading.current_thread() is not threading.main_thread():
        yield
        return
    waiting: list[int] = []
    blocks = hasattr(signal, "pthread_sigmask")
    signal.signal(signal.SIGINT, lambda number, frame: waiting.append(number))
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT}) if blocks else None
    try:
        yield
    finally:
        if before is not None:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
        signal.signal(signal.SIGINT, handler)
        if waiting:
            signal.raise_signal(signal.SIGINT)


def begin_process() -> None:
    """Begin a process of `quiet_start`. It ignores Ctrl-C, after which its parent stops it, and exits with its parent.

    Processes that it starts, such as a user's command, import from the current folder as usual.
    """
    if os.environ.get(_SAFE_PATH) == _OURS:
        del os.environ[_SAFE_PATH]
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """Exit when the parent has ended: a killed parent cannot stop its children."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        connection.wait([parent.sentinel])
        os._exit(1)
