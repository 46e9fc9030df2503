"""The compiled step: its graphs, the numbers of the eager step; and hooks within a user's graph."""

from __future__ import annotations

import math
import re
import warnings
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch._dynamo.utils import counters
from torch._inductor.utils import run_and_get_code

from lossaware import LGA, UsageError
from support import needs_torch, torch_optimizer

GAMMA2 = 1e-2
STEPS = 24
BASES: list[tuple[str, dict[str, Any]]] = [
    ("sgd", {}),
    ("momentum", {"nesterov": True, "weight_decay": 0.1}),
    ("asgd", {"t0": 4}),
    ("rmsprop", {}),
    ("adam", {"maximize": True}),
    ("adamax", {}),
    ("adadelta", {}),
    ("adamw", {"amsgrad": True}),
]


@pytest.fixture(autouse=True)
def fresh_compiler(request: pytest.FixtureRequest) -> Iterator[None]:
    if request.node.name != test_a_torch_that_is_too_old_is_refused.__name__:
        needs_torch("2.7", "lga.compile()")
    torch._dynamo.reset()
    counters.clear()
    yield
    torch._dynamo.reset()


def parameters(dtype: torch.dtype = torch.float32) -> list[torch.nn.Parameter]:
    generator = torch.Generator().manual_seed(0)
    return [torch.nn.Parameter(torch.randn(n, generator=generator).to(dtype)) for n in (15, 7, 1)]


def make_lga(
    name: str, dtype: torch.dtype = torch.float32, **arguments: Any
) -> tuple[list[torch.nn.Parameter], Any, LGA]:
    params = parameters(dtype)
    groups = [{"params": params[:2]}, {"params": params[2:], "gamma2": 3 * GAMMA2}]
    optimizer = torch_optimizer(name, groups, lr=0.01, **arguments)
    return params, optimizer, LGA(optimizer, steps_per_epoch=3, gamma2=GAMMA2, backoff=0.7)


def set_gradients(params: list[torch.nn.Parameter], step: int, scale: float = 1.0) -> None:
    generator = torch.Generator().manual_seed(step)
    for p in params:
        g = torch.randn(p.shape, generator=generator)
        g[0] = 0.0
        p.grad = (g * scale).to(p.dtype)


def loss_of(step: int) -> torch.Tensor:
    return torch.tensor([2.2, 0.5, 3.0, 1.0, math.nan, 1.7, 0.2][step % 7])


def compiled(lga: LGA, **options: Any) -> Any:
    return lga.compile(**{"backend": "aot_eager", **options})


def assert_close_to(compiled: LGA, expected: LGA, params: list[Any], judge: list[Any], tolerance: float = 1e-5) -> None:
    for p, q in zip(params, judge, strict=True):
        torch.testing.assert_close(p, q, rtol=tolerance, atol=tolerance)
    a, b = compiled.state_dict()["state"], expected.state_dict()["state"]
    for name, value in b.items():
        assert a[name] == pytest.approx(value, rel=1e-12, nan_ok=True), name


@pytest.mark.parametrize(("name", "arguments"), BASES, ids=[name for name, _ in BASES])
def test_two_graphs_and_the_eager_numbers(name: str, arguments: dict[str, Any]) -> None:
    """While a scheduler moves the learning rate, the gate opens and closes, gamma2 backs off and a loss is NaN."""
    params, optimizer, lga = make_lga(name, **arguments)
    judge, eager_optimizer, eager = make_lga(name, **arguments)
    step = compiled(lga)
    schedulers = [torch.optim.lr_scheduler.CosineAnnealingLR(o, STEPS) for o in (optimizer, eager_optimizer)]
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)  # a scheduler that misses the optimizer's step would warn
        for i in range(STEPS):
            set_gradients(params, i)
            set_gradients(judge, i)
            step(loss_of(i))
            eager_optimizer.step(loss=loss_of(i))
            for scheduler in schedulers:
                scheduler.step()
    assert counters["stats"]["unique_graphs"] == 2  # with an open gate, and with a closed one
    assert not counters["graph_break"]
    assert_close_to(lga, eager, params, judge, tolerance=2e-5)
    assert 0.2 < lga.status.open_share < 0.9
    assert lga.status.gamma2 < GAMMA2
    assert optimizer.param_groups[0]["lr"] == eager_optimizer.param_groups[0]["lr"]
    assert isinstance(optimizer.param_groups[0]["lr"], float)


