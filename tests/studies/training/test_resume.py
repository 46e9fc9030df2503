"""Checkpoints: a run that is interrupted anywhere ends with the bits of one that is not, and no bad file is trusted."""

import dataclasses
import hashlib
import io
import os
import time
import zipfile

import pytest
import torch
from torch import nn

from lossaware.studies.models.classification import classification
from lossaware.studies.specs import provenance
from lossaware.studies.specs.optimizers import optimizers
from lossaware.studies.specs.run_spec import RunSpec, options
from lossaware.studies.specs.task import Data, InMemory, Task
from lossaware.studies.specs.tasks import load_task
from lossaware.studies.training import checkpoint as checkpoint_module
from lossaware.studies.training import run as run_module
from lossaware.studies.training.checkpoint import Checkpoint
from lossaware.studies.training.run import run
from support import AT_ONE
from support.records import exact

SPEC = RunSpec(task="digits", optimizer="momentum", lr=0.01, seed=3, epochs=4, batch_size=300)


@pytest.fixture(autouse=True)
def _after_each_epoch(monkeypatch):
    monkeypatch.setattr(checkpoint_module, "SECONDS", 0.0)
    monkeypatch.setattr(checkpoint_module, "SHARE", float("inf"))


@pytest.fixture
def models(monkeypatch):
    """The models of all runs, in order of creation."""
    models_made = []

    def load(name, chosen):
        task = noisy() if name == "noisy" else load_task(name, chosen)

        def model():
            models_made.append(task.model())
            return models_made[-1]

        return dataclasses.replace(task, model=model)

    monkeypatch.setattr(run_module, "load_task", load)
    return models_made


def noisy():
    """A task that uses every generator: dropout, augmentation, order; batch normalisation has statistics."""
    x = torch.randn(45, 6, generator=torch.Generator().manual_seed(0))
    examples = InMemory((x, (x[:, 0] > 0).long()))

    def augment(batch, generator):
        return batch[0] + torch.rand(len(batch[0]), 1, generator=generator), batch[1]

    def model():
        return nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.Dropout(0.5), nn.Linear(8, 2))

    return Task("noisy", "", model, lambda folder: Data(examples, examples, augment), classification)


def bits(model):
    return {name: value.numpy().tobytes() for name, value in model.state_dict().items()}


def interrupted(spec, path, *, after, folder=None):
    """Runs this number of epochs with a checkpoint, and stops."""
    records = run(spec, folder, checkpoint=Checkpoint(path, spec))
    finished = [next(records) for _ in range(after)]
    records.close()
    return finished


def listening(path, spec):
    """A checkpoint, and its messages."""
    messages = []
    return Checkpoint(path, spec, lambda *what: messages.append(what)), messages


def check_resumes(spec, path, models, folder=None):
    """Interrupted after each epoch, a run ends as it does without."""
    expected = exact(run(spec, folder))
    parameters = bits(models[-1])
    for after in range(1, spec.epochs):
        path.unlink(missing_ok=True)
        before = interrupted(spec, path, after=after, folder=folder)
        checkpoint, messages = listening(path, spec)
        records = list(run(spec, folder, checkpoint=checkpoint))
        assert messages == [(f"resumes after epoch {after} of {spec.epochs}", after)]
        assert records[:after] == before  # also the wall times
        assert exact(records) == expected
        assert bits(models[-1]) == parameters


@pytest.mark.parametrize("name", optimizers())
def test_every_optimizer_resumes_with_the_same_bits(name, models, tmp_path):
    spec = dataclasses.replace(SPEC, optimizer=name, lr=1.0 if name in AT_ONE else 0.01)
    check_resumes(spec, tmp_path / "one.pt", models)


@pytest.mark.parametrize("name", ["sgd", "adam", "schedulefree-adamw", "momo"])
def test_lga_resumes_with_the_same_bits(name, models, tmp_path):
    # Statuses end in the middle of epochs, and gamma2 backs off.
    chosen = options(gamma2=1e-3, eps=0.0, steps_per_epoch=3)
    check_resumes(dataclasses.replace(SPEC, optimizer=name, lga=chosen), tmp_path / "one.pt", models)


