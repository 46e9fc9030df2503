"""The correction on CPUs in a single pass, by a small C library that is compiled on the user's machine.

torch's operators need five passes over the gradients for one addition and one division. `native.c` needs one.
`lossaware.correction.build` compiles it when LGA is first attached on a machine (a second), and caches it in the user's
cache folder; ctypes loads it. If this is not possible, without a compiler or a private folder, `library` returns None,
a warning gives the reason, and torch's operators are used instead, with the same bits.

``LOSSAWARE_NATIVE=0`` in the environment switches it off; ``XDG_CACHE_HOME`` and ``CC`` are respected.
"""

import contextlib
import ctypes
import functools
import logging
import os
import platform
from array import array
from collections.abc import Iterable, Sequence
from operator import attrgetter
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lossaware.correction import build
from lossaware.correction.memory import WORK
from lossaware.correction.operators import Push

logger = logging.getLogger("lossaware")

IS_SUPPORTED = os.name == "posix"

KINDS = {
    (torch.float32, torch.float32): 0,
    (torch.float64, torch.float64): 1,
    (torch.bfloat16, torch.bfloat16): 2,
    (torch.bfloat16, torch.float32): 3,
    (torch.float16, torch.float16): 4,
    (torch.float16, torch.float32): 5,
}
"""Supported types of parameters and gradients, with the library's codes."""
_BFLOAT16_MEANS = 6
"""The code for parameters and gradients of float32 with means of bfloat16."""

_CLASSES = {Tensor, torch.nn.Parameter}
_HANDLE = attrgetter("_cdata")
_FUNCTIONS = (
    *("get_device_type", "get_layout", "get_dtype", "is_contiguous", "get_dim", "get_sizes", "get_strides"),
    *("get_numel", "get_data_ptr"),
)
"""Functions of torch's C interface, in the order in which `native.c` expects them."""
_TORCHS_GRAIN = 1 << 15
"""Elements of a tensor from which torch's operators use threads."""


class Library:
    """The compiled library, which runs on torch's threads."""

    is_forked = False
    """Whether this process was forked after this module was imported. GNU's OpenMP waits forever for threads of the
    parent, in torch's operators too; the correction then uses threads only if an operator of the base's step has."""

    def __init__(self, path: Path) -> None:
        loaded = ctypes.CDLL(str(path))
        self._push = loaded.lossaware_push
        self._push.restype = None
        self._push.argtypes = [
            *(ctypes.c_int, ctypes.c_int64, ctypes.c_void_p, ctypes.c_uint32),
            *(ctypes.c_double, ctypes.c_double, ctypes.c_double, ctypes.c_int, ctypes.c_int, ctypes.c_int),
            ctypes.c_void_p,
        ]
        self.dtypes = frozenset(
            kind for kind in KINDS if kind[0] != torch.float16 or loaded.lossaware_has_float16() == 1
        )
        self._gather = loaded.lossaware_gather
        self._gather.argtypes = [
            *(ctypes.c_void_p, ctypes.c_int64, ctypes.c_void_p, ctypes.c_int, ctypes.c_int64, ctypes.c_void_p)
        ]
        self._torch = _functions_of_torch()
        # torch's OpenMP runtime is loaded globally. A second runtime would have its own threads, which would compete
        # with torch's.
        parallel = getattr(ctypes.CDLL(None), "GOMP_parallel", None)
        self._parallel = None if parallel is None else ctypes.cast(parallel, ctypes.c_void_p)

    def push(
        self,
        parameters: Sequence[Tensor],
        gradients: Sequence[Tensor],
        numbers: Iterable[int],
        seed: int,
        push: Push,
        means: Sequence[Tensor] = (),
    ) -> None:
        """``p <- p - amount / phi(g)`` for all pairs, by one call.

        Args:
            parameters: CPU tensors of one type; changed in place.
            gradients: Tensors of one type; the pair of types must be in `dtypes`, and `memory.is_flat` must be true for
                each pair.
            numbers: Their numbers in the step, which together with the seed determine the rounding of types of 16 bits.
            seed: From 0 to 2^32 - 1.
            push: The push; its amount must be a number that is not 0 in the precision of the arithmetic.
            means: Running means of the gradients, which phi reads instead; in the type of the arithmetic, and
                `memory.is_flat` must be true for each with its parameter. Changed in place. Empty if phi reads
                gradients.
        """
        table = array("q", map(Tensor.data_ptr, parameters))
        table.extend(map(Tensor.data_ptr, gradients))
        table.extend(map(Tensor.numel, parameters))
        table.extend(numbers)
        table.extend(map(Tensor.data_ptr, means))
        self.push_table(table, parameters, gradients, seed, push, means)

    def table(
        self, parameters: Sequence[Tensor], gradients: Sequence[Tensor], means: Sequence[Any], first: int
    ) -> "array[int] | None":
        """A table for `push_table`, by a single check of all tensors.

        Args:
            parameters: Any tensors.
            gradients: The gradients of these parameters.
            means: The means of these gradients; empty if phi reads gradients. Some may be None.
            first: The number of the first parameter in the step.

        Returns:
            The table; None if `memory.is_flat` may be false for a parameter with its gradient and its mean, or if the
            tensors of a row have different types.
        """
        tensors = [*parameters, *gradients, *means]
        types = (parameters[0].dtype, gradients[0].dtype)
        if (
            self._torch is None
            or types not in self.dtypes
            or not _CLASSES.issuperset(map(type, tensors))
            or (means and means[0].dtype is not WORK[types[0]] and not _has_narrow_means(types, means))
        ):
            return None
        count, handles = len(parameters), array("q", map(_HANDLE, tensors))
        table, rows = array("q", bytes(8 * 5 * count)), len(tensors) // len(parameters)
        addresses = [numbers.buffer_info()[0] for numbers in (handles, table)]
        is_full = self._gather(self._torch, count, addresses[0], rows, first, addresses[1])
        return table if is_full and not any(map(Tensor.is_neg, tensors)) else None

    def push_table(
        self,
        table: "array[int]",
        parameters: Sequence[Tensor],
        gradients: Sequence[Tensor],
        seed: int,
        push: Push,
        means: Sequence[Tensor],
    ) -> None:
        """Like `push`, with a table of the addresses of the tensors."""
        types = (parameters[0].dtype, gradients[0].dtype)
        self._push(
            _BFLOAT16_MEANS if _has_narrow_means(types, means) else KINDS[types],
            len(parameters),
            table.buffer_info()[0],
            seed,
            float(push.amount),
            push.xi,
            push.weight if means else 0.0,
            push.maximize,
            push.rest,
            torch.get_num_threads(),
            None if self.is_forked and not any(p.numel() >= _TORCHS_GRAIN for p in parameters) else self._parallel,
        )
        torch.autograd.graph.increment_version([*parameters, *means])  # for autograd, as torch's operators do


