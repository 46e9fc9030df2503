"""Text that is part of Python: the language reference of the built-in help."""

import re
from collections import Counter
from functools import cache

import torch
from torch import Tensor

SMALLEST_TEXT = 100_000


@cache
def reference_text() -> str:
    """The topics of ``help()``, sorted by name, as lower-case ASCII with single spaces.

    Half a million characters. The text, and losses measured on it, depend on the version of Python.
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

    All rarer words have the last code.
    """
    tokens = re.findall(r"[a-z_]+|[^a-z_\s]", reference_text())
    frequent = sorted(Counter(tokens).items(), key=lambda item: (-item[1], item[0]))[: vocabulary - 1]
    known = {word: code for code, (word, _) in enumerate(frequent)}
    return torch.tensor([known.get(word, vocabulary - 1) for word in tokens])


def windows(codes: Tensor, length: int, count: int) -> Tensor:
    """``count`` pieces (count, length) of the text, evenly spaced through it."""
    starts = torch.arange(count) * (len(codes) - length) // count
    return codes[starts[:, None] + torch.arange(length)]