@pytest.mark.parametrize(
    ("name", "chosen"),
    [
        ("StepLR", options(step_size=2)),
        ("MultiStepLR", options(milestones="1,3")),
        ("ExponentialLR", options(gamma=0.9)),
        ("CosineAnnealingLR", options(T_max=4)),
        ("CosineAnnealingWarmRestarts", options(T_0=3)),
        ("ReduceLROnPlateau", options(patience=0, mode="max")),
        ("OneCycleLR", options(max_lr=0.1, total_steps=5)),
        ("CyclicLR", options(base_lr=0.01, max_lr=0.1, step_size_up=2)),
    ],
)
def test_schedulers_resume_with_the_same_bits(name, chosen, models, tmp_path):
    check_resumes(dataclasses.replace(SPEC, scheduler=name, scheduler_options=chosen), tmp_path / "one.pt", models)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_randomness_resumes_with_the_same_bits(models, tmp_path, precision):
    spec = dataclasses.replace(SPEC, task="noisy", batch_size=10, lga=options(gamma2=0.01), precision=precision)
    check_resumes(spec, tmp_path / "one.pt", models)


def test_random_rotations_resume_with_the_same_bits(models, tmp_path, tiny_mnist):
    spec = RunSpec("autoeval", "adam", 1e-3, seed=0, epochs=3, batch_size=64, lga=options(gamma2=1e-5))
    check_resumes(spec, tmp_path / "one.pt", models, tiny_mnist)


def test_a_run_may_be_interrupted_again_and_again(tmp_path):
    path = tmp_path / "one.pt"
    for after in range(1, SPEC.epochs):
        interrupted(SPEC, path, after=after)
    assert exact(run(SPEC, None, checkpoint=Checkpoint(path, SPEC))) == exact(run(SPEC, None))


def test_a_short_run_writes_none_and_a_long_one_not_all_the_time(tmp_path, monkeypatch):
    path = tmp_path / "folder" / "one.pt"
    monkeypatch.setattr(checkpoint_module, "SECONDS", 1e6)
    list(run(SPEC, None, checkpoint=Checkpoint(path, SPEC)))
    assert not path.parent.exists()

    now = 0.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    monkeypatch.setattr(checkpoint_module, "SECONDS", 5.0)
    monkeypatch.setattr(checkpoint_module, "SHARE", 0.02)
    times = []

    def state():
        nonlocal now
        times.append(now)
        now += 1.0  # a checkpoint takes a second to write: the next one comes 50 seconds later
        return {}

    checkpoint = Checkpoint(path, SPEC)
    while now < 130:
        now += 3.0
        checkpoint.keep(state)
    assert times == [6.0, 58.0, 110.0]


