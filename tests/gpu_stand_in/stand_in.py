"""A stand-in for a GPU on the CPU: its tensors have the device ``cuda``, and follow a GPU's rules.

These are errors here, as on a GPU: operators with tensors on two devices; the host waiting for the device where
`torch.cuda.set_sync_debug_mode` forbids it, or during the capture of a graph; NumPy on the device's memory. A captured
graph is the list of the operators that ran. Nothing is computed during the capture. A replay repeats the operators on
the same memory, with the host's numbers of the capture. Triton's kernels run in its interpreter.

It shows that code for GPUs is correct. Speed and the last bits can only be tested on a GPU.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, nullcontext
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor
from torch._C._autograd import DeviceType
from torch.multiprocessing.reductions import StorageWeakRef
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes
from torch.utils._pytree import tree_leaves, tree_map

aten = torch.ops.aten
GPU = torch.device("cuda", 0)
CPU = torch.device("cpu")

COPIES = {torch.tensor, torch.as_tensor}
"""Operators that copy the host's numbers to the device and wait for the copy."""
READS = {
    aten._local_scalar_dense.default,
    aten.equal.default,
    aten.is_nonzero.default,
    aten.masked_select.default,
    aten.nonzero.default,
}
"""Operators whose result the host needs."""
MUTATES = {aten.native_batch_norm.default}
"""Operators that change their arguments although their schema does not say so."""


class Device:
    """The state of the device: its memory, permitted synchronization, and launches."""

    def __init__(self) -> None:
        self._held: dict[int, StorageWeakRef] = {}
        self.may_wait = True
        self.graph: Graph | None = None
        self.launched: list[str] | None = None  # while launches are counted

    def holds(self, tensor: Tensor) -> bool:
        known = self._held.get(tensor.untyped_storage()._cdata)
        return known is not None and not known.expired()

    def take(self, tensor: Tensor) -> None:
        if len(self._held) > 10_000:
            self._held = {key: ref for key, ref in self._held.items() if not ref.expired()}
        storage = tensor.untyped_storage()
        self._held[storage._cdata] = StorageWeakRef(storage)

    def forget(self, tensor: Tensor) -> None:
        self._held.pop(tensor.untyped_storage()._cdata, None)

    def wait(self, what: object) -> None:
        """The host waits for the device."""
        if self.graph is not None:
            raise RuntimeError(f"operation not permitted when stream is capturing: {what}")
        if not self.may_wait:
            raise RuntimeError(f"called a synchronizing CUDA operation: {what}")


device = Device()


# Attributes of tensors -----------------------------------------------------------------------------------------------


def tensors_in(*values: object) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(values) if isinstance(leaf, Tensor) and leaf.layout is torch.strided]


def wanted_device(value: object) -> torch.device | None:
    """The device that an argument names, if it does."""
    if isinstance(value, torch.device):
        return value
    return torch.device(value) if isinstance(value, str) and value.split(":")[0] in ("cuda", "cpu") else None


def on_host(value: object) -> object:
    device = wanted_device(value)
    return CPU if device is not None and device.type == "cuda" else value


SAYS: dict[Any, Callable[[Tensor], object]] = {
    Tensor.device.__get__: lambda t: GPU if device.holds(t) else t.device,
    Tensor.is_cuda.__get__: lambda t: device.holds(t),  # type: ignore[attr-defined]
    Tensor.is_cpu.__get__: lambda t: t.is_cpu and not device.holds(t),  # type: ignore[attr-defined]
    Tensor.get_device: lambda t: 0 if device.holds(t) else t.get_device(),
}


