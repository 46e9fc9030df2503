"""Alignment of numbers in a column by their decimal points, and by those of their spreads."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

_NUMBER = re.compile(
    r"(?P<whole>[+\-\u2212]?\d+|—)(?P<fraction>(?:\.\d+)?(?:e[+-]\d+)?)(?P<spread> ± )?(?P<rest>.*)", re.DOTALL
)


@dataclass(frozen=True)
class Pads:
    """Padding characters as wide as a digit, a point, and other characters.

    A terminal has one space for all; a page has spaces of these widths in its font.
    """

    digit: str = " "
    point: str = " "
    other: str = " "

    def of(self, text: str) -> str:
        """Padding of the same width as the text."""
        return "".join(
            self.point if c == "." else self.digit if c in "0123456789+-\u2212" else self.other for c in text
        )


PLAIN = Pads()
FIGURE = Pads("\u2007", "\u2008", "\u2007")
"""Figure space and punctuation space."""


def aligned(texts: Sequence[str], pads: Pads = PLAIN) -> list[str]:
    """The texts of a column, padded to one width: numbers aligned by their points, other texts on the right.

    Args:
        texts: Texts such as ``9.5 ± 0.12``, ``10``, ``26 % of the epochs`` and ``not run``.
        pads: The padding characters.
    """
    matches = [_NUMBER.fullmatch(text) for text in texts]
    wholes = max((len(it["whole"]) for it in matches if it), default=0)
    fractions = max((it["fraction"] for it in matches if it), key=len, default="")
    rests = [it["rest"] if it and it["spread"] else "" for it in matches]
    spreads = iter(aligned([rest for rest in rests if rest], pads) if any(rests) else [])
    out = []
    for text, it in zip(texts, matches, strict=True):
        if it is None:
            out.append(text)
            continue
        fraction = it["fraction"] + pads.of(fractions[len(it["fraction"]) :])
        rest = f" ± {next(spreads)}" if it["spread"] and it["rest"] else (it["spread"] or "") + it["rest"]
        out.append(pads.of("0" * (wholes - len(it["whole"]))) + it["whole"] + fraction + rest)
    longest = max(out, key=len, default="")
    width = len(longest)
    return [
        pads.of(longest[: width - len(text)]) + text if it is None else text + pads.of(longest[len(text) :])
        for text, it in zip(out, matches, strict=True)
    ]
