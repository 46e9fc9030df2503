"""How processes of this package start and end: quietly, and not after the process that started them."""

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
    """While a process starts: Ctrl-C waits, and the program's main module is not executed again in the process.

    Without the first, a server or a worker that is interrupted before it is ready shows a traceback. The second spares
    each run the imports of the command line, and lets a script without ``if __name__ == "__main__"`` use the engine.
    """
    main = sys.modules["__main__"]
    hidden: dict[str, Any] = {name: vars(main)[name] for name in ("__spec__", "__file__") if name in vars(main)}
    resource_tracker.ensure_running()  # as it starts, it lets signals through again
    with _interrupts_wait():
        try:
            for name in hidden:
                delattr(main, name)
            main.__spec__ = None
            yield
        finally:
            vars(main).update(hidden)


@contextlib.contextmanager
def _interrupts_wait() -> Iterator[None]:
    """Ctrl-C counts only at the end.

    A new process inherits that the signal is blocked. In this one that is not enough: the threads of libraries let it
    in, and Python then raises in the main thread, wherever that is.
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


def leave_ctrl_c_to_parent() -> None:
    """To be called first in a process: its parent gets Ctrl-C too, and ends it; and it ends when its parent is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """A parent that is killed cannot end its processes; they see it go."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        connection.wait([parent.sentinel])
        os._exit(1)
