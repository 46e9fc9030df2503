"""Memory layouts: memory of others does not change, and unsupported layouts are refused."""

from __future__ import annotations

import warnings
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from lossaware import LGA
from lossaware.correction import Correction, refuse_shared_elements
from lossaware.correction.memory import flattened, is_flat
from support.pushes import DTYPES, GRADIENTS, VIEWS, XI, laid_out

# Views --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("gradient", GRADIENTS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("view", VIEWS)
@pytest.mark.usefixtures("way")
def test_a_view_is_pushed_and_its_neighbours_keep_their_bits(view: str, dtype: torch.dtype, gradient: str) -> None:
    """Without the check: a strided view is treated as dense memory, and other values are overwritten."""
    base = torch.arange(1, 61).to(dtype)
    p, before = VIEWS[view](base), base.clone()
    g = torch.linspace(-1, 1, p.numel()).view(p.shape).to(dtype)
    expected = p.double() - 0.25 * torch.where(g.double() >= 0, 1.0, -1.0) / (g.double().abs() + XI)
    Correction(XI, "push").apply([(p, laid_out(g, gradient, p))], 0.25)
    tolerance = {torch.float64: 1e-14, torch.float32: 1e-6}.get(dtype, 1e-2)
    torch.testing.assert_close(p.double(), expected, rtol=tolerance, atol=tolerance)
    touched = torch.zeros(60, dtype=torch.bool)
    VIEWS[view](touched).fill_(True)
    assert torch.equal(base[~touched], before[~touched])


@pytest.mark.parametrize("view", VIEWS)
def test_the_gate_lets_dense_memory_in_one_order_through_and_nothing_else(view: str) -> None:
    p = VIEWS[view](torch.zeros(60))
    dense = (
        p.numel() == 0
        or p.numel() == 1
        or view.split()[0] in ("transposed", "permuted")
        or view
        in (
            "channels_last",
            "channels_last_3d",
            "a part in the middle",
        )
    )
    same = VIEWS[view](torch.ones(60))
    assert is_flat(p, same) == dense
    assert (flattened(p, same).copied is None) == dense
    if p.numel() > 1:
        assert not is_flat(p, torch.ones(()).expand(p.shape))
    assert not is_flat(p, same._neg_view())
    assert not is_flat(p._neg_view(), same)
    half, wide, complex_ = (VIEWS[view](torch.ones(60, dtype=d)) for d in (torch.half, torch.double, torch.cfloat))
    assert is_flat(half, half) == is_flat(half, same) == is_flat(wide, wide) == dense
    assert not is_flat(p, half)
    assert not is_flat(half, wide)
    assert not is_flat(wide, p)
    assert not is_flat(complex_, complex_)


def test_passes_of_the_gate_by_class() -> None:
    class Own(torch.nn.Parameter):
        """As FSDP's flat parameters are: plain memory under another name."""

    class Dispatches(Tensor):
        @classmethod
        def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:  # type: ignore[override]
            return NotImplemented

    plain = torch.zeros(3)
    assert is_flat(Own(plain), torch.ones(3))
    assert not is_flat(Tensor._make_subclass(Dispatches, plain), torch.ones(3))
    assert not is_flat(plain, Tensor._make_subclass(Dispatches, plain))
    assert not is_flat(plain, torch.ones(3).to_sparse())
    assert not is_flat(plain, torch.ones(4))
    assert not is_flat(plain, torch.ones(3, device="meta"))
    with FakeTensorMode() as mode:
        assert not is_flat(mode.from_tensor(plain), torch.ones(3))


def test_a_strided_parameter_by_an_optimizer() -> None:
    base = torch.zeros(8)
    p = torch.nn.Parameter(base[::2])
    optimizer = torch.optim.SGD([p], lr=0.0)
    LGA(optimizer, steps_per_epoch=10, gamma2=1.0)
    p.grad = torch.full_like(p, 0.99)
    optimizer.step(loss=1.0)  # type: ignore[call-arg]
    torch.testing.assert_close(base, torch.tensor([-1.0, 0.0] * 4))


@pytest.mark.usefixtures("way")
@pytest.mark.parametrize("part", ["real", "imag"])
def test_a_part_of_complex_numbers_is_pushed_alone(part: str) -> None:
    z = torch.full((5,), 1 + 2j, dtype=torch.complex128)
    p = getattr(z, part)
    Correction(0.5, "push").apply([(p, torch.full_like(p, 0.5))], 1.0)
    expected = {"real": 0 + 2j, "imag": 1 + 1j}[part]
    assert z.tolist() == [expected] * 5


@pytest.mark.usefixtures("way")
@pytest.mark.parametrize("zero_gradient", ["push", "rest"])
def test_gradients_that_are_negated_or_conjugated_lazily(zero_gradient: str) -> None:
    """Without the check: memory has the opposite sign, and a conjugated gradient cannot be viewed as real."""
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


