"""The tests and the benchmark for GPUs, on the stand-in: that they run and pass, without their measured numbers.

The rest needs a GPU: times, the last bits, torch.compile, nccl, and libraries with only GPU code.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from xml.etree import ElementTree

import pytest

from lossaware.studies.store.database import Store
from support import needs

HERE = Path(__file__).parent
NOT_HERE = "not compiled_step and not bitsandbytes"
"""torch.compile cannot trace the stand-in, and bitsandbytes needs CUDA's library."""


@pytest.fixture(autouse=True)
def _triton() -> None:
    needs("triton")


def start_on_the_stand_in(*arguments: str) -> subprocess.Popen[str]:
    """Python with the stand-in; the processes that it starts have it, too."""
    here = {
        "PYTHONPATH": os.pathsep.join([str(HERE / "gpu_stand_in"), str(HERE.parent), os.environ.get("PYTHONPATH", "")])
    }
    return subprocess.Popen(
        [sys.executable, *arguments],
        cwd=HERE.parent,
        env=os.environ | here,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def on_the_stand_in(*arguments: str) -> subprocess.CompletedProcess[str]:
    """The same, until it has ended."""
    process = start_on_the_stand_in(*arguments)
    output, errors = process.communicate()
    return subprocess.CompletedProcess(process.args, process.returncode, output, errors)


def in_script(code: str) -> str:
    result = on_the_stand_in("-c", "import torch\n" + code)
    assert result.returncode == 0, result.stderr
    return result.stdout


# Errors of the stand-in, as on a GPU ----------------------------------------------------------------------------------

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


EACH_IN_TURN = """
import json, sys, torch
strict = lambda: torch.cuda.set_sync_debug_mode("error")
errors = {}
for name, code in json.loads(sys.argv[1]).items():
    try:
        exec(code)
    except Exception as error:
        errors[name] = str(error)
    torch.cuda.set_sync_debug_mode("default")
print(json.dumps(errors))
"""


@pytest.fixture(scope="module")
def errors() -> dict[str, str]:
    """The error of each case, all in one process, which takes seconds to start."""
    cases = json.dumps({name: code for name, (code, _) in FORBIDDEN.items()})
    result = on_the_stand_in("-c", EACH_IN_TURN, cases)
    assert result.returncode == 0, result.stderr
    messages: dict[str, str] = json.loads(result.stdout)
    return messages


@pytest.mark.parametrize("name", FORBIDDEN)
def test_operations_that_a_gpu_forbids(errors: dict[str, str], name: str) -> None:
    assert FORBIDDEN[name][1] in errors[name].splitlines()[-1]


def test_operations_that_a_gpu_allows() -> None:
    output = in_script(
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
    assert output.split() == ["cuda:0", "cuda:0", "True", "False", "12.0"]


def test_a_graph_computes_when_it_is_replayed_with_the_numbers_of_its_capture() -> None:
    output = in_script(
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
    assert output.splitlines() == ["[0.0, 0.0]", "[6.0, 6.0] [9.0, 9.0]"]


# The tests and the benchmark for GPUs --------------------------------------------------------------------------------


TESTS = (
    "test_cuda.py",
    "test_kernels.py",
    "studies/training/test_device.py",
    "studies/tasks/test_paper_tasks.py",
    "frameworks/test_pytorch.py",
    "frameworks/test_third_party.py",
)


@pytest.fixture(scope="module")
def tests_for_gpus(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, dict[str, list[str]]]:
    """Pytest's output for the tests for GPUs, and the outcomes by file; all in one process."""
    report = tmp_path_factory.mktemp("stand-in") / "report.xml"
    options = ["-m", "cuda", "-k", NOT_HERE, "-n", "0", "-q", f"--junitxml={report}"]
    result = on_the_stand_in("-m", "pytest", *options, *(str(HERE / file) for file in TESTS))
    ends: dict[str, list[str]] = {file: [] for file in TESTS}
    for case in ElementTree.parse(report).iter("testcase"):
        file = case.attrib["classname"].replace(".", "/").removeprefix("tests/") + ".py"
        ends[file].append(case[0].tag if len(case) else "passed")
    return result.stdout[-5000:], ends


@pytest.mark.timeout(1200)
@pytest.mark.parametrize("file", TESTS)
def test_the_tests_for_gpus_pass_on_the_stand_in(tests_for_gpus: tuple[str, dict[str, list[str]]], file: str) -> None:
    output, ends = tests_for_gpus
    assert set(ends[file]) == {"passed"}, output


def test_a_part_of_the_benchmark_that_fails_stops_no_other(tmp_path: Path) -> None:
    """And measured values are stored when the process dies."""
    result = on_the_stand_in(
        "-c",
        f"""
import os, sys
from benchmarks import gpu
from benchmarks.goals import Goal
def fail(): assert False, "no graph"
gpu.captured, gpu.bandwidth, gpu.closed = fail, lambda *_: [Goal("1", "two", 3.0, 4.0)], lambda *_: os._exit(9)
sys.argv[1:] = ["--output", {str(tmp_path)!r}, "--rounds", "6"]
gpu.main()
""",
    )
    assert result.returncode == 9
    assert "AssertionError: no graph" in result.stderr
    assert [goal["what"] for goal in json.loads((tmp_path / "gpu.json").read_text())["goals"]][1:] == ["two"]


# The session that does everything a GPU is needed for ----------------------------------------------------------------

SESSION = """
import sys
from benchmarks import gpu_session
from benchmarks.gpu_session import Part
{parts}
sys.argv[1:] = ["--data", "{data}", "--out", "{out}", *{more}]
gpu_session.main()
"""
SMALL = """
gpu_session.GRACE = 200.0  # for a machine that is busy
study = ["table01", "--only", "task=MNIST", "--device", "cuda", "--seeds", "1", "--epochs", "2", "--jobs", "2"]
gpu_session.TESTS = ["pytest", "-m", "cuda", "-n", "0", "-v", "tests/test_cuda.py", "-k", "captured"]
gpu_session.BENCHMARK = ["benchmarks.gpu", "--elements", "3000", "--rounds", "6", "--seeds", "1", "--jobs", "2"]
gpu_session.BENCHMARK += ["--epochs", "2", "--algorithms", "SGD,Adam"]
gpu_session.STUDIES = {"SGD": [*study, "--only", "algorithm=SGD"], "two": [*study, "--only", "algorithm=SGD,Adam"]}
"""
CUT = """
study = ["table01", "--only", "task=MNIST", "--only", "algorithm=SGD", "--device", "cuda", "--seeds", "1"]
given = gpu_session.parts
gpu_session.STUDIES = {"SGD": [*study, "--epochs", "12", "--jobs", "1"]}
gpu_session.parts = lambda data, out: [
    Part("good", ["-c", "print('here')"], minutes=5),
    Part("bad", ["-c", "raise SystemExit(3)"], minutes=5),
    Part("long", ["-c", "import time; time.sleep(600)"], minutes=0.05),
    given(data, out)[-1],
]
"""


def session(parts: str, data: Path, out: Path, *more: str) -> subprocess.Popen[str]:
    return start_on_the_stand_in("-c", SESSION.format(parts=parts, data=data, out=out, more=list(more)))


def epochs_in(out: Path) -> int:
    """The number of stored epochs."""
    if not (out / "results.sqlite").exists():
        return 0
    with Store(out / "results.sqlite", read_only=True) as store:
        return sum(len(store.records(spec)) for spec in store.specs())


def states(out: Path) -> dict[str, str]:
    return {name: part["state"] for name, part in json.loads((out / "session.json").read_text()).items()}


@pytest.mark.timeout(1200)
def test_a_session_does_everything_and_the_next_one_only_missing_parts(tmp_path: Path, tiny_mnist: Path) -> None:
    out = tmp_path / "out"
    first = session(SMALL, tiny_mnist, out)
    output, errors = first.communicate()
    assert first.returncode == 0, (out / "tests.log").read_text() + errors
    assert states(out) == dict.fromkeys(("tests", "benchmark", "SGD", "two"), "done")
    assert " passed" in (out / "tests.log").read_text()
    measured = (out / "benchmark.log").read_text()  # times are not real, the rest is as on a GPU
    assert "| kernels that LGA adds to a step of Adam, 300 tensors | 3  | ≤ 3  |  | met |" in measured
    assert "4 runs, 2 at a time" in measured
    assert len(json.loads((out / "speed" / "gpu.json").read_text())["goals"]) == 5
    exported = json.loads((out / "results" / "table01.study.json").read_text())
    assert {run["spec"]["device"] for run in exported["runs"].values()} == {"cuda"}
    assert len(exported["runs"]) == 4
    second = session(SMALL, tiny_mnist, out)
    output, errors = second.communicate()
    assert second.returncode == 0, errors
    assert output.splitlines()[:2] == [f"{name}: done before, with the same source" for name in ("tests", "benchmark")]
    assert "All 4 runs are already finished." in (out / "two.log").read_text()


@pytest.mark.timeout(1200)
@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL])
def test_an_interrupted_session_keeps_its_results(tmp_path: Path, tiny_mnist: Path, how: signal.Signals) -> None:
    """A part that takes too long does not stop the others, a failed one is reported, and a study resumes."""
    out = tmp_path / "out"
    first = session(CUT, tiny_mnist, out)
    while epochs_in(out) < 3:
        assert first.poll() is None, first.communicate()
        time.sleep(0.1)
    [part] = map(int, subprocess.run(["pgrep", "-P", str(first.pid)], capture_output=True, text=True).stdout.split())
    first.send_signal(how)
    if how is signal.SIGKILL:
        os.killpg(part, how)  # as when the machine goes
    first.communicate()
    assert first.returncode == (130 if how is signal.SIGTERM else -how)
    assert states(out) == {"good": "done", "bad": "failed", "long": "cut off", "SGD": "cut off"}
    second = session(CUT.replace("sleep(600)", "sleep(0)").replace("0.05", "5"), tiny_mnist, out)
    output, errors = second.communicate()
    assert second.returncode == 1, errors
    assert states(out) == {"good": "done", "bad": "failed", "long": "done", "SGD": "done"}
    assert output.splitlines()[:2] == [
        "good: done before, with the same source",
        "bad: failed before, with the same source",
    ]
    assert (out / "good.log").read_text().count("here") == 2  # the command and its output
    assert (out / "results" / "table01.csv").exists()


def test_a_session_without_time_or_gpu_is_an_error(tmp_path: Path) -> None:
    late = session(CUT, tmp_path, tmp_path / "out", "--minutes", "1")
    output, _ = late.communicate()
    assert late.returncode == 1
    assert output.count(": no time is left") == 4
    command = [sys.executable, "-m", "benchmarks.gpu_session", "--data", str(tmp_path), "--out", str(tmp_path / "none")]
    without = subprocess.run(
        command, cwd=HERE.parent, env=os.environ | {"CUDA_VISIBLE_DEVICES": ""}, capture_output=True, text=True
    )
    assert without.returncode == 1
    assert without.stderr == "benchmarks.gpu_session needs a CUDA GPU, and here is none\n"
    assert not (tmp_path / "none").exists()
