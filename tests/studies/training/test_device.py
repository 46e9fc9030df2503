"""Runs on a GPU. Most of it is tested without one: torch's device "meta" has no numbers, so reading one fails there."""

import dataclasses

import pytest
import torch
from torch import nn

from lossaware.errors import UsageError
from lossaware.studies.data.tacos import Moments
from lossaware.studies.execution.events import EpochDone
from lossaware.studies.execution.local import LocalEngine
from lossaware.studies.execution.progress import describe_run
from lossaware.studies.models.classification import classification
from lossaware.studies.specs.optimizers import optimizers, set_mode
from lossaware.studies.specs.run_spec import RunSpec, options
from lossaware.studies.specs.task import Data, InMemory, Task
from lossaware.studies.specs.tasks import load_task
from lossaware.studies.store.database import Store
from lossaware.studies.training import run as run_module
from lossaware.studies.training.batches import Resident
from lossaware.studies.training.checkpoint import Checkpoint
from lossaware.studies.training.run import run
from support import no_waiting
from support.examples import tensors_of
from support.records import exact

SPEC = RunSpec(task="digits", optimizer="sgd", lr=0.01, seed=3, epochs=3, batch_size=300)
META = dataclasses.replace(SPEC, device="meta")
READ_THE_DEVICE = {"momo", "momo-adam", "alig", "prodigy", "dadapt-adam", "dog", "mechanic-sgd", "mechanic-adamw"}
"""Optimizers of others, and one after its authors, that read a number from the device at each step."""


# --- what identifies a run -------------------------------------------------------------------------------------------


def test_runs_on_the_cpu_keep_the_keys_that_they_had_before_there_was_a_choice():
    line = (
        '{"batch_size":64,"epochs":20,"lga":[["gamma2",1e-08]],"lr":0.001,"optimizer":"adam","optimizer_options":[],'
        '"precision":"fp32","scheduler":null,"scheduler_options":[],"seed":3,"task":"mnist","task_options":[]}'
    )
    spec = RunSpec.from_json(line)
    assert spec.device == "cpu"
    assert spec.to_json() == line
    assert spec.key == "aded7b5e7338996b"


def test_the_device_is_part_of_the_specification(tmp_path):
    other = dataclasses.replace(SPEC, device="cuda")
    assert other.key != SPEC.key
    assert RunSpec.from_json(other.to_json()) == other
    assert describe_run(other) == f"{describe_run(SPEC)}, cuda"
    assert describe_run(dataclasses.replace(SPEC, precision="bf16")) == f"{describe_run(SPEC)}, bf16"
    with Store(tmp_path / "results.sqlite") as store:
        store.begin(SPEC)
        store.begin(other)
        assert "device" not in store.environment(SPEC)
        assert store.environment(other)["device"]
        assert store.missing([SPEC, other]) == [SPEC, other]