def test_a_hundred_steps_compile_twice_in_the_default_compiler() -> None:
    params, optimizer, lga = make_lga("sgd")
    judge, eager_optimizer, eager = make_lga("sgd")
    step = lga.compile()
    for i in range(100):
        for o in (optimizer, eager_optimizer):
            o.param_groups[0]["lr"] = 0.1 / (i + 1)
        set_gradients(params, i)
        set_gradients(judge, i)
        step(loss_of(i))
        eager_optimizer.step(loss=loss_of(i))
    assert counters["stats"]["unique_graphs"] == 2  # with an open gate, and with a closed one
    assert_close_to(lga, eager, params, judge)


@pytest.mark.parametrize("options", [{}, {"mode": "max-autotune-no-cudagraphs"}], ids=["default", "mode"])
def test_loops_over_elements_compute_no_scalars(options: dict[str, Any]) -> None:
    """Adam's bias corrections are powers of 0-dimensional tensors, which the compiler would repeat for each vector."""
    params = [torch.nn.Parameter(torch.ones(size)) for size in (1000, 2000)]
    optimizer = torch.optim.Adam(params, lr=0.01)
    step = LGA(optimizer, steps_per_epoch=3).compile(**options)
    set_gradients(params, 0)
    step(2.0)
    _, (code,) = run_and_get_code(step, 2.0)
    before, *loops = re.split(r"for\(int64_t x0=.*x0<static_cast<int64_t>\((?:1000|2000)L\)", code)
    bodies = [loop.split(".store(")[0] for loop in loops]
    assert len(bodies) == 2
    assert "std::pow" in before
    for body in bodies:
        assert "sqrt()" in body
        assert "std::pow" not in body
        assert "double" not in body
        # Two of the base's, and the amount, which is known not to be 0. A constant is not loaded.
        assert body.count("[static_cast<int64_t>(0L)]") <= 3
        if torch.__version__ >= "2.13":  # the compiler of 2.7 writes masks
            assert "blendv" not in body, "a mask may wait for the division of the vector before"


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16], ids=str)
def test_other_types(dtype: torch.dtype) -> None:
    """The noise of 16 bits is the eager one."""
    params, _, lga = make_lga("sgd", dtype)
    judge, eager_optimizer, eager = make_lga("sgd", dtype)
    step = compiled(lga)
    for i in range(6):
        set_gradients(params, i)
        set_gradients(judge, i)
        step(loss_of(i))
        eager_optimizer.step(loss=loss_of(i))
    assert_close_to(lga, eager, params, judge, tolerance=1e-12 if dtype == torch.float64 else 0.02)


def test_a_group_that_rests_has_no_number_in_the_noise() -> None:
    """As in the eager step, so that later groups are rounded in the same way; gamma2 may become 0 and back."""
    start = torch.linspace(-1, 1, 4000).to(torch.bfloat16)
    moved = []
    for way in ("eager", "compiled"):
        params = [torch.nn.Parameter(start.clone()) for _ in range(2)]
        groups: list[dict[str, Any]] = [{"params": [params[0]], "gamma2": 0.0}, {"params": [params[1]]}]
        optimizer: Any = torch.optim.SGD(groups, lr=0.0)
        lga = LGA(optimizer, steps_per_epoch=3, gamma2=1e-5)
        step = compiled(lga) if way == "compiled" else lambda loss, optimizer=optimizer: optimizer.step(loss=loss)
        for i in range(9):
            groups_now = optimizer.param_groups
            groups_now[0]["gamma2"] = 1e-5 if 3 <= i < 6 else 0.0
            for p in params:
                p.grad = start.sin()
            step(torch.tensor(2.0))
            if i == 2:
                assert torch.equal(params[0], start)
        moved.append(params)
    for eager, from_graph in zip(*moved, strict=True):
        assert not torch.equal(eager, start)
        assert torch.equal(eager, from_graph)


