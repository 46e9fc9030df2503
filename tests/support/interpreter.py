"""The GPU kernel on the CPU, by Triton's interpreter."""

from __future__ import annotations

import functools
import importlib.util
from types import ModuleType

import pytest


@functools.cache
def interpreted_kernels() -> ModuleType:
    """A second `lossaware.kernels`, whose kernels run by the interpreter; Triton decides that as it is imported."""
    found = importlib.util.find_spec("lossaware.kernels")
    assert found is not None
    assert found.origin is not None
    spec = importlib.util.spec_from_file_location("interpreted_kernels", found.origin)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TRITON_INTERPRET", "1")
        spec.loader.exec_module(module)
    return module