class Says(TorchFunctionMode):
    """Accepts and returns device names of the GPU."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func in (torch.device, torch._C._nn._parse_to):
            return func(*args, **kwargs)
        if func in SAYS and isinstance(args[0], Tensor) and args[0].layout is torch.strided:
            return SAYS[func](args[0])
        if func in (Tensor.numpy, Tensor.__array__) and device.holds(args[0]):
            raise TypeError("can't convert cuda:0 device type tensor to numpy. Use Tensor.cpu() first.")
        if func is Tensor.tolist and device.holds(args[0]):
            device.wait("tolist")
        if func is Tensor.pin_memory:
            return args[0].clone()
        named = [wanted for value in (*args, *kwargs.values()) if (wanted := wanted_device(value)) is not None]
        if func is Tensor.cuda:
            func, args, kwargs, named = Tensor.to, (args[0],), {}, [GPU]
        elif func is Tensor.cpu:
            named = [CPU]
        elif func is Tensor.new:  # of old, which torch makes without telling where
            named = [GPU if device.holds(args[0]) else CPU]
        elif func is Tensor.to and len(args) > 1 and isinstance(args[1], Tensor):
            named = [GPU if device.holds(args[1]) else CPU]
        if not named:
            return func(*args, **kwargs)
        result = func(*map(on_host, args), **{name: on_host(value) for name, value in kwargs.items()})
        storages = [t.untyped_storage()._cdata for t in tensors_in(args, kwargs)]

        def placed(value: Any) -> Any:
            if not tensors_in(value) or device.holds(value) == (named[0].type == "cuda"):
                return value
            if (storages or func in COPIES) and not kwargs.get("non_blocking"):
                device.wait(func.__name__)
            if value.untyped_storage()._cdata in storages:
                value = value.clone()
            (device.take if named[0].type == "cuda" else device.forget)(value)
            return value

        return tree_map(placed, result)


# Operators -----------------------------------------------------------------------------------------------------------


class Computes(TorchDispatchMode):
    """Operators check the devices of their tensors, also in backward passes, and a capture records them."""

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        tensors = tensors_in(args, kwargs)
        here = [device.holds(tensor) for tensor in tensors]
        if any(here):
            self._check(func, args, tensors, here)
        elif tensors:
            return func(*args, **kwargs)
        if device.launched is not None and not func.is_view:
            device.launched.append(str(func))
        result = func(*args, **kwargs) if device.graph is None else device.graph.note(func, args, kwargs)
        if any(here) and func is not aten.copy_.default:
            for tensor in tensors_in(result):
                device.take(tensor)
        return result

    def _check(self, func: Any, args: tuple[Any, ...], tensors: list[Tensor], here: list[bool]) -> None:
        if func in READS:
            device.wait(func)
        elif func is aten.copy_.default and not all(here):
            if not (len(args) > 2 and args[2]):
                device.wait(func)
        elif func is aten.index.Tensor:
            # The places to read go to the device first, and those of a mask must be counted.
            if not all(here) or any(tensor.dtype == torch.bool for tensor in tensors[1:]):
                device.wait(func)
        elif any(t.dim() and not on for t, on in zip(tensors, here, strict=True)):
            raise RuntimeError(f"Expected all tensors to be on the same device, cuda:0 and cpu in {func}")


class Graph:
    """`torch.cuda.CUDAGraph`."""

    def __init__(self) -> None:
        self._steps: list[Callable[[], None]] = []

    def note(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """The result of the operator, without changes to existing tensors."""
        inputs: dict[int, Tensor] = {}

        def copied(value: Any) -> Any:
            if not isinstance(value, Tensor):
                return value
            copy = value.clone()
            inputs[id(copy)] = value
            return copy

        if func._schema.is_mutable or func in MUTATES:
            copies, named = tree_map(copied, (args, kwargs))  # while they exist, their ids are unique
            result = tree_map(lambda value: inputs.get(id(value), value), func(*copies, **named))
        else:
            result = func(*args, **kwargs)

        def replay() -> None:
            for old, new in zip(tensors_in(result), tensors_in(func(*args, **kwargs)), strict=True):
                if old.data_ptr() != new.data_ptr():
                    old.copy_(new)

        self._steps.append(replay)
        return result

    def launch(self, kernel: Callable[[], None]) -> None:
        self._steps.append(kernel)

    def replay(self) -> None:
        with _disable_current_modes(), torch._C.DisableTorchFunction(), torch._C._AutoDispatchBelowAutograd():
            for step in self._steps:
                step()


@contextmanager
def capture(graph: Graph, *_: Any, **__: Any) -> Iterator[None]:
    """`torch.cuda.graph`."""
    random = torch.get_rng_state()
    device.graph = graph
    try:
        yield
    finally:
        device.graph = None
        torch.set_rng_state(random)


# torch.cuda -----------------------------------------------------------------------------------------------------------


class Event:
    """`torch.cuda.Event`; the times are the host's."""

    def __init__(self, **_: Any) -> None:
        self._at = 0.0

    def record(self, *_: Any) -> None:
        self._at = time.perf_counter()

    def synchronize(self) -> None:
        pass

    def elapsed_time(self, end: Event) -> float:
        return (end._at - self._at) * 1e3


