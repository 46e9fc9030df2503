"""The object without LGA: the same methods, and bitwise the base optimizer."""

import inspect
from collections.abc import Callable
from typing import Any

import pytest
import torch

import lossaware
from lossaware import LGA, Baseline


def trained(
    kind: type[LGA] | None,
    make: Callable[..., Any] = torch.optim.Adam,
    dtype: torch.dtype = torch.float32,
    **options: Any,
) -> torch.Tensor:
    torch.manual_seed(0)
    model = torch.nn.Linear(6, 3).to(dtype)
    optimizer = make(model.parameters(), lr=1e-2)
    lga = None if kind is None else kind(optimizer, steps_per_epoch=2, **options)
    inputs = torch.randn(20, 4, 6).to(dtype)
    for x in inputs:
        loss = model(x).square().mean()
        optimizer.zero_grad()
        loss.backward()
        if lga is None:
            optimizer.step()
        else:
            optimizer.step(loss=loss)
    return torch.nn.utils.parameters_to_vector(model.parameters()).detach()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(
    "make",
    [torch.optim.Adam, lambda p, lr: torch.optim.SGD(p, lr=lr, momentum=0.9, nesterov=True), torch.optim.ASGD],
)
@pytest.mark.parametrize("options", [{}, {"gamma2": "auto"}])
def test_bitwise_the_base(make: Callable[..., Any], dtype: torch.dtype, options: dict[str, Any]) -> None:
    plain = trained(None, make, dtype)
    assert torch.equal(trained(Baseline, make, dtype, **options), plain)
    assert not torch.equal(trained(LGA, make, dtype, **{"gamma2": 1e-2, **options}), plain)


def test_all_three_ways_of_the_loss_are_counted() -> None:
    p = torch.nn.Parameter(torch.ones(3))
    optimizer: Any = torch.optim.SGD([p], lr=0.1)
    lga = Baseline(optimizer, steps_per_epoch=1)

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        loss = p.square().sum()
        loss.backward()
        return loss

    loss = closure()
    optimizer.step(loss=loss)
    optimizer.step(closure)
    lga.observe(closure())
    optimizer.step()
    assert lga.status.steps == 3
    assert lga.status.steps_without_loss == 0
    assert (lga.status.gamma2, lga.status.open_share) == (0, 0)
    with pytest.warns(UserWarning, match="got no loss"):
        optimizer.step()
    assert lga.status.steps_without_loss == 1
    with pytest.raises(ValueError, match="one real number"):
        optimizer.step(loss=torch.ones(2))
    lga.detach()
    with pytest.raises(TypeError):
        optimizer.step(loss=1.0)


def test_lgas_refusals_apply() -> None:
    p = torch.nn.Parameter(torch.ones(3))
    optimizer = torch.optim.SGD([p], lr=0.1)
    cases: tuple[tuple[dict[str, Any], str], ...] = (
        ({"xi": 0.0}, "xi must be"),
        ({"lower_bound": "averge"}, "did you mean"),
    )
    for options, message in cases:
        with pytest.raises(ValueError, match=message):
            Baseline(optimizer, steps_per_epoch=1, **options)
    with pytest.raises(TypeError, match="steps_per_epoch is missing"):
        Baseline(optimizer)  # type: ignore[call-overload]
    Baseline(optimizer, steps_per_epoch=1)
    with pytest.raises(ValueError, match="already has LGA attached"):
        LGA(optimizer, steps_per_epoch=1)


def test_it_has_every_public_name_of_lga_and_takes_the_same_settings() -> None:
    own = {name for name in vars(Baseline) if not name.startswith("_")}
    acting = {name for name in vars(LGA) if not name.startswith("_")} - own
    assert acting == {"observe", "forget", "of", "optimizer"}  # which need neither law nor gradients
    assert inspect.signature(Baseline).parameters == inspect.signature(LGA).parameters


def test_recipes_find_it_and_a_compiled_step_is_the_plain_one() -> None:
    p = torch.nn.Parameter(torch.ones(3))
    optimizer = torch.optim.SGD([p], lr=0.5)
    lga = Baseline(optimizer, steps_per_epoch=7)
    assert LGA.of(optimizer) is lga
    step = lga.compile()
    p.grad = torch.ones(3)
    step(torch.tensor(1.0))
    assert torch.equal(p.detach(), torch.full((3,), 0.5))
    lga.steps_per_epoch = 3
    assert lga.steps_per_epoch == 3
    lga.measure_every(1)
    assert lga.measurement is None
    assert "Baseline(SGD)" in repr(lga)


def test_its_state_loads_and_that_of_lga_is_refused() -> None:
    p = torch.nn.Parameter(torch.ones(3))
    first, second = (Baseline(torch.optim.SGD([p], lr=0.5), steps_per_epoch=7) for _ in range(2))
    optimizer = torch.optim.SGD([p], lr=0.5)
    state = LGA(optimizer, steps_per_epoch=7).state_dict()
    with pytest.raises(ValueError, match="not the state of a Baseline"):
        first.load_state_dict(state)
    first.load_state_dict({"steps": 4, "steps_without_loss": 1})
    second.load_state_dict(first.state_dict())
    assert second.status.steps == 5
    assert lossaware.Baseline is Baseline


def test_a_scaler_makes_its_step() -> None:
    p = torch.nn.Parameter(torch.ones(3))
    optimizer = torch.optim.SGD([p], lr=0.1)
    lga = Baseline(optimizer, steps_per_epoch=2)
    scaler = torch.amp.GradScaler("cpu", init_scale=4.0)
    scaler.scale(p.sum()).backward()
    lga.compile()(3.0, scaler=scaler)
    torch.testing.assert_close(p.detach(), torch.full((3,), 0.9))
    assert (lga.status.steps, lga.status.loss) == (1, 3.0)


def test_detached_it_does_not_watch_gradients() -> None:
    p = torch.nn.Parameter(torch.ones(3))
    optimizer = torch.optim.SGD([p], lr=0.1)
    lga = Baseline(optimizer, steps_per_epoch=2)
    lga.observe(1.0)
    assert p._backward_hooks
    lga.detach()
    assert not p._backward_hooks


def test_a_step_within_a_step_is_one() -> None:
    class Twice(torch.optim.SGD):
        @torch.optim.Optimizer.profile_hook_step
        def step(self, closure: Any = None) -> Any:
            super().step()
            return super().step()

    optimizer: Any = Twice([torch.nn.Parameter(torch.ones(3))], lr=0.1)
    lga = Baseline(optimizer, steps_per_epoch=2)
    for steps in (1, 2):
        optimizer.step(loss=2.0)
        assert (lga.status.steps, lga.status.steps_without_loss) == (steps, 0)
