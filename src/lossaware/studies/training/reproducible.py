"""Reproducible computation: the same run gives the same bits."""

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch


@contextmanager
def reproducible(device: str, threads: int | None = 1) -> Iterator[None]:
    """One thread and deterministic algorithms, since sums in another order differ in the last bits.

    Args:
        device: ``"cpu"`` or ``"cuda"``.
        threads: Number of torch's threads; None does not change it.
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
    # Filling uninitialised memory only changes programs that read it, and costs time.
    memory.fill_uninitialized_memory = False
    if device == "cuda":
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # required for deterministic cuBLAS
        torch.backends.cudnn.allow_tf32 = False  # compute in fp32
    try:
        yield
    finally:
        torch.set_num_threads(threads_before)
        torch.use_deterministic_algorithms(algorithms, warn_only=warn_only)
        memory.fill_uninitialized_memory = fill
        torch.backends.cudnn.allow_tf32 = tf32


def derived(seed: int, purpose: str) -> int:
    """A separate seed for each purpose, so that the random streams differ."""
    return int.from_bytes(hashlib.sha256(f"{purpose} {seed}".encode()).digest()[:7])
