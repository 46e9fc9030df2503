"""Whole training steps of real networks, and the loop of a study's run against loops written by hand."""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from benchmarks.counting import calls_of_python
from benchmarks.goals import Counter, Finding, Goal
from benchmarks.parameters import attach
from benchmarks.timing import take_turns, threads
from lossaware.studies.models.densenet import densenet
from lossaware.studies.models.lenet import lenet5
from lossaware.studies.specs.run_spec import RunSpec, options
from lossaware.studies.specs.task import Data, InMemory, Task
from lossaware.studies.training.run import run

BATCHES = 50
BATCH = 64
TABLE_1_STEPS = 20 * 938
"""Steps of one run of Table 1 on MNIST."""


def whole_step(seconds: float) -> Iterator[Finding]:
    """Forward, backward and step, without LGA and with an open gate.

    Both train one network in turn, so that weights and memory addresses are the same.
    """
    images = torch.randn(128, 3, 32, 32)
    cases: list[tuple[str, nn.Module, Tensor, float]] = [
        ("LeNet-5, batch 64", lenet5(), torch.randn(64, 1, 28, 28), 1.015),
        ("DenseNet-40-12, batch 128", densenet(), images, 1.01),
    ]
    for name, model, inputs, limit in cases:
        labels = torch.randint(10, (len(inputs),), generator=torch.Generator().manual_seed(0))
        for base in (torch.optim.SGD, torch.optim.Adam):
            if base is torch.optim.Adam and len(inputs) == 128:
                continue  # a step takes seconds; one base is enough
            plain, ours = (base(model.parameters(), lr=1e-9) for _ in range(2))
            lga = attach(ours)
            steps = {
                "base": _training_step(model, plain, inputs, labels, with_loss=False),
                "LGA": _training_step(model, ours, inputs, labels, with_loss=True),
            }
            with threads(1 if len(inputs) == 64 else 2):
                times = take_turns(steps, seconds if len(inputs) == 64 else 2 * seconds, least=5, most=1000)
            assert lga.status.open_share == 1
            what = f"{name}, {base.__name__}"
            yield Goal("whole step", what, times.ratio("LGA", "base"), limit)
            yield Counter("whole step", what, "LGA in the whole step", times.difference("LGA", "base") * 1e3, "µs")
            yield from _of_the_step_alone(what, plain, ours, seconds / 4)


def _of_the_step_alone(
    what: str, plain: torch.optim.Optimizer, ours: torch.optim.Optimizer, seconds: float
) -> Iterator[Counter]:
    """The cost of LGA in a loop of steps of the optimizer, with all in the cache that fits into it."""
    step: Callable[..., Any] = ours.step
    alone: dict[str, Callable[[], object]] = {"base": plain.step, "LGA": partial(step, loss=torch.tensor(2.0))}
    with threads(1):
        times = take_turns(alone, seconds, most=400, calls=5)
    yield Counter("whole step", what, "LGA in a loop of steps alone", times.difference("LGA", "base") * 1e3, "µs")
    added = calls_of_python(alone["LGA"]) - calls_of_python(alone["base"])
    yield Counter("whole step", what, "calls of Python that LGA adds", added, "")


def _training_step(
    model: nn.Module, optimizer: torch.optim.Optimizer, inputs: Tensor, labels: Tensor, *, with_loss: bool
) -> Callable[[], None]:
    step_of: Callable[..., Any] = optimizer.step

    def step() -> None:
        loss = nn.functional.cross_entropy(model(inputs), labels)
        optimizer.zero_grad()
        loss.backward()
        if with_loss:
            step_of(loss=loss)
        else:
            step_of()

    return step


# A study's loop -------------------------------------------------------------------------------------------------------


def _images() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(256, (BATCHES * BATCH, 28, 28), dtype=torch.uint8, generator=generator)
    return pixels, torch.randint(10, (len(pixels),), generator=generator)


def _floats(pixels: Tensor) -> Tensor:
    return (pixels.float().div(255) - 0.1307).div(0.3081)


def _measure(model: nn.Module, batch: tuple[Tensor, ...]) -> dict[str, Tensor]:
    outputs = model(batch[0])
    return {
        "loss": nn.functional.cross_entropy(outputs, batch[1]),
        "accuracy": (outputs.argmax(1) == batch[1]).float().mean(),
    }


def _data(_: object) -> Data:
    pixels, labels = _images()
    inputs = _floats(pixels).unsqueeze(1)
    return Data(InMemory((inputs, labels)), InMemory((inputs[:10], labels[:10])))


