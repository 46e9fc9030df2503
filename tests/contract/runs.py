"""One optimizer of a case with its parameters, and its twin without LGA."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
import torch
from cases import DTYPES, Case
from layouts import LAYOUTS, REFUSED, Guarded, bits
from numpy.typing import NDArray
from torch import Tensor

from lossaware import LGA, AutoGamma2
from lossaware.correction import native
from lossaware.gradient_mean import MEAN
from support import needs
from support.interpreter import interpreted_launcher

Array = NDArray[np.float64]

LOSSES = (2.0, 1.5, 0.05, 1.9, 1.2, 2.4, 0.9, 1.7)
"""One is below L + eps, one above U; the second status is above the first, so gamma2 backs off or shrinks."""
STEPS_PER_EPOCH = 3
XI = 0.01
GAMMA2 = 0.02  # a push of 0.01 to 4: more than most bases move
BACKOFF = 0.7
AUTO = AutoGamma2(statuses_per_epoch=1, steps_at_least=STEPS_PER_EPOCH)  # "auto", which judges after so few steps


class Run:
    """An optimizer of a case, and its parameters.

    Args:
        case: Its specification.
    """

    def __init__(self, case: Case) -> None:
        self.case = case
        self.dtype = DTYPES[case.dtype]
        self.places: list[Guarded] = []
        self.params: list[torch.nn.Parameter] = []
        self._layouts: list[str] = []
        for number, name in enumerate(case.layouts):
            layout = {**LAYOUTS, **REFUSED}[name]
            place = Guarded(layout, self.dtype, torch.Generator().manual_seed(number))
            self.places.append(place)
            for _ in range(2 if layout.tied else 1):
                self.params.append(torch.nn.Parameter(place.view))
                self._layouts.append(name)
        self.gradients: list[Guarded] = []
        # The type is Any because torch's type does not have `step(loss=...)`.
        self.optimizer: Any = getattr(torch.optim, case.optimizer)(self.params, **case.arguments)
        self.lga: LGA | None = None
        self.step: Callable[[float], None] = lambda _: self.optimizer.step()

    def attach(self, kernels: Any = None, *, gamma2: Any = None) -> LGA:
        """Attach LGA, with the kind of step of the case.

        Args:
            kernels: `lossaware.launcher`, if the case uses Triton.
            gamma2: Instead of that of the case.
        """
        if gamma2 is None:
            gamma2 = AUTO if self.case.gamma2 == "auto" else GAMMA2
        xi = XI if isinstance(gamma2, float) else None
        lga = LGA(self.optimizer, steps_per_epoch=STEPS_PER_EPOCH, gamma2=gamma2, xi=xi, backoff=BACKOFF)
        if self.case.path == "Triton":
            state, settings = lga._stepper.state_on(torch.device("cpu")), lga.settings
            rest = settings.zero_gradient == "rest"
            lga._stepper._launcher = kernels.Launcher(settings.law, settings.xi, rest, state)
        if self.case.path == "compiled":
            self.step = lga.compile(backend="aot_eager")
        elif self.case.path == "inductor":
            self.step = lga.compile()
        else:
            self.step = lambda loss: self.optimizer.step(loss=loss)
        self.lga = lga
        return lga

    def set_gradients(self, step: int) -> None:
        """Set each parameter's gradient of a step. Its sign is the same in all steps, so the running means have it too.

        Their layout is alternately that of the parameter and contiguous.
        """
        self.gradients = []
        for number, (p, layout) in enumerate(zip(self.params, self._layouts, strict=True)):
            like = LAYOUTS[layout] if (step + number) % 2 else _contiguous(p)
            place = Guarded(like, self.dtype, torch.Generator().manual_seed(100 + number))
            sizes = torch.rand(p.shape, generator=torch.Generator().manual_seed(1000 * step + number)) * 1.5 + 0.5
            signs = torch.view_as_real(place.view).sign() if self.dtype.is_complex else place.view.sign()
            values = signs * (sizes[..., None] if self.dtype.is_complex else sizes)
            if p.numel() > 2 and self.case.dtype != "float16":  # whose eps of 1e-8 is 0, so bases would divide 0 by 0
                values[(0,) * p.dim()], values[(1,) * p.dim()] = 0.0, -0.0
            values = torch.view_as_complex(values) if self.dtype.is_complex else values
            place.view.copy_(values)
            self.gradients.append(place)
            if self.case.is_sparse:
                rows = torch.tensor([i for i in range(p.shape[0]) if (i + step) % 2], dtype=torch.int64)
                p.grad = torch.sparse_coo_tensor(rows[None], place.view[rows], p.shape, check_invariants=True)
            else:
                p.grad = place.view

    def copy_parameters(self, other: Run) -> None:
        for p, of_other in zip(self.places, other.places, strict=True):
            p.memory.copy_(of_other.memory)

    def copy_state(self, other: Run) -> None:
        """Take the base's state over, as deep copies."""
        state = other.optimizer.state
        for p, of_other in zip(self.params, other.params, strict=True):
            self.optimizer.state[p] = {
                name: value.clone() if isinstance(value, Tensor) else value
                for name, value in state[of_other].items()
                if name != MEAN
            }

    def resumed(self, kernels: Any) -> Run:
        """Another run that resumes from this one's checkpoint, which was saved to a file."""
        assert self.lga is not None
        file = io.BytesIO()
        torch.save([self.optimizer.state_dict(), self.lga.state_dict()], file)
        file.seek(0)
        state, of_lga = torch.load(file, weights_only=True)
        other = Run(self.case)
        other.copy_parameters(self)
        lga = other.attach(kernels)
        other.optimizer.load_state_dict(state)
        lga.load_state_dict(of_lga)
        return other

    def bits(self) -> list[Tensor]:
        """Of the parameters and the base's state."""
        state = [self.optimizer.state[p] for p in self.params]
        tensors = [v for one in state for name, v in sorted(one.items()) if isinstance(v, Tensor) and name != MEAN]
        return [bits(tensor) for tensor in [*self.params, *tensors]]


@contextmanager
def way(path: str) -> Iterator[Any]:
    """Computing by a path; gives `lossaware.launcher` where it is Triton's."""
    if path == "Triton":
        needs("triton")
    if path == "C" and native.library() is None:
        pytest.skip("no C compiler here")
    with pytest.MonkeyPatch.context() as patch:
        if path == "operators":
            patch.setattr(native, "library", lambda: None)
        if path == "Triton":
            patch.setenv("TRITON_INTERPRET", "1")
        yield interpreted_launcher() if path == "Triton" else None


def values(tensor: Tensor) -> Array:
    """All real numbers of a tensor, in the order of its elements."""
    tensor = tensor.detach().to_dense() if tensor.is_sparse else tensor.detach()
    if tensor.is_complex():
        tensor = torch.view_as_real(tensor.resolve_conj())
    array: Array = tensor.reshape(-1).to(torch.float64).numpy().copy()
    return array


def _contiguous(p: Tensor) -> Any:
    from layouts import Layout

    strides = torch.empty(p.shape, device="meta").stride()
    return Layout(tuple(p.shape), tuple(strides))