def test_a_device_that_is_not_there_is_one_line(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(UsageError, match=r"device 'cuda': torch .* does not find a usable GPU"):
        next(run(dataclasses.replace(SPEC, device="cuda"), None))
    with pytest.raises(UsageError, match="unknown device 'cudda'; did you mean cuda"):
        next(run(dataclasses.replace(SPEC, device="cudda"), None))


# --- data on the device, and nothing read from it ---------------------------------------------------------------------


def some_steps(spec, folder=None, steps=2):
    task = load_task(spec.task, spec.task_options)
    training = run_module._Training(spec, task, task.data(folder))
    set_mode(training._optimizer, "train")
    training._model.train()
    for _, batch in zip(range(steps), training._batches, strict=False):
        assert all(tensor.device.type == "meta" for tensor in batch)
        assert all(value.device.type == "meta" for value in training._step(batch).values())


@pytest.mark.parametrize("lga", [None, options(gamma2=1e-6)], ids=["without", "with LGA"])
@pytest.mark.parametrize("name", sorted(set(optimizers()) - READ_THE_DEVICE - {"asgd"}))
def test_a_step_reads_nothing_from_the_device(name, lga):
    # ASGD counts its steps only on GPUs; `-m cuda` tests it.
    some_steps(dataclasses.replace(META, optimizer=name, lga=lga))


@pytest.mark.parametrize("name", sorted(READ_THE_DEVICE))
def test_reads_of_the_device_are_detected(name):
    with pytest.raises(RuntimeError, match=r"item\(\) cannot be called on meta tensors"):
        some_steps(dataclasses.replace(META, optimizer=name))


@pytest.mark.parametrize("task", ["mnist", "autoeval", "autoencoder-mnist"])
def test_the_tasks_of_mnist_read_nothing_from_the_device(task, tiny_mnist):
    some_steps(dataclasses.replace(META, task=task, batch_size=32, lga=options(gamma2=1e-6)), tiny_mnist)


@pytest.mark.parametrize("task", ["cifar100", "segmentation"])
def test_larger_tasks_read_nothing_from_the_device(task, data_folder):
    chosen = options(train_examples=4, test_examples=2)
    some_steps(dataclasses.replace(META, task=task, batch_size=2, task_options=chosen), data_folder)


def test_examples_in_memory_are_moved_once_and_others_batch_by_batch():
    meta = torch.device("meta")
    moved = Resident(InMemory((torch.ones(5, 2), torch.ones(5))), meta)
    assert all(tensor.device == meta for tensor in tensors_of(moved._examples))

    class Stream:
        def __len__(self):
            return 2

        def batches(self, size, generator):
            yield from ((torch.ones(1, 2),), (torch.ones(1, 2),))

    stream = Stream()
    moved = Resident(stream, meta)
    assert moved._examples is stream
    assert [batch[0].device for batch in moved.batches(1, None)] == [meta, meta]
    on_cpu = Resident(stream, torch.device("cpu"))
    assert on_cpu._examples is stream


def test_moments_on_a_device_have_the_same_batches():
    video, length = torch.tensor([0, 1]), torch.tensor([3, 2])
    words, span = torch.tensor([[5, 6, 0], [7, 0, 0]]), torch.zeros(2, 2)
    moments = Moments(torch.randn(2, 4, 6), InMemory((video, length, words, length, length, span)))
    (batch,) = moments.to(torch.device("meta")).batches(2, None)
    (expected,) = moments.batches(2, None)
    assert batch[0].device.type == "meta"
    assert [tensor.shape for tensor in batch] == [tensor.shape for tensor in expected]
    assert torch.equal(expected[0], moments.features[video, :3])


# --- on a GPU ---------------------------------------------------------------------------------------------------------

CUDA = dataclasses.replace(SPEC, device="cuda", batch_size=100)
VARIANTS = [
    CUDA,
    dataclasses.replace(CUDA, optimizer="adam", lga=options(gamma2=1e-4)),
    dataclasses.replace(CUDA, optimizer="asgd", lga=options(gamma2=1e-4)),
    dataclasses.replace(CUDA, optimizer="rmsprop", precision="bf16"),
    dataclasses.replace(CUDA, optimizer="momentum", scheduler="StepLR", scheduler_options=options(step_size=1)),
]


def noisy(name, chosen):
    x = torch.randn(450, 6, generator=torch.Generator().manual_seed(0))
    examples = InMemory((x, (x[:, 0] > 0).long()))
    layers = lambda: nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.Dropout(0.5), nn.Linear(8, 2))  # noqa: E731
    return Task("noisy", "", layers, lambda folder: Data(examples, examples), classification)


@pytest.mark.cuda
@pytest.mark.parametrize("spec", VARIANTS)
def test_cuda_runs_are_reproducible_bit_for_bit(spec):
    assert exact(run(spec, None)) == exact(run(spec, None))


@pytest.mark.cuda
def test_cuda_is_near_the_cpu():
    for spec in VARIANTS[:2]:
        loss = list(run(spec, None))[-1].train["loss"]
        assert loss == pytest.approx(list(run(dataclasses.replace(spec, device="cpu"), None))[-1].train["loss"], 1e-3)


@pytest.mark.cuda
def test_cuda_concurrent_runs_equal_single_runs():
    specs = [dataclasses.replace(spec, seed=seed) for spec in VARIANTS for seed in (0, 1)]
    records = {spec: [] for spec in specs}
    for event in LocalEngine(4).execute(specs, None):
        if isinstance(event, EpochDone):
            records[event.spec].append(event.record)
    for spec in specs:
        assert exact(records[spec]) == exact(run(spec, None))


@pytest.mark.cuda
def test_cuda_resumes_with_the_same_bits(tmp_path, monkeypatch):
    from lossaware.studies.training import checkpoint

    monkeypatch.setattr(checkpoint, "SECONDS", 0.0)
    monkeypatch.setattr(run_module, "load_task", noisy)
    for spec in VARIANTS:
        path = tmp_path / f"{spec.key}.pt"
        records = run(spec, None, checkpoint=Checkpoint(path, spec))
        next(records)
        records.close()
        messages = []
        resumed = Checkpoint(path, spec, lambda *what, messages=messages: messages.append(what))
        assert exact(run(spec, None, checkpoint=resumed)) == exact(run(spec, None))
        assert messages[0] == ("resumes after epoch 1 of 3", 1)


@pytest.mark.cuda
@pytest.mark.parametrize("name", sorted(set(optimizers()) - READ_THE_DEVICE))
def test_cuda_a_step_does_not_synchronize(name):
    task = load_task("digits")
    training = run_module._Training(dataclasses.replace(CUDA, optimizer=name, lga=options()), task, task.data(None))
    set_mode(training._optimizer, "train")
    batches = iter(training._batches)
    for _ in range(3):
        training._step(next(batches))
    with no_waiting():
        for _ in range(3):
            training._step(next(batches))
