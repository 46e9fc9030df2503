"""The processes (ranks) that share a run: its data, gradients, losses and state.

Every rank draws the order and the augmentation of the whole batch, and uses its share of it. Its measures are weighted
by the size of the share, so that means over the ranks, of measures and of gradients, are those of the batch.
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
from lossaware.studies.specs.examples import is_plain
from lossaware.studies.specs.run_spec import RunSpec
from lossaware.studies.specs.task import Batch
from lossaware.studies.training.checkpoint import Checkpoint

MODES = ("ddp", "fsdp")
Measured = Mapping[str, Tensor]


class SingleProcess:
    """A run in one process. The base class of runs on several ranks."""

    count = 1

    def spread(self, model: nn.Module, measure: Callable[[Batch], Measured]) -> Callable[[Batch], Measured]:
        """The measure of a batch on all ranks. Call it before the optimizer gets the parameters.

        Means over the ranks of the returned function's results are those of the whole batch.
        """
        return measure

    def mean(self, value: Tensor) -> Tensor:
        """The mean over the ranks, the same bits on each."""
        return value

    def check(self, optimizer: Optimizer, name: str) -> None:
        """Raise `UsageError` if the optimizer does not support sharded parameters."""

    def settle(self, model: nn.Module) -> None:
        """Make buffers, such as running statistics, the same on all ranks."""

    def purpose(self, name: str) -> str:
        """A purpose of random numbers, different on each rank."""
        return name

    def gather(self, value: Tensor) -> Any:
        """The value of each rank, for a checkpoint."""
        return value

    def own(self, gathered: Any) -> Tensor:
        """This rank's part of a result of `gather`."""
        part: Tensor = gathered
        return part

    def state(self, model: nn.Module, optimizer: Optimizer) -> dict[str, Any]:
        """The whole state of model and optimizer, for a checkpoint."""
        return {"model": model.state_dict(), "optimizer": optimizer.state_dict()}

    def load(self, model: nn.Module, optimizer: Optimizer, state: Mapping[str, Any]) -> None:
        """Restore a result of `state`."""
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])

    def checkpoint(self, own: Checkpoint | None) -> "Checkpoint | SharedCheckpoint | None":
        """The run's checkpoint, made from this rank's one."""
        return own


class DataParallel(SingleProcess):
    """Ranks with the whole model each, by torch's DistributedDataParallel."""

    def __init__(self) -> None:
        self.count = dist.get_world_size()
        self._rank = dist.get_rank()

    def spread(self, model: nn.Module, measure: Callable[[Batch], Measured]) -> Callable[[Batch], Measured]:
        """See `SingleProcess.spread`."""
        # find_unused_parameters supports any model, and keeps the buckets, so that a continued run sums in the same
        # order.
        shared = _Share(model, measure, self._rank, self.count)
        return nn.parallel.DistributedDataParallel(shared, forward_sync_buffers=False, find_unused_parameters=True)

    def mean(self, value: Tensor) -> Tensor:
        """See `SingleProcess.mean`."""
        # Gathered, not reduced: each rank sums the same numbers in the same order.
        return torch.stack(self._gathered(value.detach())).double().mean(0).to(value.dtype)

    def settle(self, model: nn.Module) -> None:
        """See `SingleProcess.settle`: the first rank's buffers."""
        for buffer in model.buffers():
            dist.broadcast(buffer, 0)

    def purpose(self, name: str) -> str:
        """See `SingleProcess.purpose`."""
        return f"{name} on rank {self._rank}" if self._rank else name

    def gather(self, value: Tensor) -> Any:
        """See `SingleProcess.gather`."""
        return self._gathered(value)

    def own(self, gathered: Any) -> Tensor:
        """See `SingleProcess.own`."""
        part: Tensor = gathered[self._rank]
        return part

    def checkpoint(self, own: Checkpoint | None) -> "SharedCheckpoint":
        """See `SingleProcess.checkpoint`."""
        return SharedCheckpoint(own)

    def _gathered(self, value: Tensor) -> list[Tensor]:
        parts = [torch.empty_like(value) for _ in range(self.count)]
        dist.all_gather(parts, value.contiguous())
        return parts


