"""A step of law and correction on a GPU by Triton kernels: one for the law, and one pass per type.

The host does not read from the device, and a CUDA graph can capture the launches, which run in order on their stream.
This module needs Triton, and is only imported for losses on a GPU.
"""

from collections.abc import Iterable, Sequence

from torch import Tensor

from lossaware import law_kernel
from lossaware.correction.push_kernel import Pushed, PushKernel
from lossaware.law import Law

Group = tuple[Sequence[tuple[Tensor, Tensor, Tensor | None]], float, bool]
"""Parameters with gradients and, if phi reads means, their running means; gamma2; whether the base maximizes."""


class Launcher:
    """Performs the steps of one LGA on one GPU.

    Args:
        law: A law whose bounds and rule the kernel supports; see `supports_law`.
        xi: The stability constant of Eq. 5.
        rest: Whether elements with a gradient of exactly 0 are not pushed.
        held: The state, `LawState` as float64 on the device; written in place.
    """

    def __init__(self, law: Law, xi: float, rest: bool, held: Tensor) -> None:
        self._law = law_kernel.LawKernel(law, held)
        self._push = PushKernel(xi, rest, law.rule.momentum, held.device)
        self.takes = self._push.takes

    @staticmethod
    def supports_law(law: Law) -> bool:
        """Whether the kernel supports this law's bounds and rule; others run as torch operators."""
        return law_kernel.supports(law)

    def step(self, groups: Iterable[Group], loss: Tensor, found_inf: Tensor | None) -> None:
        """Perform one step of law and correction.

        Args:
            groups: The groups to push; `takes` must be true for each pair.
            loss: A float64 tensor with one element, on the device.
            found_inf: Of a gradient scaler: if it is above 0, neither parameters nor state change.
        """
        pushed: list[Pushed] = []
        for tensors, gamma2, maximize in groups:
            for p, g, mean in tensors:
                pushed.append(Pushed(p, g, mean, len(pushed) + 1, gamma2, maximize))
        self._push.push(pushed, self._law.advance(loss, found_inf))