def test_eager_and_compiled_steps_mix_and_checkpoints_load() -> None:
    params, optimizer, lga = make_lga("adam")
    judge, eager_optimizer, eager = make_lga("adam")
    step = compiled(lga)
    for i in range(12):
        set_gradients(params, i)
        set_gradients(judge, i)
        eager_optimizer.step(loss=loss_of(i))
        if i % 4 == 3:
            optimizer.step(loss=loss_of(i))
        elif i == 6:
            lga.observe(loss_of(i))
            step()
        else:
            step(loss_of(i))
        if i == 7:  # continue in new objects
            saved = [p.detach().clone() for p in params], optimizer.state_dict(), lga.state_dict()
            params, optimizer, lga = make_lga("adam")
            for p, saved_values in zip(params, saved[0], strict=True):
                p.data.copy_(saved_values)
            optimizer.load_state_dict(saved[1])
            lga.load_state_dict(saved[2])
            step = compiled(lga)
    assert_close_to(lga, eager, params, judge)


@pytest.mark.parametrize("name", ["sgd", "adam"])
def test_a_resumed_run_has_the_bits_of_one_that_was_not_interrupted(name: str) -> None:
    """Without the check: the first step after a checkpoint would run uncompiled, whose last bits are others."""
    ends = []
    for interrupted_at in (None, 4):
        params, optimizer, lga = make_lga(name)
        step = lga.compile()
        for i in range(8):
            if i == interrupted_at:
                saved = [p.detach().clone() for p in params], optimizer.state_dict(), lga.state_dict()
                params, optimizer, lga = make_lga(name)
                for p, saved_values in zip(params, saved[0], strict=True):
                    p.data.copy_(saved_values)
                optimizer.load_state_dict(saved[1])
                lga.load_state_dict(saved[2])
                step = lga.compile()
            set_gradients(params, i)
            step(loss_of(i))
        ends.append(params)
    assert all(torch.equal(p, q) for p, q in zip(*ends, strict=True))


@pytest.mark.parametrize("name", ["momentum", "adam"])
def test_a_momentum_that_changes_at_each_step_is_refused_in_words(name: str) -> None:
    """As OneCycleLR changes it, or the first beta. Without the check: an error of the compiler at the ninth step."""
    params, optimizer, lga = make_lga(name)
    step = compiled(lga)
    scheduler = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=0.1, total_steps=40)
    with pytest.raises(UsageError, match=r"^\w+ cannot be .* with LGA: .*cycle_momentum=False") as raised:  # noqa: PT012
        for i in range(20):
            set_gradients(params, i)
            before, count = params[0].detach().clone(), i
            step(loss_of(i))
            scheduler.step()
    assert "\n" not in str(raised.value)
    assert count > 5  # a few times it compiles again
    assert torch.equal(params[0], before)
    assert isinstance(optimizer.param_groups[0]["lr"], float)
    optimizer.step(loss=loss_of(0))  # the remedy
    scheduler.step()
    assert not torch.equal(params[0], before)


def test_a_schedule_that_keeps_the_momentum_compiles_no_more() -> None:
    params, optimizer, lga = make_lga("momentum")
    step = compiled(lga)
    scheduler = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=0.1, total_steps=40, cycle_momentum=False)
    for i in range(20):
        set_gradients(params, i)
        step(loss_of(i))
        scheduler.step()
    assert counters["stats"]["unique_graphs"] == 2  # with an open gate, and with a closed one


