"""Every way of computing the correction: to the bit alike, held to the reference, with no more work than it needs."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import reference
from lossaware import LGA, native
from lossaware.correction import Correction

XI = 0.01
AMOUNT = 3e-5
SIZE = 70_001  # of several blocks and shares, and of no whole number of vectors
DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)

needs_library = pytest.mark.skipif(native.library() is None, reason="no C compiler here")


@pytest.fixture
def without_library(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(native, "library", lambda: None)


@pytest.fixture(params=[1, 2], ids=["one thread", "two threads"])
def threads(request: pytest.FixtureRequest) -> Iterator[int]:
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


def problem(dtype: torch.dtype, size: int = SIZE) -> tuple[Tensor, Tensor]:
    """Parameters from subnormal to 1, gradients large and small, both zeros, and what is not finite."""
    generator = torch.Generator().manual_seed(0)
    p = torch.randn(size, generator=generator) * torch.logspace(-7, 0, size)
    g = torch.randn(size, generator=generator) * 10.0 ** torch.randint(-6, 1, (size,), generator=generator)
    g[::7], g[1::7] = 0.0, -0.0
    p[5], p[17], g[6], g[19], g[40] = torch.nan, torch.inf, torch.inf, torch.nan, -torch.inf
    return p.to(dtype), g.to(dtype)


def same_bits(a: Tensor, b: Tensor) -> bool:
    return torch.equal(a.isnan(), b.isnan()) and torch.equal(a.nan_to_num(nan=0.0), b.nan_to_num(nan=0.0))


def applied(p: Tensor, g: Tensor, zero_gradient: str = "push", *, maximize: bool = False, seed: int = 3) -> Tensor:
    p = p.clone()
    correction = Correction(XI, zero_gradient)
    correction.reseed(seed)
    correction.apply([(p, g)], AMOUNT, maximize=maximize)
    return p


# One result --------------------------------------------------------------------------------------------------------


@needs_library
@pytest.mark.parametrize("maximize", [False, True])
@pytest.mark.parametrize("zero_gradient", ["push", "rest"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_compiled_library_and_torch_give_the_same_bits(
    dtype: torch.dtype, zero_gradient: str, maximize: bool, threads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    p, g = problem(dtype)
    compiled = applied(p, g, zero_gradient, maximize=maximize)
    monkeypatch.setattr(native, "library", lambda: None)
    assert same_bits(compiled, applied(p, g, zero_gradient, maximize=maximize))
    moved = (compiled != p) & (g != 0)
    assert moved.sum() > 0.4 * SIZE


@pytest.mark.parametrize("maximize", [False, True])
@pytest.mark.parametrize("zero_gradient", ["push", "rest"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_whole_lists_and_traced_expression_give_the_same_numbers(
    dtype: torch.dtype, zero_gradient: str, maximize: bool
) -> None:
    p, g = problem(dtype)
    expected = applied(p, g, zero_gradient, maximize=maximize)
    correction = Correction(XI, zero_gradient)
    lists, traced = p.clone(), p.clone()
    correction._push_lists([(lists[:100], g[:100]), (lists[100:], g[100:])], AMOUNT, maximize)
    correction._trace(traced, g, AMOUNT, maximize)
    torch.testing.assert_close(lists, expected, rtol=1e-6, atol=0, equal_nan=True)
    torch.testing.assert_close(traced, expected, rtol=1e-6, atol=0, equal_nan=True)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_traced_expression_rounds_with_the_same_noise(dtype: torch.dtype) -> None:
    p, g = problem(dtype)
    expected = applied(p, g)
    correction = Correction(XI, "push")
    correction.reseed(torch.tensor(3.0, dtype=torch.float64))  # as it is kept on a device
    correction._number = 1
    correction._trace(p, g, torch.tensor(AMOUNT, dtype=torch.float64), False)
    assert same_bits(p, expected)


@pytest.mark.parametrize("maximize", [False, True])
@pytest.mark.parametrize("zero_gradient", ["push", "rest"])
def test_float64_is_the_references(zero_gradient: str, maximize: bool) -> None:
    p, g = problem(torch.float64)
    law = reference.Law(1, gamma2=AMOUNT, xi=XI, zero_gradient=zero_gradient)
    with np.errstate(invalid="ignore"):
        expected = p.numpy() - law.correction(1.0, -g.numpy() if maximize else g.numpy())
    np.testing.assert_allclose(applied(p, g, zero_gradient, maximize=maximize).numpy(), expected, rtol=1e-15)


@pytest.mark.parametrize("way", ["blocks", "lists", "trace"])
def test_an_amount_of_zero_on_the_device_moves_nothing(way: str) -> None:
    """Unguarded: 0 / phi(NaN) is NaN."""
    p, g = torch.ones(3), torch.tensor([1.0, torch.nan, torch.inf])
    correction, nothing = Correction(XI, "push"), torch.zeros(())
    if way == "blocks":
        correction._push_in_blocks(p, g, 1, nothing, False)
    elif way == "lists":
        correction._push_lists([(p, g)], nothing, False)
    else:
        correction._trace(p, g, nothing, False)
    assert torch.equal(p, torch.ones(3))


def test_lists_are_cut_into_portions(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lossaware.correction._LIST_BYTES", 4 * 1000)
    p, g = problem(torch.float32)
    expected = applied(p, g)
    with Counted() as counted:
        Correction(XI, "push")._push_lists(list(zip(p.split(300), g.split(300), strict=True)), AMOUNT, False)
    assert same_bits(p, expected)
    assert counted.largest_bytes <= 4 * 1000


# Memory that is not the parameter's alone ---------------------------------------------------------------------------

VIEWS: dict[str, Callable[[Tensor], Tensor]] = {
    "every other": lambda base: base[::2],
    "every third, from the second": lambda base: base[1::3],
    "a column": lambda base: base.view(6, 10)[:, 3],
    "columns": lambda base: base.view(6, 10)[:, 2:5],
    "every other row": lambda base: base.view(6, 10)[::2],
    "a transposed part": lambda base: base.view(6, 10)[1:4, 2:9].t(),
    "a diagonal": lambda base: base[:49].view(7, 7).diagonal(),
    "a part in the middle": lambda base: base[7:20],
    "part of channels_last": lambda base: base.view(1, 3, 4, 5).to(memory_format=torch.channels_last)[:, :2],
    "an as_strided grid": lambda base: base.as_strided((3, 4), (17, 3), 5),
    "one element": lambda base: base[13],
    "nothing": lambda base: base[5:5],
}


def pushed_views(view: Callable[[Tensor], Tensor], dtype: torch.dtype, gradient: str) -> tuple[Tensor, Tensor, Tensor]:
    """All memory before, and after a push of a view; and a float64 copy of all that is pushed by itself."""
    base = torch.arange(1, 61).to(dtype)
    p = view(base)
    if p.untyped_storage().data_ptr() != base.untyped_storage().data_ptr():  # the view is one of a copy
        base = p._base if p._base is not None else p
    before, alone = base.clone(), p.double().clone(memory_format=torch.contiguous_format)
    g = torch.linspace(-1, 1, p.numel()).view(p.shape).to(dtype)
    if gradient == "as the parameter":
        g = torch.empty_like(p).copy_(g)
    elif gradient == "with gaps":
        g = torch.stack([g, torch.full_like(g, 77.0)], dim=-1)[..., 0]
    elif gradient == "in another order":
        backwards = tuple(range(g.dim()))[::-1]
        g = g.permute(backwards).contiguous().permute(backwards)
    Correction(XI, "push").apply([(p, g)], 0.25)
    expected = alone - 0.25 * torch.where(g.double() >= 0, 1.0, -1.0) / (g.double().abs() + XI)
    tolerance = {torch.float64: 1e-14, torch.float32: 1e-6}.get(dtype, 1e-2)
    torch.testing.assert_close(p.double(), expected, rtol=tolerance, atol=tolerance)
    return before, base, p


@pytest.mark.parametrize("library", [pytest.param(True, marks=needs_library), False], ids=["C", "torch"])
@pytest.mark.parametrize("gradient", ["contiguous", "as the parameter", "with gaps", "in another order"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("view", VIEWS.values(), ids=VIEWS)
def test_a_view_is_pushed_and_its_neighbours_keep_their_bits(
    view: Callable[[Tensor], Tensor], dtype: torch.dtype, gradient: str, library: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Unguarded: a view of every other element is taken for dense memory, and others' numbers are overwritten."""
    if not library:
        monkeypatch.setattr(native, "library", lambda: None)
    before, base, p = pushed_views(view, dtype, gradient)
    belongs = torch.zeros(base.untyped_storage().nbytes() // base.element_size(), dtype=torch.bool)
    belongs.as_strided(p.shape, p.stride(), p.storage_offset()).fill_(True)
    belongs = belongs.as_strided(base.shape, base.stride(), base.storage_offset())
    assert torch.equal(base[~belongs], before[~belongs])


def test_a_strided_parameter_by_an_optimizer() -> None:
    base = torch.zeros(8)
    p = torch.nn.Parameter(base[::2])
    optimizer = torch.optim.SGD([p], lr=0.0)
    LGA(optimizer, steps_per_epoch=10, gamma2=1.0)
    p.grad = torch.full_like(p, 0.99)
    optimizer.step(loss=1.0)  # type: ignore[call-arg]
    torch.testing.assert_close(base, torch.tensor([-1.0, 0.0] * 4))


@pytest.mark.parametrize("library", [pytest.param(True, marks=needs_library), False], ids=["C", "torch"])
@pytest.mark.parametrize("part", ["real", "imag"])
def test_a_part_of_complex_numbers_is_pushed_alone(part: str, library: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if not library:
        monkeypatch.setattr(native, "library", lambda: None)
    z = torch.full((5,), 1 + 2j, dtype=torch.complex128)
    p = getattr(z, part)
    Correction(0.5, "push").apply([(p, torch.full_like(p, 0.5))], 1.0)
    expected = {"real": 0 + 2j, "imag": 1 + 1j}[part]
    assert z.tolist() == [expected] * 5


@pytest.mark.parametrize("library", [pytest.param(True, marks=needs_library), False], ids=["C", "torch"])
@pytest.mark.parametrize("zero_gradient", ["push", "rest"])
def test_gradients_that_are_negated_or_conjugated_lazily(
    zero_gradient: str, library: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Unguarded: memory holds the other sign, and the parameter climbs; a conjugated one has no view as reals."""
    if not library:
        monkeypatch.setattr(native, "library", lambda: None)
    weights = torch.complex(torch.linspace(-1, 1, 7), torch.linspace(1, -2, 7))
    cases = {
        "a part of the conjugate": (torch.ones(7), weights.conj().imag),
        "the conjugate": (torch.ones(7, dtype=torch.complex64), weights.conj()),
        "the negated conjugate": (torch.ones(7, dtype=torch.complex64), weights.conj()._neg_view()),
    }
    for name, (p, g) in cases.items():
        assert g.is_neg() or g.is_conj(), name
        before, plain = p.clone(), g.resolve_conj().resolve_neg().clone()
        expected = p.clone()
        Correction(XI, zero_gradient).apply([(expected, plain)], 0.1)
        Correction(XI, zero_gradient).apply([(p, g)], 0.1)
        assert torch.equal(p, expected), name
        steps, slopes = (torch.view_as_real(x) if x.is_complex() else x for x in (before - p, plain))
        assert torch.equal(steps.sign()[slopes != 0], slopes.sign()[slopes != 0]), name


@pytest.mark.parametrize("shape", [(), (1,), (7,)], ids=str)
def test_the_gradient_of_a_conjugate_by_an_optimizer(shape: tuple[int, ...]) -> None:
    """Autograd leaves the gradient of a scalar negated lazily."""
    a, b = (torch.nn.Parameter(torch.ones(shape)) for _ in range(2))
    optimizer = torch.optim.SGD([a, b], lr=0.0)
    LGA(optimizer, steps_per_epoch=10, gamma2=1.0)
    (torch.complex(a, b).conj() * (1 + 2j)).sum().real.backward()
    assert b.grad is not None
    assert b.grad.is_neg() == (shape != (7,))
    optimizer.step(loss=1.0)  # type: ignore[call-arg]
    torch.testing.assert_close(a.detach(), torch.full(shape, 1 - 1 / 1.01))
    torch.testing.assert_close(b.detach(), torch.full(shape, 1 - 1 / 2.01))


@pytest.mark.parametrize("library", [pytest.param(True, marks=needs_library), False], ids=["C", "torch"])
@pytest.mark.parametrize("sparse", [False, True], ids=["dense", "sparse"])
def test_parameters_that_are_negated_or_conjugated_lazily(
    sparse: bool, library: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not library:
        monkeypatch.setattr(native, "library", lambda: None)
    z = torch.complex(torch.linspace(-1, 1, 5), torch.linspace(2, -2, 5))
    conjugated, negated = z.conj(), torch.conj(z.clone()).imag
    assert conjugated.is_conj()
    assert negated.is_neg()
    for p, g in ((conjugated, torch.full((5,), 0.5 - 0.5j)), (negated, torch.full((5,), -0.5))):
        before = p.clone()
        Correction(0.5, "push").apply([(p, g.to_sparse() if sparse else g)], 1.0)
        torch.testing.assert_close(p, before - (1 - 1j if p.is_complex() else -1.0))


# Parameters of 16 bits ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [0.05, -3.0, 3e-5, -5.9e-8], ids=["usual", "large", "subnormal", "smallest"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("library", [pytest.param(True, marks=needs_library), False])
def test_rounding_keeps_the_mean(
    dtype: torch.dtype, value: float, library: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Unguarded: a push of a hundredth of a unit in the last place is lost each time."""
    if not library:
        monkeypatch.setattr(native, "library", lambda: None)
    n, start = 400_000, torch.tensor(value, dtype=dtype).double()
    p, g = torch.full((n,), value, dtype=dtype), torch.full((n,), 0.5, dtype=dtype)
    spacing = float((torch.nextafter(start.to(dtype), torch.tensor(9.0, dtype=dtype)) - start.to(dtype)).abs())
    push = 0.01 * spacing
    correction = Correction(0.5, "push")
    correction.reseed(1)
    correction.apply([(p, g)], push)
    moved = (start - p.double()) / push
    # A share of 0.01 moves by a whole unit: standard error of the mean 10 / sqrt(n) = 0.016 of the push.
    assert moved.mean().item() == pytest.approx(1.0, abs=5 * 10 / n**0.5)
    assert len(p.unique()) == 2


def test_noise_differs_between_steps_tensors_and_places() -> None:
    p = torch.full((4096,), 0.05, dtype=torch.bfloat16)
    g = torch.ones(4096, dtype=torch.bfloat16)

    def ups(seed: int) -> tuple[Tensor, Tensor]:
        one, two = p.clone(), p.clone()
        correction = Correction(1.0, "push")
        correction.reseed(seed)
        correction.apply([(one, g), (two, g)], 2 * 1.2e-4)
        return one != p, two != p

    drawn = [*ups(1), *ups(2)]
    again = [*ups(1), *ups(2)]
    assert all(torch.equal(a, b) for a, b in zip(drawn, again, strict=True))
    shares = torch.stack(drawn).double()
    assert ((shares.mean(1) > 0.4) & (shares.mean(1) < 0.6)).all()
    # Five standard errors of a correlation of 4,096 independent draws.
    assert (torch.corrcoef(shares) - torch.eye(4)).abs().max() < 5 / 64
    assert torch.corrcoef(torch.stack([shares[0, 1:], shares[0, :-1]]))[0, 1].abs() < 5 / 64


# Counted work ---------------------------------------------------------------------------------------------------------


class Counted(TorchDispatchMode):
    """Counts torch's operators, and finds the largest tensor that one of them made."""

    def __init__(self) -> None:
        super().__init__()
        self.operators: list[str] = []
        self.largest_bytes = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        before = {t.untyped_storage().data_ptr() for t in tree_leaves((args, kwargs)) if isinstance(t, Tensor)}
        out = func(*args, **(kwargs or {}))
        self.operators.append(str(func))
        for made in tree_leaves(out):
            if isinstance(made, Tensor) and made.untyped_storage().data_ptr() not in before:
                self.largest_bytes = max(self.largest_bytes, made.untyped_storage().nbytes())
        return out


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many tensors each call of the compiled library gets."""
    library, seen = native.library(), []
    assert library is not None
    push = library._push

    def counting(kind: int, count: int, *rest: Any) -> None:
        seen.append(count)
        push(kind, count, *rest)

    monkeypatch.setattr(library, "_push", counting)
    return seen


@needs_library
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_thousands_of_tensors_are_one_call_and_no_operator(dtype: torch.dtype, calls: list[int]) -> None:
    p, g = problem(dtype, 6000)
    parameters, gradients = list(p.clone().split(3)), list(g.split(3))
    with Counted() as counted:
        Correction(XI, "push").apply(zip(parameters, gradients, strict=True), AMOUNT)
    assert (calls, counted.operators) == ([2000], [])
    assert not same_bits(torch.cat(parameters), p)


@needs_library
def test_layouts_and_complex_numbers_go_into_the_same_call(calls: list[int]) -> None:
    p = [
        torch.randn(3),
        torch.randn(2, 3, 4, 5).to(memory_format=torch.channels_last),
        torch.randn(4, 6).t(),
        torch.randn(5, dtype=torch.complex64),
        torch.randn(0),
    ]
    before = [q.clone() for q in p]
    Correction(XI, "push").apply([(q, torch.ones_like(q)) for q in p], AMOUNT)
    assert calls == [5]
    for q, old in zip(p[:3], before[:3], strict=True):
        torch.testing.assert_close(q, old - AMOUNT / (1 + XI))
    torch.testing.assert_close(
        p[3], before[3] - torch.complex(torch.tensor(AMOUNT / (1 + XI)), torch.tensor(AMOUNT / XI))
    )


@needs_library
@pytest.mark.parametrize("layout", [torch.channels_last, torch.channels_last_3d], ids=str)
def test_a_layout_that_fills_its_memory_is_taken_as_it_lies(
    layout: torch.memory_format, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Unguarded: views of each tensor at each step, or copies."""
    shape = (2, 3, 4, 5) if layout is torch.channels_last else (2, 3, 4, 5, 6)
    p, g = (torch.randn(shape, dtype=torch.bfloat16).to(memory_format=layout) for _ in range(2))
    found, without = p.clone(), p.clone()
    with Counted() as counted:
        Correction(XI, "push").apply([(found, g)], 1.0)
    assert counted.operators == []
    assert not torch.equal(found, p)
    monkeypatch.setattr(native, "library", lambda: None)
    Correction(XI, "push").apply([(without, g)], 1.0)
    assert same_bits(found.contiguous(), without.contiguous())


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.usefixtures("without_library")
def test_without_the_library_memory_stays_below_a_mebibyte(dtype: torch.dtype) -> None:
    p, g = problem(dtype, 1_000_000)
    with Counted() as counted:
        applied_in_place = Correction(XI, "push")
        applied_in_place.apply([(p, g)], AMOUNT)
    assert 0 < counted.largest_bytes <= 1 << 18


@pytest.mark.parametrize("amount", [0.0, torch.zeros(())], ids=["number", "tensor"])
def test_nothing_is_done_where_the_amount_is_known_to_be_zero(amount: float | Tensor) -> None:
    p, g = torch.ones(3), torch.ones(3)
    with Counted() as counted:
        Correction(XI, "push").apply([(p, g)], amount)
    assert [name for name in counted.operators if "local_scalar" not in name] == []


# The library ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path


def found_anew() -> native.Library | None:
    """What a new process would find."""
    return native.library.__wrapped__()


@needs_library
def test_it_is_compiled_once_and_found_again(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert found_anew() is not None
    (built,) = (cache / "lossaware").iterdir()
    assert (cache / "lossaware").stat().st_mode & 0o077 == 0
    before = built.stat()
    monkeypatch.setenv("CC", "no-such-compiler")  # nothing could be compiled now
    monkeypatch.setenv("PATH", "")
    library = found_anew()
    assert library is not None
    p = torch.ones(3)
    library.push([p], [torch.tensor([0.5, 0.0, -0.5])], [1], 0, 1.0, 0.5, maximize=False, rest=False)
    assert p.tolist() == [0.0, -1.0, 2.0]
    assert [(f.stat().st_ino, f.stat().st_mtime_ns) for f in (cache / "lossaware").iterdir()] == [
        (before.st_ino, before.st_mtime_ns)
    ]


@needs_library
def test_another_processor_or_another_source_makes_another_file(monkeypatch: pytest.MonkeyPatch) -> None:
    source = Path(native.__file__).with_name("native.c").read_bytes()
    own = native._digest(source)
    assert native._digest(source + b" ") != own
    monkeypatch.setattr(Path, "read_text", lambda self: "model name : Another\nflags : none")
    assert native._digest(source) != own


def others_may_write(folder: Path) -> dict[str, str]:
    (folder / "lossaware").mkdir()
    (folder / "lossaware").chmod(0o777)
    return {}


def no_folder(folder: Path) -> dict[str, str]:
    (folder / "lossaware").write_text("a file where the folder should be")
    return {}


def a_damaged_library(folder: Path) -> dict[str, str]:
    source = Path(native.__file__).with_name("native.c").read_bytes()
    (folder / "lossaware").mkdir(mode=0o700)
    (folder / "lossaware" / f"correction-{native._digest(source)}.so").write_bytes(b"half a file")
    return {}


OBSTACLES: dict[str, Callable[[Path], dict[str, str]]] = {
    "switched off": lambda _: {"LOSSAWARE_NATIVE": "0"},
    "no compiler": lambda _: {"CC": "no-such-compiler", "PATH": ""},
    "a compiler that fails": lambda _: {"CC": "false"},
    "a cache folder that others may write to": others_may_write,
    "no cache folder": no_folder,
    "a damaged library": a_damaged_library,
}


@pytest.mark.parametrize("obstacle", OBSTACLES.values(), ids=OBSTACLES)
def test_without_it_torch_does_the_same_in_silence(
    cache: Path,
    obstacle: Callable[[Path], dict[str, str]],
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    for name, value in obstacle(cache).items():
        monkeypatch.setenv(name, value)
    found = found_anew()
    assert found is None
    monkeypatch.setattr(native, "library", lambda: found)
    p = torch.ones(3)
    Correction(0.5, "push").apply([(p, torch.tensor([0.5, 0.0, -0.5]))], 1.0)
    assert p.tolist() == [0.0, -1.0, 2.0]
    assert capfd.readouterr() == ("", "")


def test_importing_the_package_compiles_and_loads_nothing(cache: Path) -> None:
    """Start-up costs nothing, and neither does a gate that never opens."""
    code = """
import sys, torch, lossaware
optimizer = torch.optim.SGD([torch.nn.Parameter(torch.ones(3))], lr=0.1)
lossaware.LGA(optimizer, steps_per_epoch=1)
optimizer.step(loss=0.0)
loaded = [name in sys.modules for name in ("lossaware.kernels", "lossaware.compiled")]
print(*loaded, lossaware.native.library.cache_info().currsize)
"""
    paths = os.pathsep.join([str(Path(native.__file__).parents[1]), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": paths},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout.split() == ["False", "False", "0"], done.stderr
    assert list(cache.iterdir()) == []


def test_a_user_without_a_home_has_no_library(monkeypatch: pytest.MonkeyPatch) -> None:
    """Unguarded: the first step would fail, as in a container with a user of its own."""

    def no_home() -> None:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.delenv("LOSSAWARE_NATIVE", raising=False)
    monkeypatch.setattr(native.Path, "home", no_home)
    assert native.library.__wrapped__() is None
