"""Names of the previous version still work, with a warning that names the new one."""

from __future__ import annotations

import importlib
import pickle
import warnings
from typing import Any

import pytest
import torch

import lossaware
from lossaware import LGA

OLD = {
    "lossaware.SelfSet": "lossaware.gamma2.AutoGamma2",
    "lossaware.gamma2.SelfSet": "lossaware.gamma2.AutoGamma2",
    "lossaware.gamma2.Strategy": "lossaware.gamma2.Gamma2Rule",
    "lossaware.companion.LGA": "lossaware.lga.LGA",
    "lossaware.meter.Measurement": "lossaware.update_meter.Measurement",
    "lossaware.status.State": "lossaware.law_state.LawState",
    "lossaware.status.Status": "lossaware.law_state.Status",
    "lossaware.status.Law": "lossaware.law.Law",
    "lossaware.status.log": "lossaware.law_state.log",
    "lossaware.status.LowerBound": "lossaware.lower_bounds.LowerBound",
    "lossaware.status.Progressive": "lossaware.lower_bounds.Progressive",
    "lossaware.status.LOWER_BOUNDS": "lossaware.lower_bounds.LOWER_BOUNDS",
}


def named(path: str) -> Any:
    module, _, name = path.rpartition(".")
    return getattr(importlib.import_module(module), name)


@pytest.mark.parametrize(("old", "new"), OLD.items())
def test_an_old_name_is_the_new_one_and_warns(old: str, new: str) -> None:
    with pytest.warns(DeprecationWarning, match=f"{old} is deprecated .* use {new}") as caught:
        value = named(old)
    assert value is named(new)
    assert caught[0].filename == __file__


@pytest.mark.parametrize("name", ["gamma2", "law", "xi", "zero_gradient"])
def test_old_attributes_of_lga(name: str) -> None:
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.ones(3))], lr=0.1)
    lga = LGA(optimizer, steps_per_epoch=10)
    with pytest.warns(DeprecationWarning, match=rf"LGA\.{name} is deprecated: use LGA\.settings\.{name}"):
        assert getattr(lga, name) is getattr(lga.settings, name)


@pytest.mark.parametrize("module", ["lossaware", "lossaware.status", "lossaware.gamma2", "lossaware.companion"])
def test_other_names_are_unknown(module: str) -> None:
    with pytest.raises(AttributeError, match=f"module '{module}' has no attribute 'Nothing'"):
        _ = importlib.import_module(module).Nothing
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.ones(3))], lr=0.1)
    with pytest.raises(AttributeError, match="'LGA' object has no attribute 'nothing'"):
        _ = LGA(optimizer, steps_per_epoch=10).nothing


def test_new_names_do_not_warn() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for name in lossaware.__all__:
            getattr(lossaware, name)


def test_a_pickle_of_the_old_state_can_be_read() -> None:
    """As JAX users store states: by module and name, with the fields of that version."""
    values = (1.0, 2.0, 0.0, 0.5, 0.25, 1.5, 3.0, 2.0, 1.0, 4.0, 5.0, 0.0, 0.0, 0.0)
    old = ("clossaware.status\nState\n(" + "".join(f"F{value}\n" for value in values) + "tR.").encode()
    with pytest.warns(DeprecationWarning, match="LawState"):
        state = pickle.loads(old)
    assert (state.loss, state.gamma2_factor, state.steps, state.origin) == (1.0, 0.25, 5.0, 0.0)