@pytest.mark.parametrize("unscaled", [False, True], ids=["by the scaler", "by hand"])
@pytest.mark.parametrize("arguments", [{}, {"fused": True}], ids=["loop", "fused"])
def test_gradient_scaler(arguments: dict[str, Any], unscaled: bool) -> None:
    """Gradients are unscaled once, and an overflow changes nothing."""
    params, optimizer, lga = make_lga("adam", **arguments)
    judge, eager_optimizer, eager = make_lga("adam", **arguments)
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0, growth_interval=1000)
    step = compiled(lga)
    for i in range(8):
        set_gradients(params, i, scale=scaler.scale(torch.ones(())).item())
        if i == 4:
            assert params[0].grad is not None
            params[0].grad[3] = math.inf
        if unscaled:
            scaler.unscale_(optimizer)
        step(loss_of(i), scaler=scaler)
        scaler.update()
        if i != 4:
            set_gradients(judge, i)
            eager_optimizer.step(loss=loss_of(i))
    assert lga.status.steps == 7
    assert "step" not in vars(optimizer)
    assert_close_to(lga, eager, params, judge)


def test_without_a_loss_it_is_the_base_step() -> None:
    params, _, lga = make_lga("sgd")
    judge = parameters()
    plain = torch.optim.SGD(judge, lr=0.01)
    step = compiled(lga)
    for i in range(3):
        set_gradients(params, i)
        set_gradients(judge, i)
        if i == 0:
            with pytest.warns(UserWarning, match="got no loss"):
                step()
        else:
            step()
        plain.step()
    assert all(torch.equal(p, q) for p, q in zip(params, judge, strict=True))
    assert lga.status.steps_without_loss == 3


def test_a_base_that_cannot_be_traced_is_refused_with_a_remedy() -> None:
    params = [torch.nn.Parameter(torch.ones(3, 3))]
    optimizer: Any = torch.optim.Adafactor(params, lr=0.01)
    lga = LGA(optimizer, steps_per_epoch=3)
    step = compiled(lga)
    set_gradients(params, 0)
    step(2.0)
    before = params[0].detach().clone()
    with pytest.raises(UsageError, match=r"^Adafactor cannot be compiled .*: use optimizer\.step\(loss=loss\)"):
        step(2.0)
    assert torch.equal(params[0], before)
    assert isinstance(optimizer.param_groups[0]["lr"], float)
    optimizer.step(loss=2.0)
    assert lga.status.steps == 2


def test_other_hooks_are_refused() -> None:
    _, optimizer, lga = make_lga("sgd")

    def log_step(*_: Any) -> None: ...

    optimizer.register_step_post_hook(log_step)
    with pytest.raises(UsageError, match=r"^SGD has step hooks that a compiled step would not run, such as .*log_step"):
        lga.compile()


def test_hooks_that_come_later_are_refused_and_so_is_a_detached_lga() -> None:
    """Without the check: the hook would not run, and a detached LGA would still push."""
    params, optimizer, lga = make_lga("sgd")
    step = compiled(lga)
    for i in range(2):
        set_gradients(params, i)
        step(loss_of(i))
    handle = optimizer.register_step_pre_hook(lambda *_: None)
    before = [p.detach().clone() for p in params]
    with pytest.raises(UsageError, match=r"^SGD has step hooks"):
        step(loss_of(2))
    handle.remove()
    lga.detach()
    with pytest.raises(RuntimeError, match="detached"):
        step(loss_of(2))
    assert all(torch.equal(p, q) for p, q in zip(params, before, strict=True))


class WithoutRate(torch.optim.Optimizer):
    def __init__(self, params: Any) -> None:
        super().__init__(params, {})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            for p in group["params"]:
                p.sub_(p.grad, alpha=0.1)


