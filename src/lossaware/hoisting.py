"""A pass of torch's compiler that computes scalars once, instead of once per vector of elements.

The compiler computes a scalar tensor, such as Adam's bias correction, where it is used: on a CPU in the innermost loop,
with powers, roots and divisions in double precision for every vector of elements. The C++ compiler cannot hoist them,
since the loop writes to memory that might alias. With them, Adam's step is bound by arithmetic; without, by memory.
"""

from typing import Any

import torch
from torch import Tensor
from torch._inductor.custom_graph_pass import CustomGraphPass, get_hash_for_files


class ScalarsFirst(CustomGraphPass):
    """Stores each scalar that loops over CPU tensors use, so that the loops only load it."""

    def __call__(self, graph: torch.fx.Graph) -> None:
        """See ``torch._inductor.custom_graph_pass``."""
        for node in graph.nodes:
            is_constant = not node.all_input_nodes  # which a loop need not load
            if node.op != "call_function" or is_constant or _dimensions(node) != 0:
                continue
            if any(_dimensions(user) for user in node.users):
                node.meta["inductor_realize_to_strides"] = True  # the compiler's mark for values to store

    def uuid(self) -> Any:
        """The cache key of compiled graphs."""
        return get_hash_for_files((__file__,))


def _dimensions(node: torch.fx.Node) -> int | None:
    """Dimensions of the node's result, if it is a CPU tensor, otherwise None."""
    result = node.meta.get("val")
    return result.dim() if isinstance(result, Tensor) and result.device.type == "cpu" else None
