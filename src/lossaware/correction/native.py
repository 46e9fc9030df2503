"""The correction on CPUs in a single pass, by a small C library that is compiled where it is used.

torch's own operators need five passes over the gradients for what is one addition and one division. `native.c` does it
in one. It is compiled by the system's C compiler at the first correction on a machine (half a second), kept in the
user's cache folder, and loaded by ctypes. Where that is impossible, for want of a compiler or a private folder,
`library` is None and everything runs on torch's operators instead, with the same bits.

``LOSSAWARE_NATIVE=0`` in the environment switches it off; ``XDG_CACHE_HOME`` and ``CC`` are heeded.
"""

import contextlib
import ctypes
import functools
import hashlib
import os
import platform
import shutil
import stat
import subprocess
import tempfile
from array import array
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from lossaware.correction.operators import Push

# No contraction to fused multiply-adds and no fast-math: the bits are to be those of torch's operators.
_FLAGS = ("-O3", "-std=gnu11", "-fPIC", "-shared", "-ffp-contract=off", "-fno-math-errno", "-fno-trapping-math")
_BUILD_SECONDS = 30.0

KINDS = {
    (torch.float32, torch.float32): 0,
    (torch.float64, torch.float64): 1,
    (torch.bfloat16, torch.bfloat16): 2,
    (torch.bfloat16, torch.float32): 3,
    (torch.float16, torch.float16): 4,
    (torch.float16, torch.float32): 5,
}
"""Types of parameters and their gradients that the library knows, with its numbers for them."""


class Library:
    """The compiled library, and the torch threads that it runs on."""

    def __init__(self, path: Path) -> None:
        loaded = ctypes.CDLL(str(path))
        self._push = loaded.lossaware_push
        self._push.restype = None
        self._push.argtypes = [
            *(ctypes.c_int, ctypes.c_int64, ctypes.c_void_p, ctypes.c_uint32, ctypes.c_double, ctypes.c_double),
            *(ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_void_p),
        ]
        self.dtypes = frozenset(
            kind for kind in KINDS if kind[0] != torch.float16 or loaded.lossaware_has_float16() == 1
        )
        # torch has loaded its OpenMP runtime for all to see. Whoever linked another would have two sets of threads,
        # each spinning in the other's way.
        parallel = getattr(ctypes.CDLL(None), "GOMP_parallel", None)
        self._parallel = None if parallel is None else ctypes.cast(parallel, ctypes.c_void_p)

    def push(
        self, parameters: Sequence[Tensor], gradients: Sequence[Tensor], numbers: Sequence[int], seed: int, push: Push
    ) -> None:
        """``p <- p - amount / phi(g)`` for all pairs, by one call.

        Args:
            parameters: On the CPU, all of one type; moved in place.
            gradients: All of one type, which with that of the parameters is in `dtypes`. `memory.is_flat` must hold for
                each pair.
            numbers: Their numbers in the step, which with the seed decide the rounding of types of 16 bits.
            seed: From 0 to 2^32 - 1.
            push: What to push by; its amount counts as a number.
        """
        pointers = [tensor.data_ptr() for tensor in (*parameters, *gradients)]
        table = array("q", [*pointers, *[p.numel() for p in parameters], *numbers])
        self._push(
            KINDS[parameters[0].dtype, gradients[0].dtype],
            len(parameters),
            table.buffer_info()[0],
            seed,
            float(push.amount),
            push.xi,
            push.maximize,
            push.rest,
            torch.get_num_threads(),
            self._parallel,
        )
        torch.autograd.graph.increment_version(parameters)  # as torch's own operators do, so that autograd notices


@functools.cache
def library() -> Library | None:
    """The library, compiled now if this machine has none yet; None where it cannot be had or is switched off."""
    if os.environ.get("LOSSAWARE_NATIVE", "1") == "0" or os.name != "posix":
        return None
    compiler = shutil.which(os.environ.get("CC", "cc")) or shutil.which("gcc") or shutil.which("clang")
    try:
        source = Path(__file__).with_name("native.c").read_bytes()
        folder = _private_folder()
        path = folder / f"correction-{_digest(source)}.so"
        if not path.exists():
            if compiler is None:
                return None
            _compile(compiler, source, path)
        return Library(path)
    except (OSError, subprocess.SubprocessError, AttributeError, RuntimeError):  # the last: a user without a home
        return None


def _private_folder() -> Path:
    """The cache folder. What lies there is run, so nobody else may be able to write to it."""
    folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "lossaware"
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    found = folder.stat()
    if found.st_uid != os.getuid() or found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise OSError(f"{folder} is not this user's alone")
    return folder


def _digest(source: bytes) -> str:
    """The name of what is compiled: other code, flags or another processor (of a shared home) make another file."""
    processor = platform.platform() + platform.processor()
    with contextlib.suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        processor += "".join(sorted({line for line in lines if line.startswith(("model name", "flags", "Features"))}))
    return hashlib.sha256(b"\0".join([source, " ".join(_FLAGS).encode(), processor.encode()])).hexdigest()[:20]


def _compile(compiler: str, source: bytes, path: Path) -> None:
    with tempfile.TemporaryDirectory(dir=path.parent) as scratch:
        text, built = Path(scratch) / "native.c", Path(scratch) / "native.so"
        text.write_bytes(source)
        for tuning in ("-march=native", "-mcpu=native", None):
            command = [compiler, *_FLAGS, *([tuning] if tuning else []), "-o", str(built), str(text)]
            done = subprocess.run(command, capture_output=True, timeout=_BUILD_SECONDS, check=False)
            if done.returncode == 0:
                os.replace(built, path)  # at once, so that no other process ever loads half a file
                return
    raise OSError(f"{compiler} cannot compile the library")