def damage(path, how):
    content = path.read_bytes()
    if how == "empty":
        path.write_bytes(b"")
    elif how == "cut":
        path.write_bytes(content[:-1])
    elif how == "half":
        path.write_bytes(content[: len(content) // 2])
    elif how == "bit":
        middle = len(content) // 2
        path.write_bytes(content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :])
    elif how == "text":
        path.write_text("my notes")
    elif how == "folder":
        path.unlink()
        path.mkdir()


@pytest.mark.parametrize("how", ["empty", "cut", "half", "bit", "text", "folder"])
def test_a_damaged_checkpoint_is_reported_and_the_run_restarts(tmp_path, how):
    path = tmp_path / "one.pt"
    interrupted(SPEC, path, after=2)
    damage(path, how)
    checkpoint, messages = listening(path, SPEC)
    records = run(SPEC, None, checkpoint=checkpoint)
    assert exact(records) == exact(run(SPEC, None))
    what = "is not a regular file" if how == "folder" else "is damaged or cut short"
    assert messages[0][0].startswith(f"the checkpoint {path} {what}")
    assert messages[0][0].endswith("so the run starts from the beginning")
    assert not any("\n" in line for line, *_ in messages)


def code(marks):
    """A pickle that would leave a mark."""

    class Evil:
        def __reduce__(self):
            return os.mkdir, (str(marks),)

    return Evil()


def test_a_checkpoint_can_run_no_code(tmp_path):
    path, marks = tmp_path / "one.pt", tmp_path / "marks"
    checkpoint = Checkpoint(path, SPEC)
    checkpoint.keep(lambda: {"training": code(marks), "records": []})
    checkpoint, messages = listening(path, SPEC)
    assert checkpoint.load() is None
    assert not marks.exists()
    assert "cannot be read safely" in messages[0][0]
    assert "\n" not in messages[0][0]


def test_a_compressed_checkpoint_is_not_unpacked(tmp_path):
    """A file of a megabyte may need a gigabyte of memory."""
    buffer, packed = io.BytesIO(), io.BytesIO()
    torch.save({"of": {}, "state": torch.zeros(1000)}, buffer)
    with zipfile.ZipFile(buffer) as plain, zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in plain.namelist():
            archive.writestr(name, plain.read(name))
    payload, path = packed.getvalue(), tmp_path / "one.pt"
    path.write_bytes(checkpoint_module._MAGIC + hashlib.sha256(payload).digest() + payload)
    checkpoint, messages = listening(path, SPEC)
    assert checkpoint.load() is None
    assert "is compressed or of another kind" in messages[0][0]


def test_a_tensor_without_end_is_not_taken(tmp_path):
    path = tmp_path / "one.pt"
    Checkpoint(path, SPEC).keep(lambda: {"training": {"optimizer": [torch.ones(1).expand(10**12)]}})
    assert path.stat().st_size < 10_000
    checkpoint, messages = listening(path, SPEC)
    assert checkpoint.load() is None
    assert "has a tensor that is larger than its content" in messages[0][0]


@pytest.mark.parametrize(
    ("of", "change"),
    [
        ("lossaware", lambda monkeypatch: monkeypatch.setattr(checkpoint_module, "PACKAGE", "other")),
        ("torch", lambda monkeypatch: monkeypatch.setattr(torch, "__version__", "1.0")),
        (
            "processor",
            lambda monkeypatch: monkeypatch.setattr(provenance, "processor", lambda device: "other"),
        ),
    ],
)
def test_a_checkpoint_of_other_software_is_not_taken(tmp_path, monkeypatch, of, change):
    path = tmp_path / "one.pt"
    interrupted(SPEC, path, after=2)
    change(monkeypatch)
    checkpoint, messages = listening(path, SPEC)
    records = run(SPEC, None, checkpoint=checkpoint)
    next(records)
    assert messages == [(f"the checkpoint {path} differs in its {of}, so the run starts from the beginning", 0)]
    records.close()


def test_a_checkpoint_of_another_run_is_not_taken(tmp_path):
    path = tmp_path / "one.pt"
    interrupted(SPEC, path, after=2)
    messages = []
    other = dataclasses.replace(SPEC, seed=4)
    records = list(run(other, None, checkpoint=Checkpoint(path, other, lambda *what: messages.append(what))))
    assert messages[0] == (f"the checkpoint {path} differs in its run, so the run starts from the beginning", 0)
    assert exact(records) == exact(run(other, None))


def test_a_checkpoint_that_does_not_fit_is_not_half_taken(tmp_path, monkeypatch):
    """The last part to be loaded is refused, when all the others are loaded already."""
    path = tmp_path / "one.pt"
    interrupted(SPEC, path, after=2)
    content = Checkpoint(path, SPEC).load()
    content["training"]["random"]["augmentation"] = torch.zeros(3, dtype=torch.uint8)
    Checkpoint(path, SPEC).keep(lambda: content)
    checkpoint, messages = listening(path, SPEC)
    records = list(run(SPEC, None, checkpoint=checkpoint))
    assert "does not fit (RuntimeError" in messages[0][0]
    assert exact(records) == exact(run(SPEC, None))


DOES_NOT_FIT = {
    "no epochs": lambda content: content.update(records=[]),
    "all epochs": lambda content: content["records"].extend([content["records"][-1]] * 2),
    "more epochs than the run has": lambda content: content["records"].extend([content["records"][-1]] * 7),
    "an epoch twice": lambda content: content["records"].append(content["records"][-1]),
    "not from the first epoch on": lambda content: content["records"].pop(0),
    "no list of epochs": lambda content: content.pop("records"),
    "no state": lambda content: content.pop("training"),
    "no model": lambda content: content["training"].pop("model"),
    "no optimizer": lambda content: content["training"].pop("optimizer"),
    "no generators": lambda content: content["training"].pop("random"),
    "an epoch without its test": lambda content: content["records"][1].pop("test"),
    "an epoch with more": lambda content: content["records"][1].update(more=1),
    "a measure that is a text": lambda content: content["records"][1]["test"].update(loss="0.1"),
    "measures in a list": lambda content: content["records"][1].update(train=[0.1]),
    "seconds that are none": lambda content: content["records"][1].update(seconds=None),
    "a state of another model": lambda content: content["training"]["model"].update(other=torch.zeros(1)),
}


@pytest.mark.parametrize("change", DOES_NOT_FIT)
def test_a_checkpoint_with_other_content_is_reported_and_the_run_restarts(tmp_path, change):
    path = tmp_path / "one.pt"
    interrupted(SPEC, path, after=2)
    content = Checkpoint(path, SPEC).load()
    DOES_NOT_FIT[change](content)
    Checkpoint(path, SPEC).keep(lambda: content)
    checkpoint, messages = listening(path, SPEC)
    records = list(run(SPEC, None, checkpoint=checkpoint))
    assert messages[0][0].startswith(f"the checkpoint {path} does not fit (")
    assert messages[0][0].endswith("so the run starts from the beginning")
    assert "\n" not in messages[0][0]
    assert exact(records) == exact(run(SPEC, None))


@pytest.mark.parametrize("content", [{}, [], {"of": []}, {"of": {}}, 7])
def test_a_checkpoint_without_the_name_of_its_run_is_not_used(tmp_path, content):
    path = tmp_path / "one.pt"
    buffer = io.BytesIO()
    torch.save(content, buffer)
    payload = buffer.getvalue()
    path.write_bytes(checkpoint_module._MAGIC + hashlib.sha256(payload).digest() + payload)
    checkpoint, messages = listening(path, SPEC)
    assert checkpoint.load() is None
    assert messages == [(f"the checkpoint {path} does not name its run, so the run starts from the beginning", 0)]


@pytest.mark.parametrize("kind", ["a link to a device", "a link to a checkpoint", "a pipe", "a dangling link"])
def test_special_files_are_not_opened(tmp_path, kind):
    path, target = tmp_path / "one.pt", tmp_path / "target.pt"
    interrupted(SPEC, target, after=2)
    before = target.read_bytes()
    if kind == "a pipe":
        os.mkfifo(path)
    else:
        to = {"a link to a device": "/dev/zero", "a link to a checkpoint": target, "a dangling link": "nothing"}[kind]
        path.symlink_to(to)
    checkpoint, messages = listening(path, SPEC)
    records = run(SPEC, None, checkpoint=checkpoint)
    assert exact(records) == exact(run(SPEC, None))
    assert messages[0] == (f"the checkpoint {path} is not a regular file, so the run starts from the beginning", 0)
    assert path.is_file()
    assert not path.is_symlink(), "the next checkpoint takes its place, and is not written through it"
    assert target.read_bytes() == before


def test_a_full_disk_costs_the_checkpoint_and_one_line(tmp_path, monkeypatch):
    path = tmp_path / "one.pt"
    interrupted(SPEC, path, after=1)
    before = path.read_bytes()

    def full(handle):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    checkpoint, messages = listening(path, SPEC)
    records = run(SPEC, None, checkpoint=checkpoint)
    assert exact(records) == exact(run(SPEC, None))
    assert messages[1:] == [
        (f"{path}: cannot be written (No space left on device); the run continues without checkpoints", 0)
    ]
    assert path.read_bytes() == before  # the older one is still good
    assert list(tmp_path.iterdir()) == [path]


def test_a_checkpoint_that_cannot_be_saved_is_one_line(tmp_path):
    checkpoint, messages = listening(tmp_path / "one.pt", SPEC)
    for _ in range(2):
        checkpoint.keep(lambda: {"training": lambda: None})
    assert len(messages) == 1
    assert "no checkpoint can be written (" in messages[0][0]
    assert "\n" not in messages[0][0]
    assert not list(tmp_path.iterdir())