def task() -> Task:
    """LeNet-5 on random images as large as MNIST's, `BATCHES` batches an epoch."""
    return Task("speed", "LeNet-5 on noise", model=lenet5, data=_data, measure=_measure)


class _Samples(Dataset[tuple[Tensor, int]]):
    """The usual data set: an image, ``ToTensor`` and ``Normalize`` for each sample, done as torchvision does them."""

    def __init__(self) -> None:
        self.pixels, self.labels = _images()

    def __len__(self) -> int:
        return len(self.pixels)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        image = Image.fromarray(self.pixels[index].numpy(), mode="L")
        tensor = torch.from_numpy(np.array(image, np.uint8, copy=True)).view(28, 28, 1).permute(2, 0, 1).contiguous()
        tensor = tensor.to(torch.get_default_dtype()).div(255).clone()
        mean, std = torch.as_tensor([0.1307]).view(-1, 1, 1), torch.as_tensor([0.3081]).view(-1, 1, 1)
        return tensor.sub_(mean).div_(std), int(self.labels[index])


def study_loop(seconds: float) -> tuple[list[Finding], dict[str, float]]:
    """An epoch of a run against the bare loop and the usual script; also runs an hour of Table 1 on one core.

    Returns:
        The goals with a counter, and runs an hour by name.
    """
    spec = RunSpec(
        task="benchmarks.training:task", optimizer="sgd", lr=1e-4, seed=0, epochs=10**6, batch_size=BATCH,
        optimizer_options=options(), lga=None,
    )  # fmt: skip
    epochs = run(spec, None)
    measured: list[float] = []

    def of_run() -> None:
        measured.append(next(epochs).seconds * 1e3)

    with threads(1):
        bare, usual = _bare_epoch(), _usual_epoch()
        before = _bare_epoch(channels_last=False)
        times = take_turns(
            {"run": of_run, "bare": bare, "usual": usual, "plain layout": before}, 3 * seconds, least=5, most=60
        )
    # The run's time is that of the training only; the test of ten images is not part of the loop.
    ratios = sorted(a / b for a, b in zip(measured[1:], times.rounds["bare"], strict=True))
    usual_ratios = sorted(a / b for a, b in zip(measured[1:], times.rounds["usual"], strict=True))
    middle = len(ratios) // 2
    goals: list[Finding] = [
        Goal("studies", "an epoch of a run / bare loop", ratios[middle], 1.05),
        Goal("studies", "an epoch of a run / usual script", usual_ratios[middle], 0.5),
        Counter("studies", "", "bare loop / usual script", times.ratio("bare", "usual")),
    ]
    of_epoch = {
        "usual script": times.median("usual"),
        "bare loop, plain memory format": times.median("plain layout"),
        "run": sorted(measured[1:])[middle],
    }
    hourly = {name: 3.6e6 / (ms / BATCHES * TABLE_1_STEPS) for name, ms in of_epoch.items()}
    return goals, hourly


def _bare_epoch(*, channels_last: bool = True) -> Callable[[], None]:
    torch.manual_seed(0)
    model = lenet5()
    if not channels_last:
        _lay_out_plainly(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-4)
    pixels, labels = _images()
    inputs = _floats(pixels).unsqueeze(1)

    def epoch() -> None:
        losses, correct = [], []
        for chosen in torch.randperm(len(labels)).split(BATCH):
            x, y = inputs[chosen], labels[chosen]
            outputs = model(x)
            loss = nn.functional.cross_entropy(outputs, y)
            correct.append((outputs.argmax(1) == y).float().mean())
            losses.append(loss.detach())
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        torch.stack(losses).mean().item(), torch.stack(correct).mean().item()

    return epoch


def _lay_out_plainly(model: nn.Module) -> None:
    for p in model.parameters():
        p.data = p.data.contiguous()


def _usual_epoch() -> Callable[[], None]:
    torch.manual_seed(0)
    model = lenet5()
    _lay_out_plainly(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-4)
    loader = DataLoader(_Samples(), batch_size=BATCH, shuffle=True)

    def epoch() -> None:
        total, correct = 0.0, 0
        for x, y in loader:
            optimizer.zero_grad()
            outputs = model(x)
            loss = nn.functional.cross_entropy(outputs, y)
            loss.backward()
            optimizer.step()
            total += loss.item()
            correct += (outputs.argmax(1) == y).sum().item()

    return epoch
