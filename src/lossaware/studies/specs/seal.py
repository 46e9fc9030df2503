"""The seal of a JSON object: a digest of its content, by which changes are detected when it is read.

It detects accidents and mistakes, not intended changes, which can change the seal too.
"""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

SEAL = "sha256"
"""The entry of a JSON object with the digest of all its other entries."""


def sealed(content: Mapping[str, Any]) -> dict[str, Any]:
    """A JSON object with its seal."""
    return {**content, SEAL: _seal(content)}


def is_sealed(content: Mapping[str, Any]) -> bool:
    """Whether a JSON object matches its seal."""
    return content.get(SEAL) == _seal(content)


def _seal(content: Mapping[str, Any]) -> str:
    plain = {name: value for name, value in content.items() if name != SEAL}
    text = json.dumps(plain, sort_keys=True, ensure_ascii=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()
