"""A pass of torch's compiler that computes scalars once, and not once for every few elements.

The compiler computes a number such as Adam's bias correction, a tensor without dimensions, where it is used: on a CPU
in the innermost loop, powers, roots and divisions in double precision for every vector of elements. The C++ compiler
cannot move them out, since the loop writes to memory that might hold them. With them in the loop, arithmetic is what
Adam's step waits for; without, memory is.
"""

from typing import Any

import torch
from torch import Tensor
from torch._inductor.custom_graph_pass import CustomGraphPass, get_hash_for_files


class ScalarsFirst(CustomGraphPass):
    """Stores each scalar that elements of a tensor on the CPU need, so that loops only load it."""

    def __call__(self, graph: torch.fx.Graph) -> None:
        """See ``torch._inductor.custom_graph_pass``."""
        for node in graph.nodes:
            if node.op == "call_function" and _dimensions(node) == 0 and any(_dimensions(user) for user in node.users):
                node.meta["inductor_realize_to_strides"] = True  # the compiler's own mark for what is to be stored

    def uuid(self) -> Any:
        """What compiled graphs are kept under."""
        return get_hash_for_files((__file__,))


def _dimensions(node: torch.fx.Node) -> int | None:
    """Of the tensor on the CPU that the node makes; None where it makes none."""
    made = node.meta.get("val")
    return made.dim() if isinstance(made, Tensor) and made.device.type == "cpu" else None
