"""Counts of a call, which do not depend on other work of the machine."""

import re
import sys
from collections.abc import Callable
from typing import Any, NamedTuple

_BYTES = {"f64": 8, "s64": 8, "f32": 4, "s32": 4, "u32": 4, "bf16": 2, "f16": 2, "pred": 1}
_INSTRUCTION = re.compile(r"(?:ROOT )?%(?P<name>\S+) = (?P<shape>\S+) (?P<opcode>[\w-]+)\((?P<operands>[^)]*)\)")
_NOT_A_LOOP = {"parameter", "tuple", "get-tuple-element", "bitcast"}


def calls_of_python(call: Callable[[], object]) -> int:
    """Calls of functions written in Python and of those in C that the interpreter makes in a call.

    The first call is not counted, as it may prepare something.
    """
    call()
    count = 0

    def profile(_: Any, event: str, __: Any) -> None:
        nonlocal count
        count += event in ("call", "c_call")

    sys.setprofile(profile)
    try:
        call()
    finally:
        sys.setprofile(None)
    return count - 2  # the call itself, and that of setprofile


class Loops(NamedTuple):
    """The loops over large arrays of a function that XLA compiled."""

    number: int
    moved: int
    """Bytes that all of them read and write."""


def loops_of(hlo: str, elements: int) -> Loops:
    """Count the loops in optimized HLO.

    Args:
        hlo: The text, as `jax.stages.Compiled.as_text` returns it.
        elements: Arrays of at least this size count.
    """
    entry = hlo[hlo.index("\nENTRY") :]
    sizes: dict[str, int] = {}
    count = moved = 0
    for instruction in _INSTRUCTION.finditer(entry):
        size = _large_bytes(instruction["shape"], elements)
        sizes[instruction["name"]] = size
        if size and instruction["opcode"] not in _NOT_A_LOOP:
            count += 1
            moved += size + sum(sizes.get(name, 0) for name in re.findall(r"%([^\s,)]+)", instruction["operands"]))
    return Loops(count, moved)


def _large_bytes(shape: str, elements: int) -> int:
    """Bytes of an array, 0 if it is small: ``f32[10000000]{0}``."""
    match = re.match(r"(\w+)\[([\d,]*)\]", shape)
    if match is None:
        return 0
    count = 1
    for size in filter(None, match[2].split(",")):
        count *= int(size)
    return count * _BYTES[match[1]] if count >= elements else 0
