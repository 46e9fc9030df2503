"""The contract of compiled steps: parameters of all layouts in one optimizer, as each graph takes seconds."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from cases import BASES, DTYPES, GAMMAS, Case, allowed
from checks import CHECKS, checks_of
from option_sets import SPARSE_ONLY

from lossaware import LGA
from lossaware.errors import UsageError

COMPILED = [
    base
    for base in BASES
    # Torch's compiler takes no sparse gradients, and Adafactor's own step it cannot trace.
    if base[0] not in {*SPARSE_ONLY, "Adafactor"}
]


def cases_of(base: tuple[str, str], path: str) -> list[Case]:
    """Uses torch's loop form, because fused ones cannot be traced."""
    return [
        Case(base, "loop", dtype, "mixed", path, gamma2)
        for dtype in DTYPES
        for gamma2 in GAMMAS
        if allowed(base=base, form="loop", dtype=dtype, layout="mixed", path=path, gamma2=gamma2)
    ]


SOME = [
    (Case(("Adam", "amsgrad"), "loop", "float32", "mixed", "inductor", "auto"), "trajectory"),
    (Case(("SGD", "nesterov"), "loop", "bfloat16", "mixed", "compiled", "fixed"), "trajectory"),
    (Case(("SGD", "momentum"), "loop", "bfloat16", "mixed", "compiled", "auto"), "resume"),
    (Case(("SGD", "default"), "loop", "float16", "mixed", "compiled", "auto"), "trajectory"),
    (Case(("RMSprop", "centered"), "loop", "complex64", "mixed", "compiled", "fixed"), "trajectory"),
    (Case(("SGD", "momentum"), "loop", "float64", "mixed", "compiled", "fixed"), "base"),
]


@pytest.fixture(autouse=True)
def _no_graphs_of_other_tests() -> None:
    torch._dynamo.reset()


@pytest.mark.parametrize(("case", "check"), SOME, ids=str)
def test_some(case: Case, check: str) -> None:
    CHECKS[check](case)


@pytest.mark.contract
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("base", COMPILED, ids="-".join)
def test_all(base: tuple[str, str]) -> None:
    failed = []
    for case in cases_of(base, "inductor"):
        for name in checks_of(case):
            torch._dynamo.reset()
            try:
                CHECKS[name](case)
            except Exception as error:
                failed.append(f"{case} {name}: {type(error).__name__}: {str(error)[:300]}")
    assert not failed, f"{len(failed)}:\n" + "\n".join(failed)


def test_float64_scalars_on_the_cpu() -> None:
    """Without the check, torch.compile loses changes of their state. Other dtypes and shapes are correct."""
    optimizer: Any = torch.optim.Adam([torch.nn.Parameter(torch.ones(1).double())])
    lga = LGA(optimizer, steps_per_epoch=3)
    step, other = lga.compile(), lga.compile(backend="eager")
    scalar = torch.nn.Parameter(torch.ones(()).double())
    optimizer.add_param_group({"params": [scalar]})
    optimizer.param_groups[0]["params"][0].grad, scalar.grad = torch.ones(1).double(), torch.ones(()).double()
    optimizer.step(loss=2.0)
    before = scalar.detach().clone()
    with pytest.raises(UsageError, match=r"^Adam cannot be compiled .* float64 parameter of shape \(\) on the CPU, .*"):
        step(1.0)
    assert torch.equal(scalar, before)
    with pytest.raises(UsageError, match=r"give it the shape \(1,\), or use optimizer\.step\(loss=loss\)"):
        lga.compile()
    other(1.0)  # this backend keeps their state
    assert not torch.equal(scalar, before)
