"""The cases of the contract: an option set of an optimizer, its form, a dtype, a layout, a path, a gamma2."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from layouts import LAYOUTS, TWO_DIMENSIONAL
from option_sets import FOREACH, FUSED, OPTION_SETS, REAL_ONLY, REFUSED, SPARSE_ONLY

from support.pairwise import pairwise

DTYPES = {
    "float64": torch.float64,
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
    "complex64": torch.complex64,
}
EAGER_PATHS = ("C", "operators", "Triton")
COMPILED_PATHS = ("compiled", "inductor")
"""By torch.compile with the backend aot_eager, which is faster to compile, and with the usual one."""
GAMMAS = ("fixed", "auto")
FORMS: dict[str, dict[str, bool]] = {"loop": {"foreach": False}, "foreach": {"foreach": True}, "fused": {"fused": True}}
BASES = [
    (optimizer, options) for optimizer in OPTION_SETS if optimizer not in REFUSED for options in OPTION_SETS[optimizer]
]


@dataclass(frozen=True)
class Case:
    """One case; ``layout`` may be ``"mixed"``, which is a parameter of each layout that the optimizer takes."""

    base: tuple[str, str]
    form: str
    dtype: str
    layout: str
    path: str
    gamma2: str

    def __str__(self) -> str:
        return "-".join([*self.base, self.form, self.dtype, self.layout, self.path, self.gamma2])

    @property
    def optimizer(self) -> str:
        return self.base[0]

    @property
    def arguments(self) -> dict[str, Any]:
        """The keyword arguments of the optimizer."""
        options = {k: v.clone() if isinstance(v, torch.Tensor) else v for k, v in self._options.items()}
        return {**options, **(FORMS[self.form] if self.optimizer in FOREACH else {})}

    @property
    def _options(self) -> dict[str, Any]:
        return OPTION_SETS[self.optimizer][self.base[1]]

    @property
    def layouts(self) -> list[str]:
        """Of its parameters."""
        if self.layout != "mixed":
            return [self.layout]
        left_out = {
            "scalar": self.path in COMPILED_PATHS and self.dtype == "float64",  # which a compiled step refuses
            "tied": self.path == "inductor",  # whose own assertions fail for parameters in the same memory
        }
        return [name for name in LAYOUTS if takes(self.optimizer, name) and not left_out.get(name)]

    @property
    def is_sparse(self) -> bool:
        return self.optimizer in SPARSE_ONLY

    @property
    def writes_gradients(self) -> bool:
        """Whether the base itself leaves others in their place; see `lossaware.gradients`."""
        return bool(self._options.get("nesterov")) and self.form == "foreach"

    @property
    def base_resumes_exactly(self) -> bool:
        """Torch loads the scalars of these states, which are of 32 bits, in the dtype of the parameters."""
        return self.optimizer not in ("ASGD", "NAdam") or DTYPES[self.dtype].itemsize > 2


def takes(optimizer: str, layout: str) -> bool:
    """Whether the optimizer alone can step such a parameter."""
    if optimizer == "Muon":
        return layout in TWO_DIMENSIONAL
    if optimizer == "Adafactor":
        return layout != "zero-size"  # it divides by the number of elements
    return layout != "scalar" if optimizer in SPARSE_ONLY else True


def allowed(*, base: tuple[str, str], form: str, dtype: str, layout: str, path: str, gamma2: str) -> bool:
    """Whether torch's optimizer alone can step this, and the path exists for it."""
    optimizer, options = base
    forms = {"loop", *(["foreach"] if optimizer in FOREACH else []), *(["fused"] if optimizer in FUSED else [])}
    if form not in forms or (form == "foreach" and options.lower() == "tensor-lr"):
        return False
    is_complex = DTYPES[dtype].is_complex
    if is_complex and (optimizer in REAL_ONLY or form == "fused" or path == "Triton"):
        return False
    if form == "fused" and layout == "gaps":  # the base itself writes into memory that is not the parameter's
        return False
    return layout == "mixed" or takes(optimizer, layout)


def every(base: tuple[str, str], path: str, layouts: tuple[str, ...] = tuple(LAYOUTS)) -> list[Case]:
    """All cases of an option set on a path."""
    return [
        Case(base, form, dtype, layout, path, gamma2)
        for form in FORMS
        for dtype in DTYPES
        for layout in layouts
        for gamma2 in GAMMAS
        if allowed(base=base, form=form, dtype=dtype, layout=layout, path=path, gamma2=gamma2)
    ]


def reduced() -> list[Case]:
    """Cases in which every two values that go together meet; by Triton's interpreter, which is slow, of few bases."""
    factors: dict[str, Any] = {
        "base": BASES,
        "form": tuple(FORMS),
        "dtype": tuple(DTYPES),
        "layout": tuple(LAYOUTS),
        "path": ("C", "operators"),
        "gamma2": GAMMAS,
    }
    few = {
        **factors,
        "path": ("Triton",),
        "base": [(name, "default") for name in ("SGD", "Adam", "SparseAdam", "Muon")],
    }
    return [Case(**case) for some in (factors, few) for case in pairwise(some, allowed)]
