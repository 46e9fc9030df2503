"""Fixtures and settings of all tests."""

import os
import signal
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, settings

from support.longest import LONGEST

# Tests do not depend on time, and every run tries the same examples.
settings.register_profile("steady", deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("steady")
# Sums on several threads differ in their last bits from run to run of the tests; and the machines are small.
torch.set_num_threads(1)
os.environ.setdefault("OMP_NUM_THREADS", "1")  # the same for processes that tests start
os.environ.pop("COLUMNS", None)  # tables have the same width everywhere
# In the background of a shell, Ctrl-C is ignored by the tests and by the processes that they start and interrupt.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Start with the longest files, so that several processes end at about the same time."""
    place = {name: number for number, name in enumerate(LONGEST)}
    items.sort(key=lambda item: place.get(item.path.name, len(place)))


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("cuda") and not torch.cuda.is_available():
        pytest.skip("needs a CUDA GPU; where there is one, `pytest -m cuda` runs these tests alone")


@pytest.fixture(scope="session", params=["cpu", pytest.param("cuda", marks=pytest.mark.cuda)])
def device(request: pytest.FixtureRequest) -> str:
    """The device of a test: the CPU, and also a GPU."""
    name: str = request.param
    return name


def idx(values: np.ndarray) -> bytes:
    """The bytes of an IDX file, written by independent code from the format's description."""
    codes = {"uint8": 8, "int8": 9, "int16": 11, "int32": 12, "float32": 13, "float64": 14}
    header = bytes([0, 0, codes[values.dtype.name], values.ndim]) + b"".join(struct.pack(">I", n) for n in values.shape)
    return header + values.astype(values.dtype.newbyteorder(">")).tobytes()


@pytest.fixture
def write_idx() -> Callable[[Path, np.ndarray], Path]:
    """Writes an array as an IDX file."""

    def write(path: Path, values: np.ndarray) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(idx(values))
        return path

    return write


@pytest.fixture
def tiny_mnist(tmp_path: Path) -> Path:
    """A data folder with a data set of MNIST's form: 200 training and 50 test images of noise."""
    generator = np.random.default_rng(0)
    raw = tmp_path / "data" / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for part, count in (("train", 200), ("t10k", 50)):
        images = generator.integers(0, 256, (count, 28, 28), dtype=np.uint8)
        labels = generator.integers(0, 10, count, dtype=np.uint8)
        (raw / f"{part}-images-idx3-ubyte").write_bytes(idx(images))
        (raw / f"{part}-labels-idx1-ubyte").write_bytes(idx(labels))
    # Its checksums are not those of MNIST, so they must be recorded.
    from lossaware.studies.data.checksums import record_files
    from lossaware.studies.data.sets import DATA_SETS

    record_files(DATA_SETS["mnist"], tmp_path / "data")
    return tmp_path / "data"
