"""Output of commands to terminals, with control characters replaced."""

import os
import sys
from collections.abc import Iterable
from typing import Any

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment


def say(message: str) -> None:
    """Print one line to standard error."""
    from lossaware.studies.specs.escape import one_line

    print(f"lossaware: {one_line(message)}", file=sys.stderr)


def tell(line: object) -> None:
    """Print a line to standard output."""
    from lossaware.studies.specs.escape import terminal

    print(terminal(str(line)))


def console(file: Any) -> Console:
    """A console with the terminal's width; without a terminal that of COLUMNS, or wide enough for a table."""
    width = None if file.isatty() or os.environ.get("COLUMNS", "").isdigit() else 120
    # Brackets and colons in a text are not markup.
    return _Console(file=file, width=width, markup=False, emoji=False)


class _Console(Console):
    """A console that escapes texts, but not its own control sequences."""

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        from lossaware.studies.specs.escape import terminal

        for text, style, control in super().render(renderable, options):
            yield Segment(text if control else terminal(text), style, control)


def listing(entries: "dict[str, str]", more: str) -> int:
    """Print names with one line each."""
    width = max(map(len, entries))
    for name, summary in entries.items():
        tell(f"{name:<{width}}  {summary}")
    tell(f"\n{more}")
    return 0
