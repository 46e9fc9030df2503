"""Figures below each other: padded so that their decimal points, and those of their spreads, are in one place."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

_NUMBER = re.compile(
    r"(?P<whole>[+\-\u2212]?\d+|—)(?P<fraction>(?:\.\d+)?(?:e[+-]\d+)?)(?P<spread> ± )?(?P<rest>.*)", re.DOTALL
)


@dataclass(frozen=True)
class Pads:
    """Characters to pad with: as wide as a digit, a point, and any other.

    A terminal has one space for all; a page has spaces of the widths that these have in its font.
    """

    digit: str = " "
    point: str = " "
    other: str = " "

    def of(self, text: str) -> str:
        """As wide as the text."""
        return "".join(
            self.point if c == "." else self.digit if c in "0123456789+-\u2212" else self.other for c in text
        )


PLAIN = Pads()
FIGURE = Pads("\u2007", "\u2008", "\u2007")
"""Figure space and punctuation space."""


def aligned(texts: Sequence[str], pads: Pads = PLAIN) -> list[str]:
    """The texts of a column, all of one width: figures by their points, all else on the right.

    Args:
        texts: Such as ``9.5 ± 0.12``, ``10``, ``26 % of the epochs`` and ``not run``.
        pads: What is put between and around.
    """
    found = [_NUMBER.fullmatch(text) for text in texts]
    wholes = max((len(it["whole"]) for it in found if it), default=0)
    fractions = max((it["fraction"] for it in found if it), key=len, default="")
    rests = [it["rest"] if it and it["spread"] else "" for it in found]
    spreads = iter(aligned([rest for rest in rests if rest], pads) if any(rests) else [])
    out = []
    for text, it in zip(texts, found, strict=True):
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
        for text, it in zip(out, found, strict=True)
    ]
