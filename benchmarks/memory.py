"""Memory of a step in addition to the base's: permanent and temporary."""

from collections.abc import Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor

from benchmarks.auto import attach_auto
from benchmarks.goals import Goal
from benchmarks.parameters import LOSS, attach, make_parameters
from benchmarks.steps import TINY
from benchmarks.timing import peak_extra_bytes, threads

TOTAL = 10**7


def memory() -> Iterator[Goal]:
    """In tensors of the size of the parameters: state, and the peak of a step."""
    with threads(1):
        cases = (
            ("fixed", attach, 0.0),
            ("auto", attach_auto, 1.0),
            ("auto, mean in bfloat16", partial(attach_auto, mean_dtype="bfloat16"), 0.5),
        )
        for gamma2, make_lga, most in cases:
            for name, make in (("SGD", torch.optim.SGD), ("Adam, fused", torch.optim.Adam)):
                arguments: dict[str, Any] = {"fused": True} if name != "SGD" else {}
                plain, ours = (make(make_parameters(TOTAL, 10), lr=TINY, **arguments) for _ in range(2))
                lga = make_lga(ours)
                step: Any = ours.step
                plain.step(), step(loss=LOSS)
                more = (_bytes_of(ours) - _bytes_of(plain)) / (4 * TOTAL)
                peak = max(0, peak_extra_bytes(partial(step, loss=LOSS)) - peak_extra_bytes(plain.step)) / (4 * TOTAL)
                assert lga.status.open_share == 1
                what = f"{name}, gamma2 {gamma2}"
                yield Goal("memory", f"{what}, state that LGA adds", more, most, unit="tensors", floor=most)
                yield Goal("memory", f"{what}, peak of a step above the base's", peak, 0.01, unit="tensors", floor=0.0)


def _bytes_of(optimizer: torch.optim.Optimizer) -> int:
    tensors = [value for state in optimizer.state.values() for value in state.values() if isinstance(value, Tensor)]
    return sum(tensor.nbytes for tensor in tensors if tensor.dim())
