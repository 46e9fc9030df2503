"""Running means of gradients in the pass: all implementations are bitwise equal."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from lossaware.correction import WORK, Correction, Means, native
from lossaware.correction import correction as of_correction
from support.pushes import AMOUNT, DTYPES, GRADIENTS, SIZE, VIEWS, XI, laid_out, needs_library, problem, same_bits

WEIGHT = 1 - 0.9


def pushed(
    pairs: list[tuple[Tensor, Tensor]],
    means: list[Tensor | None],
    amount: float | Tensor = AMOUNT,
    *,
    rest: bool = True,
) -> None:
    correction = Correction(XI, "rest" if rest else "push")
    correction.reseed(3)
    correction.apply(pairs, amount, means=Means(means, WEIGHT))


def mean_of(p: Tensor) -> Tensor:
    """A mean of gradients before this step, as `GradientMean` makes it."""
    generator = torch.Generator().manual_seed(1)
    values = torch.randn(p.shape, generator=generator) * 10.0 ** torch.randint(-6, 1, p.shape, generator=generator)
    return torch.zeros_like(p, dtype=WORK[p.dtype]).copy_(values)


def expected_mean(mean: Tensor, g: Tensor) -> Tensor:
    """Of three operations, each rounded, by NumPy."""
    m, values = mean.numpy().copy(), g.to(mean.dtype).numpy()
    difference = values - m
    scaled = difference * m.dtype.type(WEIGHT)
    return torch.from_numpy(m + scaled)


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.usefixtures("way")
def test_means_are_rounded_after_each_operation_and_phi_reads_them(dtype: torch.dtype, threads: int) -> None:
    """Without the check, a fused multiply-add of compiler or processor gives other bits."""
    p, g = problem(dtype)
    mean, before = mean_of(p), p.clone()
    expected, number = expected_mean(mean, g), torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        pushed([(p, g)], [mean])
    finally:
        torch.set_num_threads(number)
    assert same_bits(mean, expected)
    by_mean = before.clone()
    correction = Correction(XI, "rest")
    correction.reseed(3)
    correction.apply([(by_mean, mean)], AMOUNT)
    assert same_bits(p, by_mean)
    assert (p != before).sum() > 0.4 * SIZE


numbers = st.one_of(st.floats(-1e3, 1e3, width=32), st.floats(width=32), st.sampled_from([0.0, -0.0, 1e-8, 6e-8, 3e38]))


@needs_library
@settings(max_examples=100)
@given(
    data=st.data(),
    dtype=st.sampled_from(DTYPES),
    of_gradient=st.sampled_from(DTYPES),
    view=st.sampled_from(sorted(VIEWS)),
    layout=st.sampled_from(GRADIENTS),
    of_mean=st.sampled_from(GRADIENTS),
    amount=st.sampled_from([1e-3, 1.0, 1e-300, 2.0**-150, 2.0**-149, float("inf")]),
)
def test_any_layout_has_the_same_bits_by_both(
    data: st.DataObject,
    dtype: torch.dtype,
    of_gradient: torch.dtype,
    view: str,
    layout: str,
    of_mean: str,
    amount: float,
) -> None:
    values, slopes, earlier = (torch.tensor(data.draw(st.lists(numbers, min_size=60, max_size=60))) for _ in range(3))
    gradient = VIEWS[view](slopes.to(of_gradient))
    both = []
    for library in (native.library, lambda: None):
        p = VIEWS[view](values.to(dtype, copy=True))
        mean = laid_out(VIEWS[view](earlier.to(WORK[dtype], copy=True)), of_mean, p)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(native, "library", library)
            pushed([(p, laid_out(gradient, layout, p))], [mean], amount)
        both.append((p, mean))
    (p, mean), (other, mean_of_other) = both
    assert same_bits(mean, mean_of_other)
    assert same_bits(p, other)


@pytest.mark.usefixtures("way")
def test_an_amount_of_zero_in_the_arithmetic_moves_means_alone() -> None:
    for dtype in DTYPES:
        p, g = problem(dtype, 60)
        mean, before = mean_of(p), p.clone()
        expected = expected_mean(mean, g)
        pushed([(p, g)], [mean], 1e-300 if dtype != torch.float64 else 5e-324, rest=False)
        assert same_bits(mean, expected)
        assert same_bits(p, before) or dtype == torch.float64


@pytest.mark.usefixtures("way")
def test_an_amount_of_zero_moves_nothing() -> None:
    p, g = problem(torch.float32, 60)
    mean, before = mean_of(p), p.clone()
    old = mean.clone()
    pushed([(p, g)], [mean], torch.zeros(()))
    assert same_bits(mean, old)
    assert same_bits(p, before)


@needs_library
def test_pairs_of_all_kinds_go_together(monkeypatch: pytest.MonkeyPatch) -> None:
    """Contiguous and not, with a mean and without one, of several dtypes: as each by itself."""

    def make_pairs() -> tuple[list[tuple[Tensor, Tensor]], list[Tensor | None]]:
        pairs, means = [], []
        for number, (dtype, view) in enumerate((d, v) for d in DTYPES for v in ("transposed", "a part in the middle")):
            p, g = (VIEWS[view](values) for values in problem(dtype, 60))
            pairs.append((p, g))
            means.append(mean_of(p) if number % 3 else None)
        return pairs, means

    (pairs, means), (others, other_means) = make_pairs(), make_pairs()
    pushed(pairs, means)
    monkeypatch.setattr(native, "library", lambda: None)
    pushed(others, other_means)
    for (p, _), (other, _), mean, other_mean in zip(pairs, others, means, other_means, strict=True):
        assert same_bits(p, other)
        assert (mean is None) == (other_mean is None)
        assert mean is None or other_mean is None or same_bits(mean, other_mean)


# One look at all of them ----------------------------------------------------------------------------------------------


Row = tuple[Tensor, Tensor, "Tensor | None"]


def a_batch() -> list[Row]:
    return [(torch.full((2, 3), 1.0 + i), torch.ones(2, 3), torch.ones(2, 3)) for i in range(4)]


def table_of(batch: list[Row], *, means: bool = True) -> object:
    library = native.library()
    assert library is not None
    parameters, gradients, batch_means = zip(*batch, strict=True)
    return library.table(parameters, gradients, batch_means if means else (), 1)


class Other(Tensor):
    pass


def channels_last(t: Tensor) -> Tensor:
    return t.reshape(1, 2, 1, 3).contiguous(memory_format=torch.channels_last)


def row_of(make: Callable[[], Tensor]) -> Row:
    return make(), make(), make()


ODD: dict[str, Callable[[Tensor, Tensor, Tensor], Row]] = {
    "a gradient of another shape": lambda p, g, m: (p, torch.ones(3, 2), m),
    "a gradient of other dimensions": lambda p, g, m: (p, torch.ones(6), m),
    "a mean of another shape": lambda p, g, m: (p, g, torch.ones(3, 2)),
    "a transposed parameter": lambda p, g, m: (torch.ones(3, 2).t(), g, m),
    "a transposed mean": lambda p, g, m: (p, g, torch.ones(3, 2).t()),
    "gaps in all of them": lambda p, g, m: row_of(lambda: torch.ones(2, 6)[:, ::2]),
    "shared elements": lambda p, g, m: row_of(lambda: torch.ones(1, 3).expand(2, 3)),
    "a gradient with gaps": lambda p, g, m: (p, torch.ones(2, 6)[:, ::2], m),
    "a gradient of another dtype": lambda p, g, m: (p, g.double(), m),
    "a mean of another dtype": lambda p, g, m: (p, g, m.double()),
    "another dtype": lambda p, g, m: (p.double(), g.double(), m.double()),
    "negated by a bit": lambda p, g, m: (p, torch._neg_view(g), m),
    "no mean": lambda p, g, m: (p, g, None),
    "a sparse gradient": lambda p, g, m: (p, g.to_sparse(), m),
    "on another device": lambda p, g, m: (p, g.to("meta"), m),
    "another class": lambda p, g, m: (p, g.as_subclass(Other), m),
}


@needs_library
@pytest.mark.parametrize("place", [0, 2])
@pytest.mark.parametrize("odd", ODD)
def test_one_that_is_not_like_the_others_is_seen(odd: str, place: int) -> None:
    """Without the check, the library reads and writes invalid memory, or memory of another dtype."""
    batch = a_batch()
    assert table_of(batch) is not None
    p, g, m = batch[place]
    assert m is not None
    batch[place] = ODD[odd](p, g, m)
    assert table_of(batch) is None


@needs_library
def test_one_dense_layout_is_processed_in_memory_order() -> None:
    batch = a_batch()
    batch[1] = row_of(lambda: torch.ones(3, 2).t())
    batch[2] = tuple(channels_last(t) for t in batch[2] if t is not None)  # type: ignore[assignment]
    batch[3] = row_of(lambda: torch.ones(0, 3))
    assert table_of(batch) is not None
    assert table_of(batch, means=False) is not None


@needs_library
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("means", [False, True])
def test_thousands_of_small_tensors_are_looked_at_together(
    means: bool, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not each by itself, which takes several times as long as their arithmetic; and to the same bits."""
    both = []
    for together in (True, False):
        if not together:
            monkeypatch.setattr(native.library(), "_torch", None)
        p, g = problem(dtype, 6000)
        parameters, gradients = p.clone().split(11), g.split(11)
        moved_means = [mean_of(some) for some in parameters]
        with monkeypatch.context() as patch:
            if together:
                patch.setattr(of_correction, "is_flat", lambda *_: pytest.fail("looked at one by one"))
            pairs = list(zip(parameters, gradients, strict=True))
            correction = Correction(XI, "push")
            correction.reseed(3)
            correction.apply(pairs, AMOUNT, means=Means(moved_means, WEIGHT) if means else None)
        assert not same_bits(torch.cat(parameters), p)
        both.append((torch.cat(parameters), torch.cat(moved_means)))
    assert all(same_bits(a, b) for a, b in zip(*both, strict=True))
