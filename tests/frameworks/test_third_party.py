"""Optimizers of other packages as bases: the run is that of the base, with the correction put in by the reference.

The judge is a twin without LGA: before each of its steps it gets the parameters of the run with LGA and the same
gradients; where it goes, plus the reference's correction, is where LGA must have gone.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from loop import SETTINGS, batches, loss_of, net

import reference
from lossaware import LGA
from support import needs, needs_torch

STEPS = 10


def from_package(package: str, name: str, **kwargs: Any) -> Any:
    def make(params: Any) -> Any:
        module = needs(package)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return getattr(module, name)(list(params), **kwargs)

    return pytest.param(make, id=f"{package.split('.')[0]} {name}")


def muon(params: Any) -> Any:
    needs_torch("2.9", "torch.optim.Muon")
    return torch.optim.Muon([p for p in params if p.ndim == 2], lr=0.02)


KOZISTR = partial(from_package, "pytorch_optimizer")
BASES = [
    pytest.param(muon, id="torch Muon"),
    *(KOZISTR(name, lr=0.01) for name in ("Lion", "AdaBelief", "Adan", "SOAP", "StableAdamW", "ADOPT", "Lamb")),
    *(KOZISTR(name, lr=0.01) for name in ("Shampoo", "LARS", "ScheduleFreeAdamW")),  # these write into gradients
    from_package("schedulefree", "SGDScheduleFree", lr=0.05, weight_decay=0.1),  # it writes weight decay into gradients
    from_package("schedulefree", "AdamWScheduleFree", lr=0.01, weight_decay=0.1, foreach=False),
    from_package("schedulefree", "RAdamScheduleFree", lr=0.01, weight_decay=0.1),
    from_package("prodigyopt", "Prodigy", weight_decay=0.1),
    from_package("bitsandbytes.optim", "AdamW8bit", lr=0.01),
    from_package("bitsandbytes.optim", "Lion8bit", lr=0.01),
    from_package("torchao.optim", "AdamW8bit", lr=0.01, block_size=16),
    from_package("momo", "Momo", lr=0.1),  # its own step takes a loss
]


def takes_loss(optimizer: Any) -> bool:
    return type(optimizer).__name__ == "Momo"


@pytest.fixture(autouse=True)
def _eager() -> Iterator[None]:
    """Torchao compiles its steps, which takes longer than all the rest."""
    with torch.compiler.set_stance("force_eager"):
        yield


@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::DeprecationWarning", "ignore::FutureWarning")
@pytest.mark.parametrize("make", BASES)
def test_base(make: Callable[[Any], Any], device: str) -> None:
    module, twin = net(device), net(device)
    torch.manual_seed(0)
    base, base_only = make(module.parameters()), make(twin.parameters())
    for optimizer in (base, base_only):
        if hasattr(optimizer, "train"):
            optimizer.train()
    lga: Any = LGA(base, **SETTINGS)
    law = reference.Law(SETTINGS["steps_per_epoch"], SETTINGS["gamma2"], SETTINGS["eps"], backoff=SETTINGS["backoff"])
    corrected = {p for group in base.param_groups for p in group["params"]}
    largest = 0.0
    for step, batch in enumerate(batches(STEPS, device=device)):
        base.zero_grad()
        loss: Any = loss_of(module, batch)
        loss.backward()
        gradients = []
        for ours, theirs in zip(module.parameters(), twin.parameters(), strict=True):
            assert ours.grad is not None
            gradients.append(ours.grad.double().cpu().numpy().copy())
            theirs.grad = ours.grad.clone()
            with torch.no_grad():
                theirs.copy_(ours)
        with torch.random.fork_rng():  # both draw the same noise
            base.step(loss=loss.detach())
        base_only.step(**({"loss": loss.detach()} if takes_loss(base_only) else {}))
        omega = law.omega(float(loss.detach()))
        for ours, theirs, g in zip(module.parameters(), twin.parameters(), gradients, strict=True):
            push = law.correction(omega, g) if ours in corrected else np.zeros_like(g)
            expected = theirs.detach().double().cpu().numpy() - push
            np.testing.assert_allclose(ours.detach().cpu().numpy(), expected, rtol=0, atol=2e-6, err_msg=f"step {step}")
            largest = max(largest, float(np.abs(push).max()))
    assert largest > 1e-4
    assert (lga.status.steps, lga.status.steps_without_loss, lga.status.statuses) == (STEPS, 0, 2)


@pytest.mark.parametrize("name", ["SAM", "Lookahead"])
def test_inside_a_wrapper(name: str) -> None:
    """LGA is attached to the inner optimizer, which the wrapper steps."""
    package: Any = needs("pytorch_optimizer")
    module, twin = net(), net()
    inner, base_only = torch.optim.SGD(module.parameters(), lr=0.05), torch.optim.SGD(twin.parameters(), lr=0.05)
    if name == "SAM":
        wrapper: Any = package.SAM(list(module.parameters()), torch.optim.SGD, lr=0.05)
        inner = wrapper.base_optimizer
    else:
        wrapper = package.Lookahead(inner, k=100)
    lga = LGA(inner, **SETTINGS)
    law = reference.Law(SETTINGS["steps_per_epoch"], SETTINGS["gamma2"], SETTINGS["eps"], backoff=SETTINGS["backoff"])
    for batch in batches(6):
        with torch.no_grad():
            for theirs, ours in zip(twin.parameters(), module.parameters(), strict=True):
                theirs.copy_(ours)
        loss = loss_of(module, batch)
        loss.backward()
        if name == "SAM":
            wrapper.first_step(zero_grad=True)
            loss_of(module, batch).backward()
        lga.observe(loss)  # not before SAM's first step, which clears the gradients that the loss belonged to
        for theirs, ours in zip(twin.parameters(), module.parameters(), strict=True):
            assert ours.grad is not None
            theirs.grad = ours.grad.clone()
        if name == "SAM":
            wrapper.second_step()
        else:
            wrapper.step()
        omega = law.omega(float(loss.detach()))
        base_only.step()
        for ours, theirs in zip(module.parameters(), twin.parameters(), strict=True):
            assert theirs.grad is not None
            expected = theirs.detach().double().numpy() - law.correction(omega, theirs.grad.double().numpy())
            np.testing.assert_allclose(ours.detach().numpy(), expected, rtol=0, atol=2e-6)
        wrapper.zero_grad()
    assert lga.status.open_share > 0