class FullySharded(DataParallel):
    """Ranks with a part of each parameter and of the optimizer's state, by torch's FSDP2."""

    def spread(self, model: nn.Module, measure: Callable[[Batch], Measured]) -> Callable[[Batch], Measured]:
        """See `SingleProcess.spread`."""
        from torch.distributed.device_mesh import init_device_mesh
        from torch.distributed.fsdp import fully_shard

        device = next(model.parameters()).device.type
        shared = _Share(model, measure, self._rank, self.count)
        fully_shard(shared, mesh=init_device_mesh(device, (self.count,)), reshard_after_forward=True)
        return shared

    def check(self, optimizer: Optimizer, name: str) -> None:
        """See `SingleProcess.check`."""
        if not type(optimizer).__module__.startswith("torch.optim."):
            raise UsageError(
                f"optimizer {name!r} may need whole parameters, but fsdp shards them: use ddp, or torch's optimizers"
            )

    # torch's get_state_dict and set_state_dict do not support optimizers without state and unused parameters.

    def state(self, model: nn.Module, optimizer: Optimizer) -> dict[str, Any]:
        """See `SingleProcess.state`."""
        full_state: dict[str, Any] = tree_map(_whole, super().state(model, optimizer))
        return full_state

    def load(self, model: nn.Module, optimizer: Optimizer, state: Mapping[str, Any]) -> None:
        """See `SingleProcess.load`."""
        parameters_here = model.state_dict()
        of_model = {name: _split(value, parameters_here[name]) for name, value in state["model"].items()}
        parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
        of_optimizer = {
            index: {name: _split(value, parameters[index]) for name, value in values.items()}
            for index, values in state["optimizer"]["state"].items()
        }
        super().load(model, optimizer, {"model": of_model, "optimizer": {**state["optimizer"], "state": of_optimizer}})


def _whole(value: Any) -> Any:
    return value.full_tensor() if hasattr(value, "full_tensor") else value


def _split(value: Any, like: Tensor) -> Any:
    """The value sharded as its parameter: torch's optimizers have tensors of their parameter's shape, and numbers."""
    from torch.distributed.tensor import DTensor, distribute_tensor

    if not (isinstance(value, Tensor) and isinstance(like, DTensor) and value.shape == like.shape):
        return value
    return distribute_tensor(value.to(like.device), like.device_mesh, like.placements)


class _Share(nn.Module):
    """A measure of a batch as a module around the model, so that all calls of the model are part of its forward.

    A rank with an empty share measures the batch's first example with weight 0, as all ranks must run the model.
    """

    def __init__(self, model: nn.Module, measure: Callable[[Batch], Measured], rank: int, count: int) -> None:
        super().__init__()
        self.model = model
        self._measure = measure
        self._rank, self._count = rank, count

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        if not is_plain(batch):
            raise UsageError("runs that several ranks share need batches that are tuples of tensors")
        share = tuple(tensor.tensor_split(self._count)[self._rank] for tensor in batch)
        examples = len(share[0])
        if not examples:
            share = tuple(tensor[:1] for tensor in batch)
        weight = examples * self._count / len(batch[0])
        return {name: value * weight for name, value in self._measure(share).items()}


class SharedCheckpoint:
    """The checkpoint of a run on several ranks: the first rank has the file and sends its content to the others."""

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
        """See `Checkpoint.keep`. The first rank decides whether it is due; all ranks take part in gathering."""
        if not self._from_first(self._own is not None and self._own.due):
            return
        gathered = state()
        if self._own is not None:
            self._own.keep(lambda: gathered)

    @staticmethod
    def _from_first(value: Any) -> Any:
        parameters_here = [value]
        dist.broadcast_object_list(parameters_here, src=0, device=torch.device("cpu"))
        return parameters_here[0]


def ranks_of(distributed: str | None) -> SingleProcess:
    """The ranks of a run with this value of ``distributed``.

    Raises:
        UsageError: The number of processes is another one.
    """
    if distributed is None:
        return SingleProcess()
    mode, count = parsed(distributed)
    size = dist.get_world_size() if dist.is_available() and dist.is_initialized() else 0
    if size != count:
        has = f"but there are {size}" if size else "but there are none"
        raise UsageError(
            f"distributed {distributed!r} needs {count} ranks, {has}: "
            f"torchrun --nproc_per_node {count} -m lossaware ... --distributed {mode}"
        )
    return DataParallel() if mode == "ddp" else FullySharded()


def check_ranks(spec: RunSpec) -> None:
    """Raise `UsageError` if the run's batch or the GPUs do not suffice for its ranks."""
    count = ranks_of(spec.distributed).count
    if spec.batch_size < count:
        raise UsageError(f"a batch of {spec.batch_size} is too small for {count} ranks")
    local = int(os.environ.get("LOCAL_WORLD_SIZE", count))
    if count > 1 and spec.device == "cuda" and local > (gpus := torch.cuda.device_count()):
        raise UsageError(f"each rank needs its own GPU: there are {local} ranks and {gpus} GPUs")


def named_here(mode: str | None) -> str | None:
    """The value of ``distributed`` for this mode and the present number of ranks."""
    return None if mode is None else f"{mode}-{dist.get_world_size()}"


def parsed(distributed: str) -> tuple[str, int]:
    """Mode and number of ranks of ``"ddp-2"``.

    Raises:
        UsageError: It does not have that form.
    """
    if not (match := re.fullmatch(rf"({'|'.join(MODES)})-([1-9]\d*)", distributed)):
        raise UsageError(f"distributed must be ddp or fsdp and the number of ranks, such as ddp-2, got {distributed!r}")
    return match[1], int(match[2])
