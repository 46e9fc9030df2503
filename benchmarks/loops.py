"""The loops of compiled steps by themselves: what LGA adds to one, and what other code for the same would take.

``loops.cpp`` has them. They are compiled by torch's compiler for C++ code, with the flags of a compiled step.
"""

import ctypes
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tests import reference

from benchmarks.goals import Counter, SkippedError

LOOPS = {
    "SGD": {
        "base, as generated": "sgd",
        "with LGA, as generated": "sgd_lga",
        "by masks, as generated before": "sgd_lga_masked",
        "by masks, with a check of the amount": "sgd_lga_checked",
        "by hand: scalars and masks in registers": "hand_lga",
        "by hand, memory asked for ahead": "hand_lga_fetched",
        "by hand, a multiplication for the division (other results)": "hand_multiplied",
        "the division alone": "hand_division",
    },
    "SGD, auto": {
        "with LGA, as generated": "sgd_means",
        "by masks, as generated before": "sgd_means_masked",
        "by hand: scalars and masks in registers": "hand_means",
        "by hand, memory asked for ahead": "hand_means_fetched",
    },
    "Adam": {
        "base, as generated": "adam",
        "with LGA, as generated": "adam_lga",
        "by masks, as generated before": "adam_lga_masked",
    },
}
"""By optimizer, what a loop is and its function."""
SMALL, PIECE, TOTAL = 1024, 1 << 16, 152 << 16
REPEATED = 200
XI, WEIGHT = 0.01, 0.1
"""As in ``loops.cpp``."""


class _Data(ctypes.Structure):
    _fields_ = [
        (name, ctypes.c_void_p)
        for name in ("rate", "amount", "stays", "gradients", "parameters", "means", "squares")
    ]  # fmt: skip


class Arrays:
    """Gradients, parameters, means and means of squares, with the scalars of a step.

    Args:
        elements: Of each; between them is some memory, since equal addresses modulo 4096 delay reads.
        rate: The learning rate.
        amount: gamma2 * Omega.
    """

    def __init__(self, elements: int, rate: float, amount: float) -> None:
        generator = torch.Generator().manual_seed(0)
        whole = torch.randn(4, elements + 1104, generator=generator)
        self.gradients, self.parameters, self.means, self.squares = (row[:elements] for row in whole)
        self.squares.square_()
        self.rate = torch.tensor([-rate, -1.0 / rate, -1.0], dtype=torch.float64)
        self.amount, self.stays = torch.tensor([amount]), torch.tensor([False])

    def at(self, start: int = 0) -> Any:
        """The arguments of a loop from an element on."""
        scalars = (self.rate, self.amount, self.stays)
        arrays = (self.gradients, self.parameters, self.means, self.squares)
        return _Data(*(t.data_ptr() for t in scalars), *(t[start:].data_ptr() for t in arrays))


def compiled() -> dict[str, Any]:
    """The loops by the names of their functions.

    Raises:
        SkippedError: There is no C++ compiler.
    """
    from torch._inductor.codecache import CppCodeCache
    from torch._inductor.exc import InvalidCxxCompiler

    text = Path(__file__).with_name("loops.cpp").read_text()
    wide = ["-mprefer-vector-width=512"] if platform.machine() in ("x86_64", "AMD64") else []
    try:
        library = CppCodeCache.load(text, extra_flags=("-ftree-loop-vectorize", *wide))
    except InvalidCxxCompiler as error:
        raise SkippedError("no C++ compiler is installed") from error
    names = [function for loops in LOOPS.values() for function in loops.values()]
    return {name: getattr(library, name) for name in ("repeated", *names)}


def check(function: str, loop: Callable[..., None]) -> None:
    """Assert that a loop moves parameters as the reference says."""
    data = Arrays(SMALL, 0.1, 0.02)
    before, mean = data.parameters.double().numpy(), data.means.double().numpy()
    g = data.gradients.double().numpy()
    loop(ctypes.byref(data.at()), ctypes.c_long(SMALL))
    moved = data.parameters.double().numpy() - before
    read = mean + WEIGHT * (g - mean) if "means" in function else g
    base = -0.1 * g
    if function.startswith("adam"):
        plain = Arrays(SMALL, 0.1, 0.0)
        loop(ctypes.byref(plain.at()), ctypes.c_long(SMALL))
        base = plain.parameters.double().numpy() - before
    push = 0.02 / reference.phi(read, XI)
    if function == "hand_multiplied":
        push = 0.02 * reference.phi(read, XI)
    elif function in ("sgd", "adam"):
        push = np.zeros_like(g)
    elif function == "hand_division":
        base, push = 0.02 / g - before, np.zeros_like(g)
    np.testing.assert_allclose(moved, base - push, rtol=1e-4, atol=1e-6, err_msg=function)
    assert np.abs(moved).min() > 0, f"{function} left a parameter as it was"


