"""Lines and consoles. What a command writes for people goes through here, which replaces control characters."""

import sys
from collections.abc import Iterable
from typing import Any

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment


def say(message: str) -> None:
    """One line on standard error."""
    from lossaware.studies.specs.escape import one_line

    print(f"lossaware: {one_line(message)}", file=sys.stderr)


def tell(line: object) -> None:
    """A line on standard output."""
    from lossaware.studies.specs.escape import terminal

    print(terminal(str(line)))


def console(file: Any) -> Console:
    """A console that is wide enough for a table where no terminal says how wide it is."""
    # Brackets and colons in a text are not commands for rich.
    return _Console(file=file, width=None if file.isatty() else 120, markup=False, emoji=False)


class _Console(Console):
    """A console that knows what is text and what it writes itself to move the cursor or to change colours."""

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        from lossaware.studies.specs.escape import terminal

        for text, style, control in super().render(renderable, options):
            yield Segment(text if control else terminal(text), style, control)


def listing(entries: "dict[str, str]", more: str) -> int:
    """Names and one line on each."""
    width = max(map(len, entries))
    for name, summary in entries.items():
        tell(f"{name:<{width}}  {summary}")
    tell(f"\n{more}")
    return 0
