"""Mechanic, a peer that tunes the learning rate of a base, with a state that can be saved in checkpoints."""

from typing import Any

import torch
from mechanic_pytorch import mechanize

_STATE = "_mechanic"
"""The package's key of its state: numbers by name, and the start of each parameter with the parameter as key."""


class _SavedState:
    """Saves the starts of the parameters in their order, since a checkpoint cannot have parameters as keys."""

    param_groups: list[dict[str, Any]]
    state: dict[Any, Any]

    def step(self, closure: Any = None) -> Any:
        """Perform one step. The package leaves gradients disabled if its step fails."""
        with torch.set_grad_enabled(torch.is_grad_enabled()):
            return super().step(closure)  # type: ignore[misc]

    def state_dict(self) -> dict[str, Any]:
        """The state of the base and that of Mechanic, under ``"mechanic"``."""
        own = self.state.pop(_STATE, None)
        try:
            result: dict[str, Any] = super().state_dict()  # type: ignore[misc]
        finally:
            if own is not None:
                self.state[_STATE] = own
        if own is not None:
            own_values = {name: value for name, value in own.items() if isinstance(name, str)}
            result["mechanic"] = {"named": own_values, "starts": [own[p]["ref"] for p in self._parameters()]}
        return result

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore a result of `state_dict`."""
        rest = dict(state_dict)
        own = rest.pop("mechanic", None)
        self.state.pop(_STATE, None)
        super().load_state_dict(rest)  # type: ignore[misc]
        if own is not None:
            copied = {
                name: value.clone() if isinstance(value, torch.Tensor) else value
                for name, value in own["named"].items()
            }
            starts = zip(self._parameters(), own["starts"], strict=True)
            self.state[_STATE] = {**copied, **{p: {"ref": start.clone()} for p, start in starts}}

    def _parameters(self) -> list[torch.Tensor]:
        return [p for group in self.param_groups for p in group["params"]]


class MechanicSGD(_SavedState, mechanize(torch.optim.SGD)):  # type: ignore[misc]
    """Mechanic on SGD. Source: Cutkosky, Defazio and Mehta, "Mechanic: A Learning Rate Tuner", NeurIPS 2023."""


class MechanicAdamW(_SavedState, mechanize(torch.optim.AdamW)):  # type: ignore[misc]
    """Mechanic on AdamW."""