class Profile:
    """`torch.profiler.profile`, only with the launches."""

    def __init__(self, **_: Any) -> None:
        self._launched: list[str] = []

    def __enter__(self) -> Profile:
        device.launched = self._launched
        return self

    def __exit__(self, *_: object) -> None:
        device.launched = None

    def events(self) -> Iterable[SimpleNamespace]:
        return [SimpleNamespace(name=name, device_type=DeviceType.CUDA) for name in self._launched]


class Generator(torch.Generator):
    """Always on the CPU."""

    def __new__(cls, device: Any = "cpu") -> Generator:
        return super().__new__(cls, on_host(device))  # type: ignore[call-arg]


def set_sync_debug_mode(mode: str) -> None:
    device.may_wait = mode != "error"


def install() -> None:
    """Have this process believe in the GPU, from here on."""
    stream = SimpleNamespace(wait_stream=lambda other: None, synchronize=lambda: None)
    random = torch.Generator()
    vars(torch.cuda).update(
        is_available=lambda: True,
        device_count=lambda: 1,
        current_device=lambda: 0,
        set_device=lambda index: None,
        synchronize=lambda *_: None,
        set_sync_debug_mode=set_sync_debug_mode,
        get_device_name=lambda *_: "stand-in on the CPU",
        get_device_properties=lambda *_: SimpleNamespace(multi_processor_count=2, total_memory=1 << 33),
        is_current_stream_capturing=lambda: device.graph is not None,
        current_stream=lambda *_: stream,
        default_generators=(random,),
        get_rng_state=lambda *_: random.get_state(),
        set_rng_state=lambda state, *_: random.set_state(state),
        Stream=lambda *_, **__: stream,
        stream=lambda stream: nullcontext(),
        Event=Event,
        CUDAGraph=Graph,
        graph=capture,
    )
    torch.Generator = Generator  # type: ignore[misc]
    torch.profiler.profile = Profile  # type: ignore[misc, assignment]
    autocast = torch.autocast.__init__
    torch.autocast.__init__ = lambda self, kind, *args, **kwargs: autocast(  # type: ignore[method-assign]
        self, "cpu" if kind == "cuda" else kind, *args, **kwargs
    )
    _interpret_triton()
    Says().__enter__()
    Computes().__enter__()


def _interpret_triton() -> None:
    os.environ["TRITON_INTERPRET"] = "1"
    import triton
    from triton.runtime.interpreter import GridExecutor

    triton.knobs.runtime.interpret = True  # for any later value of the variable
    execute = GridExecutor.__call__

    def call(self: Any, *args: Any, **kwargs: Any) -> None:
        def kernel() -> None:
            with _disable_current_modes(), torch._C.DisableTorchFunction():
                execute(self, *args, **kwargs)

        if device.launched is not None:
            device.launched.append("a Triton kernel")
        if device.graph is None:
            kernel()
        else:
            device.graph.launch(kernel)

    GridExecutor.__call__ = call
