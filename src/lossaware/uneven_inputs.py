"""Uneven inputs: `DistributedDataParallel.join`, under which a rank may have fewer steps than others."""

import gc
import weakref

from torch.nn.parallel import DistributedDataParallel
from torch.optim import Optimizer


class UnevenInputs:
    """Detects that a model's ranks may have different numbers of steps.

    At each step LGA averages the loss over the ranks. With ``join`` a finished rank only takes part in the collectives
    of the model, so the others would wait for it until they time out.
    """

    def __init__(self) -> None:
        self._models: list[weakref.ref[DistributedDataParallel]] | None = None

    def refuse(self, optimizer: Optimizer) -> None:
        """Call on every rank before each step; the first call finds the model of the parameters.

        Raises:
            RuntimeError: ``join`` is in use.
        """
        if self._models is None:
            ours = {id(p) for group in optimizer.param_groups for p in group["params"]}
            models = [it for it in gc.get_objects() if issubclass(type(it), DistributedDataParallel)]
            self._models = [weakref.ref(m) for m in models if any(id(p) in ours for p in m.parameters())]
        for reference in self._models:
            model = reference()
            if model is not None and model._join_config.enable:
                raise RuntimeError(
                    "LGA averages the loss over the ranks at each step, so all ranks need equally many steps, but "
                    "this model is under join(): use a sampler that gives every rank equally many batches "
                    "(DistributedSampler does) instead of join(), or process_group=dist.new_group([dist.get_rank()]) "
                    "to use only its own loss"
                )
