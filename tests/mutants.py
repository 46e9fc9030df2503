"""Changes one thing in a file at a time, and prints the changes that no test detects.

    python tests/mutants.py FILE TEST...

    python tests/mutants.py src/lossaware/correction/memory.py tests/correction
    python tests/mutants.py src/lossaware/law.py tests/test_law.py tests/test_traps.py --jobs 2 --lines 40-120
    python tests/mutants.py src/lossaware/correction/native.c tests/correction/test_passes.py

A mutant is the file with one operator, number, condition, argument, or statement changed or left out. The tests run on
a copy of ``src`` with the mutant in it, up to the first failure; the working tree is not touched. A mutant is killed
if a test fails or takes too long. The others are printed: either a test is missing, or the change has no effect. Run it
by hand, because a module takes minutes. The exit code is 1 if mutants survive, and 2 if the tests fail on the unchanged
file.

Annotations, imports, docstrings, and texts are not changed. In a C file, operators and numbers are changed.
"""

from __future__ import annotations

import argparse
import ast
import copy
import gc
import os
import re
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue
from typing import Any

ROOT = Path(__file__).resolve().parents[1]


@dataclass(frozen=True)
class Mutant:
    line: int
    before: str
    after: str
    source: str
    """The whole file."""


# Python -------------------------------------------------------------------------------------------------------------

EXCHANGES: dict[type[ast.AST], tuple[type[ast.AST], ...]] = {
    ast.Lt: (ast.LtE, ast.Gt),
    ast.LtE: (ast.Lt, ast.Gt),
    ast.Gt: (ast.GtE, ast.Lt),
    ast.GtE: (ast.Gt, ast.Lt),
    ast.Eq: (ast.NotEq,),
    ast.NotEq: (ast.Eq,),
    ast.Is: (ast.IsNot,),
    ast.IsNot: (ast.Is,),
    ast.In: (ast.NotIn,),
    ast.NotIn: (ast.In,),
    ast.And: (ast.Or,),
    ast.Or: (ast.And,),
    ast.Add: (ast.Sub,),
    ast.Sub: (ast.Add,),
    ast.Mult: (ast.Div,),
    ast.Div: (ast.Mult,),
    ast.FloorDiv: (ast.Mult,),
    ast.Mod: (ast.Mult,),
    ast.Pow: (ast.Mult,),
    ast.LShift: (ast.RShift,),
    ast.RShift: (ast.LShift,),
    ast.BitAnd: (ast.BitOr,),
    ast.BitOr: (ast.BitAnd,),
    ast.BitXor: (ast.BitAnd,),
}


def changes(node: ast.AST) -> Iterator[ast.AST]:
    """The replacements of a node."""
    changed: Any
    match node:
        case ast.Compare(ops=ops):
            for index, op in enumerate(ops):
                for other in EXCHANGES[type(op)]:
                    changed = copy.deepcopy(node)
                    changed.ops[index] = other()
                    yield changed
        case ast.BoolOp(op=op) | ast.BinOp(op=op) | ast.AugAssign(op=op):
            for other in EXCHANGES.get(type(op), ()):
                changed = copy.deepcopy(node)
                changed.op = other()
                yield changed
            if isinstance(node, ast.AugAssign):
                yield ast.Pass()
            if isinstance(node, ast.BoolOp):
                for index in range(len(node.values)):
                    changed = copy.deepcopy(node)
                    del changed.values[index]
                    yield changed if len(node.values) > 2 else changed.values[0]
        case ast.UnaryOp(op=ast.Not() | ast.USub() | ast.Invert(), operand=operand):
            yield copy.deepcopy(operand)
        case ast.If(test=test) | ast.IfExp(test=test) | ast.While(test=test) if not is_changed_itself(test):
            changed = copy.deepcopy(node)
            changed.test = ast.UnaryOp(ast.Not(), test)
            yield changed
        case ast.Constant(value=bool(value)):
            yield ast.Constant(not value)
        case ast.Constant(value=int(value)):
            yield ast.Constant(value + 1)
        case ast.Constant(value=float(value)):
            yield ast.Constant(value * 2 or 1.0)
        case ast.Return(value=value) if value is not None and not isinstance(value, ast.Constant):
            yield ast.Return(ast.Constant(None))
        case ast.Expr(value=ast.Call()) | ast.Raise() | ast.Delete():
            yield ast.Pass()
        case ast.With(body=body):
            yield ast.If(ast.Constant(True), body, [])
        case ast.Continue():
            yield ast.Break()
        case ast.Break():
            yield ast.Continue()
        case ast.Call(keywords=keywords):
            for index, keyword in enumerate(keywords):
                if keyword.arg != "strict":
                    changed = copy.deepcopy(node)
                    del changed.keywords[index]
                    yield changed
        case ast.ExceptHandler(type=ast.Tuple(elts=kinds)):
            for index in range(len(kinds)):
                changed = copy.deepcopy(node)
                del changed.type.elts[index]
                yield changed


