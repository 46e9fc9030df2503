"""What a run needs to know of the processes that share it, its ranks: data, gradients, losses and state are one run's.

Every rank draws the order and the augmentation of the whole batch, and takes its share of it. What it measures there is
weighted by the size of the share, so that the mean over the ranks, of measures as of gradients, is that of the batch.
"""

import os
import re
from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils._pytree import tree_map

from lossaware.errors import UsageError
from lossaware.studies.specs.run_spec import RunSpec
from lossaware.studies.specs.task import Batch
from lossaware.studies.training.checkpoint import Checkpoint

MODES = ("ddp", "fsdp")
Measured = Mapping[str, Tensor]


class Alone:
    """The ranks of a run in one process, which shares nothing."""

    count = 1

    def spread(self, model: nn.Module, measure: Callable[[Batch], Measured]) -> Callable[[Batch], Measured]:
        """The measure of a batch, carried out by all ranks; to be called before the optimizer gets the parameters.

        What it returns are numbers whose mean over the ranks is that of the whole batch.
        """
        return measure

    def mean(self, value: Tensor) -> Tensor:
        """The mean over the ranks, of the same bits on each."""
        return value

    def check(self, optimizer: Optimizer, name: str) -> None:
        """Raise `UsageError` where an optimizer does not do when its parameters are spread."""

    def settle(self, model: nn.Module) -> None:
        """Have all ranks hold the same buffers, such as running statistics."""

    def purpose(self, name: str) -> str:
        """A purpose for which each rank draws its own random numbers."""
        return name

    def gather(self, value: Tensor) -> Any:
        """What each rank has, for a checkpoint."""
        return value

    def own(self, gathered: Any) -> Tensor:
        """This rank's part of what `gather` gave."""
        part: Tensor = gathered
        return part

    def state(self, model: nn.Module, optimizer: Optimizer) -> dict[str, Any]:
        """The whole state of model and optimizer, for a checkpoint."""
        return {"model": model.state_dict(), "optimizer": optimizer.state_dict()}

    def load(self, model: nn.Module, optimizer: Optimizer, state: Mapping[str, Any]) -> None:
        """Go on from what `state` gave."""
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])

    def checkpoint(self, own: Checkpoint | None) -> "Checkpoint | SharedCheckpoint | None":
        """The run's checkpoint, from that which this rank has."""
        return own


class Replicas(Alone):
    """Ranks that each hold the whole model, by torch's DistributedDataParallel."""

    def __init__(self) -> None:
        self.count = dist.get_world_size()
        self._rank = dist.get_rank()

    def spread(self, model: nn.Module, measure: Callable[[Batch], Measured]) -> Callable[[Batch], Measured]:
        """See `Alone.spread`."""
        # With find_unused_parameters it takes any model, and keeps its buckets, so that a run that goes on adds up in
        # the same order.
        shared = _Share(model, measure, self._rank, self.count)
        return nn.parallel.DistributedDataParallel(shared, forward_sync_buffers=False, find_unused_parameters=True)

    def mean(self, value: Tensor) -> Tensor:
        """See `Alone.mean`."""
        # Gathered and not reduced: each rank adds up the same numbers in the same order.
        return torch.stack(self._gathered(value.detach())).double().mean(0).to(value.dtype)

    def settle(self, model: nn.Module) -> None:
        """See `Alone.settle`: those of the first rank."""
        for buffer in model.buffers():
            dist.broadcast(buffer, 0)

    def purpose(self, name: str) -> str:
        """See `Alone.purpose`."""
        return f"{name} on rank {self._rank}" if self._rank else name

    def gather(self, value: Tensor) -> Any:
        """See `Alone.gather`."""
        return self._gathered(value)

    def own(self, gathered: Any) -> Tensor:
        """See `Alone.own`."""
        part: Tensor = gathered[self._rank]
        return part

    def checkpoint(self, own: Checkpoint | None) -> "SharedCheckpoint":
        """See `Alone.checkpoint`."""
        return SharedCheckpoint(own)

    def _gathered(self, value: Tensor) -> list[Tensor]:
        parts = [torch.empty_like(value) for _ in range(self.count)]
        dist.all_gather(parts, value.contiguous())
        return parts


class Shards(Replicas):
    """Ranks that each hold a part of every parameter and of the optimizer's state, by torch's FSDP2."""

    def spread(self, model: nn.Module, measure: Callable[[Batch], Measured]) -> Callable[[Batch], Measured]:
        """See `Alone.spread`."""
        from torch.distributed.device_mesh import init_device_mesh
        from torch.distributed.fsdp import fully_shard

        device = next(model.parameters()).device.type
        shared = _Share(model, measure, self._rank, self.count)
        fully_shard(shared, mesh=init_device_mesh(device, (self.count,)), reshard_after_forward=True)
        return shared

    def check(self, optimizer: Optimizer, name: str) -> None:
        """See `Alone.check`."""
        if not type(optimizer).__module__.startswith("torch.optim."):
            raise UsageError(
                f"optimizer {name!r} may have to see whole parameters, which fsdp splits: use ddp, or one of torch's"
            )

    # By hand, as torch's own get_state_dict and set_state_dict refuse optimizers without state and unused parameters.

    def state(self, model: nn.Module, optimizer: Optimizer) -> dict[str, Any]:
        """See `Alone.state`."""
        whole: dict[str, Any] = tree_map(_whole, super().state(model, optimizer))
        return whole

    def load(self, model: nn.Module, optimizer: Optimizer, state: Mapping[str, Any]) -> None:
        """See `Alone.load`."""
        held = model.state_dict()
        of_model = {name: _split(value, held[name]) for name, value in state["model"].items()}
        parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
        of_optimizer = {
            index: {name: _split(value, parameters[index]) for name, value in kept.items()}
            for index, kept in state["optimizer"]["state"].items()
        }
        super().load(model, optimizer, {"model": of_model, "optimizer": {**state["optimizer"], "state": of_optimizer}})