def _has_narrow_means(types: tuple[torch.dtype, torch.dtype], means: Sequence[Any]) -> bool:
    return bool(means) and types == (torch.float32, torch.float32) and means[0].dtype is torch.bfloat16


def _after_fork() -> None:
    Library.is_forked = True


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


def _functions_of_torch() -> Any:
    """Addresses of the functions by which `native.c` reads tensors; None if this version of torch lacks one."""
    suffix = "dylib" if platform.system() == "Darwin" else "so"
    try:
        library = ctypes.CDLL(str(Path(torch.__file__).parent / "lib" / f"libtorch_cpu.{suffix}"))
        addresses = [ctypes.cast(getattr(library, f"aoti_torch_{name}"), ctypes.c_void_p).value for name in _FUNCTIONS]
    except (OSError, AttributeError):
        return None
    return (ctypes.c_void_p * len(addresses))(*addresses)


@functools.cache
def library() -> Library | None:
    """The library, compiled now if it is not in the cache; None if it is not available or switched off.

    If it is not available, a warning gives the reason once.
    """
    if os.environ.get("LOSSAWARE_NATIVE", "1") == "0":
        return None
    try:
        return _load_or_compile()
    except (build.NoLibraryError, OSError) as error:
        logger.warning(
            "LGA corrects parameters on the CPU by torch's operators, which is several times slower than its C "
            "library: %s (set LOSSAWARE_NATIVE=0 in the environment to use torch's operators without this warning)",
            " ".join(str(error).split()),
        )
        return None


def _load_or_compile() -> Library:
    if not IS_SUPPORTED:
        raise build.NoLibraryError(f"it does not support {platform.system()}")
    key, folder = build.key_of(build.source()), build.private_folder()
    for path in build.cached_libraries(folder, key):
        with contextlib.suppress(build.NoLibraryError):
            return _load(path)
    failures = []
    for compiler in build.compilers():
        try:
            return _load(build.store_library(folder, key, build.compile_by(compiler)))
        except build.NoLibraryError as error:
            failures.append(str(error))
    raise build.NoLibraryError("; ".join(failures))


def _load(path: Path) -> Library:
    """The library at a path. If it cannot be loaded, as on another system, it is removed."""
    try:
        return Library(path)
    except (OSError, AttributeError) as error:
        path.unlink(missing_ok=True)
        raise build.NoLibraryError(f"it cannot be loaded ({error})") from error
