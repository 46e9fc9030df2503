"""Places where inline code may break into lines: after a separator of a path or a name, and not within a word."""

import re
from typing import Any

from sphinx.application import Sphinx

_INLINE_CODE = re.compile(r'(<code class="[^"]*\bliteral\b[^"]*">)(.*?)(</code>)', re.DOTALL)
_SEPARATOR = re.compile(r"(?<=::)|(?<=[./=,])(?=\w)(?!py\b)")
_SHORT = 28
"""Code up to this length fits on a line of a phone, and is not broken."""


def setup(app: Sphinx) -> dict[str, Any]:
    """Mark the places when a page is written."""
    app.connect("html-page-context", _mark)
    return {"parallel_read_safe": True, "parallel_write_safe": True}


def _mark(app: Sphinx, page: str, template: str, context: dict[str, Any], doctree: Any) -> None:
    if "body" in context:
        context["body"] = with_breaks(context["body"])


def with_breaks(page: str) -> str:
    """HTML with ``<wbr>`` in its inline code."""
    return _INLINE_CODE.sub(lambda code: code[1] + "".join(map(_broken, _words(code[2]))) + code[3], page)


def _words(html: str) -> list[str]:
    return re.split(r"(<[^>]*>|\s)", html)


def _broken(word: str) -> str:
    if word.startswith("<") or len(word) <= _SHORT:
        return word
    parts = _SEPARATOR.split(word)
    return "<wbr>".join(part if len(part) <= _SHORT else part.replace("_", "_<wbr>") for part in parts)