def _whole(value: Any) -> Any:
    return value.full_tensor() if hasattr(value, "full_tensor") else value


def _split(value: Any, like: Tensor) -> Any:
    """The value as what it belongs to: torch's optimizers keep tensors of their parameter's shape, and numbers."""
    from torch.distributed.tensor import DTensor, distribute_tensor

    if not (isinstance(value, Tensor) and isinstance(like, DTensor) and value.shape == like.shape):
        return value
    return distribute_tensor(value.to(like.device), like.device_mesh, like.placements)


class _Share(nn.Module):
    """A measure of a batch as a module around the model, so that whatever it calls of the model is a part of forward.

    A rank whose share is empty measures the batch's first example, with weight 0: all ranks must go through the model.
    """

    def __init__(self, model: nn.Module, measure: Callable[[Batch], Measured], rank: int, count: int) -> None:
        super().__init__()
        self.model = model
        self._measure = measure
        self._rank, self._count = rank, count

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        share = tuple(tensor.tensor_split(self._count)[self._rank] for tensor in batch)
        examples = len(share[0])
        if not examples:
            share = tuple(tensor[:1] for tensor in batch)
        weight = examples * self._count / len(batch[0])
        return {name: value * weight for name, value in self._measure(share).items()}


class SharedCheckpoint:
    """The checkpoint of a run with several ranks: the first one has the file, the others get from it what is there."""

    def __init__(self, own: Checkpoint | None) -> None:
        self._own = own

    def load(self) -> Any:
        """See `Checkpoint.load`."""
        return self._from_first(None if self._own is None else self._own.load())

    def tell(self, message: str, epochs: int) -> None:
        """See `Checkpoint`."""
        if self._own is not None:
            self._own.tell(message, epochs)

    def refuse(self, reason: str) -> None:
        """See `Checkpoint.refuse`."""
        if self._own is not None:
            self._own.refuse(reason)

    def keep(self, state: Callable[[], Mapping[str, Any]]) -> None:
        """See `Checkpoint.keep`. Whether it is time is the first rank's to say; all take part in gathering."""
        if not self._from_first(self._own is not None and self._own.due):
            return
        gathered = state()
        if self._own is not None:
            self._own.keep(lambda: gathered)

    @staticmethod
    def _from_first(value: Any) -> Any:
        held = [value]
        dist.broadcast_object_list(held, src=0, device=torch.device("cpu"))
        return held[0]


def ranks_of(distributed: str | None) -> Alone:
    """The ranks of a run whose specification says ``distributed``.

    Raises:
        UsageError: They are not there.
    """
    if distributed is None:
        return Alone()
    mode, count = parsed(distributed)
    there = dist.get_world_size() if dist.is_available() and dist.is_initialized() else 0
    if there != count:
        has = f"here are {there}" if there else "there are none"
        raise UsageError(
            f"distributed {distributed!r} needs {count} ranks, {has}: "
            f"torchrun --nproc_per_node {count} -m lossaware ... --distributed {mode}"
        )
    return Replicas() if mode == "ddp" else Shards()


def check_ranks(spec: RunSpec) -> None:
    """Raise `UsageError` where the run cannot be shared as it says."""
    count = ranks_of(spec.distributed).count
    if spec.batch_size < count:
        raise UsageError(f"a batch of {spec.batch_size} has no example for each of {count} ranks")
    here = int(os.environ.get("LOCAL_WORLD_SIZE", count))
    if count > 1 and spec.device == "cuda" and here > (gpus := torch.cuda.device_count()):
        raise UsageError(f"each rank needs a GPU of its own: here are {here} ranks and {gpus} GPUs")


def named_here(mode: str | None) -> str | None:
    """What the specification of a run says that is carried out here in this mode."""
    return None if mode is None else f"{mode}-{dist.get_world_size()}"


def parsed(distributed: str) -> tuple[str, int]:
    """Mode and number of ranks of ``"ddp-2"``.

    Raises:
        UsageError: It is not of that form.
    """
    if not (found := re.fullmatch(rf"({'|'.join(MODES)})-([1-9]\d*)", distributed)):
        raise UsageError(f"distributed must be ddp or fsdp and the number of ranks, such as ddp-2, got {distributed!r}")
    return found[1], int(found[2])
