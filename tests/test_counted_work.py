"""The work of LGA in addition to the base step, counted, so that a slower step is detected without timing."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
import torch
from benchmarks.counting import calls_of_python
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from lossaware import LGA
from lossaware.correction import native
from support import torch_optimizer

needs_library = pytest.mark.skipif(native.library() is None, reason="no C compiler here")
OPEN, CLOSED = torch.tensor(2.0), torch.tensor(0.01)


class Operators(TorchDispatchMode):
    """Counts torch's operators by name, and the bytes of the tensors that they make."""

    def __init__(self) -> None:
        super().__init__()
        self.counts: Counter[str] = Counter()
        self.made = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        known = {t.untyped_storage().data_ptr() for t in tree_leaves((args, kwargs)) if isinstance(t, Tensor)}
        out = func(*args, **(kwargs or {}))
        self.counts[str(func)] += 1
        for t in tree_leaves(out):
            if isinstance(t, Tensor) and t.untyped_storage().data_ptr() not in known:
                self.made += t.untyped_storage().nbytes()
        return out


def make_optimizer(
    name: str, *, lga: bool, tensors: int = 50, gamma2: float | str = 1e-8, **arguments: Any
) -> tuple[Any, LGA | None]:
    torch.manual_seed(0)
    params = [torch.nn.Parameter(torch.randn(100)) for _ in range(tensors)]
    for p in params:
        p.grad = torch.randn(100)
    optimizer = torch_optimizer(name, params, lr=0.01, **arguments)
    return optimizer, LGA(optimizer, steps_per_epoch=10, gamma2=gamma2) if lga else None


def operators(optimizer: Any, **step: Any) -> Operators:
    optimizer.step(**step)  # makes the optimizer's state
    counted = Operators()
    with counted:
        optimizer.step(**step)
    return counted


@needs_library
@pytest.mark.parametrize("loss", [OPEN, CLOSED], ids=["open", "closed"])
@pytest.mark.parametrize(
    ("name", "arguments"),
    [("sgd", {}), ("adam", {"foreach": True}), ("adamw", {"fused": True}), ("rmsprop", {})],
    ids=["sgd", "adam, foreach", "adamw, fused", "rmsprop"],
)
def test_no_operator_in_addition_to_the_base_step(name: str, arguments: dict[str, Any], loss: Tensor) -> None:
    """Reading the loss is not an operation on tensors; the correction is one call of the compiled library."""
    plain, _ = make_optimizer(name, lga=False, **arguments)
    ours, lga = make_optimizer(name, lga=True, **arguments)
    base, with_lga = operators(plain), operators(ours, loss=loss)
    assert with_lga.counts - base.counts == Counter({"aten._local_scalar_dense.default": 1})
    assert base.counts - with_lga.counts == Counter()
    assert with_lga.made == base.made
    assert lga is not None
    assert (lga.status.open_share > 0) == (loss is OPEN)


@needs_library
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=["contiguous", "channels_last"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_a_gamma2_that_sets_itself_moves_the_means_in_the_pass_over_the_parameters(
    dtype: torch.dtype, layout: torch.memory_format
) -> None:
    """No operator, and no tensor except the means."""
    counted = []
    for lga in (False, True):
        p = torch.nn.Parameter(torch.ones(2, 3, 4, 5, dtype=dtype).to(memory_format=layout))
        p.grad = torch.ones_like(p)
        optimizer: Any = torch.optim.SGD([p], lr=0.01)
        if lga:
            LGA(optimizer, steps_per_epoch=10, gamma2="auto")
        counted.append(operators(optimizer, **({"loss": OPEN} if lga else {})))
        assert lga == (float(p.detach().float().mean()) < 0.97)
    base, ours = counted
    assert ours.counts - base.counts == Counter({"aten._local_scalar_dense.default": 1})
    assert ours.made == base.made


def test_without_the_library_a_closed_gate_still_costs_no_operator(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(native, "library", lambda: None)
    plain, _ = make_optimizer("sgd", lga=False)
    ours, _ = make_optimizer("sgd", lga=True)
    difference = operators(ours, loss=CLOSED).counts - operators(plain).counts
    assert difference == Counter({"aten._local_scalar_dense.default": 1})


def python_calls(optimizer: Any, **step: Any) -> int:
    """Calls of functions written in Python and of those in C, in one step."""
    return calls_of_python(lambda: optimizer.step(**step))


@pytest.mark.parametrize("tensors", [1, 200])
def test_a_closed_gate_is_some_fifty_calls_for_any_model(tensors: int) -> None:
    """About 10 microseconds. Without the check, this grows by one innocent line at a time."""
    plain, _ = make_optimizer("sgd", lga=False, tensors=tensors)
    ours, _ = make_optimizer("sgd", lga=True, tensors=tensors)
    assert python_calls(ours, loss=CLOSED) - python_calls(plain) <= 55


@needs_library
def test_an_open_gate_is_some_calls_and_a_few_a_tensor() -> None:
    """Between two convolutions no call is in the cache, and each takes several times as long as in a loop.

    Ten tensors, as those of LeNet-5, were 182 calls when each was looked at by itself.
    """
    extra = []
    for tensors in (1, 101):
        plain, _ = make_optimizer("sgd", lga=False, tensors=tensors)
        ours, _ = make_optimizer("sgd", lga=True, tensors=tensors)
        extra.append(python_calls(ours, loss=OPEN) - python_calls(plain))
    assert extra[0] <= 95
    assert (extra[1] - extra[0]) / 100 <= 2
