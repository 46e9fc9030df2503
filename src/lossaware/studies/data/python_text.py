"""Text that Python brings along: the language reference as the built-in help has it."""

import re
from collections import Counter
from functools import cache

import torch
from torch import Tensor

SMALLEST_TEXT = 100_000


@cache
def reference_text() -> str:
    """The topics of ``help()``, in the order of their names, as lower-case ASCII in single spaces.

    Half a million characters. Versions of Python differ in it, and so do losses measured on it.
    """
    from pydoc_data.topics import topics

    text = re.sub(r"[^ -~]+|\s+", " ", " ".join(topics[name] for name in sorted(topics))).lower()
    return re.sub(" +", " ", text)


def characters() -> tuple[Tensor, int]:
    """The text as int64 codes from 0, and the number of codes."""
    text = reference_text()
    known = {character: code for code, character in enumerate(sorted(set(text)))}
    return torch.tensor([known[character] for character in text]), len(known)


def words(vocabulary: int) -> Tensor:
    """The text's words and punctuation as int64 codes below ``vocabulary``, the most frequent first.

    All that is rarer has the last code.
    """
    found = re.findall(r"[a-z_]+|[^a-z_\s]", reference_text())
    frequent = sorted(Counter(found).items(), key=lambda item: (-item[1], item[0]))[: vocabulary - 1]
    known = {word: code for code, (word, _) in enumerate(frequent)}
    return torch.tensor([known.get(word, vocabulary - 1) for word in found])


def windows(codes: Tensor, length: int, count: int) -> Tensor:
    """``count`` pieces (count, length) of the text, evenly spaced through it."""
    starts = torch.arange(count) * (len(codes) - length) // count
    return codes[starts[:, None] + torch.arange(length)]
