"""The tests and the benchmark for GPUs, on the stand-in for one: that they run, and what they find but for the numbers.

A GPU is still needed for the rest: what steps cost, the last bits, torch.compile, nccl, libraries of GPU code alone.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from support import needs

HERE = Path(__file__).parent
NOT_HERE = "not compiled_step and not bitsandbytes"
"""torch.compile traces no stand-in, and bitsandbytes asks for CUDA's own library."""


@pytest.fixture(autouse=True)
def _triton() -> None:
    needs("triton")


def on_the_stand_in(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Python with a GPU that is none; the processes that it starts have it, too."""
    here = {
        "PYTHONPATH": os.pathsep.join([str(HERE / "gpu_stand_in"), str(HERE.parent), os.environ.get("PYTHONPATH", "")])
    }
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=HERE.parent,
        env=os.environ | here,
        capture_output=True,
        text=True,
        check=False,
    )


def in_script(code: str) -> str:
    found = on_the_stand_in("-c", "import torch\n" + code)
    assert found.returncode == 0, found.stderr
    return found.stdout


# What the stand-in forgives as little as a GPU -----------------------------------------------------------------------

FORBIDDEN = {
    "two devices": ("torch.ones(2, device='cuda') + torch.ones(2)", "on the same device"),
    "two devices in a backward pass": (
        "p = torch.ones(2, requires_grad=True); (p.cuda() * torch.ones(2).cuda()).backward(torch.ones(2))",
        "on the same device",
    ),
    "a module that stayed": ("torch.nn.Linear(2, 1)(torch.ones(1, 2).to(torch.device('cuda')))", "on the same device"),
    "NumPy": ("torch.nn.Linear(2, 1).to('cuda').weight.detach().numpy()", "can't convert cuda"),
    "reading": ("strict(); float(torch.ones((), device='cuda'))", "synchronizing"),
    "reading a list": ("strict(); torch.ones(3, device='cuda').tolist()", "synchronizing"),
    "a condition": ("strict()\nif torch.ones(1, device='cuda') > 0: pass", "synchronizing"),
    "a mask": ("x = torch.ones(3, device='cuda'); strict(); x[x > 0]", "synchronizing"),
    "a blocking copy": ("x = torch.ones(3); strict(); x.to('cuda')", "synchronizing"),
    "the host's numbers": ("strict(); torch.tensor([1.0], device='cuda')", "synchronizing"),
    "a copy back": ("x = torch.ones(3, device='cuda'); strict(); x.cpu()", "synchronizing"),
    "reading while captured": (
        "x = torch.ones((), device='cuda')\nwith torch.cuda.graph(torch.cuda.CUDAGraph()): x.item()",
        "capturing",
    ),
}


@pytest.mark.parametrize("name", FORBIDDEN)
def test_what_a_gpu_forbids_is_forbidden(name: str) -> None:
    code, message = FORBIDDEN[name]
    found = on_the_stand_in("-c", f"import torch\nstrict = lambda: torch.cuda.set_sync_debug_mode('error')\n{code}")
    assert found.returncode == 1
    assert message in found.stderr.splitlines()[-1]


def test_what_a_gpu_allows_is_allowed() -> None:
    said = in_script(
        """
net = torch.nn.Linear(3, 2).to("cuda")
x = torch.ones(4, 3).to("cuda", non_blocking=True)
torch.cuda.set_sync_debug_mode("error")
net(x).sum().backward()
moved = torch.ones(4).to(x.device, non_blocking=True)
x.mul_(torch.tensor(2.0)).sub_(1.0)
torch.cuda.set_sync_debug_mode("default")
print(net.weight.grad.device, moved.device, torch.zeros_like(x).is_cuda, x.cpu().is_cuda, x.sum().item())
"""
    )
    assert said.split() == ["cuda:0", "cuda:0", "True", "False", "12.0"]


def test_a_graph_computes_when_it_is_replayed_with_the_numbers_of_its_capture() -> None:
    said = in_script(
        """
x, total, scale = torch.ones(2, device="cuda"), torch.zeros(2, device="cuda"), 3.0
graph = torch.cuda.CUDAGraph()
with torch.cuda.graph(graph):
    y = x * scale
    total += y
print(total.tolist())
scale = 5.0
for value in (1.0, 2.0):
    x.fill_(value)
    graph.replay()
print(y.tolist(), total.tolist())
"""
    )
    assert said.splitlines() == ["[0.0, 0.0]", "[6.0, 6.0] [9.0, 9.0]"]


# The tests and the benchmark for GPUs --------------------------------------------------------------------------------


@pytest.mark.timeout(1200)
@pytest.mark.parametrize(
    "file",
    [
        "test_cuda.py",
        "test_kernels.py",
        "studies/test_device.py",
        "studies/test_paper_tasks.py",
        "frameworks/test_pytorch.py",
        "frameworks/test_third_party.py",
    ],
)
def test_the_tests_for_gpus_pass_on_the_stand_in(file: str) -> None:
    found = on_the_stand_in("-m", "pytest", "-m", "cuda", "-k", NOT_HERE, "-n", "0", "-q", str(HERE / file))
    assert found.returncode == 0, found.stdout[-5000:]
    last = found.stdout.splitlines()[-1]
    assert " passed" in last
    assert "skipped" not in last, found.stdout[-5000:]


@pytest.mark.timeout(1200)
def test_the_benchmark_for_gpus_runs_on_the_stand_in(tmp_path: Path, tiny_mnist: Path) -> None:
    """Its times are none; its assertions, and how many kernels LGA adds, are what they are on a GPU."""
    options = f"--elements 20000 --seeds 1 --jobs 2 --data {tiny_mnist} --output {tmp_path}"
    found = on_the_stand_in(
        "-c", f"import sys; from benchmarks import gpu; gpu.ROUNDS = 6; sys.argv[1:] = {options.split()}; gpu.main()"
    )
    assert found.returncode == 0, found.stderr[-5000:]
    assert "| kernels that LGA adds to a step of Adam, 300 tensors | ≤ 2  | 2  | met |" in found.stdout
    assert "14 runs, 2 at a time, recorded steps" in found.stdout
    assert (tmp_path / "gpu.json").exists()