def test_a_base_without_a_learning_rate() -> None:
    moved = []
    for way in ("eager", "compiled"):
        params = parameters()
        optimizer: Any = WithoutRate(params)
        lga = LGA(optimizer, steps_per_epoch=3, gamma2=GAMMA2)
        step = compiled(lga) if way == "compiled" else lambda loss, optimizer=optimizer: optimizer.step(loss=loss)
        for i in range(3):
            set_gradients(params, i)
            step(loss_of(i))
        assert "lr" not in optimizer.param_groups[0]
        moved.append(params)
    for eager, from_graph in zip(*moved, strict=True):
        torch.testing.assert_close(eager, from_graph)


def test_an_observed_loss_after_a_compiled_step() -> None:
    """Without the check: the previous step's backward pass would count for this step, and its loss be dropped."""
    model = torch.nn.Linear(2, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    lga = LGA(optimizer, steps_per_epoch=3)
    step = compiled(lga)
    for way in ("observe", "observe", "loss", "loss", "observe"):
        optimizer.zero_grad()
        loss = model(torch.ones(1, 2)).square().sum()
        if way == "observe":
            lga.observe(loss)
        loss.backward()
        step() if way == "observe" else step(loss)
    assert (lga.status.steps, lga.status.steps_without_loss) == (5, 0)


class ReadsTheLoss(torch.optim.SGD):
    def step(self, closure: Any = None, loss: Any = None) -> Any:
        assert loss is not None
        return super().step(closure)


def test_a_base_that_reads_the_loss_is_refused() -> None:
    """Without the check: its step would be traced without the loss."""
    optimizer = ReadsTheLoss(parameters(), lr=0.1)
    with pytest.raises(UsageError, match="ReadsTheLoss reads the loss in its own step"):
        LGA(optimizer, steps_per_epoch=3).compile()


def test_two_losses_are_refused() -> None:
    params, _, lga = make_lga("sgd")
    step = compiled(lga)
    for _ in range(2):
        set_gradients(params, 0)
        lga.observe(1.0)
        with pytest.raises(ValueError, match="one way"):
            step(1.0)
        step(1.0)


@pytest.mark.parametrize("lga_in_it", [False, True], ids=["base", "with LGA"])
def test_a_whole_training_step_compiles_with_the_hooks_in_it(lga_in_it: bool) -> None:
    """LGA adds no recompilation, and from torch 2.9 on no graph break to those of torch's own step."""
    model = torch.nn.Linear(4, 1)
    optimizer: Any = torch.optim.SGD(model.parameters(), lr=torch.tensor(0.1))
    lga = LGA(optimizer, steps_per_epoch=2, gamma2=1e-3) if lga_in_it else None

    def train(x: torch.Tensor, y: torch.Tensor) -> None:
        loss = (model(x) - y).square().mean()
        optimizer.zero_grad()
        loss.backward()
        if lga_in_it:
            optimizer.step(loss=loss)
        else:
            optimizer.step()

    whole = torch.compile(train, backend="aot_eager")
    for i in range(20):
        if i == 6:
            graphs = counters["stats"]["unique_graphs"]
        whole(torch.randn(8, 4), torch.randn(8, 1))
    breaks = 4  # around backward, and around torch's step
    if lga_in_it and torch.__version__ < "2.9":
        breaks += 4  # these compilers also break at hooks
    assert sum(counters["graph_break"].values()) == breaks
    assert counters["stats"]["unique_graphs"] == graphs
    assert lga is None or (lga.status.steps == 20 and lga.status.open_share > 0)


def test_a_torch_that_is_too_old_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "__version__", torch.torch_version.TorchVersion("2.6.0+cpu"))
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.ones(3))], lr=0.1)
    lga = LGA(optimizer, steps_per_epoch=1)
    with pytest.raises(UsageError, match=r"needs torch 2\.7 or newer, and this is 2\.6\.0\+cpu.*: use optimizer\.step"):
        lga.compile()
