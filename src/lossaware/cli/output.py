"""Output of commands to terminals, with control characters replaced."""

import os
import sys
from collections.abc import Iterable
from typing import Any

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment


def print_message(message: str) -> None:
    """Print one line to standard error."""
    from lossaware.studies.specs.escape import one_line

    print(f"lossaware: {one_line(message)}", file=sys.stderr)


def print_line(line: object) -> None:
    """Print a line to standard output."""
    from lossaware.studies.specs.escape import terminal

    print(terminal(str(line)))


def console(file: Any) -> Console:
    """A console with the terminal's width; without a terminal that of COLUMNS, or wide enough for a table."""
    width = None if file.isatty() or os.environ.get("COLUMNS", "").isdigit() else 120
    # Texts may contain brackets and colons, which are not markup.
    return _Console(file=file, width=width, markup=False, emoji=False)


class _Console(Console):
    """A console that escapes texts, but not its own control sequences."""

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        from lossaware.studies.specs.escape import terminal

        for text, style, control in super().render(renderable, options):
            yield Segment(text if control else terminal(text), style, control)


def listing(entries: "dict[str, str]", more: str) -> int:
    """Print each name with its summary, one per line, and a final line ``more``."""
    width = max(map(len, entries))
    for name, summary in entries.items():
        print_line(f"{name:<{width}}  {summary}")
    print_line(f"\n{more}")
    return 0