def is_changed_itself(test: ast.expr) -> bool:
    """Whether a change of the condition already gives its opposite."""
    match test:
        case ast.UnaryOp(op=ast.Not()):
            return True
        case ast.Compare(ops=[op]):
            return not isinstance(op, ast.Lt | ast.LtE | ast.Gt | ast.GtE)
    return False


def places(node: ast.AST) -> Iterator[tuple[ast.AST, str, int | None]]:
    """All places of a tree that hold a node that may be changed: the parent, the field, and the index in it."""
    for field, value in ast.iter_fields(node):
        if field in ("annotation", "returns", "decorator_list", "type_params"):
            continue
        for index, child in enumerate(value) if isinstance(value, list) else [(None, value)]:
            if not isinstance(child, ast.AST) or isinstance(child, ast.Import | ast.ImportFrom | ast.JoinedStr):
                continue
            if isinstance(child, ast.keyword) and child.arg == "strict":  # of zip
                continue
            yield node, field, index
            yield from places(child)


def python_mutants(source: str) -> Iterator[Mutant]:
    tree = ast.parse(source)
    for parent, field, index in list(places(tree)):
        value = getattr(parent, field)
        child = value if index is None else value[index]
        for changed in changes(child):
            put(parent, field, index, changed)
            ast.fix_missing_locations(tree)
            text = ast.unparse(tree)
            put(parent, field, index, child)
            yield Mutant(getattr(child, "lineno", 0), *difference(first_line(child), first_line(changed)), text)


def put(parent: ast.AST, field: str, index: int | None, node: ast.AST) -> None:
    if index is None:
        setattr(parent, field, node)
    else:
        getattr(parent, field)[index] = node


def difference(before: str, after: str) -> tuple[str, str]:
    """Both without most of their common beginning and end."""
    start = max(0, common(before, after) - 30)
    end = max(0, common(before[start:][::-1], after[start:][::-1]) - 30)
    return before[start : len(before) - end][:150], after[start : len(after) - end][:150]


def common(one: str, other: str) -> int:
    """With how many characters both begin."""
    return next((n for n, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))


def first_line(node: ast.AST) -> str:
    return ast.unparse(node).splitlines()[0]


# C ------------------------------------------------------------------------------------------------------------------

C_EXCHANGES = {
    " < ": (" <= ",), " > ": (" >= ",), " <= ": (" < ",), " >= ": (" > ",), " == ": (" != ",), " != ": (" == ",),
    " + ": (" - ",), " - ": (" + ",), " * ": (" / ",), " / ": (" * ",), " && ": (" || ",), " || ": (" && ",),
    " >> ": (" << ",), " << ": (" >> ",), " & ": (" | ",), " ^ ": (" & ",), "~": ("",), "!": ("",),
}  # fmt: skip
C_TOKEN = re.compile(
    "|".join(map(re.escape, sorted(C_EXCHANGES, key=len, reverse=True))) + r"|\b0x[0-9a-f.p-]+u?f?\b|\b[0-9]+u?\b"
)


def c_mutants(source: str) -> Iterator[Mutant]:
    code = re.sub(r"/\*.*?\*/|^#.*?$", lambda match: re.sub(r"[^\n]", "\0", match[0]), source, flags=re.DOTALL | re.M)
    for token in C_TOKEN.finditer(code):
        for other in C_EXCHANGES.get(token[0], (f"({token[0]} + 1)",)):
            line = source.count("\n", 0, token.start()) + 1
            changed = source[: token.start()] + other + source[token.end() :]
            texts = (text.splitlines()[line - 1].strip(" \\") for text in (source, changed))
            yield Mutant(line, *difference(*texts), changed)


# The tests ----------------------------------------------------------------------------------------------------------