@pytest.mark.usefixtures("way")
@pytest.mark.parametrize("sparse", [False, True], ids=["dense", "sparse"])
def test_parameters_that_are_negated_or_conjugated_lazily(sparse: bool) -> None:
    z = torch.complex(torch.linspace(-1, 1, 5), torch.linspace(2, -2, 5))
    conjugated, negated = z.conj(), torch.conj(z.clone()).imag
    assert conjugated.is_conj()
    assert negated.is_neg()
    for p, g in ((conjugated, torch.full((5,), 0.5 - 0.5j)), (negated, torch.full((5,), -0.5))):
        before = p.clone()
        Correction(0.5, "push").apply([(p, g.to_sparse() if sparse else g)], 1.0)
        torch.testing.assert_close(p, before - (1 - 1j if p.is_complex() else -1.0))


# Gradients ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("of_gradient", [*DTYPES, torch.int32], ids=str)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.usefixtures("way")
def test_a_gradient_of_another_dtype_is_read_directly(dtype: torch.dtype, of_gradient: torch.dtype) -> None:
    """Without the check: 3e-5 is read as the float16 next to it, or memory of two bytes an element as of four."""
    slopes = torch.tensor([3.0e-5, -1.0, 0.0, 2.0]).to(of_gradient)
    p = torch.zeros(4, dtype=dtype)
    Correction(1e-5, "push").apply([(p, slopes)], 1e-5)
    d = slopes.double()
    expected = -1e-5 * torch.where(d >= 0, 1.0, -1.0) / (d.abs() + 1e-5)
    torch.testing.assert_close(p.double(), expected, rtol=torch.finfo(dtype).eps, atol=1e-7)


@pytest.mark.parametrize("layout", ["coo", "rows", "csr", "csc"])
@pytest.mark.parametrize("dtype", [*DTYPES, torch.complex64], ids=str)
@pytest.mark.usefixtures("way")
def test_of_a_sparse_gradient_the_stored_elements_alone_are_pushed(dtype: torch.dtype, layout: str) -> None:
    g = torch.zeros(4, 6, dtype=dtype)
    g[1, 2], g[3, 5] = 0.5, -0.5
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch says that compressed layouts are young
        sparse = {
            "coo": lambda: g.to_sparse(),
            "rows": lambda: g.to_sparse(1),
            "csr": lambda: g.to_sparse_csr(),
            "csc": lambda: g.to_sparse_csc(),
        }[layout]()
    stored = (g != 0).any(1, keepdim=True).expand(4, 6) if layout == "rows" else g != 0
    for base in (torch.full((4, 6), 2.0, dtype=dtype), torch.full((6, 4), 2.0, dtype=dtype).t()):
        p = base
        Correction(0.5, "push").apply([(p, sparse)], 1.0)
        slope = (g if dtype.is_complex else g.to(torch.complex64)).to(torch.complex64)
        push = torch.where(slope.real >= 0, 1.0, -1.0) / (slope.real.abs() + 0.5)
        whole = push + 1j / 0.5 if dtype.is_complex else push
        assert torch.equal(p, torch.where(stored, 2.0 - whole, torch.full_like(whole, 2.0)).to(dtype))


@pytest.mark.usefixtures("way")
def test_stored_twice_counts_with_its_sum() -> None:
    g = torch.sparse_coo_tensor(torch.tensor([[1, 1]]), torch.tensor([0.75, -0.25]), (3,))
    p = torch.zeros(3)
    Correction(0.5, "push").apply([(p, g)], 1.0)
    assert p.tolist() == [0.0, -1.0, 0.0]


# Refusals -----------------------------------------------------------------------------------------------------------


SHARING = {
    "expanded": lambda: torch.zeros(3, 1).expand(3, 4),
    "expanded scalar": lambda: torch.zeros(()).expand(4),
    "unfolded": lambda: torch.zeros(6).unfold(0, 3, 1),
    "dimensions within each other": lambda: torch.zeros(20).as_strided((3, 4), (3, 1)),
    "of every second element": lambda: torch.zeros(20).as_strided((2, 2), (2, 2)),
}


@pytest.mark.parametrize("make", SHARING.values(), ids=SHARING)
@pytest.mark.parametrize("sparse", [False, True], ids=["dense", "sparse"])
@pytest.mark.usefixtures("way")
def test_elements_that_share_memory_are_refused(make: Any, sparse: bool) -> None:
    """Without the check: an element gets the push that is written last."""
    p = make()
    with pytest.raises(ValueError, match=r"must not share memory.*got shape \(.*\) with strides \(.*clone"):
        refuse_shared_elements([torch.zeros(3), p])
    g = torch.ones(p.shape)
    with pytest.raises(ValueError, match="must not share memory"):
        Correction(XI, "push").apply([(p, g.to_sparse() if sparse else g)], 1.0)
    assert not p.any()


def test_elements_are_counted_with_any_default_device() -> None:
    """Without the check: the numbers of places would be on a device without values."""
    apart, sharing = VIEWS["dimensions within each other"](torch.zeros(60)), SHARING["dimensions within each other"]()
    with torch.device("meta"):
        refuse_shared_elements([apart])
        with pytest.raises(ValueError, match="must not share memory"):
            refuse_shared_elements([sharing])


