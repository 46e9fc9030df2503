"""All implementations of the correction: bitwise equal, equal to the reference, and without unnecessary work."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import reference
from lossaware.correction import Correction, native
from support.pushes import (
    AMOUNT,
    DTYPES,
    GRADIENTS,
    SIZE,
    VIEWS,
    XI,
    applied,
    laid_out,
    needs_library,
    problem,
    same_bits,
)


@pytest.fixture(params=[1, 2], ids=["one thread", "two threads"])
def threads(request: pytest.FixtureRequest) -> Iterator[int]:
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


# One result --------------------------------------------------------------------------------------------------------


@needs_library
@pytest.mark.parametrize("maximize", [False, True])
@pytest.mark.parametrize("zero_gradient", ["push", "rest"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_c_and_torchs_operators_give_the_same_bits(
    dtype: torch.dtype, zero_gradient: str, maximize: bool, threads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    p, g = problem(dtype)
    compiled = applied(p, g, zero_gradient, maximize=maximize)
    monkeypatch.setattr(native, "library", lambda: None)
    assert same_bits(compiled, applied(p, g, zero_gradient, maximize=maximize))
    moved = (compiled != p) & (g != 0)
    assert moved.sum() > 0.4 * SIZE


def some_pairs() -> list[tuple[Tensor, Tensor]]:
    """Several dtypes, dense and other layouts; few, because a compiler takes seconds for each."""
    pairs = []
    for dtype, of_gradient, layout, gradient in (
        (torch.bfloat16, torch.bfloat16, "transposed", "as the parameter"),
        (torch.float16, torch.float16, "channels_last", "contiguous"),
        (torch.bfloat16, torch.float32, "part of channels_last", "in another order"),
        (torch.float32, torch.float32, "permuted", "contiguous"),
    ):
        p, g = problem(dtype, 60)
        of_view = VIEWS[layout](p)
        pairs.append((of_view, laid_out(VIEWS[layout](g.to(of_gradient)), gradient, of_view)))
    return pairs


@needs_library
def test_a_step_has_the_same_bits_by_c_torch_and_as_one_compiled_graph(monkeypatch: pytest.MonkeyPatch) -> None:
    """One order of the noise: unguarded, a graph numbers elements otherwise where a parameter is transposed."""

    def step(pairs: list[tuple[Tensor, Tensor]], amount: float | Tensor, seed: int | Tensor) -> None:
        correction = Correction(XI, "rest")
        correction.reseed(seed)
        correction.apply(pairs[::2], amount)
        correction.apply(pairs[1::2], amount, maximize=True)

    by_c, by_torch, by_graph, before = (some_pairs() for _ in range(4))
    step(by_c, AMOUNT, 3)
    monkeypatch.setattr(native, "library", lambda: None)
    step(by_torch, AMOUNT, 3)
    compiled = torch.compile(step, fullgraph=True, dynamic=False)
    compiled(by_graph, torch.tensor(AMOUNT, dtype=torch.float64), torch.tensor(3.0, dtype=torch.float64))
    for (c, g), (operators, _), (graph, _), (old, _) in zip(by_c, by_torch, by_graph, before, strict=True):
        assert same_bits(c, operators), (c.dtype, g.dtype, c.shape, c.stride())
        assert same_bits(c, graph), (c.dtype, g.dtype, c.shape, c.stride())
        assert not torch.equal(c, old)


@pytest.mark.parametrize("maximize", [False, True])
@pytest.mark.parametrize("zero_gradient", ["push", "rest"])
@pytest.mark.usefixtures("way")
def test_float64_is_the_references(zero_gradient: str, maximize: bool) -> None:
    p, g = problem(torch.float64)
    law = reference.Law(1, gamma2=AMOUNT, xi=XI, zero_gradient=zero_gradient)
    with np.errstate(invalid="ignore"):
        expected = p.numpy() - law.correction(1.0, -g.numpy() if maximize else g.numpy())
    np.testing.assert_allclose(applied(p, g, zero_gradient, maximize=maximize).numpy(), expected, rtol=1e-15)


numbers = st.one_of(
    st.floats(-1e3, 1e3), st.floats(), st.sampled_from([0.0, -0.0, 1e-8, -1e-8, 6e-8, 65504.0, 3.4e38, np.nan, np.inf])
)


@needs_library
@settings(max_examples=200)
@given(
    data=st.data(),
    dtype=st.sampled_from(DTYPES),
    of_gradient=st.sampled_from(DTYPES),
    view=st.sampled_from(sorted(VIEWS)),
    layout=st.sampled_from(GRADIENTS),
    amount=st.one_of(st.floats(1e-12, 1.0), st.sampled_from([1e-300, 1e-46, 1e-42, 1e30, 1e39, 1e300, np.inf])),
    xi=st.sampled_from([1e-8, 0.01, 1.0]),
    rest=st.booleans(),
    maximize=st.booleans(),
    seed=st.integers(0, 2**40),
)
def test_any_pair_has_the_same_bits_by_both_and_the_references_numbers(
    data: st.DataObject,
    dtype: torch.dtype,
    of_gradient: torch.dtype,
    view: str,
    layout: str,
    amount: float,
    xi: float,
    rest: bool,
    maximize: bool,
    seed: int,
) -> None:
    values, slopes = (torch.tensor(data.draw(st.lists(numbers, min_size=60, max_size=60))) for _ in range(2))
    gradient = VIEWS[view](slopes.to(of_gradient))
    bases = [values.to(dtype, copy=True) for _ in range(3)]
    for base, library in zip(bases[1:], (native.library, lambda: None), strict=True):
        p = VIEWS[view](base)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(native, "library", library)
            correction = Correction(xi, "rest" if rest else "push")
            correction.reseed(seed)
            correction.apply([(p, laid_out(gradient, layout, p))], amount, maximize=maximize)
    assert same_bits(bases[1], bases[2])
    # Each element is the reference's, in the precision of the arithmetic; those between them have their bits.
    work = torch.float64 if dtype == torch.float64 else torch.float32
    before, after = VIEWS[view](bases[0]).to(work), VIEWS[view](bases[1])
    size = torch.tensor(amount, dtype=torch.float64).to(work)
    law = reference.Law(1, xi=float(torch.tensor(xi, dtype=work)), zero_gradient="rest" if rest else "push")
    slope = gradient.to(work).double().numpy()
    with np.errstate(all="ignore"):
        pushed = law.correction(float(size), -slope if maximize else slope, gamma2=1.0)
        push = torch.from_numpy(np.asarray(pushed if size != 0 else np.zeros(slope.shape)))
        exact = before.double() - push
    if dtype.itemsize > 2:
        # Three roundings: of phi, of the push, and of the difference.
        slack = 4 * torch.finfo(work).eps * (push.abs() + before.double().abs()) + torch.finfo(work).tiny
    else:
        spacing = torch.finfo(dtype).eps * exact.abs().clamp(min=torch.finfo(dtype).tiny)
        slack = spacing * 1.001 + 4 * torch.finfo(work).eps * push.abs()
    result = after.double()
    largest = torch.finfo(dtype).max
    finite = exact.isfinite() & (exact.abs() < 0.999 * largest) & (push.abs() < 1e38 if work == torch.float32 else True)
    assert ((result - exact).abs() <= slack)[finite].all()
    assert torch.equal(result.isnan(), exact.isnan())
    touched = torch.zeros(60, dtype=torch.bool)
    VIEWS[view](touched).fill_(True)
    assert same_bits(bases[1][~touched], bases[0][~touched])


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("amount", [1e-330, 1e-60, 1e39, 1e309, float("inf")])
@pytest.mark.usefixtures("way")
def test_an_amount_beyond_the_precision_of_the_arithmetic(dtype: torch.dtype, amount: float) -> None:
    """Values too small for float32 are 0 and cause no push, too large ones are infinite. float64 is kept."""
    g = torch.tensor([1.0, -1.0, 0.0, torch.nan, torch.inf], dtype=dtype)
    result = applied(torch.ones(5, dtype=dtype), g, amount=amount)
    rounded = amount if dtype == torch.float64 else float(torch.tensor(amount, dtype=torch.float64).float())
    if rounded == 0:
        assert torch.equal(result, torch.ones(5, dtype=dtype))
    elif rounded == torch.inf:
        assert result[:3].tolist() == [-torch.inf, torch.inf, -torch.inf]
        assert result[3:].isnan().all()
    else:
        assert result[:3].tolist() == pytest.approx([1 - amount / 1.01, 1 + amount / 1.01, 1 - amount / XI])
    assert same_bits(result, applied(torch.ones(5, dtype=dtype), g, amount=torch.tensor(amount, dtype=torch.float64)))


@pytest.mark.parametrize("zero_gradient", ["push", "rest"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_an_amount_of_zero_that_the_host_does_not_know_moves_nothing(dtype: torch.dtype, zero_gradient: str) -> None:
    """Without the check: 0 / phi(NaN) is NaN; and -0.0 would become 0.0."""
    p, g = torch.tensor([1.0, 1.0, 1.0, -0.0], dtype=dtype), torch.tensor([1.0, torch.nan, torch.inf, 0.0], dtype=dtype)

    def step(p: Tensor, g: Tensor, amount: Tensor) -> None:
        Correction(XI, zero_gradient).apply([(p, g)], amount)

    before = p.clone()
    torch.compile(step, fullgraph=True, backend="eager")(p, g, torch.zeros((), dtype=torch.float64))
    assert same_bits(p, before)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
@pytest.mark.usefixtures("way")
def test_resting_elements_keep_their_bits(dtype: torch.dtype) -> None:
    p = torch.arange(1 << 16).to(torch.uint16).view(dtype)
    p = p[~p.isnan()]
    assert same_bits(applied(p, torch.zeros_like(p), "rest", amount=1.0), p)


@needs_library
def test_autograd_notices_that_a_parameter_has_moved() -> None:
    """Without the check: a backward pass through an earlier graph would silently use other numbers."""
    w = torch.nn.Parameter(torch.ones(3))
    loss = (w * w.detach().clone().requires_grad_()).sum()
    Correction(XI, "push").apply([(w, torch.ones(3))], 0.1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


@needs_library
def test_parameters_in_the_same_memory_are_moved_one_after_the_other() -> None:
    """Without the check: two threads read the same element, and one of two pushes is lost."""
    threads = torch.get_num_threads()
    torch.set_num_threads(4)
    try:
        w = torch.zeros(512, 512)
        pairs = [
            (w, torch.ones_like(w)),
            (w.t(), torch.ones(512, 512).t()),
            (w.view(-1)[7:], torch.ones(512 * 512 - 7)),
        ]
        for _ in range(20):
            Correction(1.0, "push").apply(pairs, 1.0)
    finally:
        torch.set_num_threads(threads)
    expected = torch.full((512 * 512,), -30.0)
    expected[:7] = -20.0
    assert torch.equal(w.view(-1), expected)


@pytest.mark.usefixtures("way")
def test_a_part_and_the_whole_are_both_moved() -> None:
    w = torch.zeros(4, 5)
    Correction(1.0, "push").apply([(w, torch.ones(4, 5)), (w[:, 2], torch.ones(4)), (w[::2], torch.ones(2, 5))], 2.0)
    assert w.tolist() == [[-2, -2, -3, -2, -2], [-1, -1, -2, -1, -1]] * 2


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
        for tensor in tree_leaves(out):
            if isinstance(tensor, Tensor) and tensor.untyped_storage().data_ptr() not in before:
                self.largest_bytes = max(self.largest_bytes, tensor.untyped_storage().nbytes())
        return out


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The number of tensors in each call of the compiled library."""
    library, counts = native.library(), []
    assert library is not None
    push = library._push

    def counting(kind: int, count: int, *rest: Any) -> None:
        counts.append(count)
        push(kind, count, *rest)

    monkeypatch.setattr(library, "_push", counting)
    return counts


@needs_library
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_thousands_of_tensors_are_few_calls_and_no_operator(dtype: torch.dtype, calls: list[int]) -> None:
    p, g = problem(dtype, 6000)
    parameters, gradients = list(p.clone().split(3)), list(g.split(3))
    with Counted() as counted:
        Correction(XI, "push").apply(zip(parameters, gradients, strict=True), AMOUNT)
    assert (calls, counted.operators) == ([*[256] * 7, 2000 - 7 * 256], [])
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
def test_a_dense_layout_is_processed_in_memory_order(
    layout: torch.memory_format, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without the check: views of each tensor at each step, or copies."""
    shape = (2, 3, 4, 5) if layout is torch.channels_last else (2, 3, 4, 5, 6)
    p, g = (torch.randn(shape, dtype=torch.bfloat16).to(memory_format=layout) for _ in range(2))
    pushed, without = p.clone(), p.clone()
    with Counted() as counted:
        Correction(XI, "push").apply([(pushed, g)], 1.0)
    assert counted.operators == []
    assert not torch.equal(pushed, p)
    monkeypatch.setattr(native, "library", lambda: None)
    Correction(XI, "push").apply([(without, g)], 1.0)
    assert same_bits(pushed.contiguous(), without.contiguous())


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
