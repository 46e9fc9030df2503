"""Escaping of texts that may come from foreign files, per output format. In HTML, Jinja's autoescape does the rest.

Titles, names and messages stay text: they cannot move the cursor, start LaTeX commands, load images or become
formulas of a spreadsheet.
"""

import csv
import io
import json
import re
from base64 import b64encode
from collections.abc import Callable, Iterable, Sequence
from typing import Any

_CONTROLS = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff"
    "\u00ad\u180e\u200b\u2060-\u2065\u206a-\u206f\ufeff\ufff9-\ufffb\U000e0000-\U000e0fff]"
)
"""Control characters except tab and line feed, marks for the direction of writing, surrogates, invisible characters.

The two joiners are not included, because some scripts and emoji need them.
"""


_MARKDOWN = re.compile(r"[\\`*|~$]|(?<!\w)_|_(?!\w)|\[(?!\w\](?![:(\[]))")
"""Markup of Markdown. An underscore within a word and a mark such as ``[a]`` are text, and not included."""


def terminal(text: str) -> str:
    """Text for a terminal, or a page: control characters become symbols of one column, such as ␛ for ESC."""
    return _CONTROLS.sub(_picture, text)


def encodable(text: str, encoding: str) -> str:
    """The text, with ASCII in place of characters that the encoding lacks, such as a hyphen for a minus sign."""
    try:
        text.encode(encoding)
    except (UnicodeEncodeError, LookupError):
        return "".join(map(_plain(encoding), text))
    return text


def _plain(encoding: str) -> Callable[[str], str]:
    def plain(character: str) -> str:
        try:
            character.encode(encoding)
        except (UnicodeEncodeError, LookupError):
            return _ASCII.get(character, "?")
        return character

    return plain


def write_plainly(error: UnicodeError) -> tuple[str, int]:
    """The ASCII replacement of characters that an encoding lacks; see `codecs.register_error`."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    return "".join(_ASCII.get(it, "?") for it in error.object[error.start : error.end]), error.end


def one_line(text: str) -> str:
    """Text for a terminal in one line."""
    return terminal(" ".join(text.split()))


def latex(text: str) -> str:
    """Text for LaTeX, in one line."""
    return "".join(_LATEX.get(character, character) for character in one_line(text))


def latex_comment(text: str) -> str:
    """A comment in LaTeX. The whole text is in the line that begins with ``%``."""
    return f"% {one_line(text)}"


def markdown(text: str) -> str:
    """Text for Markdown, in one line, also for cells of tables, without HTML, links and images."""
    return _MARKDOWN.sub(r"\\\g<0>", one_line(text).replace("&", "&amp;").replace("<", "&lt;"))


def markdown_code(text: str) -> str:
    """Text as code in Markdown, also for cells of tables."""
    return f"`{one_line(text).replace('`', chr(39)).replace('|', chr(92) + '|')}`"


def matplotlib(text: str) -> str:
    """Text for Matplotlib, in one line. Dollars do not start formulas; underscores do not hide legend entries."""
    escaped = one_line(text).replace("$", r"\$")
    return f" {escaped}" if escaped.startswith("_") else escaped


def json_text(content: object, **how: Any) -> str:
    """JSON in which characters that a terminal would interpret are written as numbers.

    Args:
        content: See `json.dumps`.
        how: Its keyword arguments.
    """
    return _CONTROLS.sub(_escape, json.dumps(content, ensure_ascii=False, **how))


def csv_text(rows: Iterable[Sequence[object]]) -> str:
    """Rows as CSV, without texts that are formulas of a spreadsheet."""
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerows([_csv_cell(cell) for cell in row] for row in rows)
    return file.getvalue()


def svg_address(svg: str) -> str:
    """An SVG as the address of an ``<img>``, where it cannot run scripts, load files or style the page."""
    return f"data:image/svg+xml;base64,{b64encode(svg.encode()).decode()}"


def _csv_cell(cell: object) -> object:
    """The cell. A text that a spreadsheet would evaluate as a formula gets an apostrophe in front."""
    if not isinstance(cell, str):
        return cell
    text = terminal(cell)
    return f"'{text}" if text.lstrip()[:1] in ("=", "+", "-", "@") and not _is_number(text) else text


def _is_number(text: str) -> bool:
    return re.fullmatch(r"[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?|[+-]?(inf|nan)", text, re.IGNORECASE) is not None


def _escape(match: re.Match[str]) -> str:
    digits = match[0].encode("utf-16-be", "surrogatepass").hex()
    return "".join(f"\\u{digits[i : i + 4]}" for i in range(0, len(digits), 4))


def _picture(match: re.Match[str]) -> str:
    code = ord(match[0])
    return chr(0x2400 + code) if code < 0x20 else "\u2421" if code == 0x7F else "\ufffd"


_ASCII = {
    "\u2212": "-",
    "—": "-",
    "±": "+-",
    "≈": "~",
    "≠": "!=",
    "·": "-",
    "\u2500": "-",
    "\u2007": " ",
    "\u2008": " ",
}
"""Replacements for encodings that lack these characters."""

_LATEX = {
    "&": r"\&",
    "%": r"\%",
    "$": r"\$",
    "#": r"\#",
    "_": r"\_",
    "{": r"\{",
    "}": r"\}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "\\": r"\textbackslash{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    "±": r"$\pm$",
    "\u2212": r"$-$",
    "\u03bc": r"$\mu$",
    "\u03c3": r"$\sigma$",
    "—": "---",
    "[": "{[}",
    "]": "{]}",
}
