"""Lines and consoles."""

import sys
from typing import TYPE_CHECKING, Any

from rich.console import Console

if TYPE_CHECKING:
    pass


def say(message: str) -> None:
    """One line on standard error."""
    print(f"lossaware: {' '.join(message.split())}", file=sys.stderr)


def console(file: Any) -> Console:
    """A console that is wide enough for a table where no terminal says how wide it is."""
    return Console(file=file) if file.isatty() else Console(file=file, width=120)


def listing(entries: "dict[str, str]", more: str) -> int:
    """Names and one line on each."""
    width = max(map(len, entries))
    for name, summary in entries.items():
        print(f"{name:<{width}}  {summary}")
    print(f"\n{more}")
    return 0
