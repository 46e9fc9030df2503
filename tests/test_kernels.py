"""The GPU kernel's arithmetic, in Triton's interpreter and on a GPU, compared with the other implementations."""

from __future__ import annotations

import importlib
import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import reference
from lossaware import LGA, Average, Momentum, Progressive, RunningLevel
from lossaware.correction import WORK, Correction
from lossaware.gamma2 import AutoGamma2, BackOff, Gamma2Rule
from lossaware.gradient_mean import MEAN, GradientMean
from lossaware.law import Law
from lossaware.law_state import HOST, LawState
from lossaware.lower_bounds import LowerBound, Zero
from support import needs

needs("triton")

XI = 0.01
GAMMA2 = 1e-3
BOUNDS: dict[str, tuple[LowerBound, reference.LowerBound]] = {
    "progressive": (Progressive(), reference.progressive()),
    "progressive-e": (Progressive(log_base=math.e), reference.progressive(math.e)),
    "average": (Average(), reference.average()),
    "momentum": (Momentum(0.8), reference.momentum(0.8)),
}


def reloaded() -> Any:
    for module in ("lossaware.law_kernel", "lossaware.correction.push_kernel"):
        importlib.reload(importlib.import_module(module))
    return importlib.reload(importlib.import_module("lossaware.launcher"))


@pytest.fixture(scope="module")
def kernels(device: str) -> Iterator[Any]:
    """Triton's interpreter runs the kernel on the CPU, and Triton itself on a GPU; which one is known on importing."""
    with pytest.MonkeyPatch.context() as patch:
        if device == "cpu":
            patch.setenv("TRITON_INTERPRET", "1")
        else:
            patch.delenv("TRITON_INTERPRET", raising=False)
        yield reloaded()


def push_kernel() -> Any:
    return importlib.import_module("lossaware.correction.push_kernel")


@pytest.fixture(autouse=True)
def _tensors_are_made_on_the_device(device: str) -> Iterator[None]:
    with torch.device(device):
        yield


def make_launcher(
    kernels: Any,
    *,
    bound: LowerBound | None = None,
    strategy: Gamma2Rule | None = None,
    rest: bool = False,
    programs: int = 3,
) -> tuple[Any, Tensor]:
    law_state = torch.tensor(LawState(), dtype=torch.float64)
    law = Law(3, bound or Progressive(), 0.1, strategy or BackOff(0.5))
    launcher = kernels.Launcher(law, XI, rest, law_state)
    launcher._push.programs = programs
    return launcher, law_state


def losses() -> list[float]:
    rng = np.random.default_rng(1)
    values = rng.uniform(0.02, 2.6, size=24)
    values[0] = 2.2
    values[[5, 11]] = math.nan, math.inf
    return [float(v) for v in values]


def scalar(value: float) -> Tensor:
    return torch.tensor(value, dtype=torch.float64)


@pytest.mark.parametrize("rest", [False, True], ids=["push", "rest"])
@pytest.mark.parametrize("maximize", [False, True], ids=["down", "up"])
@pytest.mark.parametrize("bound", BOUNDS)
def test_law_and_correction_are_the_references(kernels: Any, bound: str, maximize: bool, rest: bool) -> None:
    ours, theirs = BOUNDS[bound]
    launcher, law_state = make_launcher(kernels, bound=ours, rest=rest)
    law = reference.Law(3, GAMMA2, xi=XI, lower_bound=theirs, backoff=0.5, zero_gradient="rest" if rest else "push")
    rng = np.random.default_rng(0)
    shapes = ((5, 3), (7,), (20_000,))  # the last takes several rows
    expected = [rng.normal(size=shape) for shape in shapes]
    params = [torch.tensor(x) for x in expected]
    opened = 0
    for loss in losses():
        grads = [rng.normal(size=shape) * (rng.random(size=shape) > 0.1) for shape in shapes]
        tensors = [(p, torch.tensor(g), None) for p, g in zip(params, grads, strict=True)]
        launcher.step([(tensors, GAMMA2, maximize)], scalar(loss), None)
        omega = law.omega(loss)
        opened += omega > 0
        expected = [x - law.correction(omega, -g if maximize else g) for x, g in zip(expected, grads, strict=True)]
        for p, x in zip(params, expected, strict=True):
            np.testing.assert_allclose(p.cpu().numpy(), x, rtol=1e-12, atol=1e-16)  # some come near 0
        state = LawState(*law_state.tolist())
        assert state.lower == pytest.approx(law.lower, rel=1e-12)
        assert state.gamma2_factor == pytest.approx(law.factor, rel=1e-12)
        assert state.omega == pytest.approx(omega, rel=1e-12)
    assert 4 < opened < 20
    assert law.factor < 1