_PYTEST = [
    *("-x", "-q", "--tb=short", "--assert=plain", "-p", "no:cacheprovider"),
    *("-W", "ignore::pytest.PytestUnknownMarkWarning", "-o", "addopts=", "-m", "not mutations and not contract"),
]
"""Without plugins and rewritten assertions, which take longer than many a test."""


class Place:
    """A copy of ``src`` for the tests, in a process that has already imported their modules."""

    def __init__(self, folder: Path, file: Path, tests: list[str]) -> None:
        self._source, self._home = folder / "src", folder
        self._tests = tests
        shutil.copytree(ROOT / "src", self._source, ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
        self._file = self._source / file.relative_to(ROOT / "src")

    def passes(self, source: str, seconds: float) -> bool:
        self._file.write_text(source)
        child = os.fork()
        if child == 0:
            self._run()
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            ended, status = os.waitpid(child, os.WNOHANG)
            if ended:
                return os.waitstatus_to_exitcode(status) == 0
            time.sleep(0.05)
        os.killpg(child, signal.SIGKILL)
        os.waitpid(child, 0)
        return False

    def _run(self) -> None:
        code = 3
        try:
            os.setpgid(0, 0)  # no setsid: Linux may schedule what that separates apart, and tests would take too long
            output = os.open(self._home / "output", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
            for stream in (1, 2):
                os.dup2(output, stream)
            os.chdir(ROOT)
            # The compile cache is next to the copy, so a mutant cannot damage another cache.
            os.environ.update(PYTHONPATH=str(self._source), XDG_CACHE_HOME=str(self._home), PYTHONDONTWRITEBYTECODE="1")
            os.environ["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"  # most of a short run is pytest itself
            sys.path.insert(0, str(self._source))
            sys.dont_write_bytecode = True
            import pytest

            code = pytest.main([*_PYTEST, *self._tests])
        finally:
            os._exit(code)


def lines(text: str) -> tuple[int, int]:
    first, _, last = text.partition("-")
    return int(first), int(last or first)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path, help="the file to change, under src")
    parser.add_argument("tests", nargs="+", help="what pytest is to run, options included")
    parser.add_argument("--jobs", type=int, default=1, help="how many mutants are tried at the same time")
    parser.add_argument("--lines", type=lines, default=(1, sys.maxsize), help="change these lines alone, such as 40-80")
    parser.add_argument("--list", action="store_true", help="show the mutants and run nothing")
    arguments, options = parser.parse_known_args()
    file = arguments.file.resolve()
    source = file.read_text()
    make: Callable[[str], Iterator[Mutant]] = c_mutants if file.suffix == ".c" else python_mutants
    first, last = arguments.lines
    mutants = [mutant for mutant in make(source) if first <= mutant.line <= last]
    if arguments.list:
        for mutant in mutants:
            print(f"{mutant.line}: {mutant.before}  ->  {mutant.after}")
        return 0

    # Modules are imported once; each child process has them.
    import hypothesis  # noqa: F401
    import numpy  # noqa: F401
    import pytest  # noqa: F401
    import torch
    import torch._dynamo  # noqa: F401

    gc.freeze()  # so that children do not traverse existing objects

    with tempfile.TemporaryDirectory() as folder:
        free: SimpleQueue[Place] = SimpleQueue()
        for number in range(arguments.jobs):
            free.put(Place(Path(folder) / str(number), file, [*arguments.tests, *options]))
        place = free.get()
        start = time.monotonic()
        if not place.passes(source, 3600):
            print((place._home / "output").read_text()[-3000:])
            return 2
        seconds = 10 + 5 * arguments.jobs * (time.monotonic() - start)
        free.put(place)

        def survives(mutant: Mutant) -> bool:
            place = free.get()
            try:
                return place.passes(mutant.source, seconds)
            finally:
                free.put(place)

        survivors = 0
        with ThreadPoolExecutor(arguments.jobs) as pool:
            for mutant, survived in zip(mutants, pool.map(survives, mutants), strict=True):
                if survived:
                    survivors += 1
                    print(f"{arguments.file}:{mutant.line}: {mutant.before}  ->  {mutant.after}", flush=True)
        print(f"{len(mutants)} mutants, {len(mutants) - survivors} killed, {survivors} survived")
    return 1 if survivors else 0


if __name__ == "__main__":
    raise SystemExit(main())
