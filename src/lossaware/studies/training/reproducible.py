"""Computing so that the same run gives the same bits."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch


@contextmanager
def reproducible(device: str, threads: int | None = 1) -> Iterator[None]:
    """One thread and deterministic algorithms: sums in another order have other last bits.

    Args:
        device: ``"cpu"`` or ``"cuda"``.
        threads: How many threads torch computes on; None leaves that as it is.
    """
    threads_before = torch.get_num_threads()
    algorithms = torch.are_deterministic_algorithms_enabled()
    warn_only = torch.is_deterministic_algorithms_warn_only_enabled()
    tf32 = torch.backends.cudnn.allow_tf32
    memory: Any = torch.utils.deterministic
    fill = memory.fill_uninitialized_memory
    if threads is not None:
        torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(True, warn_only=True)
    # Filling fresh memory finds programs that read it; it changes no number of one that does not, and costs time.
    memory.fill_uninitialized_memory = False
    if device == "cuda":
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # without which cuBLAS is not deterministic
        torch.backends.cudnn.allow_tf32 = False  # fp32 is meant
    try:
        yield
    finally:
        torch.set_num_threads(threads_before)
        torch.use_deterministic_algorithms(algorithms, warn_only=warn_only)
        memory.fill_uninitialized_memory = fill
        torch.backends.cudnn.allow_tf32 = tf32