def test_elements_that_share_memory_are_refused_before_anything_moves() -> None:
    """When LGA is attached; frozen parameters and groups without LGA may have any layout."""
    p = torch.nn.Parameter(torch.zeros(3, 1).expand(3, 4))
    with pytest.raises(ValueError, match=r"must not share memory.*shape \(3, 4\) with strides \(1, 0\)"):
        LGA(torch.optim.SGD([torch.nn.Parameter(torch.zeros(3)), p]), steps_per_epoch=5)
    groups: list[dict[str, Any]] = [{"params": [torch.nn.Parameter(torch.zeros(3))]}, {"params": [p], "gamma2": 0.0}]
    optimizer = torch.optim.SGD(groups)
    LGA(optimizer, steps_per_epoch=5)
    p.requires_grad_(False)
    LGA(torch.optim.SGD([torch.nn.Parameter(torch.zeros(3)), p]), steps_per_epoch=5)


@pytest.mark.parametrize("gamma2", [1.0, "auto"])
def test_a_parameter_that_is_conjugated_lazily_by_an_optimizer(gamma2: Any) -> None:
    """Without the check: it cannot be viewed as real to measure its size."""
    p = torch.nn.Parameter(torch.full((4,), 1 + 2j).conj())
    assert p.is_conj()
    optimizer = torch.optim.SGD([p], lr=0.0)
    LGA(optimizer, steps_per_epoch=10, gamma2=gamma2)
    p.grad = torch.full((4,), 0.5 - 0.5j)
    optimizer.step(loss=1.0)  # type: ignore[call-arg]
    moved = p.detach() - (1 - 2j)
    assert (moved.real < 0).all()
    assert (moved.imag > 0).all()


@pytest.mark.parametrize("view", VIEWS)
def test_every_view_without_shared_elements_is_accepted(view: str) -> None:
    refuse_shared_elements([VIEWS[view](torch.zeros(60))])


def test_dimensions_within_each_other_may_have_elements_of_their_own() -> None:
    refuse_shared_elements([torch.zeros(20).as_strided((3, 2), (2, 3))])


@pytest.mark.usefixtures("way")
def test_a_real_gradient_of_a_complex_parameter_has_no_imaginary_part() -> None:
    p = torch.ones(3, dtype=torch.complex64)
    Correction(1.0, "rest").apply([(p, torch.ones(3))], 1.0)
    assert p.tolist() == [0.5] * 3


@pytest.mark.parametrize("shape", [(), (1,), (3, 1), (4, 3)], ids=str)
@pytest.mark.usefixtures("way")
def test_a_gradient_of_another_shape_is_refused(shape: tuple[int, ...]) -> None:
    """Without the check: memory after the gradient is read."""
    p = torch.zeros(3, 4)
    with pytest.raises(ValueError, match=r"must have its parameter's shape.*for torch.float32 \(3, 4\)"):
        Correction(XI, "push").apply([(p, torch.ones(shape))], 1.0)
    assert not p.any()


def test_a_gradient_of_another_shape_is_refused_without_memory() -> None:
    """As in a graph. Without the check: it would be expanded."""
    with FakeTensorMode(), pytest.raises(ValueError, match="must have its parameter's shape"):
        Correction(XI, "push").apply([(torch.zeros(3, 4), torch.ones(1, 4))], 1.0)


def test_numbers_that_cannot_be_pushed_are_refused() -> None:
    with pytest.raises(ValueError, match=r"parameters must be of torch\.float64.*got torch\.int32"):
        Correction(XI, "push").apply([(torch.zeros(3, dtype=torch.int32), torch.ones(3))], 1.0)
    with pytest.raises(ValueError, match=r"complex only where that is: got torch\.complex64"):
        Correction(XI, "push").apply([(torch.zeros(3), torch.ones(3, dtype=torch.complex64))], 1.0)


# Tensors without memory ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [*DTYPES, torch.complex64], ids=str)
def test_tensors_without_numbers_go_through(dtype: torch.dtype) -> None:
    """Without the check: the C library would write to where no memory is."""
    p = torch.zeros(3, 4, dtype=dtype, device="meta")
    Correction(XI, "push").apply([(p, torch.ones_like(p)), (p.t(), torch.ones_like(p).t())], 1.0)
    with FakeTensorMode():
        p = torch.zeros(3, 4, dtype=dtype)
        Correction(XI, "push").apply([(p, torch.ones_like(p)), (p.t(), torch.ones_like(p).t())], 1.0)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.usefixtures("way")
def test_a_default_device_of_the_user_changes_nothing(dtype: torch.dtype) -> None:
    """Without the check: temporaries would not have values."""
    p, g = torch.ones(4, 4, dtype=dtype)[:, :2], torch.ones(4, 2, dtype=dtype)
    with torch.device("meta"):
        Correction(1.0, "push").apply([(p, g)], 1.0)
    assert p.tolist() == [[0.5] * 2] * 4
