"""The ways of computing the pass on a CPU."""

from __future__ import annotations

import pytest

from lossaware.correction import native


@pytest.fixture
def without_library(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(native, "library", lambda: None)


@pytest.fixture(params=["C", "torch"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """By the compiled library, and by torch's operators."""
    name: str = request.param
    if name == "C" and native.library() is None:
        pytest.skip("no C compiler here")
    if name == "torch":
        monkeypatch.setattr(native, "library", lambda: None)
    return name