@pytest.mark.parametrize("strategy", [BackOff(0.5), AutoGamma2(certainty=0.5)], ids=["backs off", "sets itself"])
@pytest.mark.parametrize("bound", [Progressive(), Average(), Zero()], ids=["progressive", "average", "zero"])
@pytest.mark.parametrize("below_0", [False, True], ids=["above 0", "below 0"])
def test_state_is_the_laws_in_every_field(kernels: Any, bound: LowerBound, strategy: Gamma2Rule, below_0: bool) -> None:
    launcher, law_state = make_launcher(kernels, bound=bound, strategy=strategy)
    law, state = Law(3, bound, 0.1, strategy), LawState()
    parameter, mean = torch.zeros(1, dtype=torch.float64), torch.zeros(1, dtype=torch.float64)
    ones = torch.ones(1, dtype=torch.float64)
    moved = 0.0
    for value in losses():
        loss = value - 3.0 if below_0 else value
        launcher.step([([(parameter, ones, mean if strategy.momentum else None)], 1.0, False)], scalar(loss), None)
        state = law.advance(state, loss)
        np.testing.assert_allclose(law_state.cpu().numpy(), np.array(state), rtol=1e-12)
        moved -= strategy.step_size(state, HOST) / ((float(mean) if strategy.momentum else 1) + XI)
        assert float(parameter) == pytest.approx(moved, rel=1e-12)
    assert below_0 or state.gamma2_factor not in (0.0, 1.0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_bits_are_the_corrections(kernels: Any, dtype: torch.dtype, device: str) -> None:
    """Also the noise, so that ranks with and without Triton stay equal."""
    generator = torch.Generator(device).manual_seed(0)
    size = 20_000
    p = (torch.randn(size, generator=generator) * torch.logspace(-7, 0, size)).to(dtype)
    g = (torch.randn(size, generator=generator) * 10.0 ** torch.randint(-6, 1, (size,), generator=generator)).to(dtype)
    g[::7], g[1::7] = 0.0, -0.0
    p[5], p[17], g[6], g[19] = torch.nan, torch.inf, torch.inf, torch.nan
    parts = [p[:3].clone(), p[3:].clone()]
    launcher, _ = make_launcher(kernels)
    launcher.step([([(parts[0], g[:3], None), (parts[1], g[3:], None)], 1e-3, False)], scalar(2.0), None)
    expected = [p[:3].clone(), p[3:].clone()]
    correction = Correction(XI, "push")
    correction.reseed(1)  # the number of the step
    correction.apply([(expected[0], g[:3]), (expected[1], g[3:])], 1e-3 * 2.0)
    for a, b in zip(parts, expected, strict=True):
        assert torch.equal(a.isnan(), b.isnan())
        assert torch.equal(a.nan_to_num(nan=0.0), b.nan_to_num(nan=0.0))
    assert not torch.equal(parts[1], p[3:])


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_means_are_the_companions(kernels: Any, dtype: torch.dtype, device: str) -> None:
    """Those of a step that pushes have the bits of `GradientMean`, and so have the pushes; others stay."""
    generator = torch.Generator(device).manual_seed(0)
    size = 20_000
    p = torch.randn(size, generator=generator).to(dtype)
    launcher, _ = make_launcher(kernels, bound=Zero(), strategy=AutoGamma2(), rest=True)
    pushed, mean = p.clone(), torch.zeros_like(p, dtype=WORK[dtype])
    optimizer = torch.optim.SGD([p.clone()], lr=0.0)
    parameter = optimizer.param_groups[0]["params"][0]
    means, correction = GradientMean(0.9), Correction(XI, "rest")
    for step, loss in enumerate((2.0, 1.0, math.nan, 0.5)):
        g = (torch.randn(size, generator=generator) * torch.logspace(-5, 0, size)).to(dtype)
        g[::7] = 0.0
        launcher.step([([(pushed, g, mean)], 1e-3, False)], scalar(loss), None)
        if math.isfinite(loss):
            correction.reseed(step + 1)
            amount = 1e-3 * math.sqrt(loss / 2.0)
            correction.apply([(parameter, g)], amount, means=means.of_pairs(optimizer, [(parameter, g)]))
        assert torch.equal(mean, optimizer.state[parameter][MEAN])
        assert torch.equal(pushed, parameter)
    assert (pushed != p).float().mean() > 0.1
    assert torch.equal(pushed[::7], p[::7])


def test_groups_and_types_go_together(kernels: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """One launch of the law, and one for each type."""
    launcher, law_state = make_launcher(kernels)
    launches: list[str] = []

    def count(module: Any, name: str) -> None:
        kernel = getattr(module, name)

        class Counting:
            def __getitem__(self, grid: tuple[int, ...]) -> Any:
                def launch(*args: Any, **kwargs: Any) -> None:
                    launches.append(name)
                    kernel[grid](*args, **kwargs)

                return launch

        monkeypatch.setattr(module, name, Counting())

    count(kernels.law_kernel, "_law_kernel")
    count(push_kernel(), "_push_kernel")
    one, two, three = torch.zeros(4), torch.zeros(4), torch.zeros(4, dtype=torch.float64)
    ones = torch.ones(4)
    groups = [([(one, ones, None), (three, ones.double(), None)], 1e-3, False), ([(two, ones, None)], 2e-3, True)]
    launcher.step(groups, scalar(2.0), None)
    assert launches == ["_law_kernel", "_push_kernel", "_push_kernel"]
    assert LawState(*law_state.tolist()).steps == 1
    push = 1e-3 * 2.0 / (1 + XI)
    torch.testing.assert_close(one, torch.full((4,), -push))
    torch.testing.assert_close(two, torch.full((4,), 2 * push))
    torch.testing.assert_close(three, torch.full((4,), -push, dtype=torch.float64))


def test_a_table_is_made_once(kernels: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the check: each step would allocate one on the device, and throw it away."""
    launcher, _ = make_launcher(kernels)
    tables = []
    table = push_kernel()._Table

    def noted(*of: Any) -> Any:
        tables.append(table(*of))
        return tables[-1]

    monkeypatch.setattr(push_kernel(), "_Table", noted)
    for _ in range(3):
        launcher.step([([(torch.zeros(4), torch.ones(4), None)], 1e-3, False)], scalar(2.0), None)
    assert len(tables) == 1


def test_where_a_scaler_skips_nothing_moves(kernels: Any) -> None:
    launcher, law_state = make_launcher(kernels)
    p, g = torch.ones(4), torch.tensor([math.nan, math.inf, 1.0, 0.0])
    launcher.step([([(p, g, None)], 1e-3, False)], scalar(math.nan), torch.ones(1))
    assert torch.equal(p, torch.ones(4))
    np.testing.assert_array_equal(law_state.cpu().numpy(), np.array(LawState()))
    launcher.step([([(p, torch.ones(4), None)], 1e-3, False)], scalar(2.0), torch.zeros(1))
    assert (p < 1).all()
    assert LawState(*law_state.tolist()).steps == 1


def test_a_closed_gate_reads_no_gradient(kernels: Any) -> None:
    launcher, _ = make_launcher(kernels)
    p, g = torch.ones(4), torch.full((4,), math.nan)
    launcher.step([([(p, g, None)], 1e-3, False)], scalar(0.05), None)
    assert torch.equal(p, torch.ones(4))


def test_table_is_rewritten_only_after_changes(kernels: Any) -> None:
    launcher, _ = make_launcher(kernels)
    p, g = torch.ones(9000), torch.ones(9000)
    launcher.step([([(p, g, None)], 1e-3, False)], scalar(2.0), None)
    first = launcher._push._tables[torch.float32].rows
    launcher.step([([(p, g, None)], 1e-3, False)], scalar(2.0), None)
    assert launcher._push._tables[torch.float32].rows is first
    other = torch.ones(9001)[1:]
    launcher.step([([(p, other, None)], 1e-3, False)], scalar(2.0), None)
    assert launcher._push._tables[torch.float32].rows is not first
    assert not launcher._push._tables[torch.float32].aligned
    torch.testing.assert_close(p, torch.full((9000,), 1 - 3 * 1e-3 * 2.0 / (1 + XI)), rtol=1e-4, atol=0)


def test_a_default_device_of_the_user_is_not_that_of_the_table(kernels: Any) -> None:
    launcher, _ = make_launcher(kernels)
    p, g = torch.ones(4), torch.ones(4)
    loss = scalar(2.0)
    with torch.device("meta"):
        launcher.step([([(p, g, None)], 1e-3, False)], loss, None)
    assert (p < 1).all()


def test_unsupported_by_the_kernel(kernels: Any) -> None:
    class Own:
        def update(self, lower: Any, loss: Any, count: Any) -> Any:
            return lower

    assert not kernels.Launcher.supports_law(Law(1, Own(), 0.1, BackOff(0.1)))
    assert kernels.Launcher.supports_law(Law(1, Average(), 0.1, BackOff(0.1)))
    assert not kernels.Launcher.supports_law(Law(1, Average(), 0.1, BackOff(0.1), RunningLevel()))
    takes = make_launcher(kernels)[0].takes
    assert takes(torch.ones(3), torch.ones(3))
    assert not takes(torch.ones(3, dtype=torch.complex64), torch.ones(3, dtype=torch.complex64))
    assert not takes(torch.ones(3, 2).t(), torch.ones(2, 3))
    assert not takes(torch.ones(3), torch.ones(3).to_sparse())
    assert not takes(torch.ones(3), torch.ones(3)._neg_view())
    assert not takes(torch.ones(6)[::2], torch.ones(3))
    assert not takes(torch.ones(3), torch.ones(3, dtype=torch.float64))
    assert takes(torch.ones(3), torch.ones(3), torch.ones(3))
    assert not takes(torch.ones(3), torch.ones(3), torch.ones(3, dtype=torch.float64))
    narrow = torch.ones(3, dtype=torch.float16)
    assert takes(narrow, narrow, torch.ones(3))
    assert not takes(narrow, narrow, narrow)


@pytest.mark.parametrize("gamma2", [GAMMA2, "auto"])
def test_the_companion_steps_by_it(kernels: Any, device: str, gamma2: Any) -> None:
    """Hooks, groups and checkpoint around it; two types, one group without LGA."""
    runs = []
    for with_kernel in (False, True):
        torch.manual_seed(0)
        params = [
            torch.nn.Parameter(torch.randn(n, dtype=d))
            for n, d in ((5, torch.float32), (7, torch.float64), (3, torch.float32))
        ]
        groups: list[dict[str, Any]] = [{"params": params[:2]}, {"params": params[2:], "gamma2": 0.0}]
        optimizer: Any = torch.optim.SGD(groups, lr=0.1)
        lga = LGA(optimizer, steps_per_epoch=3, gamma2=gamma2)
        if with_kernel or device == "cuda":
            law_state = lga._stepper.state_on(torch.device(device))
            lga._stepper._launcher = (
                kernels.Launcher(lga.settings.law, lga.settings.xi, lga.settings.zero_gradient == "rest", law_state)
                if with_kernel
                else None
            )
        for i, loss in enumerate(losses()):
            for p in params:
                p.grad = torch.full_like(p, (-1.0) ** i)
            optimizer.step(loss=loss if device == "cpu" else scalar(loss))
            if i == 9:
                lga.load_state_dict(lga.state_dict())
        runs.append((params, lga))
    (expected, eager), (by_kernel, kernel) = runs
    for a, b in zip(by_kernel, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-7)
    assert kernel.status.statuses == eager.status.statuses > (3 if gamma2 == GAMMA2 else -1)
    assert kernel.status.lower_bound == pytest.approx(eager.status.lower_bound, rel=1e-12)
    assert kernel.status.open_share == eager.status.open_share > 0
