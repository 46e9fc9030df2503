"""A step of law and correction on a GPU by two kinds of Triton launches: the law, and a pass for each type.

The host reads nothing, and a captured CUDA graph may replay the launches, which run in order on their stream. This
module needs Triton, and is imported only where losses come from a GPU.
"""

from collections.abc import Iterable, Sequence

from torch import Tensor

from lossaware import law_kernel
from lossaware.correction.push_kernel import Pushed, PushKernel
from lossaware.law import Law

Group = tuple[Sequence[tuple[Tensor, Tensor, Tensor | None]], float, bool]
"""Parameters with their gradients and the means of these, where phi reads means; gamma2; whether the base maximizes."""


class Launcher:
    """Makes the steps of one LGA on one GPU.

    Args:
        law: Its bounds and rule must be some that the kernel knows; see `supports_law`.
        xi: The stability constant of Eq. 5.
        rest: Whether elements with a gradient of exactly 0 stay where they are.
        held: The state, `LawState` as float64 on the device; written in place.
    """

    def __init__(self, law: Law, xi: float, rest: bool, held: Tensor) -> None:
        self._law = law_kernel.LawKernel(law, held)
        self._push = PushKernel(xi, rest, law.rule.momentum, held.device)
        self.takes = self._push.takes

    @staticmethod
    def supports_law(law: Law) -> bool:
        """Whether the kernel has this law's bounds and rule; any other object runs as torch operators."""
        return law_kernel.supports(law)

    def step(self, groups: Iterable[Group], loss: Tensor, found_inf: Tensor | None) -> None:
        """One step of law and correction.

        Args:
            groups: What to push; `takes` must hold for each pair.
            loss: A float64 tensor with one element, on the device.
            found_inf: Of a gradient scaler: where it is above 0, nothing moves, the state included.
        """
        pushed: list[Pushed] = []
        for tensors, gamma2, maximize in groups:
            for p, g, mean in tensors:
                pushed.append(Pushed(p, g, mean, len(pushed) + 1, gamma2, maximize))
        self._push.push(pushed, self._law.advance(loss, found_inf))
