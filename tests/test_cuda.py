"""Features of GPUs: steps without synchronization, captured graphs, compiled steps; run by `pytest -m cuda`.

The test that the kernel compiles for GPUs runs on any machine.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

import pytest
import torch

from lossaware import LGA
from support import needs, no_waiting

GAMMA2 = 1e-3
FORMS: dict[str, dict[str, Any]] = {"foreach": {"foreach": True}, "fused": {"fused": True}}


@pytest.fixture
def as_on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Any]:
    """Imports a module of kernels, and not for Triton's interpreter."""
    needs("triton")
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    return lambda module: importlib.reload(importlib.import_module(module))


def assembly(kernel: Any, types: dict[str, str], constants: dict[str, Any], capability: int, warps: int) -> str:
    """The code that Triton compiles from a kernel, for NVIDIA GPUs of a compute capability."""
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    source = ASTSource(kernel, types | dict.fromkeys(constants, "constexpr"), constants)
    compiled = triton.compile(source, target=GPUTarget("cuda", capability, 32), options={"num_warps": warps})
    assert compiled.asm["cubin"]
    return str(compiled.asm["ptx"])


@pytest.mark.parametrize("sets_itself", [False, True], ids=["fixed", "sets itself"])
@pytest.mark.parametrize("capability", [80, 90])
def test_the_laws_kernel_compiles_for_gpus_and_loads_before_it_stores(
    as_on_a_gpu: Callable[[str], Any], capability: int, sets_itself: bool
) -> None:
    """Without the check: a thread might load a value that another has already stored."""
    kernel = as_on_a_gpu("lossaware.law_kernel")._law_kernel
    types = {"found_inf": "*fp32"} | dict.fromkeys(("held", "loss_pointer", "constants", "step"), "*fp64")
    constants = {"BOUND": 3 if sets_itself else 0, "SELF_SET": sets_itself, "SCALER": True}
    before, barrier, after = assembly(kernel, types, constants, capability, warps=1).partition("bar.")
    assert barrier
    assert "ld.global" in before
    assert "ld.global" not in after
    assert "st.global" not in before
    assert "st.global" in after


@pytest.mark.parametrize("means", [False, True], ids=["gradients", "means"])
@pytest.mark.parametrize("capability", [80, 90])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16], ids=str)
def test_the_pass_compiles_for_gpus_and_divides_as_torch_does(
    as_on_a_gpu: Callable[[str], Any], dtype: torch.dtype, capability: int, means: bool
) -> None:
    """Without the check: `/` is an approximation there, so ranks with and without Triton would differ."""
    module = as_on_a_gpu("lossaware.correction.push_kernel")
    constants = {
        "REST": True,
        "MEANS": means,
        "WORK": module.WORKED[dtype],
        "STORED": module.STORED[dtype],
        "NOISE": module.NOISE_BITS.get(dtype, 0),
        "ALIGNED": True,
        "COLUMNS": module.COLUMNS,
        "BLOCK": module.BLOCK,
    }
    types = {"rows": "*i64", "length": "i32"} | dict.fromkeys(("sizes", "step", "constants"), "*fp64")
    assert "div.full.f32" not in assembly(module._push_kernel, types, constants, capability, warps=8)


# On a GPU -----------------------------------------------------------------------------------------------------------


class Zero:
    """A bound that the kernel does not support, so torch's operators make the step."""

    def update(self, lower: Any, loss: Any, count: Any) -> Any:
        return lower


def make_optimizer(**arguments: Any) -> tuple[list[torch.nn.Parameter], Any]:
    generator = torch.Generator().manual_seed(0)
    params = [torch.nn.Parameter(torch.randn(n, generator=generator).cuda()) for n in (5000, 70, 1)]
    for p in params:
        p.grad = torch.randn(p.shape, generator=generator).cuda()
    return params, torch.optim.Adam(params, lr=1e-3, **arguments)


def attached(optimizer: Any, bound: Any = "progressive") -> LGA:
    return LGA(optimizer, steps_per_epoch=4, gamma2=GAMMA2, lower_bound=bound)


@pytest.fixture
def losses() -> list[torch.Tensor]:
    """On the device, and decreasing, so that the gate is always open."""
    return list(torch.linspace(3.0, 2.0, 12, dtype=torch.float64, device="cuda"))


@pytest.mark.cuda
@pytest.mark.parametrize("bound", ["progressive", Zero()], ids=["kernel", "operators"])
@pytest.mark.parametrize("form", FORMS)
def test_the_host_does_not_synchronize(form: str, bound: Any, losses: list[torch.Tensor]) -> None:
    params, optimizer = make_optimizer(**FORMS[form])
    lga = attached(optimizer, bound)
    optimizer.step(loss=losses[0])  # makes states, and compiles the kernel
    torch.cuda.synchronize()
    with no_waiting():
        for loss in losses[1:]:
            optimizer.step(loss=loss)
    assert lga.status.steps == 12
    assert lga.status.open_share > 0.5
    assert all(p.isfinite().all() for p in params)


@pytest.mark.cuda
@pytest.mark.parametrize("bound", ["progressive", Zero()], ids=["kernel", "operators"])
def test_a_captured_graph_equals_eager_steps(bound: Any, losses: list[torch.Tensor]) -> None:
    params, optimizer = make_optimizer(capturable=True)
    judge, eager_optimizer = make_optimizer(capturable=True)
    plain, without = make_optimizer(capturable=True)
    lga, eager = attached(optimizer, bound), attached(eager_optimizer, bound)
    static = losses[0].clone()
    stream: Any = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for loss in losses[:3]:
            static.copy_(loss)
            optimizer.step(loss=static)
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        optimizer.step(loss=static)
    for loss in losses[3:]:
        static.copy_(loss)
        graph.replay()
    for loss in losses:
        eager_optimizer.step(loss=loss)
        without.step()
    for p, q, r in zip(params, judge, plain, strict=True):
        torch.testing.assert_close(p, q, rtol=1e-5, atol=1e-6)
        assert (p - r).abs().max() > 1e-3
    assert lga.status == eager.status
    assert (lga.status.steps, lga.status.statuses) == (12, 3)


@pytest.mark.cuda
def test_a_compiled_step_equals_eager_steps(losses: list[torch.Tensor]) -> None:
    params, optimizer = make_optimizer(capturable=True)
    judge, eager_optimizer = make_optimizer(capturable=True)
    lga, eager = attached(optimizer), attached(eager_optimizer)
    step = lga.compile()
    for loss in losses:
        step(loss)
        eager_optimizer.step(loss=loss)
    for p, q in zip(params, judge, strict=True):
        torch.testing.assert_close(p, q, rtol=1e-5, atol=1e-6)
    assert lga.status.statuses == eager.status.statuses == 3
    assert lga.status.lower_bound == pytest.approx(eager.status.lower_bound, rel=1e-12)
