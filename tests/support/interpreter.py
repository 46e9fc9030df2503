"""The GPU kernels on the CPU, by Triton's interpreter."""

from __future__ import annotations

import functools
import importlib
import sys
from types import ModuleType

import pytest

_MODULES = ("lossaware.law_kernel", "lossaware.correction.push_kernel", "lossaware.launcher")


@functools.cache
def interpreted_launcher() -> ModuleType:
    """A second `lossaware.launcher`, whose kernels run in the interpreter; Triton decides this on import."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TRITON_INTERPRET", "1")
        for name in _MODULES:
            patch.delitem(sys.modules, name, raising=False)
        module = importlib.import_module(_MODULES[-1])
        for name in _MODULES:  # so that the patch removes them again if there were none
            sys.modules.pop(name, None)
    return module