def measure(seconds: float) -> tuple[list[Counter], list[dict[str, Any]]]:
    """Nanoseconds for an element: in the first-level cache, and from memory, where the loops take turns in pieces.

    Raises:
        SkippedError: There is no C++ compiler.
    """
    functions = compiled()
    repeated = functions.pop("repeated")
    for name, loop in functions.items():
        check(name, loop)
    near = _in_cache(functions, repeated, seconds / 2)
    far = _in_memory(functions, seconds)
    rows = [
        {
            "optimizer": optimizer,
            "loop": loop,
            "first cache, ns": near[function],
            "memory, ns": far[function],
            "memory / base": far[function] / far["adam" if optimizer == "Adam" else "sgd"],
        }
        for optimizer, loops in LOOPS.items()
        for loop, function in loops.items()
    ]
    return _counters(near, far), rows


def _counters(near: dict[str, float], far: dict[str, float]) -> list[Counter]:
    fixed, auto = "fixed, compiled", '"auto", compiled'
    counters = [Counter(fixed, "", "the division alone", near["hand_division"], "ns per element")]
    for of, item, what, loop, base in (
        ("SGD,", fixed, "the loop from memory / base", "sgd_lga", "sgd"),
        ("SGD,", fixed, "by hand with prefetch", "hand_lga_fetched", "sgd"),
        ("SGD,", fixed, "by hand with a multiplication", "hand_multiplied", "sgd"),
        ("Adam,", fixed, "the loop from memory / base", "adam_lga", "adam"),
        ("AdamW,", fixed, "Adam's loop from memory / base", "adam_lga", "adam"),
        ("SGD,", auto, "the loop from memory / base", "sgd_means", "sgd"),
        ("SGD,", auto, "by hand with prefetch", "hand_means_fetched", "sgd"),
    ):
        counters.append(Counter(item, of, what, far[loop] / far[base]))
    return [*counters, Counter(auto, "", "the division alone", near["hand_division"], "ns per element")]


def _in_cache(functions: dict[str, Any], repeated: Any, seconds: float) -> dict[str, float]:
    data = Arrays(SMALL, 1e-9, 2e-8).at
    at, clock = data(), time.perf_counter_ns
    times: dict[str, list[float]] = {name: [] for name in functions}
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or len(times["sgd"]) < 10:
        for name, loop in functions.items():
            began = clock()
            repeated(loop, ctypes.byref(at), ctypes.c_long(SMALL), ctypes.c_long(REPEATED))
            times[name].append((clock() - began) / (SMALL * REPEATED))
    return {name: statistics.median(samples) for name, samples in times.items()}


def _in_memory(functions: dict[str, Any], seconds: float) -> dict[str, float]:
    arrays, clock = Arrays(TOTAL, 1e-9, 2e-8), time.perf_counter_ns
    pieces = [arrays.at(start) for start in range(0, TOTAL, PIECE)]
    names, nothing, length = list(functions), ctypes.c_long(0), ctypes.c_long(PIECE)
    times: dict[str, list[float]] = {name: [] for name in names}
    overhead = []
    end = time.perf_counter() + seconds
    turn = 0
    while time.perf_counter() < end or turn < 5:
        for number, piece in enumerate(pieces):
            name = names[(number + turn) % len(names)]
            loop, at = functions[name], ctypes.byref(piece)
            began = clock()
            loop(at, nothing)
            between = clock()
            loop(at, length)
            times[name].append(clock() - between)
            overhead.append(between - began)
        turn += 1
    call = statistics.median(overhead)
    return {name: (statistics.median(samples) - call) / PIECE for name, samples in times.items()}
